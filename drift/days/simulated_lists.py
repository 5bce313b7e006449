"""Days of made-up lists, ranked by a version and its shadow, to measure what a watch over confidence reaches."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from drift.days.confidence import day_of, level_of, of_lists
from drift.days.means import DayMeans, Level
from drift.days.simulated import DAY_MS, START_DAY

HOURS = 24
PROFILED_DAYS = 14
Scores = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class ListWorld:
    """A linear ranker over independent features, its shadow with weights of its own.

    lists_a_day: spread evenly over the hours. daily_cycle: how much further apart a query's candidates lie
    at the height of the day than on average, as a share (at night as much closer); weekly_cycle: likewise over
    the week; day_sd: of a day beside that. shadow_noise: deviation of the shadow's weights from the version's.
    """

    lists_a_day: int = 480
    candidates: int = 16
    features: int = 8
    daily_cycle: float = 0.0
    weekly_cycle: float = 0.0
    day_sd: float = 0.02
    shadow_noise: float = 0.15

    def days(
        self,
        count: int,
        rng: np.random.Generator,
        rescaled_from: int | None = None,
        rescaled_by: float = 1.5,
        broken_from: int | None = None,
    ) -> Iterator[tuple[DayMeans, Level]]:
        """Each day and what its version was made on.

        rescaled_from: from this day on the version is another one that ranks the same, its scores times
        `rescaled_by`. broken_from: from this day on the feature that weighs most has nothing to do with the
        candidates any more (a constant).
        """
        weights = np.sort(np.abs(rng.normal(size=self.features)) + 0.2)[::-1]
        shadow = weights + self.shadow_noise * rng.normal(size=self.features)
        reference = np.concatenate([self._values(rng, day) for day in range(-PROFILED_DAYS, 0)])
        std = float((reference @ weights).std())
        level = level_of(of_lists(*self._scored(reference, weights, shadow, 1.0), std))
        for day in range(count):
            other = rescaled_from is not None and day >= rescaled_from
            scale = rescaled_by if other else 1.0
            values = self._values(rng, day)
            if broken_from is not None and day >= broken_from:
                values[:, :, 0] = 0.0
            told = of_lists(*self._scored(values, weights, shadow, scale), std * scale)
            start_ms = (START_DAY + day) * DAY_MS
            yield day_of(told, start_ms, start_ms + DAY_MS, 2 if other else 1), level

    def _values(self, rng: np.random.Generator, day: int) -> NDArray[np.float64]:
        """(lists, candidates, features)."""
        hour = np.arange(self.lists_a_day) * HOURS // self.lists_a_day
        daily = 1.0 + self.daily_cycle * np.sin(2 * np.pi * hour / HOURS)
        weekly = 1.0 + self.weekly_cycle * np.sin(2 * np.pi * day / 7)
        apart = daily * weekly * (1.0 + self.day_sd * rng.normal())
        values = rng.normal(size=(self.lists_a_day, self.candidates, self.features))
        return np.array(values * apart[:, None, None])

    @staticmethod
    def _scored(
        values: NDArray[np.float64], weights: NDArray[np.float64], shadow: NDArray[np.float64], scale: float
    ) -> tuple[Scores, Scores]:
        return (values @ weights * scale).astype(np.float32), (values @ shadow).astype(np.float32)
