"""Two-sided CUSUM charts, many at once: small shifts that last add up, noise does not.

A chart sums how far standardised days lie beyond a slack `k`, each side apart, and never below zero. It
speaks of days: what it is fed is one value a day, in standard deviations of daily values.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq

from drift.moments import FloatArray

IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]
OVERSHOOT = 1.166
MONTH_DAYS = 30.0
MOST_WEIGHT = 10.0


@dataclass(frozen=True, slots=True)
class Sums:
    """up, down: (charts,), 0 or more, of shifts to above and to below. up_from, down_from: (charts,), ms
    since the epoch, when the day began from which the sum grew; 0 where it is 0.
    """

    up: FloatArray
    down: FloatArray
    up_from: IntArray
    down_from: IntArray

    @staticmethod
    def zero(charts: int) -> "Sums":
        """Before the first day."""
        nothing = np.zeros(charts)
        return Sums(nothing, nothing.copy(), np.zeros(charts, dtype=np.int64), np.zeros(charts, dtype=np.int64))

    def add(self, z: FloatArray, k: float, most: FloatArray | float, at_ms: int) -> "Sums":
        """With another day. z: (charts,), standardised, nan where the day says nothing: that sum stays.

        most: sums stop there, so that a shift that is over is forgotten in as many days as it took to see.

        Source: Page, Biometrika 41, 1954; tabular form: Montgomery, Statistical Quality Control, section 9.1.

        >>> sums = Sums.zero(1).add(np.array([2.5]), k=1.0, most=18.0, at_ms=7).add(np.array([3.0]), 1.0, 18.0, 8)
        >>> sums.up, sums.up_from, sums.down
        (array([3.5]), array([7]), array([0.]))
        """
        seen = np.isfinite(z)
        value = np.where(seen, z, 0.0)
        up = np.where(seen, np.clip(self.up + value - k, 0.0, most), self.up)
        down = np.where(seen, np.clip(self.down - value - k, 0.0, most), self.down)
        return Sums(up, down, _from(self.up_from, up, at_ms), _from(self.down_from, down, at_ms))

    def without(self, charts: BoolArray) -> "Sums":
        """Those charts begin again."""
        return Sums(
            np.where(charts, 0.0, self.up),
            np.where(charts, 0.0, self.down),
            np.where(charts, 0, self.up_from),
            np.where(charts, 0, self.down_from),
        )


def false_alarms_a_day(k: float, h: float, spread: float = 1.0) -> float:
    """How often a two-sided chart of quiet normal days passes h: the inverse of its average run length.

    spread: standard deviation of what it is fed, when that is not 1. Within a few percent of the exact
    figure (a Markov chain's) for k from 0.25 to 1.

    Source: Siegmund, Sequential Analysis, 1985, section 2.6; his approximation for one side, twice.

    >>> round(1 / false_alarms_a_day(k=0.5, h=5.0))  # exact: 465
    469
    """
    slack, height = k / spread, h / spread + OVERSHOOT
    one_side = (math.expm1(2 * slack * height) - 2 * slack * height) / (2 * slack**2)
    return 2.0 / one_side


def threshold(charts: int, a_month: float, k: float, spread: float, least: float) -> float:
    """The h, at least `least`, at which so many charts together raise `a_month` false alarms in 30 days.

    spread: see `false_alarms_a_day`; above 1 it makes room for days that depend on each other and for a
    standard deviation that was estimated from few.
    """
    wanted = a_month / MONTH_DAYS / charts

    def excess(h: float) -> float:
        return math.log(false_alarms_a_day(k, h, spread)) - math.log(wanted)

    if excess(least) <= 0:
        return least
    most = 2 * least
    while excess(most) > 0:
        most *= 2
    return float(brentq(excess, least, most))


def raised_by_importance(importance: FloatArray, k: float) -> FloatArray:
    """What to add to the threshold of each chart, so that the family's budget is split by importance.

    A chart's rate falls by exp(-2 k) for every 1 of threshold (of days of spread 1; times its square else):
    shares in proportion to importance are its logarithm. importance: (charts,), 0 or more; a tenth and
    ten times the mean count at most.

    >>> raised_by_importance(np.array([1.0, 1.0, 4.0]), k=1.0).round(3)
    array([ 0.347,  0.347, -0.347])
    """
    mean = float(importance.mean()) if len(importance) else 0.0
    relative = importance / mean if mean > 0 else np.ones(len(importance))
    bounded = np.clip(relative, 1 / MOST_WEIGHT, MOST_WEIGHT)
    raised: FloatArray = -np.log(bounded / bounded.mean() if len(bounded) else bounded) / (2 * k)
    return raised


def _from(before: IntArray, sums: FloatArray, at_ms: int) -> IntArray:
    grown: IntArray = np.where(sums > 0, np.where(before > 0, before, at_ms), 0)
    return grown
