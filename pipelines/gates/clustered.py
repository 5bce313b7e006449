"""Means of lists whose units are what was randomised: difference, relative lift, and CUPED, by the delta method.

A unit sends as many lists as it likes, so an arm's mean is a ratio of two sums over units, and its variance is
that of the units' residuals. Lists taken as independent would promote by chance alone. All of it is quadratic in
what each unit summed up to, so an arm is one small matrix (`ArmSums`), however many units it has, and a look more
costs the units that came since the last.

Sources: Deng, Knoblich & Lu, KDD 2018 (the ratio's variance); Deng, Xu, Kohavi & Walker, WSDM 2013 (CUPED);
Fieller, JRSS B 16(2), 1954 (the interval of a quotient).
"""

from dataclasses import dataclass
from math import inf, nan, sqrt

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
_ROUNDING = 1e-12


@dataclass(frozen=True, slots=True)
class ArmUnits:
    """One arm, summed by unit: all that its mean and variance need, and what can be added up day by day.

    lists: shape (units,), lists of each, >= 1. values: (units,), the sum of their click-NDCG. covariates:
    (units, covariates), sums over the same lists of what was known before the arm had any effect, such as the
    query's or the unit's mean of the weeks before; no column if there are none.
    """

    lists: Floats
    values: Floats
    covariates: Floats

    def __post_init__(self) -> None:
        if not self.lists.shape == self.values.shape == self.covariates.shape[:1] or self.covariates.ndim != 2:
            raise ValueError(
                f"lists {self.lists.shape}, values {self.values.shape}, covariates {self.covariates.shape}: expected"
                " (units,), (units,), (units, covariates)"
            )

    @staticmethod
    def of(values: ArrayLike, units: ArrayLike, covariates: ArrayLike | None = None) -> "ArmUnits":
        """From values and units, each of shape (lists,), and covariates of shape (lists, covariates).

        >>> ArmUnits.of([1.0, 0.0, 0.5], ["ann", "ann", "bob"]).values.tolist()
        [1.0, 0.5]
        """
        given, whose = np.asarray(values, dtype=np.float64), np.asarray(units)
        beside = np.zeros((len(given), 0)) if covariates is None else np.asarray(covariates, dtype=np.float64)
        if given.ndim != 1 or given.shape != whose.shape or beside.ndim != 2 or len(beside) != len(given):
            raise ValueError(
                f"values {given.shape}, units {whose.shape}, covariates {beside.shape}: expected (lists,) twice and"
                " (lists, covariates)"
            )
        if not (np.isfinite(given).all() and np.isfinite(beside).all()):
            raise ValueError("values and covariates must be finite: a list without a click is 0, never missing")
        names, unit_of = np.unique(whose, return_inverse=True)
        columns = (given, *beside.T)
        sums = [np.bincount(unit_of, weights=column, minlength=len(names)).astype(np.float64) for column in columns]
        return ArmUnits(
            np.bincount(unit_of, minlength=len(names)).astype(np.float64),
            sums[0],
            np.stack(sums[1:], axis=1) if len(sums) > 1 else np.zeros((len(names), 0)),
        )

    @property
    def units(self) -> int:
        """How many there are."""
        return len(self.lists)

    @property
    def mean(self) -> float:
        """Of all lists; nan without any."""
        total = float(self.lists.sum())
        return float(self.values.sum()) / total if total else nan


@dataclass(frozen=True, slots=True)
class ArmSums:
    """One arm, summed over its units: all that its mean and variance need. Of different units they add up.

    products: shape (3 + covariates,) twice, the sum over units of x times x transposed, where x is 1, the unit's
    lists, the sum of their values, and of each covariate.
    """

    products: Floats

    @staticmethod
    def of(arm: ArmUnits) -> "ArmSums":
        """From units.

        >>> ArmSums.of(ArmUnits.of([1.0, 0.0, 0.5], ["ann", "ann", "bob"])).products.tolist()
        [[2.0, 3.0, 1.5], [3.0, 5.0, 2.5], [1.5, 2.5, 1.25]]
        """
        columns = np.column_stack([np.ones(arm.units), arm.lists, arm.values, arm.covariates])
        return ArmSums(columns.T @ columns)

    @property
    def units(self) -> int:
        """How many there are."""
        return round(float(self.products[0, 0]))

    @property
    def lists(self) -> int:
        """Of all units."""
        return round(float(self.products[0, 1]))

    @property
    def values(self) -> float:
        """The sum of all lists' values."""
        return float(self.products[0, 2])

    @property
    def covariates(self) -> int:
        """How many columns of them."""
        return len(self.products) - 3


