import logging
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy.errors import SettingsError
from deploy.settings import PlatformSettings, log_effective
from serving.addresses import SOCKET_PATH_BYTES

HOME = Path("/data/sluice")


def test_without_variables_the_defaults_hold():
    settings = PlatformSettings.from_environment({})

    assert settings.home == Path.cwd() / ".sluice"
    assert (settings.gateway_url, settings.mlflow_url) == ("http://127.0.0.1:8700", "http://127.0.0.1:8701")
    assert (settings.gateways, settings.workers) == (1, 1)


def test_variables_are_read_by_their_names():
    settings = PlatformSettings.from_environment(
        {"SLUICE_HOME": "/data", "SLUICE_GATEWAY_PORT": "9000", "SLUICE_WITH_MLFLOW": "no", "SLUICE_LOG_LEVEL": "DEBUG"}
    )

    assert settings == PlatformSettings(Path("/data"), gateway_port=9000, with_mlflow=False, log_level="DEBUG")


def test_an_empty_variable_counts_as_not_set():
    assert PlatformSettings.from_environment({"SLUICE_GATEWAY_PORT": " "}).gateway_port == 8700


def test_triton_servers_are_addresses_by_name():
    told = {"SLUICE_TRITON_SERVERS": "gpu-a=10.0.0.5:8001, b=triton.internal:9001"}

    settings = PlatformSettings.from_environment(told)

    assert settings.triton_addresses == {"gpu-a": "10.0.0.5:8001", "b": "triton.internal:9001"}
    assert PlatformSettings.from_environment(settings.to_environment()) == settings


@pytest.mark.parametrize("told", ["gpu-a", "gpu-a=host", "a=h:0", "a=h:70000", "a=h:1,a=h:2", "a=http://h:1", "=h:1"])
def test_a_triton_server_that_is_no_address_is_told_with_the_rule(told: str):
    with pytest.raises(SettingsError, match=r"SLUICE_TRITON_SERVERS=.*: expected name=host:port"):
        PlatformSettings.from_environment({"SLUICE_TRITON_SERVERS": told})


@given(
    settings=st.builds(
        PlatformSettings,
        home=st.just(HOME),
        gateway_host=st.sampled_from(["127.0.0.1", "0.0.0.0", "::1"]),
        gateway_port=st.integers(1, 40_000),
        mlflow_port=st.integers(40_001, 65_535) | st.just(0),
        grpc_port=st.just(0),
        with_grpc=st.booleans(),
        gateways=st.integers(1, 64),
        workers=st.integers(1, 64),
        with_celery=st.booleans(),
        log_level=st.sampled_from(["DEBUG", "ERROR"]),
    )
)
def test_children_read_the_same_settings(settings: PlatformSettings):
    assert PlatformSettings.from_environment(settings.to_environment()) == settings


