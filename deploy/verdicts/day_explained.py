"""What tells a closed day apart from those before: its lists and theirs out of the archive, held against each other."""

from collections.abc import Callable
from dataclasses import dataclass, field

import msgspec

from deploy.drift_reports.rows import sampled
from drift.days.reports import DayReport, DayReports
from drift.errors import NothingToExplain
from drift.joint.explain import Explanation, Progress, explain
from drift.joint.two_sample import JointSettings, Lists
from pipelines.archive.files import Archive
from registry.contracts.drift import ShiftRecord
from registry.contracts.profile import ReferenceProfile

MOST_DAYS = 7
SEED = 20_261


class DayExplained(msgspec.Struct, frozen=True):
    """day: its start, and the starts of the days it was held against, oldest first, ms since the epoch."""

    model: str
    version: int
    arm: str
    day: int
    before: tuple[int, ...]
    explanation: Explanation


@dataclass(frozen=True, slots=True)
class DayExplainer:
    """profile: a version's, None if it is not to be had; may raise RegistryError or ContractError."""

    archive: Archive
    days: DayReports
    profile: Callable[[str, int], ReferenceProfile | None]
    settings: JointSettings = field(default_factory=JointSettings)

    def explain(self, model: str, arm: str, since_ms: int | None, progress: Progress) -> DayExplained:
        """Of the day that began then, the newest if None. arm: of a challenger with its version, `challenger-2`.

        Held against up to `MOST_DAYS` closed days before it, and before the oldest of its alarms began; of each a
        sample of lists by the hash of their ranking ids. Raises NothingToExplain saying what is missing, DataRefused if
        the archive is damaged.
        """
        closed = self.days.read(model, arm, newest=400)
        known = [report.record for report in closed if since_ms is None or report.record.since_ms == since_ms]
        if not known:
            raise NothingToExplain(f"no such day of {model!r}, {arm}, was closed: see `sluice drift days`")
        record = known[-1]
        profile = self.profile(model, record.version)
        if profile is None or not profile.features:
            raise NothingToExplain(f"no reference profile of {model}@{record.version} was found")
        current = self._lists(record, profile)
        fewest = 2 * self.settings.folds
        days = [
            (day.since_ms, lists)
            for day in _before(record, closed)
            if len(lists := self._lists(day, profile)) >= fewest
        ]
        if len(current) < fewest or not days:
            raise NothingToExplain(
                f"the archive has too few lists of that day or of those before: expected {fewest} of each that fit the "
                "profile's feature view"
            )
        names = [feature.name for feature in profile.features]
        found = explain([lists for _, lists in days], current, names, self.settings, SEED, progress)
        before = tuple(start_ms for start_ms, _ in days)
        return DayExplained(model, record.version, record.arm, record.since_ms, before, found)

    def _lists(self, day: ShiftRecord, profile: ReferenceProfile) -> Lists:
        """A sample of the arm's lists of that day that fit the view."""
        version = None if day.arm == "champion" else day.version
        span = (day.since_ms, day.until_ms)
        sample = sampled(self.archive, day.model, day.arm, version, profile, [span], self.settings.most_lists)
        lists = sample.taken()
        return Lists(lists.values, lists.shown)


def _before(record: ShiftRecord, closed: list[DayReport]) -> list[ShiftRecord]:
    """Oldest first; days of an alarm that was open by then are no yardstick."""
    began_ms = min([alarm.onset_ms for alarm in record.alarms] + [record.since_ms])
    earlier = [one.record for one in closed if one.record.until_ms <= began_ms and one.record.verdict != "errored"]
    return earlier[-MOST_DAYS:]
