"""What a process that is alone in a container tells, and is told."""

import urllib.error
import urllib.request
from dataclasses import replace
from pathlib import Path

import pytest

from deploy.errors import SettingsError
from deploy.machine.processes import platform_processes
from deploy.settings import PlatformSettings
from deploy.telemetry.probe_port import probe_port
from deploy.wiring import ranking_secret
from tests.free_ports import free_port

KEY = "the same for all gateways, 0123456789"


@pytest.fixture
def settings(tmp_path: Path) -> PlatformSettings:
    return PlatformSettings(tmp_path, probe_address=f"tcp:127.0.0.1:{free_port()}")


def ask(settings: PlatformSettings, path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(
            f"http://{settings.probe_address.removeprefix('tcp:')}{path}", timeout=10
        ) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def test_a_process_lives_before_it_is_ready_and_tells_its_metrics(settings: PlatformSettings) -> None:
    done = [False]
    with probe_port(settings, ready=lambda: done[0]):
        assert [ask(settings, path)[0] for path in ("/live", "/ready", "/metrics", "/else")] == [200, 503, 200, 404]
        done[0] = True
        assert ask(settings, "/ready") == (200, "ready\n")
        assert "python_info" in ask(settings, "/metrics")[1]
    with pytest.raises(urllib.error.URLError):
        ask(settings, "/live")


def test_without_an_address_nothing_is_opened(tmp_path: Path) -> None:
    with probe_port(PlatformSettings(tmp_path), ready=lambda: 1 / 0):  # type: ignore[arg-type]
        pass


def test_a_port_that_is_taken_is_an_error_at_once(settings: PlatformSettings) -> None:
    with probe_port(settings), pytest.raises(OSError), probe_port(settings):
        pass


@pytest.mark.parametrize(
    ("name", "told", "error"),
    [
        ("SLUICE_PROBE_ADDRESS", "unix:/run/p.sock", "SLUICE_PROBE_ADDRESS=unix:/run/p.sock: expected tcp:host:port"),
        ("SLUICE_MLFLOW", "mlflow:5000", "SLUICE_MLFLOW=mlflow:5000: expected http://host:port"),
        ("SLUICE_RANKING_KEY", "short", "expected 32 characters or more"),
    ],
)
def test_what_does_not_fit_is_told_with_its_rule(name: str, told: str, error: str) -> None:
    with pytest.raises(SettingsError, match=error) as raised:
        PlatformSettings.from_environment({name: told})
    assert "short" not in str(raised.value)


def test_gateways_of_two_machines_sign_alike_with_the_key_they_are_told_and_not_else(tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    for home in (here, there):
        home.mkdir()
    told = [ranking_secret(PlatformSettings(home, ranking_key=KEY)) for home in (here, there)]
    alone = [ranking_secret(PlatformSettings(home)) for home in (here, there)]

    assert told[0] == told[1] and len(told[0]) == 32
    assert len({told[0], *alone}) == 3


def test_an_mlflow_of_ones_own_is_not_started_and_no_worker_need_be(settings: PlatformSettings) -> None:
    told = replace(settings, mlflow="http://mlflow:5000", redis="redis://redis:6379/0", workers=0)
    for folder in (told.redis_folder, told.mlflow_folder):
        folder.mkdir()
    names = {spec.name for spec in platform_processes(told)}

    assert not names & {"mlflow", "redis", "worker-0"} and "gateway-0" in names
    assert told.mlflow_url == "http://mlflow:5000"