@pytest.mark.parametrize(
    ("variable", "value", "told"),
    [
        ("SLUICE_GATEWAY_PORT", "70000", "SLUICE_GATEWAY_PORT=70000: expected a port, or 0 for a free one"),
        ("SLUICE_GATEWAY_PORT", "http", "SLUICE_GATEWAY_PORT=http: expected a whole number"),
        ("SLUICE_GATEWAY_PORT", "--1", "SLUICE_GATEWAY_PORT=--1: expected a whole number"),
        ("SLUICE_MLFLOW_PORT", "8700", "SLUICE_MLFLOW_PORT=8700: expected another port than the gateway's"),
        (
            "SLUICE_GRPC_PORT",
            "8701",
            "SLUICE_GRPC_PORT=8701: expected another port than the gateway's and MLflow's",
        ),
        ("SLUICE_WORKERS", "-1", "SLUICE_WORKERS=-1: expected 0 to 64"),
        ("SLUICE_WORKER_PORT", "0", "SLUICE_WORKER_PORT=0: expected a port"),
        (
            "SLUICE_MODEL_BUDGETS",
            "search=2XB",
            "SLUICE_MODEL_BUDGETS=search=2XB: expected a size as 500MB, 2GB or 1.5GiB",
        ),
        ("SLUICE_DEVICE_MEMORY", "much", "SLUICE_DEVICE_MEMORY=much: expected a size as 500MB, 2GB or 1.5GiB"),
        (
            "SLUICE_MODEL_WEIGHTS",
            "search=0",
            "SLUICE_MODEL_WEIGHTS=search=0: expected a weight above 0 for every model, as search=2,ads=1",
        ),
        ("SLUICE_WITH_CELERY", "maybe", "SLUICE_WITH_CELERY=maybe: expected 1 or 0"),
        ("SLUICE_DEVICE", "gpu", "SLUICE_DEVICE=gpu: expected cpu, cuda or cuda:<number>"),
        ("SLUICE_PRECISION", "tf32", "SLUICE_PRECISION=tf32: expected one of fp32, bf16, fp16 on cpu"),
        ("SLUICE_COMPILE", "jit", "SLUICE_COMPILE=jit: expected one of none, compile, aoti"),
        (
            "SLUICE_CONTROL_URL",
            "mysql://ann:secret@db/control",
            "SLUICE_CONTROL_URL=mysql://ann:***@db/control: expected postgresql://user:password@host:port/database or "
            "sqlite:////path/of/a.db",
        ),
        (
            "SLUICE_MLFLOW_BACKEND",
            "sqlite:///here.db",
            "SLUICE_MLFLOW_BACKEND=sqlite:///here.db: expected postgresql://user:password@host:port/database or "
            "sqlite:////path/of/a.db",
        ),
        ("SLUICE_LOG_LEVEL", "loud", "SLUICE_LOG_LEVEL=loud: expected one of DEBUG, INFO, WARNING, ERROR"),
        ("SLUICE_HOME", __file__, f"SLUICE_HOME={__file__}: expected a folder"),
        (
            "SLUICE_DRIFT",
            "day_s=60,anchor_days=2",
            "SLUICE_DRIFT=day_s=60,anchor_days=2: expected 14 to 366 for anchor_days",
        ),
        (
            "SLUICE_FLOW",
            "hedge=1,retry_share=7",
            "SLUICE_FLOW=hedge=1,retry_share=7: expected 0 <= retry_share <= 1 for retry_share",
        ),
        ("SLUICE_GATES", "decisions=0", "SLUICE_GATES=decisions=0: expected 1 to 1000"),
    ],
)
def test_a_bad_value_is_refused_by_key_value_and_rule(variable: str, value: str, told: str):
    with pytest.raises(SettingsError) as refused:
        PlatformSettings.from_environment({variable: value})

    assert refused.value.message == told
    assert str(refused.value) == f"{told}; try: unset {variable}"


def test_a_relative_home_is_made_absolute_once():
    assert PlatformSettings.from_environment({"SLUICE_HOME": "here"}).home == Path.cwd() / "here"
    with pytest.raises(SettingsError, match="SLUICE_HOME=here: expected an absolute path"):
        PlatformSettings(Path("here"))


@pytest.mark.parametrize("length", [10, 80, 85, 90, 95, 250])
def test_a_socket_path_always_fits_an_address(length: int):
    settings = PlatformSettings(Path("/" + "x" * length), workers=64)

    paths = (settings.redis_socket, *settings.worker_sockets)
    assert all(len(bytes(path)) <= SOCKET_PATH_BYTES for path in paths)
    assert len(set(paths)) == 65


def test_no_more_memory_is_promised_than_there_is():
    with pytest.raises(SettingsError, match="expected at most the device's memory, 2GB, for all models together"):
        PlatformSettings(HOME, device_memory="2GB", model_budgets="a=1GB,b=1.5GB")


