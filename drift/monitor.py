"""The loop: read events, count them into windows, judge what is over, keep the place."""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from drift import metrics, snapshot
from drift.days.blocks import DayBlocks
from drift.days.watch import DayWatches
from drift.errors import UnreadableSnapshot
from drift.loop import run_steps
from drift.settings import MonitorSettings
from drift.snapshot import Snapshot
from drift.windows.counted import Counted
from drift.windows.hours import Hours, SeasonShift
from drift.windows.judge import DriftVerdict, judge
from drift.windows.reference import Reference
from drift.windows.segments import CANDIDATES, OTHER
from drift.windows.tumbling import OpenWindows
from drift.windows.window import Window
from registry.contracts.errors import ContractError
from registry.contracts.events import WatchedRanking, split_events, watched_ranking, watched_rankings
from registry.contracts.profile import ReferenceProfile
from registry.errors import RegistryError
from registry.stream import StreamEntry, StreamReader

log = logging.getLogger(__name__)

ProfileOf = Callable[[str, int], ReferenceProfile | None]
Sink = Callable[[DriftVerdict], None]


class Monitor:
    """Tells a verdict for every window of every version and arm, and hands closed days to the watches.

    profiles: a version's profile, None if there is none; asked once a window, may raise
    RegistryError or ContractError. sink: keeps a verdict; what it raises ends the run, and after a
    crash it may get one again.
    kept_in: the snapshot's file, which must outlive the process. clock: seconds since the epoch.
    reader: the monitor alone reads for its group. watches: take the days; None judges windows alone.
    hours: keep windows, to hold those of later weeks beside them.
    """

    def __init__(
        self,
        reader: StreamReader,
        profiles: ProfileOf,
        sink: Sink,
        settings: MonitorSettings,
        kept_in: Path,
        clock: Callable[[], float] = time.time,
        watches: DayWatches | None = None,
        hours: Hours | None = None,
    ) -> None:
        self._reader, self._profiles, self._sink = reader, profiles, sink
        self._settings, self._kept_in, self._clock = settings, kept_in, clock
        self._undivided: set[str] = set()  # models whose segments were said to be of no feature
        kept = _last_snapshot(kept_in)
        self._windows = OpenWindows(
            window_ms=round(settings.window_s * 1000),
            lateness_ms=round(settings.lateness_s * 1000),
            reference_of=self._reference,
            watermark_ms=kept.watermark_ms,
            counted=Counted(kept.counted),
            segments=settings.segments,
        )
        self._windows.restore(kept.windows, kept.sketches)
        self._watches, self._hours = watches, hours
        self._days = DayBlocks(settings.shift.day_ms, self._reference)
        self._days.restore(kept.days)
        self._absorbed = dict.fromkeys(kept.entries)  # not acknowledged yet, in order
        self._saved_s = clock()

    def __repr__(self) -> str:
        return f"<Monitor [{len(self._windows)} open windows | {len(self._absorbed)} entries to acknowledge]>"

    def run(self, stop: threading.Event) -> None:
        """Watches until told to stop. While the stream is away it waits and tries again."""
        settings = self._settings
        run_steps(
            lambda: self.step(settings.wait_s),
            self.save,
            stop,
            settings.retry_s,
            "the event stream is away, drift waits",
        )

    def step(self, wait_s: float) -> int:
        """Reads once, waiting up to `wait_s` for the first entry, and does what is due.

        Returns how many entries there were.
        Raises StoreUnavailable; nothing is lost then, call it again.
        """
        entries = self._reader.read(self._settings.entries_a_read, wait_s)
        if set_back := self._windows.set_back(self._now_ms()):
            log.warning("the clock was set back: windows later than now are left out, drift goes on from here")
            self._saved_s = min(self._saved_s, self._clock())
            self._days.set_back(self._now_ms())
        self._absorb([entry for entry in entries if entry.entry_id not in self._absorbed])
        if not entries:  # all that is there has been read: time passes without events too
            self._windows.advance(self._now_ms())
        closed = self._windows.close()
        for window in [window for window in closed if not window.key.segment]:
            self._tell(judge(window, self._settings.rule, self._beside(window)))
        if self._watches is not None:
            self._days.add(closed)
            if over := self._days.close(self._windows.watermark_ms):
                self._watches.take(over)  # keeps them; the snapshot without them comes after
        due = self._clock() - self._saved_s >= self._settings.save_every_s
        if closed or set_back or (self._absorbed and due):
            self.save()
        return len(entries)

    def save(self) -> None:
        """Keeps what is known, then acknowledges what that holds.

        Raises StoreUnavailable, and acknowledges it the next time.
        """
        entries = tuple(self._absorbed)
        state = Snapshot(
            watermark_ms=self._windows.watermark_ms,
            entries=entries,
            windows=self._windows.states(),
            days=self._days.states(),
            counted=self._windows.counted.seconds(),
            sketches=self._windows.sketches(),
        )
        snapshot.save(self._kept_in, state)
        if self._watches is not None:
            self._watches.tell()
        self._saved_s = self._clock()
        self._reader.acknowledge(entries)
        self._absorbed.clear()
        metrics.OPEN_WINDOWS.set(len(self._windows))
        metrics.LAG.set(self._reader.lag())

    def _absorb(self, entries: Sequence[StreamEntry]) -> None:
        """All at once: the more rankings there are, the less each costs, so that who falls behind gets quicker."""
        rankings = [ranking for entry in entries for ranking in _rankings(entry)]
        watched = [ranking for ranking in rankings if ranking.arm != "outside"]  # testers' choice, and units of no arm
        outcomes = self._windows.absorb(watched, self._now_ms())
        outcomes["outside"] = len(rankings) - len(watched)
        for outcome, count in outcomes.items():
            metrics.EVENTS.labels(outcome).inc(count)
        self._absorbed.update(dict.fromkeys(entry.entry_id for entry in entries))

    def _beside(self, window: Window) -> tuple[SeasonShift, ...]:
        """The same hours of earlier weeks beside the window, which is then kept with its own hour."""
        if self._hours is None:
            return ()
        season = self._hours.beside(window)
        self._hours.add(window)
        return season

    def _tell(self, verdict: DriftVerdict) -> None:
        self._sink(verdict)
        _show(verdict)
        level = logging.WARNING if verdict.verdict == "errored" else logging.INFO  # closed days decide
        log.log(
            level,
            "drift of %s@%d, %s: %s",
            verdict.model,
            verdict.version,
            verdict.arm,
            "; ".join((verdict.verdict, *verdict.reasons)),
            extra={"start_ms": verdict.start_ms, "end_ms": verdict.end_ms, "lists": verdict.lists},
        )

    def _reference(self, model: str, version: int) -> Reference | None:
        try:
            profile = self._profiles(model, version)
        except (RegistryError, ContractError) as error:
            log.warning("no reference profile of %s@%d: %s", model, version, error)
            return None
        if profile is None:
            return None
        reference = Reference.of(profile)
        self._warn_of_segments(model, version, reference)
        return reference

    def _warn_of_segments(self, model: str, version: int, reference: Reference) -> None:
        """Once a model: a name that is misspelt would be watched as one part, `other`, and nobody would know."""
        segments = self._settings.segments.get(model)
        if segments is None or model in self._undivided or not segments.is_without(reference):
            return
        self._undivided.add(model)
        log.warning(
            "SLUICE_DRIFT_SEGMENTS divides %s by %r, which the feature view of @%d lacks: all rankings are in %r; "
            "expected %s, or one of %s",
            *(model, segments.by, version, OTHER, CANDIDATES, ", ".join(reference.columns)),
        )

    def _now_ms(self) -> int:
        return round(self._clock() * 1000)


