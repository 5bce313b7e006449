"""The watches over all models and arms: closed days in, verdicts out, and all of it in one file.

The champion's arm is one watch through all its versions: a deploy is something that happens to it. A
challenger's watch is its version's. Disagreement is watched for each model's champion and shadow, by another
thread than the rest (its lists come from the mirror), and told with the champion's confidence.

A day is taken once: its end is kept with what it changed, in one file that is replaced as a whole, before
anybody is told. Handed over again it changes nothing, and its record stays: after a crash it is the same day, and after
a clock that was ahead what came once that was set back, which is too late for it.
"""

import logging
import threading
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np

from drift import metrics
from drift.atomic_file import replace_file
from drift.days.blocks import level_of, means_of, places_of, watched
from drift.days.confidence import DISAGREEMENT, FAMILY
from drift.days.figures import DayFigures
from drift.days.means import DayMeans, Level
from drift.days.reports import DayReport, DayReports, QuantityDay
from drift.days.shift_watch import ShiftWatch, Watched, WatchState
from drift.days.verdict import verdict_of
from drift.errors import UnreadableSnapshot
from drift.moments import Moments
from drift.settings import ShiftSettings
from drift.windows.segments import Segments
from drift.windows.window import Window
from registry.contracts.drift import Family, ShiftAlarm, ShiftRecord
from registry.contracts.errors import UNDECODABLE
from registry.contracts.traffic import Arm
from registry.drift_board import KEPT_MS, DriftBoard
from registry.errors import RegistryError, StoreUnavailable

log = logging.getLogger(__name__)

SCHEMA = 1
MOST_UNTOLD = 1024  # then the oldest are not told: the newest is what counts
MOST_UNFIT = 0.01  # share of a day's rankings that do not fit the profile past which the rest tells nothing
FAMILIES: tuple[Family, ...] = ("features", "confidence")
SHADOW = Watched((DISAGREEMENT,), ("mean",), family=FAMILY)

Told = Callable[[ShiftRecord], None]


class Place(msgspec.Struct, frozen=True, order=True):
    """What a watch is of. arm: `shadow` for disagreement. version: 0 where it goes on through all versions. segment:
    empty for the whole."""

    model: str
    arm: str
    version: int
    family: Family
    segment: str = ""


class KeptWatch(msgspec.Struct, frozen=True):
    """fingerprint: of the feature view that its days were counted by. record: the newest day's, None before one."""

    place: Place
    fingerprint: str
    state: WatchState
    record: ShiftRecord | None

    @property
    def end_ms(self) -> int:
        """Of the newest day that it knows of."""
        return max(self.state.last_end_ms, self.record.until_ms if self.record else 0)


class Watches(msgspec.Struct, frozen=True):
    """The file."""

    watches: tuple[KeptWatch, ...]
    schema: int = SCHEMA


