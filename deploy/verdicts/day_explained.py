"""What tells a closed day apart from those before: its lists and theirs out of the archive, held against each other."""

from collections.abc import Callable
from dataclasses import dataclass, field

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from drift.days.reports import DayReport, DayReports
from drift.errors import NothingToExplain
from drift.joint.explain import Explanation, Progress, explain
from drift.joint.two_sample import JointSettings, Lists
from pipelines.archive.files import Archive
from pipelines.archive.tables import hashes
from registry.contracts.drift import ShiftRecord
from registry.contracts.profile import ReferenceProfile

MOST_DAYS = 7
SEED = 20_261
COLUMNS = ("ranking_id", "version", "arm", "fingerprint", "features")


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
        sample of lists by the hash of their ranking ids. Raises NothingToExplain saying what is missing.
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
            if (lists := self._lists(day, profile)) is not None and len(lists) >= fewest
        ]
        if current is None or len(current) < fewest or not days:
            raise NothingToExplain(
                f"the archive has too few lists of that day or of those before: expected {fewest} of each that fit the "
                "profile's feature view"
            )
        names = [feature.name for feature in profile.features]
        found = explain([lists for _, lists in days], current, names, self.settings, SEED, progress)
        before = tuple(start_ms for start_ms, _ in days)
        return DayExplained(model, record.version, record.arm, record.since_ms, before, found)

    def _lists(self, day: ShiftRecord, profile: ReferenceProfile) -> Lists | None:
        """A sample of the arm's lists of that day that fit the view: those with the smallest hashes of their ids."""
        kept: list[tuple[int, bytes]] = []
        for hour_ms in self.archive.hours(day.model, day.since_ms, day.until_ms):
            since_ms, until_ms = max(hour_ms, day.since_ms), min(hour_ms + 3_600_000, day.until_ms)
            rankings = self.archive.rankings(day.model, since_ms, until_ms, COLUMNS)
            fits = pc.and_(pc.equal(rankings["arm"], day.arm), pc.equal(rankings["fingerprint"], profile.fingerprint))
            if day.arm != "champion":
                fits = pc.and_(fits, pc.equal(rankings["version"], day.version))
            kept = self._smallest(kept, rankings.filter(fits), len(profile.features))
        if not kept:
            return None
        rows = [np.frombuffer(features, dtype="<f4").reshape(-1, len(profile.features)) for _, features in kept]
        return Lists(np.vstack(rows), np.array([len(own) for own in rows]))

    def _smallest(self, kept: list[tuple[int, bytes]], rankings: pa.Table, columns: int) -> list[tuple[int, bytes]]:
        lengths = pc.fill_null(pc.list_value_length(rankings["features"]), 0).to_numpy()
        whole = np.flatnonzero((lengths > 0) & (lengths % columns == 0))
        numbers = hashes(rankings["ranking_id"])[whole]
        places = whole[np.argsort(numbers, kind="stable")[: self.settings.most_lists]]
        features = rankings["features"].take(pa.array(places)).to_pylist()
        found = zip(np.sort(numbers).tolist(), (np.array(one, dtype="<f4").tobytes() for one in features), strict=False)
        return sorted([*kept, *found])[: self.settings.most_lists]


def _before(record: ShiftRecord, closed: list[DayReport]) -> list[ShiftRecord]:
    """Oldest first; days of an alarm that was open by then are no yardstick."""
    began_ms = min([alarm.onset_ms for alarm in record.alarms] + [record.since_ms])
    earlier = [one.record for one in closed if one.record.until_ms <= began_ms and one.record.verdict != "errored"]
    return earlier[-MOST_DAYS:]
