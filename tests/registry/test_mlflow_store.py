"""The store on MLflow: straight on SQLite, and through a server that serves artefacts too."""

import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from threading import Event

import pytest

from registry.artefacts import write
from registry.contracts.manifest import PROGRAM_FILE, Lineage
from registry.errors import RefusedVersion, StoreUnavailable, UnknownVersion
from registry.mlflow_store import DIGEST_TAG, MlflowStore
from registry.store import ModelStore
from tests.builders import NOW_MS, a_package
from tests.postgres import PostgresServer
from tests.suites.model_stores import ModelStoreSuite

# mlflow's own
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("mlflow")


@pytest.fixture(scope="module")
def store(folder: Path) -> MlflowStore:
    return MlflowStore(f"sqlite:///{folder}/mlflow.db", artefacts=folder / "artefacts")


class TestMlflowStoreOnItsDatabase(ModelStoreSuite):
    """With the module's own fixture `store`."""


class TestMlflowStoreOnPostgres(ModelStoreSuite):
    @pytest.fixture(scope="class")
    def store(self, postgres_server: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> ModelStore:
        return MlflowStore(postgres_server.fresh_database(), tmp_path_factory.mktemp("artefacts"))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of an MLflow server of our own."""
    folder = tmp_path_factory.mktemp("mlflow-server")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
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


class TestMlflowStoreThroughAServer(ModelStoreSuite):
    @pytest.fixture
    def store(self, server: str) -> ModelStore:
        return MlflowStore(server)


def test_a_version_is_a_run_with_its_figures(store: MlflowStore) -> None:
    lineage = Lineage("stdlib", "d" * 64, ("2026-01-01", "2026-01-14"), parent=3, seed=5)
    package = a_package(model="figures", lineage=lineage, metrics={"ndcg@10": 0.42})
    stored = store.get("figures", store.register("figures", package))
    client = store._client
    run, version = client.get_run(stored.run_id), client.get_model_version("figures", "1")

    assert run.data.metrics == {"ndcg_at_10": 0.42}
    assert run.data.params["training_window"] == "2026-01-01 to 2026-01-14"
    assert (run.data.params["parent"], run.data.params["seed"]) == ("3", "5")
    assert run.info.status == "FINISHED"
    assert version.tags == {DIGEST_TAG: package.digest, "sluice.fingerprint": package.manifest.fingerprint}
    assert version.description == "trained on stdlib: ndcg@10 0.4200"


def test_a_version_joins_the_run_that_trained_it(store: MlflowStore) -> None:
    loss = [1 / (step + 1) for step in range(1200)]
    run_id = store.record_training("joined", "first", {"seed": 7, "epochs": 1200}, {"loss@10": loss}, NOW_MS)
    package = a_package(model="joined", lineage=Lineage("stdlib", "d" * 64, seed=7, run_id=run_id))
    stored = store.get("joined", store.register("joined", package))
    run = store._client.get_run(run_id)

    assert stored.run_id == run_id
    assert run.data.metrics == {"loss_at_10": loss[-1], "ndcg_at_10": 0.5}
    assert (run.data.params["epochs"], run.data.params["dataset"]) == ("1200", "stdlib")
    assert [point.value for point in store._client.get_metric_history(run_id, "loss_at_10")] == loss


def test_a_version_trained_under_another_mlflow_gets_a_run_here(store: MlflowStore) -> None:
    lineage = Lineage("stdlib", "d" * 64, run_id="f" * 32)
    stored = store.get("moved", store.register("moved", a_package(model="moved", lineage=lineage)))

    assert stored.run_id not in ("", "f" * 32)


def test_registering_goes_on_after_a_crash_in_the_middle(store: MlflowStore) -> None:
    run_id = store.record_training("crashed", "first", {"seed": 0}, {}, NOW_MS)
    package = a_package(model="crashed", lineage=Lineage("stdlib", "d" * 64, run_id=run_id))
    store._upload(run_id, package)  # what a process that died before the model version leaves

    assert store.register("crashed", package) == 1
    assert store.package("crashed", 1) == package


def test_a_file_changed_behind_the_store_is_refused(store: MlflowStore, folder: Path) -> None:
    store.register("tampered", a_package(1.0, model="tampered"))
    [program] = (folder / "artefacts" / "tampered").rglob(PROGRAM_FILE)
    program.write_bytes(a_package(2.0).program)

    with pytest.raises(RefusedVersion, match="changed or damaged"):
        store.package("tampered", 1)


def test_a_version_whose_files_are_gone_is_refused(store: MlflowStore, folder: Path) -> None:
    store.register("gone", a_package(model="gone"))
    [program] = (folder / "artefacts" / "gone").rglob(PROGRAM_FILE)
    program.unlink()

    with pytest.raises(RefusedVersion, match="holds no model version"):
        store.package("gone", 1)


def test_models_of_others_are_left_alone(store: MlflowStore) -> None:
    run_id = store.record_training("theirs", "first", {}, {}, NOW_MS)
    store._client.create_registered_model("theirs")
    store._client.create_model_version("theirs", f"runs:/{run_id}/model", run_id, await_creation_for=0)

    assert "theirs" not in store.models()
    assert store.versions("theirs") == []
    with pytest.raises(UnknownVersion):
        store.get("theirs", 1)


def test_nothing_is_printed(folder: Path) -> None:
    write(a_package(model="quiet"), folder / "package")
    program = (
        "import pathlib, sys; from registry.artefacts import read; from registry.mlflow_store import MlflowStore\n"
        "folder = pathlib.Path(sys.argv[1]); store = MlflowStore(f'sqlite:///{folder}/quiet.db', folder / 'quiet')\n"
        "store.package('quiet', store.register('quiet', read(folder / 'package')))"
    )
    ran = subprocess.run([sys.executable, "-c", program, str(folder)], capture_output=True, text=True, check=False)

    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", "")


def test_an_absent_server_is_named() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    store = MlflowStore(f"http://127.0.0.1:{port}")

    with pytest.raises(StoreUnavailable, match="MLflow could not read version 1 of 'codesearch'"):
        store.get("codesearch", 1)
    with pytest.raises(StoreUnavailable, match="MLflow could not list the versions"):
        store.models()
    with pytest.raises(StoreUnavailable, match="MLflow could not read the aliases"):
        store.aliases("codesearch")


def test_a_database_that_is_none_is_named(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_bytes(b"not a database, but long enough to look at" * 100)

    with pytest.raises(StoreUnavailable, match="MLflow could not"):
        MlflowStore(f"sqlite:///{tmp_path}/mlflow.db").models()
