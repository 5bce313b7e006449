"""A watch over one arm's closed days: which quantities shifted, and since when.

Every quantity has two CUSUM charts of daily means, in standard deviations of single values (shares as they are):

- against the *anchor*, by weekday, in units of how far days lie apart. It sees what lasts and exceeds the
  floor, however slowly it came, and retraining does not move it. A deploy may make features of shown items
  jump: the charts rest while it settles, then the jump is taken out where there is one, and how far it is not
  known is left alone; what shifted before stays. Not until `anchor_days` are known.
- against the version's training *profile*, of what lies beyond the floor. It needs no history: it sees on its
  first day what breaks. Before there is an anchor it does not know the week, so that all else is seen in the
  mean of the last seven days. It begins again with every version.

An alarm needs both a sum past its threshold and a day past the floor; it closes after days below that.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import msgspec
import numpy as np

from drift.days.anchor import Anchor
from drift.days.cusum import BoolArray, IntArray, Sums, raised_by_importance, threshold
from drift.days.means import DayMeans, Level
from drift.moments import FloatArray
from drift.settings import WEEK, ShiftSettings
from drift.statistics import MOST_DEVIATIONS, deviation
from registry.contracts.drift import Against, ShiftAlarm, ShiftKind

CHARTS_A_QUANTITY = 2
FINEST = 20.0  # days are never taken to lie closer together than the floor over this
MOST_A_DAY = 0.5  # of the threshold: one odd day is no shift
BREAKS = 5.0  # floors past which it is one, on its first day, if days do not lie that far apart by nature
JUMP_ERRORS = 3.0  # past which a deploy's jump is one
SLACK_ERRORS = 2.0  # of the jump, within which a shift may be what is left of it
BEFORE_DAYS = 2 * WEEK


@dataclass(frozen=True, slots=True)
class Watched:
    """What is watched, in the order of the days' arrays.

    importance: (quantities,), relative; all equal if None. by_version: those whose days are standardised by the
    profile of the version that made them, for versions may score on other scales. family: how many quantities
    share the budget of false alarms, these if None. profiled: whether versions' profiles are of what is watched; a
    part of the traffic, which no version was made on alone, knows its anchor only.
    """

    names: tuple[str, ...]
    kinds: tuple[ShiftKind, ...]
    importance: FloatArray | None = None
    by_version: frozenset[str] = frozenset()
    family: int | None = None
    profiled: bool = True

    def __post_init__(self) -> None:
        lengths = {len(self.names), len(self.kinds), *([] if self.importance is None else [len(self.importance)])}
        if len(lengths) != 1:
            raise ValueError(f"watched quantities: expected as many names as kinds and importances, not {lengths}")


class ChartState(msgspec.Struct, frozen=True):
    """A chart as bytes: float64 and int64."""

    sums: bytes
    since: bytes
    alarms: bytes
    effect: bytes


class WatchState(msgspec.Struct, frozen=True):
    """A watch as bytes, for a file: arrays of float64, rows beside each other; empty where there is none."""

    names: tuple[str, ...]
    version: int
    muted_version: int
    days: int
    last_end_ms: int
    rebaselined_ms: int
    settled: int
    scale: bytes
    history: bytes
    history_days: tuple[tuple[int, int], ...]
    anchor: bytes
    anchor_leverage: tuple[float, ...]
    offset: bytes
    week: bytes
    before: bytes
    after: bytes
    near: bytes
    charts: tuple[ChartState, ChartState]
    anchor_span: tuple[int, int] = (0, 0)


class ShiftWatch:
    """Takes closed days in order; one that ends no later than the last one taken changes nothing."""

    def __init__(self, watched: Watched, settings: ShiftSettings) -> None:
        self.watched, self._settings = watched, settings
        quantities = len(watched.names)
        self._is_mean: BoolArray = np.array([kind == "mean" for kind in watched.kinds], dtype=bool)
        self._by_version: BoolArray = np.array([name in watched.by_version for name in watched.names], dtype=bool)
        self._floor = np.where(self._is_mean, settings.effect_floor_sd, settings.share_floor)
        self._importance = _relative(watched.importance, quantities)
        self.days = self.last_end_ms = self.rebaselined_ms = 0
        self._version = self._muted_version = -1
        self._scale: tuple[FloatArray, FloatArray] | None = None
        self._begin_anchor()
        charts = CHARTS_A_QUANTITY * max(watched.family or quantities, 1)
        height = threshold(charts, settings.false_alarms_a_month, settings.k, settings.spread, least=settings.h)
        self._threshold = height + raised_by_importance(self._importance, settings.k) * settings.spread**2
        self._of_profile = _Chart.quiet(quantities)
        self._near: IntArray = np.zeros(quantities, dtype=np.int64)

    def __repr__(self) -> str:
        state = "anchored" if self._anchor else f"{len(self._history)} of {self._settings.anchor_days} anchor days"
        opened = int((self._of_anchor.opened_ms > 0).sum() + (self._of_profile.opened_ms > 0).sum())
        return f"<ShiftWatch {len(self.watched.names)} quantities [{state} | {opened} alarms open]>"

    @property
    def anchored(self) -> bool:
        """Whether there is an anchor to compare with."""
        return self._anchor is not None

    @property
    def anchor_span(self) -> tuple[int, int]:
        """From when to when the days were that the anchor was laid from, ms since the epoch; zeros without one."""
        return self._anchor_span if self._anchor is not None else (0, 0)

    @property
    def thresholds(self) -> FloatArray:
        """(quantities,): what either chart's sum must pass."""
        return self._threshold

    def day(self, day: DayMeans, made_on: Level) -> tuple[ShiftAlarm, ...]:
        """Takes a closed day of the version's, and says which alarms are open with it, the weightiest first.

        made_on: the version's. A day with too few lists is left out: alarms stay as they are.
        """
        if day.end_ms > self.last_end_ms:
            self.last_end_ms = day.end_ms
            if day.lists >= self._settings.min_lists:
                self._take(day, made_on)
        return self.alarms()

    def rebaseline(self, from_ms: int) -> None:
        """The features mean something else from now on, which began at `from_ms`: charts and anchor begin again,
        and the profile of the version that was there says nothing any more. Once for each time."""
        if from_ms <= self.rebaselined_ms:
            return
        self.rebaselined_ms = from_ms
        self._muted_version = self._version
        self._begin_anchor()
        self._of_profile = _Chart.quiet(len(self.watched.names))

    def alarms(self) -> tuple[ShiftAlarm, ...]:
        """All that are open, the weightiest first: importance times how many floors it shifted by."""
        found = [*self._alarms_of(self._of_anchor, "anchor"), *self._alarms_of(self._of_profile, "profile")]
        return tuple(alarm for _, alarm in sorted(found, key=lambda pair: -pair[0]))

    def effects(self) -> tuple[FloatArray, FloatArray]:
        """(quantities,): the shift from the anchor, and from the profile, of the newest day that told one; else nan."""
        return self._of_anchor.effect, self._of_profile.effect

    def sums(self) -> FloatArray:
        """(quantities,): the largest of the four sums."""
        charts = (self._of_anchor.sums, self._of_profile.sums)
        largest: FloatArray = np.max([side for sums in charts for side in (sums.up, sums.down)], axis=0)
        return largest

    def _take(self, day: DayMeans, made_on: Level) -> None:
        self.days += 1
        if self._scale is None:
            self._scale = _scale(day, made_on, self._is_mean)
        if day.version != self._version:
            self._deploy(day.version)
        values, error = self._standardised(day.mean, made_on), day.error / self._unit(made_on)
        weekday = day.start_ms // self._settings.day_ms % WEEK
        self._compare_with_profile(values, error, weekday, made_on, day)
        if self._anchor is None:
            self._learn(values, weekday, day)
        else:
            self._compare_with_anchor(self._anchor, values, error, weekday, day)

    def _deploy(self, version: int) -> None:
        self._of_profile = _Chart.quiet(len(self.watched.names))
        self._near[:] = 0
        self._week.clear()
        if self._version != -1 and self._anchor is not None:
            self._settled = 0
            self._after.clear()
        self._version = version

    def _begin_anchor(self) -> None:
        quantities = len(self.watched.names)
        self._history: list[FloatArray] = []
        self._history_days: list[tuple[int, int]] = []  # weekday, version
        self._anchor: Anchor | None = None
        self._anchor_span = (0, 0)
        self._offset, self._slack = np.zeros(quantities), np.zeros(quantities)
        self._week: deque[FloatArray] = deque(maxlen=WEEK)  # distances from the profile
        self._before: deque[FloatArray] = deque(maxlen=BEFORE_DAYS)
        self._after: list[FloatArray] = []
        self._settled = self._settings.settle_days
        self._of_anchor = _Chart.quiet(quantities)

    def _learn(self, values: FloatArray, weekday: int, day: DayMeans) -> None:
        self._anchor_span = (self._anchor_span[0] if self._history else day.start_ms, day.end_ms)
        self._history.append(values)
        self._history_days.append((weekday, self._version))
        if len(self._history) < self._settings.anchor_days:
            return
        days = np.array(self._history)
        weekdays, versions = np.array(self._history_days).T
        anchor = self._anchor = Anchor.of(days, weekdays, versions)
        last = versions == self._version
        self._before.extend((days - anchor.level[weekdays])[last])
        if last.sum() < self._settings.settle_days:  # its level stands on too few days
            self._settled = 0
        self._history, self._history_days = [], []

    def _compare_with_anchor(
        self, anchor: Anchor, values: FloatArray, error: FloatArray, weekday: int, day: DayMeans
    ) -> None:
        residual = values - anchor.level[weekday]
        if self._settled < self._settings.settle_days:
            self._settled += 1
            self._after.append(residual)
            if self._settled == self._settings.settle_days:
                self._take_out_jump(anchor)
                self._after.clear()
            return
        effect = residual - self._offset
        self._before.append(residual)
        spread = np.maximum(anchor.day_sd * anchor.long_run_sd, error)
        scale = np.maximum(spread * np.sqrt(1.0 + anchor.leverage[weekday]), self._floor / FINEST)
        beyond = np.sign(effect) * np.maximum(np.abs(effect) - self._slack, 0.0)
        z = np.where(np.isfinite(scale), beyond / scale, np.nan)
        self._of_anchor = self._of_anchor.after(z, effect, self._floor, self._threshold, self._settings, day)

    def _take_out_jump(self, anchor: Anchor) -> None:
        """Measured over few days, so only where chance does not explain it, and drawn towards none as James and
        Stein do; the rest of it is slack."""
        if not self._before:
            return
        before, after = np.array(self._before), np.array(self._after)
        jump = after.mean(axis=0) - before.mean(axis=0)
        error = anchor.day_sd * anchor.long_run_sd * np.sqrt(1.0 / len(before) + 1.0 / len(after))
        jumped = np.abs(jump) > JUMP_ERRORS * error  # nan is no jump
        kept = 1.0 - np.divide(error, jump, out=np.zeros(len(jump)), where=jumped) ** 2
        slack = SLACK_ERRORS * np.where(np.isfinite(error), error, 0.0)
        self._offset = self._offset + np.where(jumped, jump * kept, 0.0)
        self._slack = np.where(jumped, np.hypot(self._slack, slack), np.maximum(self._slack, slack))

    def _compare_with_profile(
        self, values: FloatArray, error: FloatArray, weekday: int, made_on: Level, day: DayMeans
    ) -> None:
        if self._version == self._muted_version or not self.watched.profiled:
            return
        distance = values - self._standardised(made_on.mean, made_on)
        day_sd: FloatArray = np.full(len(values), self._settings.unknown_day_sd)
        if (anchor := self._anchor) is not None:
            seen = np.isfinite(anchor.leverage)
            day_sd = np.where(np.isfinite(anchor.day_sd), anchor.day_sd * anchor.long_run_sd, day_sd)
            if seen[weekday]:
                distance = distance - (anchor.level[weekday] - anchor.level[seen].mean(axis=0))
        of_profile = np.nan_to_num(made_on.error / self._unit(made_on))
        scale = np.maximum(np.sqrt(np.maximum(day_sd, error) ** 2 + of_profile**2), self._floor / FINEST)
        if anchor is None:
            distance = self._over_a_week(distance, scale)
        beyond = np.sign(distance) * np.maximum(np.abs(distance) - self._floor, 0.0)
        self._of_profile = self._of_profile.after(
            beyond / scale, distance, self._floor, self._threshold, self._settings, day
        )
        self._near = np.where(np.abs(distance) < self._floor, self._near + 1, 0)

    def _over_a_week(self, distance: FloatArray, scale: FloatArray) -> FloatArray:
        """The mean of the last seven days, which has no weekdays in it; nan before there are seven. What breaks is
        as it is today."""
        self._week.append(distance)
        mean = np.mean(self._week, axis=0) if len(self._week) == WEEK else np.full(len(distance), np.nan)
        broken = _is_break((np.abs(distance) - self._floor) / scale, distance, self._floor, self._threshold)
        return np.where(broken, distance, mean)

    def _standardised(self, mean: FloatArray, made_on: Level) -> FloatArray:
        assert self._scale is not None
        centre = np.where(self._by_version & np.isfinite(made_on.mean), made_on.mean, self._scale[0])
        values: FloatArray = np.clip((mean - centre) / self._unit(made_on), -MOST_DEVIATIONS, MOST_DEVIATIONS)
        return values

    def _unit(self, made_on: Level) -> FloatArray:
        assert self._scale is not None
        own = self._by_version & (made_on.std > 0)
        return np.where(own, made_on.std, self._scale[1])

    def _alarms_of(self, chart: "_Chart", against: Against) -> list[tuple[float, ShiftAlarm]]:
        found = []
        for place in np.flatnonzero(chart.opened_ms > 0).tolist():
            effect = float(chart.effect[place])
            side = chart.sums.up if effect >= 0 else chart.sums.down
            importance = float(self._importance[place])
            answered = against == "anchor" and int(chart.opened_version[place]) != self._version
            alarm = ShiftAlarm(
                quantity=self.watched.names[place],
                kind=self.watched.kinds[place],
                against=against,
                effect=effect,
                cusum=float(side[place]),
                threshold=float(self._threshold[place]),
                importance=importance,
                onset_ms=int(chart.onset_ms[place]),
                open_since_ms=int(chart.opened_ms[place]),
                answered=answered and int(self._near[place]) >= self._settings.settle_days,
            )
            found.append((importance * abs(effect) / float(self._floor[place]), alarm))
        return found

    def state(self) -> WatchState:
        """What `restore` makes this watch of."""
        anchor = self._anchor
        return WatchState(
            names=self.watched.names,
            version=self._version,
            muted_version=self._muted_version,
            days=self.days,
            last_end_ms=self.last_end_ms,
            rebaselined_ms=self.rebaselined_ms,
            settled=self._settled,
            scale=b"" if self._scale is None else _bytes(self._scale),
            history=_bytes(self._history),
            history_days=tuple(self._history_days),
            anchor=b"" if anchor is None else _bytes([*anchor.level, anchor.day_sd, anchor.memory]),
            anchor_leverage=() if anchor is None else tuple(anchor.leverage.tolist()),
            offset=_bytes([self._offset, self._slack]),
            week=_bytes(self._week),
            before=_bytes(self._before),
            after=_bytes(self._after),
            near=self._near.tobytes(),
            charts=(self._of_anchor.state(), self._of_profile.state()),
            anchor_span=self._anchor_span,
        )

    @staticmethod
    def restore(state: WatchState, watched: Watched, settings: ShiftSettings) -> "ShiftWatch":
        """The watch again. Raises ValueError if it watched other quantities."""
        if state.names != watched.names:
            raise ValueError("the state is of a watch over other quantities")
        watch, quantities = ShiftWatch(watched, settings), len(watched.names)
        watch._version, watch._muted_version = state.version, state.muted_version
        watch.days, watch.last_end_ms, watch.rebaselined_ms = state.days, state.last_end_ms, state.rebaselined_ms
        watch._settled, watch._anchor_span = state.settled, state.anchor_span
        if state.scale:
            centre, unit = _rows(state.scale, quantities)
            watch._scale = centre, unit
        watch._history, watch._history_days = list(_rows(state.history, quantities)), list(state.history_days)
        if state.anchor:
            rows = _rows(state.anchor, quantities)
            watch._anchor = Anchor(rows[:WEEK], rows[WEEK], np.array(state.anchor_leverage), rows[WEEK + 1])
        watch._offset, watch._slack = _rows(state.offset, quantities)
        watch._week.extend(_rows(state.week, quantities))
        watch._before.extend(_rows(state.before, quantities))
        watch._after = list(_rows(state.after, quantities))
        watch._near = np.frombuffer(state.near, dtype=np.int64).copy()
        watch._of_anchor, watch._of_profile = (_Chart.restore(chart, quantities) for chart in state.charts)
        return watch


