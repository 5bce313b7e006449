"""The store on MLflow: straight on SQLite, and through a server that serves artefacts too."""

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from registry.artefacts import write
from registry.contracts.manifest import PROGRAM_FILE, Lineage
from registry.errors import RefusedVersion, StoreUnavailable, UnknownVersion
from registry.mlflow_store import DIGEST_TAG, SIGNATURES_TAG, MlflowStore, open_client
from registry.retirement import ServableVersions
from registry.signatures import TrustedKeys, make_key
from registry.store import ModelStore
from tests.builders import NOW_MS, a_package
from tests.free_ports import free_port
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


class TestMlflowStoreThroughAServer(ModelStoreSuite):
    @pytest.fixture
    def store(self, mlflow_server: str) -> ModelStore:
        return MlflowStore(mlflow_server)


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
    assert "| ndcg@10 | 0.4200 |" in version.description


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


def test_a_deleted_version_takes_its_files_and_its_run_with_it(store: MlflowStore, folder: Path) -> None:
    stored = store.get("deleted", store.register("deleted", a_package(model="deleted")))
    store.condemn("deleted", 1, wanted=True)
    store.delete("deleted", 1)

    assert list((folder / "artefacts" / "deleted").rglob(PROGRAM_FILE)) == []
    assert store._client.get_run(stored.run_id).info.lifecycle_stage == "deleted"


def test_a_run_stays_while_another_version_is_in_it_and_if_it_is_not_ours(store: MlflowStore) -> None:
    ours = store.record_training("shared", "first", {}, {}, NOW_MS)
    theirs = store._client.create_run(store._client.get_run(ours).info.experiment_id).info.run_id
    for scale, run_id in ((1.0, ours), (2.0, ours), (3.0, theirs)):
        lineage = Lineage("stdlib", "d" * 64, run_id=run_id)
        store.register("shared", a_package(scale, model="shared", lineage=lineage))
    for version in (1, 3):
        store.condemn("shared", version, wanted=True)
        store.delete("shared", version)

    assert store.package("shared", 2)
    assert {store._client.get_run(run_id).info.lifecycle_stage for run_id in (ours, theirs)} == {"active"}


def test_deleting_goes_on_after_a_crash_in_the_middle(store: MlflowStore) -> None:
    stored = store.get("half", store.register("half", a_package(model="half")))
    store.condemn("half", 1, wanted=True)
    store._delete_files(store._client.get_run(stored.run_id).info.artifact_uri, f"sluice/{stored.digest}")

    store.delete("half", 1)

    assert store.versions("half") == []


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
    store = MlflowStore(f"http://127.0.0.1:{free_port()}")

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


def test_artefacts_in_an_s3_that_is_away_or_without_its_client_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with a tracking server that does not serve artefacts: who asks it goes to S3 himself."""
    monkeypatch.setenv("MLFLOW_S3_ENDPOINT_URL", f"http://127.0.0.1:{free_port()}")
    for name, value in {"ACCESS_KEY_ID": "nobody", "SECRET_ACCESS_KEY": "none", "MAX_ATTEMPTS": "1"}.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    open_client(uri).create_experiment("codesearch", artifact_location="s3://bucket/codesearch")
    without = r"No module named 'boto3', which its artefact store needs; try: pip install '\.\[s3\]' in the clone"
    says = "of 'codesearch' in S3: Could not connect to the endpoint" if find_spec("boto3") else without

    with pytest.raises(StoreUnavailable, match=says):
        MlflowStore(uri).register("codesearch", a_package())


def test_signatures_are_kept_and_a_version_that_nobody_trusted_signed_gets_no_traffic(tmp_path: Path) -> None:
    ci, uri = make_key(tmp_path / "ci.key"), f"sqlite:///{tmp_path}/mlflow.db"
    trusted = TrustedKeys({"ci": ci.public})
    MlflowStore(uri, tmp_path / "artefacts").register("codesearch", a_package())
    trusting = MlflowStore(uri, tmp_path / "artefacts", trusted=trusted)
    with pytest.raises(RefusedVersion, match=r"codesearch@1 may have no traffic: .* is not signed"):
        ServableVersions(trusting).get("codesearch", 1)
    with pytest.raises(RefusedVersion, match="is not signed"):
        trusting.package("codesearch", 1)

    assert MlflowStore(uri, tmp_path / "artefacts", ci, trusted).register("codesearch", a_package()) == 1
    assert ServableVersions(trusting).get("codesearch", 1).servable
    assert trusting.package("codesearch", 1).signatures_json == ci.signed(a_package()).signatures_json

    open_client(uri).set_model_version_tag("codesearch", "1", SIGNATURES_TAG, "[]")  # by whoever can write there
    assert not trusting.get("codesearch", 1).servable