class DayWatches:
    """Takes closed days and publishes what they came to. Safe for several threads.

    kept_in: must outlive the process. told: also gets every record, after the file holds it and perhaps again
    after a crash; what it raises but RegistryError ends the run. reports: keep every day with all its quantities.
    segments: that days come in, by model; watches over others are given up.
    """

    def __init__(
        self,
        kept_in: Path,
        board: DriftBoard,
        settings: ShiftSettings,
        told: Told = lambda record: None,
        reports: DayReports | None = None,
        segments: Mapping[str, Segments] | None = None,
    ) -> None:
        self._kept_in, self._board, self._settings, self._told = kept_in, board, settings, told
        self._reports, self._segments = reports, segments or {}
        self._lock = threading.Lock()
        found = {kept.place: kept for kept in _read(kept_in)}
        self._kept = {place: kept for place, kept in found.items() if self._is_declared(place)}
        self._given_up = [kept.record for place, kept in found.items() if place not in self._kept and kept.record]
        self._watches: dict[Place, ShiftWatch] = {}
        known = ((kept.record, False) for kept in self._kept.values() if kept.record)
        self._untold: deque[tuple[ShiftRecord, bool]] = deque(known, maxlen=MOST_UNTOLD)  # with: is it new
        self._said = False

    def __repr__(self) -> str:
        return f"<DayWatches [{len(self._kept)} watches | {len(self._untold)} records to tell]>"

    def take(self, days: Sequence[Window]) -> None:
        """Takes closed days, oldest first, of one day the champion's before others; then tells."""
        with self._lock:
            for day in _one_of_each_arm(days):
                self._take(day)
            if days:
                self._save()
        self.tell()

    def take_disagreement(
        self, model: str, champion: int, shadow: int, start_ms: int, end_ms: int, disagreement: Moments
    ) -> None:
        """Takes a closed day of mirrored lists, (1,) moments of 1 - tau; then tells the champion's confidence."""
        with self._lock:
            place = Place(model, "shadow", 0, "confidence")
            watch = self._watch(place, self._shadow(model), "")
            lists = int(disagreement.weight[0])
            std = np.sqrt(disagreement.variance)
            error = std / np.sqrt(max(lists, 1))
            mean = np.where(disagreement.weight > 0, disagreement.mean, np.nan)
            pair = champion << 32 | shadow  # another of either is another pair
            watch.day(DayMeans(start_ms, end_ms, pair, lists, mean, std, error), Level.unknown(1))
            self._keep(place, "", watch, None)
            _show(Place(model, "champion", 0, "confidence"), watch)
            self._tell_disagreement(model)
            self._save()
        self.tell()

    def tell(self) -> None:
        """Publishes what was not yet; while the board or who else is told is away it waits for the next call."""
        with self._lock:
            try:
                while self._given_up:
                    self._board.withdraw(self._given_up[0])
                    del self._given_up[0]
                while self._untold:
                    record, is_new = self._untold[0]
                    self._board.publish(record)
                    self._told(record)
                    self._untold.popleft()
                    _count(record, is_new)
                self._said = False
            except RegistryError as error:
                if not self._said:
                    log.warning("%d records of days wait to be told: %s", len(self._untold), error)
                self._said = True

    def _take(self, day: Window) -> None:
        key, reference = day.key, day.reference
        arm: Arm = "champion" if key.arm == "champion" else "challenger"
        for family in FAMILIES:
            place = Place(key.model, arm, 0 if arm == "champion" else key.version, family, key.segment)
            if (kept := self._kept.get(place)) is not None and key.end_ms <= kept.end_ms:
                continue
            if reference is None or day.lists < (1.0 - MOST_UNFIT) * day.seen:
                if not key.segment:  # of which the whole tells
                    self._errored(place, day, _unfit(day))
                continue
            what = watched(reference, family, self._parts(key.model, key.segment), profiled=not key.segment)
            watch = self._watch(place, what, reference.fingerprint)
            if (change := self._declared(key.model)) is not None and change <= key.start_ms:
                watch.rebaseline(change)
            places = places_of(reference, family)
            means = means_of(day).of(places)
            watch.day(means, level_of(reference).of(places))
            figures = DayFigures.of(day, reference, watch.watched.names)
            record = figures.in_record(self._record(place, watch, day))
            self._keep(place, reference.fingerprint, watch, record)
            _show(place, watch)
            if self._reports is not None and not key.segment:
                self._reports.write(DayReport.of(record, _with_moments(_quantities(watch), means), figures))

    def _tell_disagreement(self, model: str) -> None:
        """In the record of the champion's newest day, if there is one that could be read."""
        place = Place(model, "champion", 0, "confidence")
        kept, settings = self._kept.get(place), self._settings
        if kept is None or kept.record is None or kept.record.verdict == "errored":
            return
        record, shadow = kept.record, self._watches[Place(model, "shadow", 0, "confidence")]
        own = tuple(alarm for alarm in record.alarms if alarm.quantity != DISAGREEMENT)
        alarms = (*own, *shadow.alarms())
        verdict, why = verdict_of(alarms, record.lists, settings.min_lists, record.days, settings.min_days)
        told = msgspec.structs.replace(record, alarms=alarms, verdict=verdict, why=why)
        if told != record:
            self._kept[place] = msgspec.structs.replace(kept, record=told)
            self._untold.append((told, True))

    def _record(self, place: Place, watch: ShiftWatch, day: Window) -> ShiftRecord:
        key, settings = day.key, self._settings
        alarms = self._alarms(place, watch)
        verdict, why = verdict_of(alarms, day.lists, settings.min_lists, watch.days, settings.min_days)
        return ShiftRecord(
            model=key.model,
            version=key.version,
            arm="champion" if place.arm == "champion" else "challenger",
            family=place.family,
            verdict=verdict,
            why=why,
            made_ms=key.end_ms,
            since_ms=key.start_ms,
            until_ms=key.end_ms,
            days=watch.days,
            lists=day.lists,
            alarms=alarms,
            false_alarms_a_month=settings.false_alarms_a_month,
            segment=place.segment,
            anchor_since_ms=watch.anchor_span[0],
            anchor_until_ms=watch.anchor_span[1],
        )

    def _errored(self, place: Place, day: Window, why: str) -> None:
        """The watch, if there is one, waits: a day that cannot be read changes none of its sums."""
        key, kept = day.key, self._kept.get(place)
        record = ShiftRecord(
            model=key.model,
            version=key.version,
            arm="champion" if place.arm == "champion" else "challenger",
            family=place.family,
            verdict="errored",
            why=why,
            made_ms=key.end_ms,
            since_ms=key.start_ms,
            until_ms=key.end_ms,
            days=kept.state.days if kept else 0,
            lists=day.lists,
            alarms=kept.record.alarms if kept and kept.record else (),
            false_alarms_a_month=self._settings.false_alarms_a_month,
        )
        state = kept.state if kept else ShiftWatch(Watched((), ()), self._settings).state()
        self._kept[place] = KeptWatch(place, kept.fingerprint if kept else "", state, record)
        self._untold.append((record, True))

    def _alarms(self, place: Place, watch: ShiftWatch) -> tuple[ShiftAlarm, ...]:
        """The champion's confidence is of all three: what its own lists say, and its shadow's disagreement."""
        shadow = Place(place.model, "shadow", 0, "confidence")
        whole = Place(place.model, "champion", 0, "confidence")
        if place != whole or shadow not in self._kept:
            return watch.alarms()
        return (*watch.alarms(), *self._watch(shadow, self._shadow(place.model), "").alarms())

    def _shadow(self, model: str) -> Watched:
        return replace(SHADOW, family=FAMILY * self._parts(model, ""))

    def _parts(self, model: str, segment: str) -> int:
        """Among how many the budget of a family is split: half of it is the whole's, half its segments' together."""
        if model not in self._segments:
            return 1
        return 2 * len(self._segments[model].names) if segment else 2

    def _is_declared(self, place: Place) -> bool:
        segments = self._segments.get(place.model)
        return not place.segment or (segments is not None and place.segment in segments.names)

    def _watch(self, place: Place, what: Watched, fingerprint: str) -> ShiftWatch:
        """The place's watch. Other quantities, or the same ones by another feature view, are another pipeline."""
        watch, kept = self._watches.get(place), self._kept.get(place)
        if watch is None and kept is not None and kept.state.names == what.names:
            watch = ShiftWatch.restore(kept.state, what, self._settings)
        if watch is None or watch.watched.names != what.names:
            if kept is not None and kept.fingerprint:
                log.info("the anchor of %s %s is laid anew: its features changed", place.model, place.arm)
            watch = ShiftWatch(what, self._settings)
        elif kept is not None and kept.fingerprint != fingerprint:
            log.info("the anchor of %s %s is laid anew: its feature view changed", place.model, place.arm)
            watch.rebaseline(watch.last_end_ms)
        self._watches[place] = watch
        return watch

    def _keep(self, place: Place, fingerprint: str, watch: ShiftWatch, record: ShiftRecord | None) -> None:
        self._kept[place] = KeptWatch(place, fingerprint, watch.state(), record)
        if record is not None:
            self._untold.append((record, True))

    def _declared(self, model: str) -> int | None:
        try:
            change = self._board.declared(model)
        except StoreUnavailable as error:
            log.warning("whether features of %s were declared to change is asked again tomorrow: %s", model, error)
            return None
        return change.from_ms if change else None

    def _save(self) -> None:
        newest_ms = max((kept.end_ms for kept in self._kept.values()), default=0)
        for place in [place for place, kept in self._kept.items() if kept.end_ms < newest_ms - KEPT_MS]:
            if place.arm == "challenger":
                del self._kept[place]
                self._watches.pop(place, None)
        replace_file(self._kept_in, msgspec.msgpack.encode(Watches(tuple(self._kept.values()))))


