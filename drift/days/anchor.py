"""The anchor: what days looked like over a fixed stretch, by weekday, and how far they lie apart by nature.

Laid once from the first days that are known, and then left alone: a reference that followed the traffic
would never see what shifts slowly.
"""

from dataclasses import dataclass

import numpy as np

from drift.days.cusum import BoolArray, IntArray
from drift.moments import FloatArray
from drift.settings import WEEK

UNSEEN = np.inf
MOST_MISSING = 0.25
MOST_MEMORY = 0.9
ODD = 5.0
DRAWN = 2.0
NORMAL_MIDDLE = 0.6745  # of a normal's deviations, half lie within
PASSES = 30


@dataclass(frozen=True, slots=True)
class Anchor:
    """level: (7, quantities), what a day of this weekday is expected to be, as the last version of the
    stretch saw it. day_sd: (quantities,), of a day around that; inf where too few days were known.
    leverage: (7,), variance of the level over that of a day; inf for a weekday that did not come up.
    memory: (quantities,), correlation of a day with the one before, 0 or more.
    """

    level: FloatArray
    day_sd: FloatArray
    leverage: FloatArray
    memory: FloatArray

    @property
    def long_run_sd(self) -> FloatArray:
        """(quantities,): what the sum of many days spreads, over what it would if they knew nothing of each other."""
        ratio: FloatArray = np.sqrt((1.0 + self.memory) / (1.0 - self.memory))
        return ratio

    @staticmethod
    def of(days: FloatArray, weekdays: IntArray, versions: IntArray) -> "Anchor":
        """Least squares on weekday and version: a deploy within the stretch moves the level, not the week.

        Odd days are left out, for a holiday or an outage in the stretch would blind it for good.

        days: (days, quantities), nan where a quantity was not known that day. weekdays: (days,), 0 to 6;
        versions: (days,). Raises ValueError without days.

        >>> week = np.arange(14) % 7
        >>> anchor = Anchor.of(np.where(week > 4, 3.0, 1.0)[:, None], week, np.ones(14, dtype=int))
        >>> anchor.level[:, 0].round(6)
        array([1., 1., 1., 1., 1., 3., 3.])
        """
        if not len(days):
            raise ValueError("an anchor needs days")
        seen, present = np.unique(weekdays), np.unique(versions)
        design = np.hstack([weekdays[:, None] == seen, versions[:, None] == present[:-1]]).astype(float)
        missing = ~np.isfinite(days)
        projection, rank = design @ np.linalg.pinv(design), int(np.linalg.matrix_rank(design))
        missing |= _odd(_filled(days, missing, projection), missing, projection, rank)
        filled = _filled(days, missing, projection)
        inverse = np.linalg.pinv(design)
        fitted = inverse @ filled
        freedom = (~missing).sum(axis=0) - rank
        apart = np.where(missing, 0.0, filled - design @ fitted)
        squares = (apart**2).sum(axis=0)
        too_few = (freedom < 1) | (missing.mean(axis=0) > MOST_MISSING)
        day_sd = np.where(too_few, UNSEEN, np.sqrt(squares / np.maximum(freedom, 1)))

        level = np.zeros((WEEK, days.shape[1]))
        leverage = np.full(WEEK, UNSEEN)
        last = versions[-1] == present[:-1]
        for place, weekday in enumerate(seen.tolist()):
            row = np.concatenate([np.arange(len(seen)) == place, last]).astype(float)
            level[weekday] = row @ fitted
            leverage[weekday] = float((row @ inverse) @ (row @ inverse))
        return Anchor(level, day_sd, leverage, _memory(apart))


def _filled(days: FloatArray, missing: BoolArray, projection: FloatArray) -> FloatArray:
    """With what the others say of missing days: least squares on the known ones, by imputing until it stands."""
    filled = np.where(missing, np.where(missing, 0.0, days).sum(axis=0) / np.maximum((~missing).sum(axis=0), 1), days)
    for _ in range(PASSES if missing.any() else 0):
        filled = np.where(missing, projection @ filled, filled)
    return filled


def _odd(days: FloatArray, missing: BoolArray, projection: FloatArray, rank: int) -> BoolArray:
    """Days that lie further than `ODD` deviations from a fit that they do not move.

    That fit draws in what lies far off, until it stands; the deviation is told by the middle day.

    Source: Huber, Robust Statistics, 1981, section 7.8 (pseudo-values).
    """
    drawn, widened = days, np.sqrt(len(days) / max(len(days) - rank, 1)) / NORMAL_MIDDLE
    for _ in range(PASSES):
        fitted = projection @ drawn
        deviation = np.median(np.abs(drawn - fitted), axis=0) * widened
        drawn = fitted + np.clip(days - fitted, -DRAWN * deviation, DRAWN * deviation)
    apart = np.abs(days - projection @ drawn)
    odd: BoolArray = ~missing & (deviation > 0) & (apart > ODD * deviation)
    return odd


def _memory(apart: FloatArray) -> FloatArray:
    """Correlation of each day with the one before, in [0, MOST_MEMORY].

    From so few days one quantity's is little more than chance: each is drawn towards that of all together, as
    far as the differences between them are no larger than chance makes them.

    Source: James & Stein, Proc. 4th Berkeley Symposium, 1961.
    """
    squares = (apart**2).sum(axis=0)
    lagged = (apart[1:] * apart[:-1]).sum(axis=0)
    varies = squares > 0
    if not varies.any():
        return np.zeros(len(squares))
    own = np.where(varies, lagged / np.where(varies, squares, 1.0), 0.0)
    together = float(own[varies].mean())
    between, chance = float(own[varies].var()), 1.0 / len(apart)
    kept = max(0.0, 1.0 - chance / between) if between > 0 else 0.0
    memory: FloatArray = np.clip(together + kept * (own - together), 0.0, MOST_MEMORY)
    return memory
