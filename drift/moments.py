"""Weighted mean and spread of many quantities at once, exact, mergeable, without the values."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Moments:
    """weight: the sum of the weights; mean; spread: the weighted sum of squares around it.

    All of shape (quantities,). Merging in any order and grouping gives the same, up to rounding.

    Source: Chan, Golub & LeVeque, COMPSTAT 1982 (the pairwise update), with weights.
    """

    weight: FloatArray
    mean: FloatArray
    spread: FloatArray

    @staticmethod
    def empty(quantities: int) -> "Moments":
        """Of nothing: merging it changes nothing."""
        return Moments(np.zeros(quantities), np.zeros(quantities), np.zeros(quantities))

    @staticmethod
    def of(values: FloatArray, weights: FloatArray, inside: FloatArray | float = 0.0) -> "Moments":
        """values, weights: (n, quantities), finite; weight 0 leaves a value out.

        inside: variance within each value, where a value is itself a mean of `weight` rows; the
        result is then that of the rows.
        """
        weight = weights.sum(axis=0)
        mean = (weights * values).sum(axis=0) / np.where(weight > 0, weight, 1.0)
        spread = (weights * ((values - mean) ** 2 + inside)).sum(axis=0)
        return Moments(weight, mean, spread)

    def merge(self, other: "Moments") -> "Moments":
        """The moments of both."""
        weight = self.weight + other.weight
        share = other.weight / np.where(weight > 0, weight, 1.0)
        apart = other.mean - self.mean
        return Moments(
            weight=weight,
            mean=self.mean + apart * share,
            spread=self.spread + other.spread + apart**2 * self.weight * share,
        )

    @property
    def variance(self) -> FloatArray:
        """Of the population; 0 where there is none."""
        return self.spread / np.where(self.weight > 0, self.weight, 1.0)

    def spread_about(self, centre: FloatArray) -> FloatArray:
        """The weighted sum of squares around other points than the means."""
        return self.spread + self.weight * (self.mean - centre) ** 2