def _one_of_each_arm(days: Iterable[Window]) -> list[Window]:
    """Of the champion's arm, each day's version with the most lists: on the day of a deploy there are two."""
    chosen: dict[tuple[object, ...], Window] = {}
    for day in days:
        key = day.key
        if key.arm == "interleaved":  # of two versions' items
            continue
        place = (key.end_ms, key.model, key.arm, 0 if key.arm == "champion" else key.version, key.segment)
        if place not in chosen or day.seen > chosen[place].seen:
            chosen[place] = day
    return list(chosen.values())


def _unfit(day: Window) -> str:
    if day.reference is None:
        return f"no reference profile of {day.key.model}@{day.key.version} was found"
    return f"{day.seen - day.lists} of {day.seen} rankings do not fit the profile's feature view"


def _count(record: ShiftRecord, is_new: bool) -> None:
    """Tells the gauges, and of a new one the counters and the log."""
    arm = (record.model, record.arm)
    if record.segment:
        metrics.SEGMENT_ALARMS_OPEN.labels(*arm, record.segment, record.family).set(len(record.open_alarms))
        return
    metrics.DAY_END.labels(*arm).set(record.until_ms / 1000)
    metrics.ALARMS_OPEN.labels(*arm, record.family).set(len(record.open_alarms))
    if not is_new:
        return
    metrics.DAY_VERDICTS.labels(*arm, record.family, record.verdict).inc()
    log.log(
        logging.INFO if record.verdict in ("passed", "inconclusive") else logging.WARNING,
        "%s of %s@%d, %s, in the day that ended: %s",
        *(record.family, record.model, record.version, record.arm),
        f"{record.verdict}: {record.why}" if record.why else record.verdict,
        extra={"start_ms": record.since_ms, "end_ms": record.until_ms, "lists": record.lists},
    )