def test_workers_are_found_on_unix_sockets_or_on_ports_of_a_host():
    local = PlatformSettings(HOME, workers=2)
    fleet = replace(local, worker_host="10.0.0.7", worker_port=9000)

    assert local.worker_addresses == ("unix:/data/sluice/run/worker-0.sock", "unix:/data/sluice/run/worker-1.sock")
    assert fleet.worker_addresses == ("tcp:10.0.0.7:9000", "tcp:10.0.0.7:9001")


def test_long_homes_do_not_share_their_sockets():
    one, other = (PlatformSettings(Path("/" + "x" * 100 + end)) for end in ("1", "2"))

    assert one.redis_socket != other.redis_socket
    assert one.sockets_folder != one.run_folder


def test_a_near_miss_is_told_and_a_stranger_is_not(caplog: pytest.LogCaptureFixture):
    with caplog.at_level(logging.WARNING):
        log_effective(PlatformSettings(HOME), {"SLUICE_GATWAY_PORT": "1", "SLUICE_PORT_8700_TCP_ADDR": "10.0.0.1"})

    assert [record.getMessage() for record in caplog.records] == [
        "SLUICE_GATWAY_PORT is no setting: did you mean SLUICE_GATEWAY_PORT?"
    ]


def test_the_effective_values_are_logged(caplog: pytest.LogCaptureFixture):
    with caplog.at_level(logging.INFO):
        log_effective(replace(PlatformSettings(HOME), workers=3), {})

    assert vars(caplog.records[0])["settings"]["SLUICE_WORKERS"] == "3"


def test_databases_are_sqlite_files_of_the_data_folder_unless_told_otherwise():
    alone = PlatformSettings(HOME)
    told = replace(alone, control_url="postgresql://ann:secret@db.internal/control", mlflow_backend="sqlite:////m.db")

    assert alone.control_database == "sqlite:////data/sluice/control.db"
    assert alone.mlflow_database == "sqlite:////data/sluice/mlflow/mlflow.db"
    assert told.control_database == "postgresql+psycopg://ann:secret@db.internal/control"
    assert told.mlflow_database == "sqlite:////m.db"


def test_passwords_of_databases_are_not_logged(caplog: pytest.LogCaptureFixture):
    url = "postgresql://ann:secret@db.internal/control"
    with caplog.at_level(logging.INFO):
        log_effective(replace(PlatformSettings(HOME), control_url=url, mlflow_backend=url), {})

    shown = vars(caplog.records[0])["settings"]
    assert shown["SLUICE_CONTROL_URL"] == shown["SLUICE_MLFLOW_BACKEND"] == "postgresql://ann:***@db.internal/control"


def test_passwords_of_mlflow_and_the_issuer_are_neither_logged_nor_told(caplog: pytest.LogCaptureFixture):
    url = "https://ann:hunter2@inside.example/keys"
    issuer = {"jwt_issuer": "https://issuer", "jwt_audience": "sluice"}
    with caplog.at_level(logging.INFO):
        log_effective(PlatformSettings(HOME, mlflow=url, jwt_key_set=url, **issuer), {})

    shown = vars(caplog.records[0])["settings"]
    assert shown["SLUICE_MLFLOW"] == shown["SLUICE_JWT_KEY_SET"] == "https://ann:***@inside.example/keys"
    for wrong in ({"mlflow": url.replace("https", "ftp")}, {"jwt_key_set": url.replace("https", "http"), **issuer}):
        with pytest.raises(SettingsError, match=r"ann:\*\*\*@inside\.example/keys: expected http"):
            PlatformSettings(HOME, **wrong)


def test_a_gpu_takes_the_precision_that_only_a_gpu_has():
    settings = PlatformSettings.from_environment({"SLUICE_DEVICE": "cuda:1", "SLUICE_PRECISION": "tf32"})

    assert (settings.device, settings.precision, settings.compile) == ("cuda:1", "tf32", "none")


