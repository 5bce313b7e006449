"""The log of a pipeline's run, in memory and in MLflow."""

import tempfile
from pathlib import Path

import pytest

from deploy.training.run_log import MlflowRunLog
from pipelines.settings import TrainSettings
from pipelines.training.export import export_package
from pipelines.training.run_log import MemoryRunLog, RunLog, epochs_to
from pipelines.training.train import train
from registry.contracts.manifest import JUDGED_NDCG, Lineage
from registry.errors import StoreUnavailable
from registry.mlflow_store import MlflowStore
from tests.pipelines.judged_data import splits
from tests.suites.run_logs import RunLogSuite, Seen

# mlflow's own
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")

MODEL = "runs"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> MlflowStore:
    folder = tmp_path_factory.mktemp("mlflow")
    return MlflowStore(f"sqlite:///{folder}/mlflow.db", artefacts=folder / "artefacts")


class TestMemoryRunLog(RunLogSuite):
    @pytest.fixture(autouse=True)
    def _runs(self) -> None:
        self.runs: dict[str, MemoryRunLog] = {}

    def open(self, key: str) -> RunLog:
        log = self.runs.setdefault(key, MemoryRunLog(key))
        log.state = "running"
        return log

    def seen(self, key: str) -> Seen:
        log = self.runs[key]
        return Seen(log.told, log.curves, log.files, log.marks, log.state)


class TestMlflowRunLog(RunLogSuite):
    @pytest.fixture(autouse=True)
    def _store(self, store: MlflowStore) -> None:
        self.store = store

    def open(self, key: str) -> RunLog:
        return MlflowRunLog(self.store, MODEL, key, f"run {key}", clock=lambda: 1.7e9)

    def seen(self, key: str) -> Seen:
        client, run_id = self.store._client, self.open_id(key)
        run = client.get_run(run_id)
        curves = {
            name.replace("_at_", "@"): {point.step: point.value for point in client.get_metric_history(run_id, name)}
            for name in run.data.metrics
        }
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(client.download_artifacts(run_id, "", scratch))
            files = {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}
        return Seen(run.data.params, curves, files, run.data.tags, run.info.status.lower())

    def open_id(self, key: str) -> str:
        [experiment] = [found for found in self.store._client.search_experiments() if found.name == MODEL]
        [run] = self.store._client.search_runs([experiment.experiment_id], f"tags.`sluice.run_key` = '{key}'")
        return str(run.info.run_id)


def test_a_version_joins_the_run_that_it_was_trained_in(store: MlflowStore) -> None:
    settings = TrainSettings(hidden=(4,), max_epochs=2, device="cpu")
    log = MlflowRunLog(store, "joined", "retrain-7", "every two weeks")
    trained = train(splits(), settings, epochs_to(log, JUDGED_NDCG))
    package = export_package(trained, splits(), "joined", Lineage("d", "0", run_id=log.run_id), created_ms=0)

    version = store.register("joined", package)
    log.end(succeeded=True)

    run = store._client.get_run(log.run_id)
    assert store.get("joined", version).run_id == log.run_id
    assert set(run.data.metrics) >= {"loss", "validation_ndcg_at_10", "test_ndcg_at_10"}
    assert [point.step for point in store._client.get_metric_history(log.run_id, "loss")] == [1, 2]
    assert run.info.status == "FINISHED"


def test_a_key_that_could_leave_its_quotes_is_refused(store: MlflowStore) -> None:
    with pytest.raises(ValueError, match="letters, digits and"):
        MlflowRunLog(store, MODEL, "a' or 'a' = 'a", "")


def test_without_mlflow_it_says_so(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_bytes(b"not a database, but long enough to look at" * 100)

    with pytest.raises(StoreUnavailable):
        MlflowRunLog(MlflowStore(f"sqlite:///{tmp_path}/mlflow.db"), MODEL, "key", "")