def _quantities(watch: ShiftWatch) -> tuple[QuantityDay, ...]:
    """What each did on the newest day."""
    ratios, (of_anchor, of_profile) = watch.sums() / watch.thresholds, watch.effects()
    shifts = np.where(np.isfinite(of_anchor), of_anchor, of_profile).tolist()
    return tuple(
        QuantityDay(name, kind, shift if np.isfinite(shift) else None, ratio)
        for name, kind, shift, ratio in zip(
            watch.watched.names, watch.watched.kinds, shifts, ratios.tolist(), strict=True
        )
    )


def _with_moments(quantities: Sequence[QuantityDay], day: DayMeans) -> tuple[QuantityDay, ...]:
    """The quantities of the day, in its order, with its own moments."""
    moments = zip(quantities, day.mean.tolist(), day.std.tolist(), strict=True)
    return tuple(
        msgspec.structs.replace(one, mean=mean, std=std) if np.isfinite(mean) else one for one, mean, std in moments
    )


_alarmed: set[tuple[str, str, str, str]] = set()  # series of quantities that were never alarmed on are not made


def _show(place: Place, watch: ShiftWatch) -> None:
    """Sets the gauges of what the watch watches; alarms are counted when they are told."""
    if place.segment:  # every quantity of every segment would be too many series
        cusum = max((one.cusum for one in _quantities(watch)), default=0.0)
        metrics.SEGMENT_CUSUM.labels(place.model, place.arm, place.segment, place.family).set(cusum)
        return
    opened = {(alarm.quantity, alarm.kind) for alarm in watch.alarms() if not alarm.answered}
    for one in _quantities(watch):
        labels = (place.model, place.arm, one.quantity, one.kind)
        metrics.DAY_SHIFT.labels(*labels).set(np.nan if one.shift is None else one.shift)
        metrics.CUSUM.labels(*labels).set(one.cusum)
        if labels in _alarmed or (one.quantity, one.kind) in opened:
            _alarmed.add(labels)
            metrics.ALARM_OPEN.labels(*labels).set((one.quantity, one.kind) in opened)


def _read(path: Path) -> tuple[KeptWatch, ...]:
    try:
        return load(path).watches
    except FileNotFoundError:
        return ()
    except UnreadableSnapshot as error:
        log.warning("the watches over days start anew, without an anchor: %s", error)
        return ()


def load(path: Path) -> Watches:
    """The file. Raises FileNotFoundError, UnreadableSnapshot."""
    try:
        found = msgspec.msgpack.decode(path.read_bytes(), type=Watches)
    except UNDECODABLE as error:
        raise UnreadableSnapshot(f"{path} is no file of watches over days: {error}") from error
    if found.schema != SCHEMA:
        raise UnreadableSnapshot(f"{path} has schema {found.schema}: this code reads {SCHEMA}")
    return found
