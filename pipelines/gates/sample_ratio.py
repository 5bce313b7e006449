"""Sample-ratio mismatch, looked at as often as one likes: do units reach the arms in the shares they should?

If they do not, something ate or doubled units of one arm, and no comparison of the arms is worth anything.

Source: Lindon & Malek, Anytime-valid inference for multinomial count data, NeurIPS 2022.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import exp, inf, isfinite, lgamma, log

CONCENTRATIONS = (100.0, 1_000.0, 10_000.0, 100_000.0)
"""Of the Dirichlet mixtures: for shares that are off by some 1 / sqrt(4 * concentration), 5 to 0.16 points of one half.

Their e-values are averaged, which is an e-value again: a gross mismatch shows in hundreds of units, a small one in
a hundred thousand."""


@dataclass(frozen=True, slots=True)
class SampleRatio:
    """Units by arm against the shares planned.

    e_value: by how much the data favour other shares; over 1 / alpha has at most the chance alpha, at any look.
    p_value: its inverse, at most 1. Of many looks, the smallest p-value counts.
    """

    units: tuple[int, ...]
    planned: tuple[float, ...]
    log_e_value: float

    @property
    def e_value(self) -> float:
        """Infinite if too large for a float."""
        return exp(self.log_e_value) if self.log_e_value < 700 else inf

    @property
    def p_value(self) -> float:
        """Valid at any look."""
        return min(1.0, exp(-self.log_e_value))

    def mismatch(self, alpha: float) -> bool:
        """Whether the planned shares are refuted at this look."""
        return self.log_e_value >= -log(alpha)


def sample_ratio(
    units: Sequence[int], planned: Sequence[float], concentrations: Sequence[float] = CONCENTRATIONS
) -> SampleRatio:
    """The evidence against the planned shares.

    units: different units seen in each arm so far, each counted once, at its first query: queries of one unit
    are no independent tosses. planned: weights of the arms, any scale, > 0. concentrations: of the Dirichlet
    mixtures about the planned shares; high ones find small mismatches among many units sooner.
    Raises ValueError if counts or weights are not as said.

    >>> sample_ratio([5000, 5000], [1, 1]).mismatch(0.01)
    False
    >>> sample_ratio([50_000, 48_000], [1, 1]).mismatch(0.01)
    True
    """
    if len(units) != len(planned) or len(units) < 2:
        raise ValueError(f"{len(units)} counts for {len(planned)} weights: expected one each of two arms at least")
    if any(count < 0 for count in units):
        raise ValueError(f"units={list(units)}: expected counts >= 0")
    if not all(weight > 0 and isfinite(weight) for weight in planned):
        raise ValueError(f"planned={list(planned)}: expected weights > 0")
    if not concentrations or not all(one > 0 and isfinite(one) for one in concentrations):
        raise ValueError(f"concentrations={list(concentrations)}: expected some, all > 0")
    whole = float(sum(planned))
    shares = tuple(weight / whole for weight in planned)
    logs = [_log_e(units, shares, concentration) for concentration in concentrations]
    highest = max(logs)
    log_e = highest + log(sum(exp(one - highest) for one in logs) / len(logs))
    return SampleRatio(tuple(units), shares, log_e)


def _log_e(units: Sequence[int], shares: Sequence[float], concentration: float) -> float:
    """Likelihood of one mixture over that of the planned shares."""
    log_e = lgamma(concentration) - lgamma(concentration + sum(units))
    for count, share in zip(units, shares, strict=True):
        prior = concentration * share
        log_e += lgamma(prior + count) - lgamma(prior) - count * log(share)
    return log_e
