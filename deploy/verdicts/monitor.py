"""Builds the monitor process from its settings, and runs it."""

import logging
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from deploy.events.stream import event_reader
from deploy.machine import collector, heap
from deploy.models.copies import fetch_copy
from deploy.settings import PlatformSettings
from deploy.telemetry.probe_port import probe_port
from deploy.verdicts.drift_evidence import DriftEvidence
from deploy.verdicts.rank_evidence import RankEvidence
from deploy.wiring import redis_client, traffic_control
from drift.calibration import show
from drift.days.reports import DayReports
from drift.days.watch import DayWatches
from drift.mirrors.monitor import GROUP, MirrorMonitor
from drift.monitor import Monitor
from drift.settings import parse_monitor, parse_rank_diff
from drift.windows.hours import Hours
from drift.windows.reports import VerdictReports
from drift.windows.segments import parse_segments
from registry.artefacts import read
from registry.contracts.errors import ContractError
from registry.contracts.profile import ReferenceProfile
from registry.drift_board import RedisDriftBoard
from registry.errors import RegistryError

log = logging.getLogger(__name__)


def monitor(settings: PlatformSettings, stop: threading.Event) -> None:
    """Events from the stream into windows and days, these into drift verdicts; mirrored lists into rank-diffs.

    Both read the same stream and know the versions' profiles, and neither has to be quick, which the
    controller has to be: hence in one process, and not in that.
    """

    def profile_of(model: str, version: int) -> ReferenceProfile | None:
        folder = settings.versions_folder / model / str(version)
        if not folder.exists() and settings.mlflow:  # workers of other machines have their copies there
            fetch_copy(settings, model, version, folder)
        return read(folder).profile if folder.exists() else None

    def standard_of(model: str, version: int) -> tuple[float, float] | None:
        try:
            profile = profile_of(model, version)
        except (RegistryError, ContractError, OSError) as error:
            log.warning("no score shift of %s@%d: %s", model, version, error)
            return None
        return (profile.scores.mean, profile.scores.std) if profile else None

    heap.keep()
    watched = replace(parse_monitor(settings.drift), segments=parse_segments(settings.drift_segments))
    board = RedisDriftBoard(redis_client(settings))
    evidence = DriftEvidence(lambda: traffic_control(settings), board)
    reports_folder = settings.reports_folder / "drift"
    kept_in = settings.journal_folder / "days.watches"
    watches = DayWatches(kept_in, board, watched.shift, evidence.keep, DayReports(reports_folder), watched.segments)
    reports = VerdictReports(reports_folder)
    with (
        event_reader(settings, GROUP, "monitor-0") as of_mirrors,
        event_reader(settings, "monitor", "monitor-0") as of_rankings,
        probe_port(settings),
    ):
        mirrors = MirrorMonitor(
            of_mirrors,
            standard_of,
            RankEvidence(lambda: traffic_control(settings)).keep,
            parse_rank_diff(settings.rank_diff),
            settings.journal_folder / "mirrors.windows",
            watches=watches,
            shift=watched.shift,
        )
        kept_in = settings.journal_folder / "monitor.windows"
        hours = Hours(reports_folder, watched.shift.day_ms, round(watched.window_s * 1000))
        monitor = Monitor(of_rankings, profile_of, reports.write, watched, kept_in, watches=watches, hours=hours)
        try:
            for calibration in board.calibrations().values():  # who found it told its gauges, and may be long gone
                show(calibration)
        except RegistryError as error:
            log.warning("calibrations are shown with the next collected window: %s", error)
        collector.calm()
        run_together(stop, monitor.run, mirrors.run)


def run_together(stop: threading.Event, *loops: Callable[[threading.Event], None]) -> None:
    """Runs them in threads until the event is set; when one fails, all are stopped and its error is raised."""
    with ThreadPoolExecutor(len(loops)) as pool:
        running = [pool.submit(loop, stop) for loop in loops]
        for one in running:
            one.add_done_callback(lambda _: stop.set())
    for one in running:
        one.result()
