"""Days drawn from real lists: features as they are, with their tails, zeros and ties, and a known change if any."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from drift.days.means import DayMeans, Level
from drift.days.shift_watch import Watched
from drift.days.simulated import DAY_MS, START_DAY
from drift.moments import FloatArray, Moments
from drift.settings import WEEK
from registry.contracts.drift import ShiftKind

KINDS: tuple[ShiftKind, ...] = ("mean", "missing_share", "zero_share")


@dataclass(frozen=True, slots=True)
class ResampledWorld:
    """Each day draws queries with replacement, some more often than others: on each weekday in its own way, and on
    each day in its own way beside that.

    means, sizes, inside: (lists, quantities), of each list, as `windows.window` has them. weekly_mix, daily_mix:
    deviation of the logarithm of how often a query is asked, of the weekday and of the day.
    """

    watched: Watched
    means: FloatArray
    sizes: FloatArray
    inside: FloatArray
    lists_a_day: int = 1000
    weekly_mix: float = 0.3
    daily_mix: float = 0.1

    @staticmethod
    def of(
        names: Sequence[str], lists: Sequence[NDArray[np.float32]], lists_a_day: int = 1000, weekly_mix: float = 0.3
    ) -> "ResampledWorld":
        """lists: of each query, (rows, features), at least one row; NaN counts as missing."""
        rows = [matrix.astype(np.float64) for matrix in lists]
        known = [np.isfinite(matrix) for matrix in rows]
        filled = [np.where(known_, matrix, 0.0) for matrix, known_ in zip(rows, known, strict=True)]
        sizes = np.array([known_.sum(axis=0) for known_ in known], dtype=np.float64)
        divisors = np.maximum(sizes, 1.0)
        means = np.array([matrix.sum(axis=0) for matrix in filled]) / divisors
        squares = np.array([(matrix**2).sum(axis=0) for matrix in filled]) / divisors
        missing = np.array([1.0 - known_.mean(axis=0) for known_ in known])
        zero = np.array([(matrix == 0).mean(axis=0) for matrix in rows])
        lengths = np.broadcast_to(np.array([[len(matrix)] for matrix in rows], dtype=np.float64), missing.shape)
        return ResampledWorld(
            watched=Watched(tuple(names) * len(KINDS), tuple(kind for kind in KINDS for _ in names)),
            means=np.hstack([means, missing, zero]),
            sizes=np.hstack([sizes, lengths, lengths]),
            inside=np.hstack([np.maximum(squares - means**2, 0.0), missing * (1 - missing), zero * (1 - zero)]),
            lists_a_day=lists_a_day,
            weekly_mix=weekly_mix,
        )

    @property
    def level(self) -> Level:
        """Of all lists, each once."""
        day = self._day(0, np.ones(len(self.means)))
        return Level(day.mean, day.std, day.std / np.sqrt(len(self.means)))

    def days(
        self, count: int, rng: np.random.Generator, moved: FloatArray | None = None
    ) -> Iterator[tuple[DayMeans, Level]]:
        """So many days from a Monday on, each with what its version was made on.

        moved: (days, features), what to add to the means.
        """
        weekly, level = rng.normal(size=(WEEK, len(self.means))) * self.weekly_mix, self.level
        for day in range(count):
            apart = weekly[day % WEEK] + rng.normal(size=len(self.means)) * self.daily_mix
            chance = np.exp(apart) / np.exp(apart).sum()
            drawn = self._day(START_DAY + day, rng.multinomial(self.lists_a_day, chance).astype(np.float64))
            if moved is not None:
                drawn.mean[: moved.shape[1]] += moved[day]
            yield drawn, level

    def shifts(self, share: float) -> FloatArray:
        """(features,): what a shift of a mean by that share of itself adds to it."""
        added: FloatArray = share * self.level.mean[: self.means.shape[1] // len(KINDS)]
        return added

    def _day(self, number: int, times: FloatArray) -> DayMeans:
        """times: (lists,), how often each query was asked."""
        weights = times[:, None] * self.sizes
        rows = Moments.of(self.means, weights, self.inside)
        lists = Moments.of(self.means, weights * self.sizes)
        weight = np.where(rows.weight > 0, rows.weight, 1.0)
        return DayMeans(
            start_ms=number * DAY_MS,
            end_ms=(number + 1) * DAY_MS,
            version=1,
            lists=int(times.sum()),
            mean=np.where(rows.weight > 0, rows.mean, np.nan),
            std=np.sqrt(rows.variance),
            error=np.sqrt(lists.spread_about(rows.mean)) / weight,
        )
