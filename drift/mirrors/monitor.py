"""The loop over mirror events: read, count into windows, judge what is over, keep the place.

As in `monitor`: state and place in the stream are one file, and an entry is acknowledged after a
snapshot that holds its events is on disk. Entries without a mirror event need no snapshot.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path

import msgspec

from drift import metrics
from drift.atomic_file import replace_file
from drift.days.watch import DayWatches
from drift.errors import UnreadableSnapshot
from drift.loop import run_steps
from drift.mirrors.days import MirrorDay, MirrorDays
from drift.mirrors.rank_diff import RankDiff, compare, together
from drift.mirrors.rank_summary import RankSummary
from drift.mirrors.recent import Recent
from drift.mirrors.windows import MirrorWindows, Shadow, StandardOf, Stretch, StretchState
from drift.settings import RankDiffSettings, ShiftSettings
from drift.snapshot import read
from registry.contracts.errors import ContractError
from registry.contracts.events import MirrorEvent, decode_event, split_mirrors
from registry.errors import RegistryError
from registry.stream import StreamEntry, StreamReader

log = logging.getLogger(__name__)

SCHEMA = 1
GROUP = "rank-diff"
MOST_UNTOLD = 256
Sink = Callable[[RankDiff], None]


class MirrorSnapshot(msgspec.Struct, frozen=True):
    """entries: ids of stream entries that are in the stretches and may not be acknowledged yet.

    recent: see `recent.Recent`, of event ids. untold: what the sink has not taken yet. days: of closed
    windows, while they last.
    """

    watermark_ms: int
    entries: tuple[str, ...]
    recent: bytes
    windows: tuple[StretchState, ...]
    steps: tuple[StretchState, ...]
    untold: tuple[RankDiff, ...] = ()
    schema: int = SCHEMA
    days: tuple[MirrorDay, ...] = ()


class MirrorMonitor:
    """Tells a `RankDiff` for every window of every mirrored version, and hands closed days to the watches.

    standards: mean and deviation of a version's scores, None if unknown; must not raise. sink: keeps a
    rank-diff; after a crash it may get one again. While it raises RegistryError they are kept for
    it, the newest `MOST_UNTOLD`, and reading goes on. kept_in: the snapshot's file, which must outlive the process.
    clock: seconds since the epoch. reader: this monitor alone reads for its group. watches: take the days of
    disagreement, each `shift.day_s` long; None compares windows alone.
    """

    def __init__(
        self,
        reader: StreamReader,
        standards: StandardOf,
        sink: Sink,
        settings: RankDiffSettings,
        kept_in: Path,
        clock: Callable[[], float] = time.time,
        watches: DayWatches | None = None,
        shift: ShiftSettings | None = None,
    ) -> None:
        self._reader, self._sink, self._settings = reader, sink, settings
        self._kept_in, self._clock = kept_in, clock
        kept = _last_snapshot(kept_in)
        self._windows = MirrorWindows(settings, standards, kept.watermark_ms)
        self._windows.restore(kept.windows, kept.steps)
        self._watches = watches
        self._days = MirrorDays((shift or ShiftSettings()).day_ms)
        self._days.restore(kept.days)
        self._recent = Recent(kept.recent)
        self._absorbed = dict.fromkeys(kept.entries)  # not acknowledged yet, in order
        self._passed: list[str] = []  # without mirror events, not acknowledged yet
        self._untold = deque(kept.untold, maxlen=MOST_UNTOLD)
        self._tell_at_s = 0.0
        self._changed = False
        self._saved_s = self._mirrored_s = clock()

    def __repr__(self) -> str:
        waiting = len(self._absorbed) + len(self._passed)
        return f"<MirrorMonitor [{len(self._windows)} open windows | {waiting} entries to acknowledge]>"

    def run(self, stop: threading.Event) -> None:
        """Watches until told to stop. While the stream is away it waits and tries again."""
        settings = self._settings
        run_steps(
            lambda: self.step(settings.wait_s),
            self.save,
            stop,
            settings.retry_s,
            "the comparison of mirrored lists waits",
        )

    def step(self, wait_s: float) -> int:
        """Reads once, waiting up to `wait_s` for the first entry, and does what is due.

        Returns how many entries there were.
        Raises StoreUnavailable; nothing is lost then, call it again.
        """
        entries = self._reader.read(self._settings.entries_a_read, wait_s)
        if self._windows.set_back(self._now_ms()):
            log.warning("the clock was set back: mirrored lists are compared from here on, later windows are left out")
            self._saved_s, self._mirrored_s = (min(at_s, self._clock()) for at_s in (self._saved_s, self._mirrored_s))
            self._days.set_back(self._now_ms())
            self._changed = True
        mirrors = [event for entry in entries for event in self._taken(entry)]
        if mirrors:
            self._absorb(mirrors)
        elif not entries or self._clock() - self._mirrored_s >= self._settings.lateness_s:
            self._windows.advance(self._now_ms())  # nothing is mirrored: time passes all the same
        closed = self._windows.close()
        for shadow, window, step in closed:
            self._untold.append(self._judged(shadow, window, step))
        over = self._close_days(closed)
        self._changed = self._changed or bool(closed) or over
        self._tell_all()
        if closed or over or self._clock() - self._saved_s >= self._settings.save_every_s:
            self.save()
        return len(entries)

    def save(self) -> None:
        """Keeps what is known, then acknowledges what that holds.

        Raises StoreUnavailable, and acknowledges it the next time.
        """
        if self._changed:
            kept = MirrorSnapshot(
                watermark_ms=self._windows.watermark_ms,
                entries=tuple(self._absorbed),
                recent=self._recent.to_bytes(),
                windows=self._windows.windows(),
                steps=self._windows.steps(),
                untold=tuple(self._untold),
                days=self._days.states(),
            )
            replace_file(self._kept_in, msgspec.msgpack.encode(kept))
            self._changed = False
        self._saved_s = self._clock()
        self._reader.acknowledge([*self._absorbed, *self._passed])
        self._absorbed.clear()
        self._passed.clear()
        metrics.MIRROR_LAG.set(self._reader.lag())

    def _taken(self, entry: StreamEntry) -> list[MirrorEvent]:
        """The entry's mirror events, if they are not counted already."""
        if entry.entry_id in self._absorbed:
            return []
        events = _mirrors(entry)
        if events:
            self._absorbed[entry.entry_id] = None
            self._changed = True
        else:
            self._passed.append(entry.entry_id)
        return events

    def _absorb(self, mirrors: list[MirrorEvent]) -> None:
        self._mirrored_s = self._clock()
        fresh = [event for event in mirrors if self._recent.is_new(event.event_id)]
        outcomes = self._windows.absorb(fresh, self._now_ms())
        outcomes["repeated"] = len(mirrors) - len(fresh)
        for outcome, count in outcomes.items():
            metrics.MIRROR_EVENTS.labels(outcome).inc(count)

    def _close_days(self, closed: list[tuple[Shadow, Stretch, Stretch]]) -> bool:
        """Whether a day was over. The watches keep it before the snapshot is without it."""
        if self._watches is None:
            return False
        for shadow, window, _ in closed:
            self._days.add(shadow, window)
        over = self._days.close(self._windows.watermark_ms)
        for day in over:
            pair = day.pair
            self._watches.take_disagreement(
                pair.model, pair.champion, pair.shadow, pair.start_ms, day.end_ms, day.moments
            )
        return bool(over)

    def _judged(self, shadow: Shadow, window: Stretch, step: Stretch) -> RankDiff:
        limits = self._settings.limits
        of_window = compare(window.summary, limits, window.start_ms, window.end_ms)
        of_step = compare(step.summary, limits, step.first_ms, step.end_ms)
        verdict, reasons = together(of_window, of_step)
        return RankDiff(
            model=shadow.model,
            experiment=shadow.experiment,
            champion=shadow.champion,
            version=shadow.version,
            plan_revision=shadow.plan_revision,
            verdict=verdict,
            reasons=reasons,
            window=of_window,
            step=of_step,
            limits=limits,
            depth=self._settings.depth,
            rbo_p=self._settings.rbo_p,
            examples=step.summary.examples,
        )

    def _tell_all(self) -> None:
        while self._untold and self._clock() >= self._tell_at_s:
            try:
                self._sink(self._untold[0])
            except RegistryError as error:
                log.warning("%d rank-diffs wait to be kept: %s", len(self._untold), error)
                self._tell_at_s = self._clock() + self._settings.retry_s
                return
            _show(self._untold.popleft())
            self._changed = True

    def _now_ms(self) -> int:
        return round(self._clock() * 1000)


