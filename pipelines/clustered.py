"""Means of lists whose units are what was randomised: difference, relative lift, and CUPED, by the delta method.

A unit sends as many lists as it likes, so an arm's mean is a ratio of two sums over units, and its variance is
that of the units' residuals. Lists taken as independent would promote by chance alone.

Sources: Deng, Knoblich & Lu, KDD 2018 (the ratio's variance); Deng, Xu, Kohavi & Walker, WSDM 2013 (CUPED);
Fieller, JRSS B 16(2), 1954 (the interval of a quotient).
"""

from dataclasses import dataclass
from math import inf, nan, sqrt

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]


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
    def of(
        values: ArrayLike, units: ArrayLike, covariates: ArrayLike | None = None, lists: ArrayLike | None = None
    ) -> "ArmUnits":
        """From values and units, each of shape (lists,), and covariates of shape (lists, covariates).

        lists: of rows that stand for several lists of a unit each, how many, shape (rows,); values and covariates
        are then their sums.

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
        each = None if lists is None else np.asarray(lists, dtype=np.float64)
        return ArmUnits(
            np.bincount(unit_of, weights=each, minlength=len(names)).astype(np.float64),
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

    def _error_at(self, ratio: float) -> float:
        return sqrt(self.challenger.standard_error**2 + ratio**2 * self.champion.standard_error**2)


def compare(champion: ArmUnits, challenger: ArmUnits) -> Comparison:
    """Both arms' means with clustered variance, adjusted by their covariates if there are any.

    CUPED: each arm's mean is moved by how much its covariates' means differ from those of both arms, times the
    slope that leaves the least variance; it is the same slope in both, from the units' residuals. Covariates
    must not depend on the arm. Columns without variance, or that repeat others, change nothing.

    >>> arms = ArmUnits.of([1.0, 0.0, 1.0], [1, 2, 3]), ArmUnits.of([1.0, 1.0, 0.0, 1.0], [4, 5, 6, 6])
    >>> found = compare(*arms)
    >>> round(found.champion.mean, 3), round(found.difference.mean, 3)
    (0.667, 0.083)
    """
    arms = (champion, challenger)
    if champion.covariates.shape[1] != challenger.covariates.shape[1]:
        raise ValueError(
            f"{champion.covariates.shape[1]} covariates of the champion, {challenger.covariates.shape[1]} of the"
            " challenger: expected the same"
        )
    if min(arm.units for arm in arms) < 2:
        without = [Estimate(arm.mean, nan) for arm in arms]
        return Comparison(without[0], without[1], champion.units, challenger.units)
    columns = [_Columns.of(arm) for arm in arms]
    plain = sum(float(one.error(np.zeros(one.means.size - 1)) ** 2) for one in columns)
    slope = _slope(columns)
    lists = np.array([arm.lists.sum() for arm in arms])
    together = (lists[:, None] * np.stack([one.means[1:] for one in columns])).sum(axis=0) / lists.sum()
    found = [Estimate(float(one.means[0] - slope @ (one.means[1:] - together)), one.error(slope)) for one in columns]
    left = sum(one.standard_error**2 for one in found) / plain if plain > 0 else 1.0
    return Comparison(found[0], found[1], champion.units, challenger.units, left)


@dataclass(frozen=True, slots=True)
class _Columns:
    """means: of values and covariates, (1 + covariates,). residuals: of each unit's sums, in lists of the arm,
    shape (units, 1 + covariates): an arm's mean differs from the truth by their sum."""

    means: Floats
    residuals: Floats

    @staticmethod
    def of(arm: ArmUnits) -> "_Columns":
        sums = np.concatenate([arm.values[:, None], arm.covariates], axis=1)
        total = arm.lists.sum()
        means = sums.sum(axis=0) / total
        few = sqrt(arm.units / (arm.units - 1))
        return _Columns(means, few * (sums - arm.lists[:, None] * means) / total)

    def error(self, slope: Floats) -> float:
        rest = self.residuals[:, 0] - self.residuals[:, 1:] @ slope
        return sqrt(float((rest**2).sum()))


def _slope(columns: list[_Columns]) -> Floats:
    """What leaves the least variance of the difference: least squares over all units' residuals."""
    residuals = np.concatenate([one.residuals for one in columns])
    found: Floats = np.linalg.lstsq(residuals[:, 1:], residuals[:, 0], rcond=1e-10)[0]
    return found
