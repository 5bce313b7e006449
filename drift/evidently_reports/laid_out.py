"""A reference profile as values: what its bins say, laid out, for those who want values and not bins."""

import numpy as np
from scipy.optimize import least_squares

from drift.moments import FloatArray
from registry.contracts.profile import Distribution

STEEPEST = 60.0


def laid_out(distribution: Distribution, values: int, seed: int = 0) -> FloatArray:
    """So many values that fill the distribution's bins and have its zero and missing share, nan where one is missing.

    Inside of a bin they lie evenly, but in the outer ones, where they lie towards one end as much as it takes to have
    the distribution's mean and standard deviation as nearly as can be: distances to them are right to within a bin.
    In an order that tells nothing, by the seed.

    >>> laid_out(Distribution("x", 8, 3.0, 1.0, 3.0, 3.0, 0.25, 0.0, (), (6,)), 4)
    array([ 3.,  3.,  3., nan])
    """
    missing = round(values * distribution.missing_share)
    zeros = min(round(values * distribution.zero_share), values - missing)
    counts = np.array(distribution.counts, dtype=float)
    home = int(np.searchsorted(np.array(distribution.edges), 0.0, side="right"))
    counts[home] = max(0.0, counts[home] - distribution.count * distribution.zero_share)
    rest = values - missing - zeros if counts.sum() > 0 else 0
    ends = np.round(np.cumsum(counts) / max(counts.sum(), 1.0) * rest).astype(int)
    inner, reach = _bins(distribution)
    steep = _steepness(distribution, inner, reach, counts)
    inside = [
        inner[place] + reach[place] * ((np.arange(number) + 0.5) / max(number, 1)) ** steep[place]
        for place, number in enumerate(np.diff(ends, prepend=0).tolist())
    ]
    filled = np.concatenate([*inside, np.zeros(zeros), np.full(values - rest - zeros, np.nan)])
    return np.random.default_rng(seed).permutation(filled)


def _bins(distribution: Distribution) -> tuple[FloatArray, FloatArray]:
    """Where each bin begins, the lowest one at its upper end, and how far it reaches from there."""
    bounds = np.array([distribution.minimum, *distribution.edges, distribution.maximum])
    low, high = bounds[:-1], bounds[1:]
    turned = (np.arange(len(low)) == 0) & (len(low) > 1)
    inner = np.where(turned, high, low)
    return inner, np.where(turned, low, high) - inner


def _steepness(distribution: Distribution, inner: FloatArray, reach: FloatArray, counts: FloatArray) -> FloatArray:
    """The power p of each bin, whose values are inner + reach * u**p with u even in [0, 1]: 1 but in the outer ones."""
    bins, total = len(counts), counts.sum() + distribution.count * distribution.zero_share
    outer = [0] if bins == 1 else [0, bins - 1]
    if distribution.std <= 0 or total <= 0:
        return np.ones(bins)
    shares = counts / total

    def powers(logs: FloatArray) -> FloatArray:
        found = np.ones(bins)
        found[outer] = np.exp(logs)
        return found

    def off(logs: FloatArray) -> FloatArray:
        p = powers(logs)  # the mean of u**p is 1 / (p + 1)
        mean = float(shares @ (inner + reach / (p + 1)))
        square = float(shares @ (inner**2 + 2 * inner * reach / (p + 1) + reach**2 / (2 * p + 1)))
        std = np.sqrt(max(square - mean**2, 0.0))
        return np.array([mean - distribution.mean, std - distribution.std]) / distribution.std

    most = np.log(STEEPEST)
    return powers(least_squares(off, np.zeros(len(outer)), bounds=(-most, most)).x)