@pytest.mark.parametrize(
    ("host", "auth", "closed"),
    [
        *(("127.0.0.1", "", False), ("::1", "", False), ("localhost", "", False)),
        *(("0.0.0.0", "", True), ("::", "", True), ("10.0.0.5", "", True)),
        *(("0.0.0.0", "control", False), ("127.0.0.1", "all", True)),
    ],
)
def test_queries_need_keys_where_others_can_ask_unless_it_is_said(host: str, auth: str, closed: bool):
    assert PlatformSettings(HOME, gateway_host=host, auth=auth).queries_need_keys is closed


def test_secrets_may_be_in_files_and_are_not_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    secret, url = "a secret for development, of 40 bytes....", "postgresql://ann:hunter2@db.internal/control"
    (tmp_path / "jwt").write_text(secret + "\n")
    (tmp_path / "db").write_text(url + "\n")
    told = {
        "SLUICE_JWT_SECRET_FILE": str(tmp_path / "jwt"),
        "SLUICE_CONTROL_URL_FILE": str(tmp_path / "db"),
        "SLUICE_JWT_ISSUER": "dev",
        "SLUICE_JWT_AUDIENCE": "sluice",
        "SLUICE_DEVELOPMENT": "1",
    }
    settings = PlatformSettings.from_environment(told)
    with caplog.at_level(logging.INFO):
        log_effective(settings, told)

    assert (settings.control_url, settings.tokens.secret) == (url, secret.encode())
    assert vars(caplog.records[0])["settings"]["SLUICE_JWT_SECRET"] == "(set)"
    assert len(caplog.records) == 1  # and no warning of a setting that does not exist
    assert [word for word in (secret, "hunter2") if word in str(vars(caplog.records[0])) + repr(settings.tokens)] == []
    assert PlatformSettings.from_environment(settings.to_environment()) == settings


@pytest.mark.parametrize(
    ("told", "words"),
    [
        ({"AUTH": "none"}, "SLUICE_AUTH=none: expected control or all, or nothing"),
        ({"QUOTAS": "search=1"}, "SLUICE_QUOTAS=search=1: expected name=requests/candidates a second"),
        ({"QUOTAS": "a=1/1,a=2/2"}, "each name once"),
        ({"JWT_ISSUER": "x"}, "SLUICE_JWT_AUDIENCE="),
        ({"JWT_ISSUER": "x", "JWT_AUDIENCE": "y"}, "SLUICE_JWT_KEY_SET="),
        ({"JWT_ISSUER": "x", "JWT_AUDIENCE": "y", "JWT_KEY_SET": "http://z/k"}, "SLUICE_JWT_KEY_SET=http://z/k"),
        ({"JWT_CLAIMS": "role.x=root"}, "SLUICE_JWT_CLAIMS="),
        ({"JWT_ISSUER": "x", "JWT_AUDIENCE": "y", "JWT_SECRET": "s" * 40}, "SLUICE_DEVELOPMENT=1"),
        ({"JWT_SECRET_FILE": "/no/such/file"}, "SLUICE_JWT_SECRET_FILE=/no/such/file"),
        ({"AUDIT_DAYS": "0"}, "SLUICE_AUDIT_DAYS=0"),
    ],
)
def test_settings_of_identity_that_are_wrong_are_told_without_the_secret(told: dict[str, str], words: str):
    with pytest.raises(SettingsError) as caught:
        PlatformSettings.from_environment({f"SLUICE_{name}": value for name, value in told.items()})

    assert words in str(caught.value)
    assert "s" * 40 not in str(caught.value)


def test_what_a_process_is_told_is_not_mixed_with_files_that_its_parent_was_told(tmp_path: Path) -> None:
    """`sluice capacity --measure` starts a platform with a Redis of its own where SLUICE_REDIS_FILE is set."""
    (tmp_path / "redis").write_text("redis://production:6379/0")
    told = PlatformSettings(home=tmp_path).to_environment()

    again = PlatformSettings.from_environment({"SLUICE_REDIS_FILE": str(tmp_path / "redis")} | told)

    assert again.redis == "" and again.embedded_redis
