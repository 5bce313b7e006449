"""Days of mirrored lists: how far each champion and its shadow disagreed, of windows that are over."""

from collections.abc import Iterable
from dataclasses import dataclass

import msgspec
import numpy as np

from drift.mirrors.rank_summary import NAMES
from drift.mirrors.windows import Shadow, Stretch
from drift.moments import Moments

_TAU = NAMES.index("kendall_tau")


class Pair(msgspec.Struct, frozen=True, order=True):
    """Whose lists are compared, on the day that starts then, ms since the epoch."""

    start_ms: int
    model: str
    champion: int
    shadow: int


class MirrorDay(msgspec.Struct, frozen=True):
    """A pair's day as a snapshot keeps it: moments of 1 - tau over `lists`."""

    pair: Pair
    lists: float
    mean: float
    spread: float


@dataclass(frozen=True, slots=True)
class Disagreement:
    """A pair's closed day. moments: (1,), of 1 - tau, over its lists."""

    pair: Pair
    end_ms: int
    moments: Moments


class MirrorDays:
    """The days that still take windows."""

    def __init__(self, day_ms: int) -> None:
        self._day_ms = day_ms
        self._open: dict[Pair, Moments] = {}

    def __len__(self) -> int:
        return len(self._open)

    def add(self, shadow: Shadow, window: Stretch) -> None:
        """Puts a window that is over into its day."""
        start_ms = window.start_ms // self._day_ms * self._day_ms
        pair = Pair(start_ms, shadow.model, shadow.champion, shadow.version)
        tau = window.summary.moments
        counted = Moments(tau.weight[[_TAU]], 1.0 - tau.mean[[_TAU]], tau.spread[[_TAU]])
        self._open[pair] = self._open.get(pair, Moments.empty(1)).merge(counted)

    def set_back(self, now_ms: int) -> None:
        """Leaves out the days that start later than a clock that was set back: they are still to come."""
        self._open = {pair: day for pair, day in self._open.items() if pair.start_ms <= now_ms}

    def close(self, watermark_ms: int) -> list[Disagreement]:
        """Takes out the days that are over, oldest first; of a model's day, the pair with the most lists."""
        over = sorted(pair for pair in self._open if pair.start_ms + self._day_ms <= watermark_ms)
        chosen: dict[tuple[int, str], Disagreement] = {}
        for pair in over:
            day = Disagreement(pair, pair.start_ms + self._day_ms, self._open.pop(pair))
            known = chosen.get((pair.start_ms, pair.model))
            if known is None or day.moments.weight[0] > known.moments.weight[0]:
                chosen[pair.start_ms, pair.model] = day
        return list(chosen.values())

    def states(self) -> tuple[MirrorDay, ...]:
        """For a snapshot."""
        return tuple(
            MirrorDay(pair, *(float(part[0]) for part in (day.weight, day.mean, day.spread)))
            for pair, day in self._open.items()
        )

    def restore(self, states: Iterable[MirrorDay]) -> None:
        """Opens the days of a snapshot."""
        for kept in states:
            self._open[kept.pair] = Moments(*(np.array([part]) for part in (kept.lists, kept.mean, kept.spread)))
