"""Weeks of days in a data folder, one feature of which drifts: archive, closed days and the version, as the platform's
own processes write them."""

from dataclasses import dataclass
from pathlib import Path

from deploy.settings import PlatformSettings
from drift.days.reports import DayReports
from drift.days.watch import DayWatches
from drift.monitor import Monitor
from drift.settings import MonitorSettings, Rule, ShiftSettings
from pipelines.archive.files import Archive
from registry.artefacts import write
from registry.contracts.events import RankingEvent, encode_event, join_events
from registry.contracts.manifest import ModelPackage
from registry.drift_board import MemoryDriftBoard
from registry.stream import MemoryStream, StreamEntry
from tests.builders import NOW_MS, a_package
from tests.drift.traffic import PROFILE, VIEW, rankings

MODEL = "codesearch"
DAY_MS = 86_400_000
DAYS, BROKEN = 18, 16
LISTS = 120
SHIFT = ShiftSettings(min_lists=50, anchor_days=14)
SETTINGS = MonitorSettings(Rule(min_lists=50), window_s=43_200.0, lateness_s=2.0, wait_s=0.05, shift=SHIFT)


def day_ms(number: int) -> int:
    """Start of that day."""
    return NOW_MS + number * DAY_MS


@dataclass(frozen=True)
class DriftedSeason:
    """Eighteen days of version 1 as champion: quiet, the anchor laid from the first fourteen, then from day 16 on
    (counted from 0) `of_item` is elsewhere by 1.5."""

    settings: PlatformSettings
    board: MemoryDriftBoard

    @property
    def archive(self) -> Archive:
        return Archive(self.settings.archive_folder)

    @property
    def days(self) -> DayReports:
        return DayReports(self.settings.reports_folder / "drift")

    @staticmethod
    def written(home: Path) -> "DriftedSeason":
        """By a monitor and an archive over the same stream."""
        settings = PlatformSettings(home=home, with_mlflow=False)
        season = DriftedSeason(settings, MemoryDriftBoard())
        package = a_package(view=VIEW)
        profiled = ModelPackage(package.program, package.manifest_json, PROFILE.encode())
        write(profiled, settings.versions_folder / MODEL / "1")
        stream = MemoryStream()
        for day in range(DAYS):
            payloads = _payloads(_a_day(day))
            stream.append(payloads)
            season.archive.write([StreamEntry(f"{day_ms(day)}-{i}", payload) for i, payload in enumerate(payloads)])
        watches = DayWatches(home / "days.watches", season.board, SHIFT, reports=season.days)
        monitor = Monitor(
            stream.reader("monitor", "monitor-0"),
            lambda model, version: PROFILE,
            lambda verdict: None,
            SETTINGS,
            home / "monitor.windows",
            lambda: day_ms(DAYS) / 1000 + 60,
            watches,
        )
        while monitor.step(0):
            pass
        monitor.step(0)
        return season


def _a_day(day: int) -> list[RankingEvent]:
    moved = {"of_item": 1.5} if day >= BROKEN else None
    return rankings(500 + day, LISTS, moved, day_ms(day), DAY_MS // LISTS)


def _payloads(events: list[RankingEvent]) -> list[bytes]:
    parts = [events[start : start + 40] for start in range(0, len(events), 40)]
    return [join_events([encode_event(event) for event in part]) for part in parts]
