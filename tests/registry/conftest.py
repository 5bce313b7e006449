"""A real MLflow server on a free loopback port, with a folder of its own; shared by the tests of this room."""

import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from threading import Event

import pytest

from tests.free_ports import free_port


@pytest.fixture(scope="session")
def mlflow_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of an MLflow server of our own."""
    folder = tmp_path_factory.mktemp("mlflow-server")
    port = free_port()
    arguments = {
        "--host": "127.0.0.1",
        "--port": str(port),
        "--workers": "1",
        "--backend-store-uri": f"sqlite:///{folder}/mlflow.db",
        "--artifacts-destination": str(folder / "artefacts"),
    }
    argv = [sys.executable, "-m", "mlflow", "server", "--serve-artifacts"]
    with open(folder / "log", "wb") as log:
        process = subprocess.Popen(
            argv + [word for pair in arguments.items() for word in pair],
            env={"PATH": "/usr/bin:/bin", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "DO_NOT_TRACK": "true"},
            stdout=log,
            stderr=log,
        )
    try:
        wait_for_health(f"http://127.0.0.1:{port}/health", process)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(timeout=30)


def wait_for_health(url: str, process: "subprocess.Popen[bytes]") -> None:
    for _ in range(600):
        assert process.poll() is None, "the MLflow server ended"
        try:
            urllib.request.urlopen(url, timeout=5).close()
            return
        except OSError:
            Event().wait(0.2)
    raise AssertionError("the MLflow server did not answer within two minutes")
