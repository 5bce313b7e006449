import dataclasses
import os
import subprocess
from pathlib import Path

import pytest

from deploy.errors import AlreadyRunning, SettingsError, SluiceError
from deploy.machine.home import as_running, claim_ports, held, holder, holds_sockets, make_folders, prepare
from deploy.settings import PlatformSettings


@pytest.fixture
def settings(tmp_path: Path) -> PlatformSettings:
    return PlatformSettings(home=tmp_path / "home", gateway_port=0, grpc_port=0, mlflow_port=0)


def test_a_folder_has_one_holder_at_a_time(settings: PlatformSettings):
    assert holder(settings) is None
    with held(settings):
        assert holder(settings) == os.getpid()
        with pytest.raises(AlreadyRunning, match=f"supervisor {os.getpid()}"), held(settings):
            pass
    assert holder(settings) is None


def test_a_child_does_not_hold_on_to_the_folder(settings: PlatformSettings):
    with held(settings):
        child = subprocess.Popen(["sleep", "1000"], close_fds=False)
    try:
        assert holder(settings) is None
    finally:
        child.kill()
        child.wait()


def test_free_ports_are_found_by_other_commands(settings: PlatformSettings):
    prepare(settings)

    claimed = claim_ports(settings)

    ports = {claimed.gateway_port, claimed.grpc_port, claimed.mlflow_port}
    assert len(ports) == 3 and 0 not in ports
    assert as_running(settings) == claimed


def test_a_command_that_is_told_another_control_database_is_refused(settings: PlatformSettings):
    prepare(settings)
    claim_ports(dataclasses.replace(settings, control_url="postgresql://ann:secret@db.internal/control"))

    with pytest.raises(SettingsError, match=r"SLUICE_CONTROL_URL=\(unset\): expected the database that the platform"):
        as_running(settings)
    with pytest.raises(SettingsError, match=r"SLUICE_CONTROL_URL=postgresql://ann:\*\*\*@other.internal/control: "):
        as_running(dataclasses.replace(settings, control_url="postgresql://ann:secret@other.internal/control"))
    as_running(dataclasses.replace(settings, control_url="postgresql+psycopg://ann:secret@db.internal/control"))


def test_a_command_finds_where_and_how_the_gateway_listens(settings: PlatformSettings):
    prepare(settings)
    tls = "certificate=/tls/crt.pem,key=/tls/key.pem"
    started = dataclasses.replace(
        settings, gateway_host="127.0.0.2", gateway_tls=tls, auth="all", mlflow="http://m:1", with_grpc=False
    )
    claimed = claim_ports(started)

    found = as_running(PlatformSettings(settings.home))

    assert found == claimed
    assert (found.gateway_url, found.queries_need_keys) == (f"https://127.0.0.2:{claimed.gateway_port}", True)
    assert as_running(dataclasses.replace(started, gateway_host="127.0.0.3", gateway_tls="", auth="")) == claimed


def test_a_command_that_is_told_another_mlflow_is_refused(settings: PlatformSettings):
    prepare(settings)
    claim_ports(settings)

    with pytest.raises(SettingsError, match=r"SLUICE_MLFLOW=http://ann:\*\*\*@o:1: expected the embedded one, "):
        as_running(dataclasses.replace(settings, mlflow="http://ann:secret@o:1"))
    claim_ports(dataclasses.replace(settings, mlflow="http://m:1"))
    with pytest.raises(SettingsError, match=r"SLUICE_MLFLOW=http://o:1: expected http://m:1, the MLflow that "):
        as_running(dataclasses.replace(settings, mlflow="http://o:1"))
    as_running(dataclasses.replace(settings, mlflow="http://m:1/"))  # the same one


def test_mlflows_password_is_not_written_down_so_that_it_has_to_be_told(settings: PlatformSettings):
    prepare(settings)
    started = dataclasses.replace(settings, mlflow="http://ann:secret@m:1")
    claimed = claim_ports(started)

    assert b"secret" not in (settings.run_folder / "ports.json").read_bytes()
    assert as_running(started) == claimed
    with pytest.raises(SettingsError, match=r"SLUICE_MLFLOW=\(unset\): expected http://ann:\*\*\*@m:1, the MLflow "):
        as_running(settings)


def test_what_an_older_version_did_not_write_down_is_as_told(settings: PlatformSettings):
    prepare(settings)
    (settings.run_folder / "ports.json").write_text('{"gateway_port": 1, "mlflow_port": 2, "grpc_port": 3}')
    told = dataclasses.replace(settings, gateway_host="127.0.0.2", auth="all", mlflow="http://m:1")

    assert as_running(told) == dataclasses.replace(told, gateway_port=1, mlflow_port=2, grpc_port=3)


def test_without_a_platform_the_settings_hold_as_they_are(settings: PlatformSettings):
    assert as_running(settings) is settings


def test_what_an_earlier_run_measured_is_gone_and_what_it_stored_is_not(settings: PlatformSettings):
    prepare(settings)
    (settings.metrics_folder / "counter_7.db").touch()
    (settings.archive_folder / "events.parquet").touch()

    prepare(settings)

    assert list(settings.metrics_folder.iterdir()) == []
    assert (settings.archive_folder / "events.parquet").exists()


def test_a_sockets_folder_that_others_can_write_is_refused(tmp_path: Path):
    settings = PlatformSettings(home=tmp_path / ("x" * 100))
    prepare(settings)
    try:
        settings.sockets_folder.chmod(0o777)
        with pytest.raises(SluiceError, match="is not this user's own folder"):
            prepare(settings)
    finally:
        settings.sockets_folder.rmdir()


IN_A_FLEET = {
    "SLUICE_REDIS": "redis://redis:6379/0",
    "SLUICE_CONTROL_ADDRESS": "tcp:sluice-controller:8720",
    "SLUICE_WORKERS": "0",
}


def test_a_process_of_a_fleet_takes_a_folder_that_a_volume_shows_as_somebody_elses(tmp_path: Path):
    settings = PlatformSettings.from_environment(IN_A_FLEET | {"SLUICE_HOME": str(tmp_path)})
    settings.run_folder.mkdir()
    settings.run_folder.chmod(0o777)  # another owner is refused by the same rule, and needs root to be made

    make_folders(settings, with_sockets=holds_sockets(settings))

    assert settings.archive_folder.is_dir()


@pytest.mark.parametrize(
    "told",
    [{"SLUICE_REDIS": ""}, {"SLUICE_CONTROL_ADDRESS": ""}, {"SLUICE_WORKERS": "1"}],
    ids=lambda told: next(iter(told)),
)
def test_where_any_process_listens_on_a_socket_its_folder_is_looked_at(tmp_path: Path, told: dict[str, str]):
    settings = PlatformSettings.from_environment(IN_A_FLEET | {"SLUICE_HOME": str(tmp_path)} | told)
    settings.run_folder.mkdir()
    settings.run_folder.chmod(0o777)

    with pytest.raises(SluiceError, match="is not this user's own folder"):
        make_folders(settings, with_sockets=holds_sockets(settings))