def _last_snapshot(path: Path) -> Snapshot:
    try:
        found = snapshot.load(path)
    except UnreadableSnapshot as error:
        log.warning("the open windows start empty: %s", error)
        found = None
    return found or Snapshot(watermark_ms=0, entries=(), windows=())


def _rankings(entry: StreamEntry) -> list[WatchedRanking]:
    """The entry's rankings, without those that no reader of this version can read."""
    try:
        return watched_rankings(entry.payload)
    except ContractError:
        return _one_by_one(entry)


def _one_by_one(entry: StreamEntry) -> list[WatchedRanking]:
    rankings: list[WatchedRanking] = []
    try:
        for encoded in split_events(entry.payload):
            try:
                ranking = watched_ranking(encoded)
            except ContractError as error:
                metrics.EVENTS.labels("unreadable").inc()
                log.warning("an event in entry %s is left out: %s", entry.entry_id, error)
                continue
            if ranking is not None:
                rankings.append(ranking)
    except ContractError as error:
        metrics.EVENTS.labels("unreadable").inc()
        log.warning("entry %s is left out: %s", entry.entry_id, error)
    return rankings


def _show(verdict: DriftVerdict) -> None:
    """Sets the gauges of the arm."""
    arm = (verdict.model, verdict.arm)
    metrics.VERDICTS.labels(*arm, verdict.verdict).inc()
    metrics.WINDOW_END.labels(*arm).set(verdict.end_ms / 1000)
    metrics.WINDOW_LISTS.labels(*arm).set(verdict.lists)
    metrics.MOVED.labels(*arm).set(sum(finding.moved for finding in verdict.findings))
    for finding in verdict.findings:
        if finding.aspect == "mean":
            metrics.SHIFT.labels(*arm, finding.quantity).set(finding.effect)
        elif finding.aspect == "missing_share":
            metrics.MISSING_SHARE.labels(*arm, finding.quantity).set(finding.current)
        else:
            metrics.ZERO_SHARE.labels(*arm, finding.quantity).set(finding.current)
    for shape in verdict.shapes:
        metrics.PSI.labels(*arm, shape.quantity).set(shape.psi)
        metrics.PSI_EXCESS.labels(*arm, shape.quantity).set(shape.psi - shape.psi_by_chance)
        metrics.KS.labels(*arm, shape.quantity).set(shape.ks)
        metrics.WASSERSTEIN.labels(*arm, shape.quantity).set(shape.wasserstein)
        metrics.SPREAD.labels(*arm, shape.quantity).set(shape.spread)
    for season in verdict.season:
        if season.aspect == "mean":
            metrics.SEASON_SHIFT.labels(*arm, season.quantity).set(season.shift)
    for codes in verdict.categories:
        metrics.JENSEN_SHANNON.labels(*arm, codes.quantity).set(codes.jensen_shannon)
        metrics.NEW_CATEGORIES.labels(*arm, codes.quantity).set(codes.new_share)
    if (ages := verdict.row_ages) is not None:
        for share, age_s in (("0.5", ages.p50_s), ("0.95", ages.p95_s), ("0.99", ages.p99_s)):
            metrics.ROW_AGE.labels(*arm, share).set(float("nan") if age_s is None else age_s)
