"""Days of made-up traffic, drawn as daily means, to measure what a watch reaches.

Means of thousands of rows are as good as normal, so they are drawn directly: a run of a season over
hundreds of features takes a fraction of a second. Values are in standard deviations of single rows.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from drift.days.means import DayMeans, Level
from drift.days.shift_watch import Watched
from drift.moments import FloatArray
from drift.settings import WEEK
from registry.contracts.drift import ShiftKind

START_DAY = 20_458  # 2026-01-05, a Monday
DAY_MS = 86_400_000


@dataclass(frozen=True, slots=True)
class DayWorld:
    """What features do when nothing is wrong.

    features: each with a mean, a missing and a zero share. rows_a_day: that a daily mean is of; list_size: of
    them in one list, alike by `alike` (intraclass correlation). weekly_sd: of the weekday pattern over the
    week, in deviations of single rows, another one for each feature. day_sd: how far days lie apart beside
    that; day_memory: correlation of a day with the one before; tails: degrees of freedom of Student's t
    that days are drawn from, None for normal ones. common: share of the day's variance that all features
    have in common. odd_day: one on which all features lie `odd_shift` higher, a holiday. mean: of a feature, in
    its deviations, so that a shift of a mean by a share has a size. missing_share, zero_share: by nature.
    parts: how many watches share a family's budget, of which this is one; profiled: see `shift_watch.Watched`.
    """

    features: int = 200
    rows_a_day: int = 10_000
    list_size: int = 10
    alike: float = 0.1
    weekly_sd: float = 0.05
    day_sd: float = 0.02
    day_memory: float = 0.0
    tails: float | None = None
    common: float = 0.0
    odd_day: int | None = None
    odd_shift: float = 0.6
    mean: float = 1.0
    missing_share: float = 0.02
    zero_share: float = 0.1
    parts: int = 1
    profiled: bool = True

    @property
    def watched(self) -> Watched:
        """Means, missing shares, zero shares."""
        names = tuple(f"f{i}" for i in range(self.features))
        kinds: tuple[ShiftKind, ...] = ("mean", "missing_share", "zero_share")
        told = tuple(kind for kind in kinds for _ in names)
        return Watched(names * 3, told, family=self.parts * len(told), profiled=self.profiled)

    @property
    def level(self) -> Level:
        """The training profile, of 30 days' rows."""
        mean, std = self._levels()
        return Level(mean, std, std / np.sqrt(30.0 * self._independent_rows))

    def days(
        self, count: int, rng: np.random.Generator, moved: FloatArray | None = None
    ) -> Iterator[tuple[DayMeans, Level]]:
        """So many days from a Monday on, each with what its version was made on.

        moved: (days, features), what to add to the means.
        """
        (mean, std), level = self._levels(), self.level
        week = rng.normal(size=(WEEK, len(mean)))
        week = (week - week.mean(axis=0)) / week.std(axis=0) * self.weekly_sd
        noise = self._apart(rng, count, len(mean)) * self.day_sd
        error = 1.0 / np.sqrt(self._independent_rows)
        sampled = rng.normal(size=(count, len(mean))) * error
        for day in range(count):
            number = START_DAY + day
            apart = week[number % WEEK] + noise[day] + sampled[day]
            today = mean + std * apart
            today[self.features :] = np.clip(today[self.features :], 0.0, 1.0)
            if day == self.odd_day:
                today[: self.features] += self.odd_shift
            if moved is not None:
                today[: self.features] += moved[day]
            lists = self.rows_a_day // self.list_size
            yield DayMeans(number * DAY_MS, (number + 1) * DAY_MS, 1, lists, today, std, std * error), level

    def shifts(self, share: float) -> FloatArray:
        """(features,): what a shift of a mean by that share of itself adds to it."""
        return np.full(self.features, share * self.mean)

    @property
    def _independent_rows(self) -> float:
        return self.rows_a_day / (1.0 + (self.list_size - 1) * self.alike)

    def _levels(self) -> tuple[FloatArray, FloatArray]:
        shares = np.repeat([self.missing_share, self.zero_share], self.features)
        mean = np.concatenate([np.full(self.features, self.mean), shares])
        std = np.concatenate([np.ones(self.features), np.sqrt(shares * (1.0 - shares))])
        return mean, std

    def _apart(self, rng: np.random.Generator, days: int, quantities: int) -> FloatArray:
        """(days, quantities), of variance 1, each day remembering the one before."""

        def drawn(size: tuple[int, ...]) -> FloatArray:
            if self.tails is None:
                return np.array(rng.normal(size=size))
            return np.array(rng.standard_t(self.tails, size=size) / np.sqrt(self.tails / (self.tails - 2.0)))

        own = drawn((days, quantities)) * np.sqrt(1.0 - self.common)
        fresh = own + drawn((days, 1)) * np.sqrt(self.common)
        apart: FloatArray = fresh.copy()
        for day in range(1, days):
            apart[day] = self.day_memory * apart[day - 1] + np.sqrt(1.0 - self.day_memory**2) * fresh[day]
        return apart


def ramp(days: int, features: int, feature: int, begins: int, over: int, to: float) -> FloatArray:
    """(days, features): one feature moves to `to` in equal steps over so many days, the first of them moved.

    >>> ramp(days=5, features=1, feature=0, begins=1, over=2, to=1.0).ravel()
    array([0. , 0.5, 1. , 1. , 1. ])
    """
    moved = np.zeros((days, features))
    moved[:, feature] = to * np.clip((np.arange(days) - begins + 1) / over, 0.0, 1.0)
    return moved