def load(path: Path) -> MirrorSnapshot | None:
    """None if there is no file. Raises UnreadableSnapshot."""
    found = read(path, MirrorSnapshot, SCHEMA, "the mirror monitor")
    try:
        for kept in (*found.windows, *found.steps) if found else ():
            RankSummary.restore(kept.summary)
    except ValueError as error:
        raise UnreadableSnapshot(f"{path} was made with other measures or bins: {error}") from error
    return found


def _last_snapshot(path: Path) -> MirrorSnapshot:
    try:
        found = load(path)
    except UnreadableSnapshot as error:
        log.warning("the comparison of mirrored lists starts empty: %s", error)
        found = None
    return found or MirrorSnapshot(watermark_ms=0, entries=(), recent=b"", windows=(), steps=())


def _mirrors(entry: StreamEntry) -> list[MirrorEvent]:
    """What can be read; the rest is counted. A payload that is none is the drift monitor's to tell of."""
    events: list[MirrorEvent] = []
    try:
        encoded_events = split_mirrors(entry.payload)
    except ContractError:
        return events
    for encoded in encoded_events:
        try:
            event = decode_event(encoded)
        except ContractError as error:
            metrics.MIRROR_EVENTS.labels("unreadable").inc()
            log.warning("a mirror event in entry %s is left out: %s", entry.entry_id, error)
            continue
        if isinstance(event, MirrorEvent):
            events.append(event)
    return events


def _show(diff: RankDiff) -> None:
    """Sets the gauges and tells the log."""
    labels = (diff.model, metrics.experiment_label(diff.experiment))
    metrics.RANK_DIFFS.labels(*labels, diff.verdict).inc()
    metrics.MIRRORED_LISTS.labels(*labels).set(diff.window.compared)
    for estimate in diff.window.estimates:
        if estimate.mean is not None:
            metrics.RANK_AGREEMENT.labels(*labels, estimate.measure).set(estimate.mean)
    if diff.window.mirrored:
        metrics.MIRROR_ERROR_SHARE.labels(*labels).set(diff.window.failed / diff.window.mirrored)
    if diff.window.p99_ms is not None:
        metrics.MIRROR_P99_RATIO.labels(*labels).set(diff.window.p99_ms[1] / diff.window.p99_ms[0])
    level = logging.INFO if diff.verdict in ("passed", "inconclusive") else logging.WARNING
    log.log(
        level,
        "mirrored lists of %s@%d beside @%d: %s",
        diff.model,
        diff.version,
        diff.champion,
        "; ".join((diff.verdict, *diff.reasons)),
        extra={"experiment": diff.experiment, "lists": diff.step.compared, "end_ms": diff.window.end_ms},
    )