def sums_by_look(
    look: ArrayLike,
    units: ArrayLike,
    values: ArrayLike,
    covariates: ArrayLike | None,
    looks: int,
    counts: ArrayLike | None = None,
) -> Floats:
    """An arm as it stood after each look, and with all there is. Shape (looks + 1, 3 + covariates, 3 + covariates).

    look: shape (lists,), >= 1, when each list came in; those after the last look are in the last matrix only.
    units: (lists,), ids of any kind. values: (lists,). covariates: (lists, covariates), or None. Each matrix is an
    `ArmSums`: a unit that comes back is taken out as it was and put in as it is. counts: (lists,), of rows that stand
    for several lists of a unit and a look each, how many; values and covariates are then their sums.

    >>> after = sums_by_look([1, 2, 9], ["ann", "ann", "bob"], [1.0, 0.0, 0.5], None, looks=2)
    >>> [(ArmSums(one).units, ArmSums(one).lists) for one in after]
    [(1, 1), (1, 2), (2, 3)]
    """
    when = np.minimum(np.asarray(look, dtype=np.int64), looks + 1)
    given = np.asarray(values, dtype=np.float64)
    beside = np.zeros((len(given), 0)) if covariates is None else np.asarray(covariates, dtype=np.float64)
    width = 3 + beside.shape[1]
    if not len(given):
        return np.zeros((looks + 1, width, width))
    _, unit_of = np.unique(np.asarray(units), return_inverse=True)
    cells, cell_of = np.unique(unit_of.astype(np.int64) * (looks + 2) + when, return_inverse=True)
    owner, came = cells // (looks + 2), cells % (looks + 2)
    first = np.append(True, owner[1:] != owner[:-1])
    each = None if counts is None else np.asarray(counts, dtype=np.float64)
    columns = [
        np.bincount(cell_of, weights=each),
        *(np.bincount(cell_of, weights=column) for column in (given, *beside.T)),
    ]
    added = np.column_stack([first, *columns]).astype(np.float64)
    now = added.copy()
    starts = np.flatnonzero(first)
    rank = np.arange(len(cells)) - np.repeat(starts, np.diff(np.append(starts, len(cells))))
    by_rank = np.argsort(rank, kind="stable")
    for of_rank in np.split(by_rank, np.cumsum(np.bincount(rank))[:-1])[1:]:
        now[of_rank] += now[
            of_rank - 1
        ]  # unit by unit, so that others and later looks leave no trace, not even rounding
    before = now - added
    found = np.zeros((looks + 1, width, width))
    for left in range(width):
        for right in range(left, width):
            change = now[:, left] * now[:, right] - before[:, left] * before[:, right]
            by_look = np.bincount(came - 1, weights=change, minlength=looks + 1)
            found[:, left, right] = found[:, right, left] = np.cumsum(by_look)
    return found


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean and its standard error; nan with fewer than two units."""

    mean: float
    standard_error: float


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two arms of independent units. left: share of the variance that CUPED left, 1 without covariates."""

    champion: Estimate
    challenger: Estimate
    champion_units: int
    challenger_units: int
    left: float = 1.0

    @property
    def difference(self) -> Estimate:
        """Challenger minus champion."""
        return Estimate(
            self.challenger.mean - self.champion.mean,
            sqrt(self.challenger.standard_error**2 + self.champion.standard_error**2),
        )

    @property
    def lift(self) -> Estimate:
        """(challenger - champion) / champion, with the delta method's standard error.

        nan where the champion's mean is not positive: nothing is relative to it.
        """
        if not self.champion.mean > 0:
            return Estimate(nan, nan)
        ratio = self.challenger.mean / self.champion.mean
        return Estimate(ratio - 1, self._error_at(ratio) / self.champion.mean)

    def z(self, margin: float = 0.0) -> float:
        """Of the null that the relative lift is `margin`; -0.002 asks for non-inferiority by 0.2 %.

        The numerator challenger - (1 + margin) champion is a sum, so no quotient is approximated. 0 as long
        as nothing varies.
        """
        error = self._error_at(1 + margin)
        return (self.challenger.mean - (1 + margin) * self.champion.mean) / error if error > 0 else 0.0

    def lift_interval(self, z: float) -> tuple[float, float]:
        """All relative lifts that `z(margin)` does not reject at +-z: Fieller's interval.

        Without bounds where the champion's own mean is within z standard errors of 0, or z is infinite.
        """
        base, base_variance = self.champion.mean, self.champion.standard_error**2
        mean, variance = self.challenger.mean, self.challenger.standard_error**2
        if not np.isfinite(z) or not base**2 > z**2 * base_variance or not base > 0:
            return -inf, inf
        square = base**2 - z**2 * base_variance
        centre = base * mean / square
        half = sqrt(max(0.0, centre**2 - (mean**2 - z**2 * variance) / square))
        return centre - half - 1, centre + half - 1

    @property
    def caution(self) -> float:
        """How much larger the error is if the challenger's units vary no less than the champion's. At least 1.

        Few units underrate how far they are apart whenever those came that click little: what then looks bad looks
        sure as well. Versions that are equal vary alike, and the arm of many units knows by how much.
        """
        ours, theirs = self.champion.standard_error**2, self.challenger.standard_error**2
        if not ours + theirs > 0:
            return 1.0
        alike = ours * self.champion_units / self.challenger_units
        return sqrt((ours + max(theirs, alike)) / (ours + theirs))

    def _error_at(self, ratio: float) -> float:
        return sqrt(self.challenger.standard_error**2 + ratio**2 * self.champion.standard_error**2)