@dataclass(frozen=True, slots=True)
class _Chart:
    """All (quantities,). effect: of the newest day that told one, nan before that. opened_ms, onset_ms: 0 if no
    alarm is open; opened_version: that it opened under. below: days below the floor, one after another."""

    sums: Sums
    effect: FloatArray
    opened_ms: IntArray
    onset_ms: IntArray
    opened_version: IntArray
    below: IntArray = field(repr=False)

    @staticmethod
    def quiet(quantities: int) -> "_Chart":
        nothing = np.zeros(quantities, dtype=np.int64)
        return _Chart(Sums.zero(quantities), np.full(quantities, np.nan), *(nothing.copy() for _ in range(4)))

    def after(
        self,
        z: FloatArray,
        effect: FloatArray,
        floor: FloatArray,
        threshold: FloatArray,
        settings: ShiftSettings,
        day: DayMeans,
    ) -> "_Chart":
        """With another day. z, effect: nan where the day says nothing."""
        broken = _is_break(z, effect, floor, threshold)
        most = MOST_A_DAY * threshold + settings.k
        bounded = np.where(broken, z, np.clip(z, -most, most))
        sums = self.sums.add(bounded, settings.k, 2 * threshold, day.start_ms)
        is_up, far = effect >= 0, np.abs(effect) >= floor
        raised = (self.opened_ms == 0) & far & (np.where(is_up, sums.up, sums.down) > threshold)
        below = np.where(np.isfinite(effect), np.where(far, 0, self.below + 1), self.below)
        closed = (self.opened_ms > 0) & (below >= settings.quiet_days)
        begun = np.where(is_up, sums.up_from, sums.down_from)
        return _Chart(
            sums=sums.without(closed),
            effect=np.where(np.isfinite(effect), effect, self.effect),
            opened_ms=np.where(closed, 0, np.where(raised, day.end_ms, self.opened_ms)),
            onset_ms=np.where(closed, 0, np.where(raised, begun, self.onset_ms)),
            opened_version=np.where(raised, day.version, self.opened_version),
            below=below,
        )

    def state(self) -> ChartState:
        return ChartState(
            sums=_bytes([self.sums.up, self.sums.down]),
            since=np.stack([self.sums.up_from, self.sums.down_from]).tobytes(),
            alarms=np.stack([self.opened_ms, self.onset_ms, self.opened_version, self.below]).tobytes(),
            effect=self.effect.tobytes(),
        )

    @staticmethod
    def restore(state: ChartState, quantities: int) -> "_Chart":
        up, down = _rows(state.sums, quantities)
        since = np.frombuffer(state.since, dtype=np.int64).reshape(2, quantities).copy()
        alarms = np.frombuffer(state.alarms, dtype=np.int64).reshape(4, quantities).copy()
        return _Chart(Sums(up, down, *since), np.frombuffer(state.effect).copy(), *alarms)


