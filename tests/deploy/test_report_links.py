"""Reports in MLflow, on a database of its own: on the run of what drifted, and of the retraining that was asked for."""

from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import pytest

from deploy.drift_reports.links import ReportLinks
from drift.evidently_reports.files import EvidentlyReports, ReportPlace
from registry.contracts.runs import Run
from registry.errors import StoreUnavailable
from registry.mlflow_store import MlflowStore
from tests.builders import NOW_MS, a_package, a_run, a_shift_alarm, a_shift_record
from tests.drift.made_reports import a_made_report

# mlflow's own
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")

MODEL = "codesearch"
DAY_MS = 86_400_000


@dataclass
class Bench:
    store: MlflowStore
    reports: EvidentlyReports
    runs: list[Run] = field(default_factory=list)
    away: bool = False

    @property
    def links(self) -> ReportLinks:
        return ReportLinks(self.reports, lambda model: self.runs, self.reached)

    def reached(self) -> MlflowStore:
        if self.away:
            raise StoreUnavailable("MLflow is away")
        return self.store

    def made(
        self, day: int, version: int = 1, alarmed: bool = True, made_ms: int = NOW_MS, arm: str = "champion"
    ) -> str:
        """A report's page."""
        page = f"<p>{arm} @{version} on {day}, made {made_ms}</p>"
        report = a_made_report(ReportPlace(MODEL, arm, NOW_MS + day * DAY_MS), page)
        record = a_shift_record(version=version, alarms=(a_shift_alarm(),) if alarmed else ())
        about = msgspec.structs.replace(report.about, version=version, made_ms=made_ms, records=(record,))
        self.reports.write(type(report)(about, page, report.figures))
        return page

    def on(self, run_id: str, name: str) -> str:
        """A file of the run, empty if it is not there."""
        folder = self.reports.folder / "downloads" / run_id
        folder.mkdir(parents=True, exist_ok=True)
        client = self.store._client
        if f"drift/{name}" not in [one.path for one in client.list_artifacts(run_id, "drift")]:
            return ""
        return Path(client.download_artifacts(run_id, f"drift/{name}", str(folder))).read_text()

    def tags(self, run_id: str) -> dict[str, str]:
        return {name: tag for name, tag in self.store._client.get_run(run_id).data.tags.items() if "drift" in name}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> MlflowStore:
    folder = tmp_path_factory.mktemp("mlflow")
    store = MlflowStore(f"sqlite:///{folder / 'mlflow.db'}", folder / "artefacts")
    for version in (1, 2):
        assert store.register(MODEL, a_package(created_ms=NOW_MS + version)) == version
    return store


@pytest.fixture
def bench(store: MlflowStore, tmp_path: Path) -> Bench:
    return Bench(store, EvidentlyReports(tmp_path, kept=30))


def test_a_version_s_run_has_the_newest_report_with_an_alarm(bench: Bench) -> None:
    bench.made(0)
    page = bench.made(1)
    bench.made(2, alarmed=False)
    of_challenger = bench.made(1, version=2, arm="challenger-2")

    bench.links.show(MODEL)

    first, second = (bench.store.get(MODEL, version).run_id for version in (1, 2))
    assert (bench.on(first, "report.html"), bench.on(second, "report.html")) == (page, of_challenger)
    assert bench.tags(first) == {"sluice.drift_report": f"/v1/models/{MODEL}/drift/reports/2026-01-02"}
    assert bench.tags(second) == {
        "sluice.drift_report": f"/v1/models/{MODEL}/drift/reports/2026-01-02?arm=challenger-2"
    }
    assert bench.on(first, "report.json").startswith("{")
    assert bench.links.pending(MODEL) == []


def test_a_newer_report_takes_its_place_and_one_that_is_made_again_too(bench: Bench) -> None:
    bench.made(0)
    bench.links.show(MODEL)
    run_id = bench.store.get(MODEL, 1).run_id

    for day, made_ms in ((3, NOW_MS), (3, NOW_MS + 1)):
        page = bench.made(day, made_ms=made_ms)
        assert len(bench.links.pending(MODEL)) == 1
        bench.links.show(MODEL)
        assert bench.on(run_id, "report.html") == page


def test_a_retraining_that_drift_asked_for_has_its_cause(bench: Bench) -> None:
    cause = bench.made(0)
    bench.made(3)
    asked, by_hand, untrained = (
        retraining(bench, trigger, trained) for trigger, trained in (("drift", True), ("api", True), ("drift", False))
    )
    bench.runs = [asked, by_hand, untrained]

    bench.links.show(MODEL)

    run_id = asked.output_of("train")["log"]
    assert bench.on(run_id, "cause.html") == cause
    assert bench.tags(run_id) == {"sluice.drift_cause": f"/v1/models/{MODEL}/drift/reports/2026-01-01"}
    assert bench.tags(by_hand.output_of("train")["log"]) == {}
    assert bench.links.pending(MODEL) == []


def retraining(bench: Bench, trigger: str, trained: bool) -> Run:
    """Asked for a day after day 0 was over, before day 3 was."""
    run = a_run(MODEL, until_ms=NOW_MS + DAY_MS, now_ms=NOW_MS + 2 * DAY_MS, trigger=trigger)  # type: ignore[arg-type]
    run = msgspec.structs.replace(run, id=f"{run.id}-{trigger}-{int(trained)}")
    log = bench.store.open_run(MODEL, run.id, run.id) if trained else ""
    steps = [
        msgspec.structs.replace(step, state="done", output={"log": log}) if trained and step.name == "train" else step
        for step in run.steps
    ]
    return msgspec.structs.replace(run, steps=tuple(steps))


def test_while_mlflow_is_away_it_stays_pending(bench: Bench) -> None:
    page = bench.made(0)
    bench.away = True

    with pytest.raises(StoreUnavailable):
        bench.links.show(MODEL)
    assert len(bench.links.pending(MODEL)) == 1

    bench.away = False
    bench.links.show(MODEL)
    assert bench.on(bench.store.get(MODEL, 1).run_id, "report.html") == page


def test_a_version_that_is_gone_is_not_asked_for_again(bench: Bench) -> None:
    bench.made(0, version=99)

    bench.links.show(MODEL)

    assert bench.links.pending(MODEL) == []
