"""Drift reports of an installation: what they are made of, where they lie, whose turn is next."""

import functools
import logging
from typing import TYPE_CHECKING

from deploy.settings import PlatformSettings
from deploy.wiring import model_store, redis_client, traffic_control

if TYPE_CHECKING:
    from deploy.drift_reports.links import ReportLinks
    from deploy.drift_reports.make import ReportSources
    from deploy.drift_reports.turns import ReportTurns
    from drift.evidently_reports.files import EvidentlyReports
    from registry.contracts.drift import ShiftRecord
    from registry.contracts.runs import Run

log = logging.getLogger(__name__)


def evidently_reports(settings: PlatformSettings) -> "EvidentlyReports":
    """Where Evidently's reports of closed days are kept."""
    from drift.evidently_reports.files import EvidentlyReports
    from drift.settings import parse_reports

    return EvidentlyReports(settings.reports_folder / "drift", parse_reports(settings.drift_reports).kept)


def report_sources(settings: PlatformSettings) -> "ReportSources":
    """What they are made of. A version's profile is asked of the copies on this machine first, then of MLflow."""
    from deploy.drift_reports.make import ReportSources
    from drift.days.reports import DayReports
    from drift.settings import parse_reports
    from pipelines.archive.files import Archive
    from registry.artefacts import read
    from registry.contracts.profile import ReferenceProfile
    from registry.drift_board import RedisDriftBoard
    from registry.errors import StoreUnavailable

    def profile(model: str, version: int) -> ReferenceProfile | None:
        folder = settings.versions_folder / model / str(version)
        if folder.exists():
            return read(folder).profile
        return model_store(settings).package(model, version).profile if settings.with_mlflow else None

    def shown(model: str) -> "tuple[ShiftRecord, ...]":
        try:
            return board.latest(model)
        except StoreUnavailable as error:
            log.warning("a report without what the drift board shows: %s", error)
            return ()

    board = RedisDriftBoard(redis_client(settings))
    return ReportSources(
        archive=Archive(settings.archive_folder),
        days=DayReports(settings.reports_folder / "drift"),
        profile=profile,
        shown=shown,
        settings=parse_reports(settings.drift_reports),
    )


def report_links(settings: PlatformSettings) -> "ReportLinks":
    """Between those reports and MLflow's runs."""
    from deploy.drift_reports.links import ReportLinks
    from registry.runs import SqlRuns

    def runs(model: str) -> list["Run"]:
        return SqlRuns(traffic_control(settings).engine).runs(model, kind="retrain", newest=20)

    store = functools.cache(lambda: model_store(settings))
    return ReportLinks(evidently_reports(settings), runs, store)


@functools.cache  # with one client of Redis
def report_turns(settings: PlatformSettings) -> "ReportTurns":
    """Which report is made next, and that it is made."""
    from deploy.drift_reports.turns import ReportTurns, in_a_process

    return ReportTurns(
        sources=report_sources(settings),
        reports=evidently_reports(settings),
        models=lambda: traffic_control(settings).models(),
        process=in_a_process,
        links=report_links(settings) if settings.with_mlflow else None,
    )
