"""Day blocks: windows of one version and arm put together to days, the unit that drift's variance is taken over.

Rows of a day share what that day was like; taken one by one they make any two days differ "significantly".
A day's moments are exact, and merging windows gives what one over the whole day would have counted.
"""

from collections.abc import Iterable

import numpy as np

from drift.days.confidence import ENTROPY, FAMILY, MARGIN
from drift.days.cusum import IntArray
from drift.days.means import DayMeans, Level
from drift.days.shift_watch import Watched
from drift.windows.reference import Reference
from drift.windows.tumbling import ReferenceOf
from drift.windows.window import Window, WindowKey, WindowState
from registry.contracts.drift import Family

SCORES = "ranking:scores"


class DayBlocks:
    """The days that still take windows. reference_of: asked once for every day that opens."""

    def __init__(self, day_ms: int, reference_of: ReferenceOf) -> None:
        self._day_ms, self._reference_of = day_ms, reference_of
        self._open: dict[WindowKey, Window] = {}

    def __len__(self) -> int:
        return len(self._open)

    def add(self, windows: Iterable[Window]) -> None:
        """Puts windows that are over into their days; a window lies within one day."""
        for window in windows:
            key = self._day_of(window.key)
            there = self._open[key] if key in self._open else Window(key, window.reference)
            self._open[key] = there.merge(window)

    def set_back(self, now_ms: int) -> None:
        """Leaves out the days that start later than a clock that was set back: they are still to come."""
        self._open = {key: day for key, day in self._open.items() if key.start_ms <= now_ms}

    def close(self, watermark_ms: int) -> list[Window]:
        """Takes out the days that are over, oldest first, of one day the champion's before others."""
        over = [key for key in self._open if key.end_ms <= watermark_ms]
        over.sort(key=lambda key: (key.end_ms, key.model, key.arm != "champion", key))
        return [self._open.pop(key) for key in over]

    def states(self) -> tuple[WindowState, ...]:
        """For a snapshot."""
        return tuple(day.state() for day in self._open.values())

    def restore(self, states: Iterable[WindowState]) -> None:
        """Opens the days of a snapshot."""
        for state in states:
            self._open[state.key] = Window.restore(state, self._reference_of(state.key.model, state.key.version))

    def _day_of(self, key: WindowKey) -> WindowKey:
        start_ms = key.start_ms // self._day_ms * self._day_ms
        return WindowKey(start_ms, start_ms + self._day_ms, key.model, key.version, key.arm, key.segment)


def means_of(day: Window) -> DayMeans:
    """The day's means, of every quantity of its reference.

    The error is the ratio estimate's, rows of a list being alike as they were on that day; nan means where
    there was no value. Raises ValueError without a reference.

    Source: Kish, Survey Sampling, 1965, chapter 6.
    """
    if day.reference is None:
        raise ValueError(f"{day!r} has no reference: nothing of it was counted")
    rows, lists = day.pooled, day.blocks
    weight = np.where(rows.weight > 0, rows.weight, 1.0)
    correction = day.lists / max(day.lists - 1, 1)
    error = np.sqrt(correction * lists.spread_about(rows.mean)) / weight
    return DayMeans(
        start_ms=day.key.start_ms,
        end_ms=day.key.end_ms,
        version=day.key.version,
        lists=day.lists,
        mean=np.where(rows.weight > 0, rows.mean, np.nan),
        std=np.sqrt(rows.variance),
        error=error,
    )


def level_of(reference: Reference) -> Level:
    """What the version was made on. Rows of a profiled list are taken as all alike, and as of one day."""
    known = reference.weight > 0
    error = reference.std / np.sqrt(max(reference.lists, 1))
    return Level(np.where(known, reference.mean, np.nan), np.where(known, reference.std, np.nan), error)


def places_of(reference: Reference, family: Family) -> IntArray:
    """Where the family's quantities stand. features: all but margin and entropy, scores too."""
    of_confidence = np.array([name in (MARGIN, ENTROPY) for name in reference.names], dtype=bool)
    return np.flatnonzero(of_confidence if family == "confidence" else ~of_confidence)


def watched(reference: Reference, family: Family, parts: int = 1, profiled: bool = True) -> Watched:
    """What is watched of a version. What no importance is known of weighs as the features' mean.

    parts: how many watches like this one share the family's budget. profiled: see `Watched`.
    """
    places = places_of(reference, family).tolist()
    names = tuple(reference.names[place] for place in places)
    features = reference.columns
    known = dict(zip(features, reference.importance.tolist(), strict=False))
    mean = float(np.mean(reference.importance)) if known else 1.0
    return Watched(
        names=names,
        kinds=tuple(reference.aspects[place] for place in places),
        importance=np.array([known.get(name, mean) for name in names]),
        by_version=frozenset({SCORES}),
        family=parts * (FAMILY if family == "confidence" else len(names)),
        profiled=profiled,
    )