def _is_break(z: FloatArray, effect: FloatArray, floor: FloatArray, threshold: FloatArray) -> BoolArray:
    """So far off, by its size and by how days lie apart, that one day tells."""
    far: BoolArray = (np.abs(effect) >= BREAKS * floor) & (np.abs(z) >= 2 * threshold)
    return far


def _scale(day: DayMeans, made_on: Level, is_mean: BoolArray) -> tuple[FloatArray, FloatArray]:
    """Centre and unit of the quantities, fixed for good: the first profile's, else the first day's."""
    centre = np.where(np.isfinite(made_on.mean), made_on.mean, np.nan_to_num(day.mean))
    std = np.where(np.isfinite(made_on.std), made_on.std, np.nan_to_num(day.std))
    unit = deviation(centre, std, np.nan_to_num(day.mean), np.nan_to_num(day.std))
    return np.where(is_mean, centre, 0.0), np.where(is_mean, unit, 1.0)


def _relative(importance: FloatArray | None, quantities: int) -> FloatArray:
    if importance is None or not len(importance) or importance.mean() <= 0:
        return np.ones(quantities)
    relative: FloatArray = importance / importance.mean()
    return relative


def _bytes(rows: "Sequence[FloatArray] | deque[FloatArray]") -> bytes:
    return np.array(list(rows), dtype=np.float64).tobytes()


def _rows(raw: bytes, quantities: int) -> FloatArray:
    return np.frombuffer(raw).reshape(-1, quantities).copy() if raw else np.zeros((0, quantities))