def compare(champion: ArmUnits | ArmSums, challenger: ArmUnits | ArmSums) -> Comparison:
    """Both arms' means with clustered variance, adjusted by their covariates if there are any.

    CUPED: each arm's mean is moved by how much its covariates' means differ from those of both arms, times the
    slope that leaves the least variance; it is the same slope in both, from the units' residuals. Covariates
    must not depend on the arm. Columns without variance, or that repeat others, change nothing.

    >>> arms = ArmUnits.of([1.0, 0.0, 1.0], [1, 2, 3]), ArmUnits.of([1.0, 1.0, 0.0, 1.0], [4, 5, 6, 6])
    >>> found = compare(*arms)
    >>> round(found.champion.mean, 3), round(found.difference.mean, 3)
    (0.667, 0.083)
    """
    base, other = (arm if isinstance(arm, ArmSums) else ArmSums.of(arm) for arm in (champion, challenger))
    if base.covariates != other.covariates:
        raise ValueError(
            f"{base.covariates} covariates of the champion, {other.covariates} of the challenger: expected the same"
        )
    if min(base.units, other.units) < 2:
        without = [Estimate(arm.values / arm.lists if arm.lists else nan, nan) for arm in (base, other)]
        return Comparison(without[0], without[1], base.units, other.units)
    columns = [_Columns.of(arm) for arm in (base, other)]
    plain = sum(float(one.residuals[0, 0]) for one in columns)
    slope = _slope(columns)
    lists = np.array([base.lists, other.lists], dtype=np.float64)
    together = (lists[:, None] * np.stack([one.means[1:] for one in columns])).sum(axis=0) / lists.sum()
    found = [Estimate(float(one.means[0] - slope @ (one.means[1:] - together)), one.error(slope)) for one in columns]
    left = sum(one.standard_error**2 for one in found) / plain if plain > 0 else 1.0
    return Comparison(found[0], found[1], base.units, other.units, left)


@dataclass(frozen=True, slots=True)
class _Columns:
    """means: of values and covariates, (1 + covariates,). residuals: products, summed over units, of how far each
    moves the arm's means from the truth, shape (1 + covariates,) twice."""

    means: Floats
    residuals: Floats

    @staticmethod
    def of(arm: ArmSums) -> "_Columns":
        products, units = arm.products, arm.units
        total = products[0, 1]
        means = products[0, 2:] / total
        sums, with_lists, lists = products[2:, 2:], products[1, 2:], products[1, 1]
        mixed = means[:, None] * with_lists[None, :]
        residuals = sums - mixed - mixed.T + lists * means[:, None] * means[None, :]
        # what subtraction leaves of a column that is the same in every list is rounding
        flat = np.diag(residuals) <= _ROUNDING * np.diag(sums)
        residuals[flat] = residuals[:, flat] = 0.0
        return _Columns(means, units / (units - 1) / total**2 * residuals)

    def error(self, slope: Floats) -> float:
        weights = np.append(1.0, -slope)
        return sqrt(max(0.0, float(weights @ self.residuals @ weights)))


def _slope(columns: list[_Columns]) -> Floats:
    """What leaves the least variance of the difference: least squares over all units' residuals."""
    both = columns[0].residuals + columns[1].residuals
    scale = np.sqrt(np.diag(both)[1:])
    scale[scale == 0] = 1.0
    within = both[1:, 1:] / scale[:, None] / scale[None, :]
    found: Floats = np.linalg.pinv(within, rcond=1e-10, hermitian=True) @ (both[1:, 0] / scale) / scale
    return found
