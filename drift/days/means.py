"""A day as the watch sees it: one mean a quantity, with what is known of its error."""

from dataclasses import dataclass

import numpy as np

from drift.days.cusum import IntArray
from drift.moments import FloatArray

Places = slice | IntArray


@dataclass(frozen=True, slots=True)
class Level:
    """What a version was made on. All (quantities,), nan where that is not known.

    std: of single values. error: standard error of the mean.
    """

    mean: FloatArray
    std: FloatArray
    error: FloatArray

    @staticmethod
    def unknown(quantities: int) -> "Level":
        """Of a version without a profile, or of quantities that no profile has."""
        nothing = np.full(quantities, np.nan)
        return Level(nothing, nothing, nothing)

    def of(self, places: "Places") -> "Level":
        """Some of the quantities."""
        return Level(self.mean[places], self.std[places], self.error[places])


@dataclass(frozen=True, slots=True)
class DayMeans:
    """Times in ms since the epoch. lists: behind it. mean, std, error: (quantities,), mean nan where there
    was no value; std of single values; error of the mean, lists being independent, 0 if that is not known.
    """

    start_ms: int
    end_ms: int
    version: int
    lists: int
    mean: FloatArray
    std: FloatArray
    error: FloatArray

    def of(self, places: "Places") -> "DayMeans":
        """Some of the quantities."""
        return DayMeans(
            *(self.start_ms, self.end_ms, self.version, self.lists),
            *(self.mean[places], self.std[places], self.error[places]),
        )
