"""Reports in MLflow: on the run of the version that drifted, and on that of the retraining that drift asked for.

The newest report of a version is `drift/report.html` of its run, tagged `sluice.drift_report`; what a retraining was
asked for on is its run's `drift/cause.html`, tagged `sluice.drift_cause`. Which are shown is a file, so that MLflow is
asked only when there is something to show it.
"""

import gzip
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from drift.atomic_file import replace_file
from drift.evidently_reports.about import ReportAbout
from drift.evidently_reports.files import FOLDER, EvidentlyReports, ReportPlace
from registry.contracts.drift import report_path
from registry.contracts.runs import Run
from registry.errors import UnknownVersion
from registry.mlflow_store import MlflowStore

log = logging.getLogger(__name__)

CAUSED_WITHIN_MS = 7 * 86_400_000
KEPT_RUNS = 100


@dataclass(frozen=True, slots=True)
class Link:
    """A report that belongs on a run. version: the one that drifted; run, log: or the retraining and its MLflow run."""

    about: ReportAbout
    version: int = 0
    run: str = ""
    log: str = ""


class Shown(msgspec.Struct, frozen=True):
    """The file. versions: the day of the report that is shown of each, and when that was made. runs: ids."""

    versions: dict[str, tuple[int, int]] = {}
    runs: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ReportLinks:
    """runs: a model's retrainings, the newest first; may raise StoreUnavailable, as store."""

    reports: EvidentlyReports
    runs: Callable[[str], Sequence[Run]]
    store: Callable[[], MlflowStore]

    def pending(self, model: str) -> list[Link]:
        """What is not shown yet. Raises StoreUnavailable."""
        shown = self._shown(model)
        alarmed = [about for about in self.reports.there(model) if any(one.open_alarms for one in about.records)]
        newest: dict[int, ReportAbout] = {}
        for about in alarmed:
            newest.setdefault(about.version, about)
        links = [
            Link(about, version=version)
            for version, about in newest.items()
            if shown.versions.get(str(version)) != (about.since_ms, about.made_ms)
        ]
        champion = [about for about in alarmed if about.arm == "champion"]
        for run in self.runs(model) if champion else ():
            told = run.output_of("train").get("log", "")
            if run.trigger == "drift" and told and run.id not in shown.runs:
                causes = [one for one in champion if 0 <= run.created_ms - one.until_ms < CAUSED_WITHIN_MS]
                links += [Link(cause, run=run.id, log=told) for cause in causes[:1]]
        return links

    def show(self, model: str) -> None:
        """Shows all that is pending, each once it is done. Raises StoreUnavailable."""
        for link in self.pending(model):
            about = link.about
            place = ReportPlace(model, about.arm, about.since_ms)
            page, figures = (self.reports.content(place, form) for form in ("html", "json"))
            run_id = link.log or self._run_of(model, link.version)
            if run_id and page is not None and figures is not None:
                name, tag = ("cause", "sluice.drift_cause") if link.run else ("report", "sluice.drift_report")
                self.store().log_file(run_id, f"drift/{name}.html", gzip.decompress(page))
                self.store().log_file(run_id, f"drift/{name}.json", figures)
                arm = about.arm.partition("-")[0]
                self.store().log_tags(run_id, {tag: report_path(model, arm, about.version, about.since_ms)})
            self._keep(model, link)

    def _run_of(self, model: str, version: int) -> str:
        try:
            return self.store().get(model, version).run_id
        except UnknownVersion:
            log.info("%s@%d is not in MLflow any more: its report is not shown there", model, version)
            return ""

    def _keep(self, model: str, link: Link) -> None:
        shown = self._shown(model)
        if link.run:
            shown = msgspec.structs.replace(shown, runs=(*shown.runs, link.run)[-KEPT_RUNS:])
        else:
            versions = shown.versions | {str(link.version): (link.about.since_ms, link.about.made_ms)}
            shown = msgspec.structs.replace(shown, versions=versions)
        replace_file(self._file(model), msgspec.json.encode(shown))

    def _shown(self, model: str) -> Shown:
        try:
            return msgspec.json.decode(self._file(model).read_bytes(), type=Shown)
        except FileNotFoundError:
            return Shown()

    def _file(self, model: str) -> Path:
        return self.reports.folder / model / FOLDER / "mlflow.json"
