"""A confidence sequence for a mean or a difference: an interval that may be looked at at any time, for ever.

For rollback: nobody knows in advance how often it will be looked at. It is wider than a group-sequential
interval, which is the price. For shares, exactly and from the first trial on, see `sequential`.

Sources: Robbins, Ann. Math. Statist. 41(5), 1970 (normal mixture); Howard, Ramdas, McAuliffe & Sekhon, Ann.
Statist. 49(2), 2021 (one-sided); Waudby-Smith, Arbour, Sinha, Kennedy & Ramdas, Ann. Statist. 52(6), 2024
(asymptotic: the estimate's own variance may be put in).
"""

from dataclasses import dataclass
from math import exp, inf, isfinite, log, sqrt
from typing import Literal

from scipy.optimize import brentq
from scipy.special import lambertw, log_ndtr


@dataclass(frozen=True, slots=True)
class ConfidenceSequence:
    """Bounds of an effect that hold at all looks together with chance 1 - alpha, however many.

    tightest_at: information (1 / variance of the estimate) at which the bounds are to be narrowest compared
    with a single look's. It must be fixed in advance; ten times too low widens them by 7 %, too high by 26 %.
    sides: 2, or 1 for a bound from one side only (`low` or `high`, not both together).

    Information must be of many units: a sum over them is taken as normal (asymptotic). Units that come back
    are one unit, so estimates are clustered by them.

    >>> both = ConfidenceSequence(alpha=0.05, tightest_at=10_000)
    >>> [round(bound, 4) for bound in both.bounds(estimate=-0.05, standard_error=0.01)]
    [-0.0804, -0.0196]
    """

    alpha: float
    tightest_at: float
    sides: Literal[1, 2] = 2

    def __post_init__(self) -> None:
        if not 0 < self.alpha < 0.5:
            raise ValueError(f"alpha={self.alpha:g}: expected 0 < alpha < 0.5")
        if not (self.tightest_at > 0 and isfinite(self.tightest_at)):
            raise ValueError(f"tightest_at={self.tightest_at:g}: expected a finite information > 0")

    def z(self, information: float) -> float:
        """How many standard errors the bounds are away from the estimate. Infinite without information."""
        if not information > 0:
            return inf
        prior = self._prior
        grown = (information + prior) / information
        if self.sides == 2:
            return sqrt(grown * (log((information + prior) / prior) - 2 * log(self.alpha)))

        def short(z: float) -> float:
            """Log of the half-normal mixture's likelihood ratio, under 1 / alpha."""
            shrunk = z / sqrt(grown)
            mixture = log(2) + 0.5 * log(prior / (information + prior)) + 0.5 * shrunk**2
            return mixture + float(log_ndtr(shrunk)) + log(self.alpha)

        # without the half that has the wrong sign it is a two-sided one of twice the alpha, which is lower
        highest = sqrt(grown * (log((information + prior) / prior) - 2 * log(self.alpha)))
        return float(brentq(short, 0.0, highest, xtol=1e-10))

    def bounds(self, estimate: float, standard_error: float) -> tuple[float, float]:
        """Low and high. An unknown or no standard error bounds nothing: nothing was measured yet.

        For a quotient put `z` into `clustered.Comparison.lift_interval` instead.
        """
        if not (standard_error > 0 and isfinite(standard_error)):
            return -inf, inf
        half = self.z(standard_error**-2) * standard_error
        return estimate - half, estimate + half

    @property
    def _prior(self) -> float:
        """Information of the mixture's normal, so that z is least at `tightest_at`.

        Source: Howard et al. 2021, proposition 3; one-sided as two-sided with twice the alpha.
        """
        alpha = self.alpha if self.sides == 2 else 2 * self.alpha
        if alpha >= 1:
            return self.tightest_at
        return self.tightest_at / (-float(lambertw(-(alpha**2) * exp(-1), -1).real) - 1)
