"""Distances between a reference and what is seen now: arrays in, arrays out.

Binned distances take counts of shape (quantities, bins). Quantities with fewer bins are padded
with empty ones, which change no result.
"""

import numpy as np
from numpy.typing import NDArray
from scipy.special import erfc

FloatArray = NDArray[np.float64]
CountArray = NDArray[np.int64]

PSI_PSEUDO_COUNT = 0.5
MOST_DEVIATIONS = 100.0
_SINGLE_PRECISION = float(np.finfo(np.float32).eps)
_TINY = 1e-12


def psi(reference_counts: CountArray, current_counts: CountArray) -> FloatArray:
    """Population stability index per quantity, in nats, >= 0.

    Half a count is added to every bin that either side uses, so that an empty bin is large
    instead of infinite. Its value without drift grows with bins / sample: never alarm on it.
    Returns shape (quantities,); nan where a side has no values.

    Source: Siddiqi, Credit Risk Scorecards, 2006; it is the Jeffreys divergence of the bins.

    >>> psi(np.array([[50, 50]]), np.array([[50, 50]]))
    array([0.])
    """
    used = (reference_counts + current_counts) > 0
    reference = _shares(reference_counts + PSI_PSEUDO_COUNT * used)
    current = _shares(current_counts + PSI_PSEUDO_COUNT * used)
    with np.errstate(divide="ignore", invalid="ignore"):
        terms = np.where(used, (current - reference) * np.log(current / reference), 0.0)
    index: FloatArray = np.where(_comparable(reference_counts, current_counts), terms.sum(axis=1), np.nan)
    return index


def ks(reference_counts: CountArray, current_counts: CountArray) -> FloatArray:
    """Kolmogorov-Smirnov distance per quantity over the bin edges, in [0, 1].

    A lower bound of the distance of the raw samples. nan where a side has no values.

    >>> ks(np.array([[50, 50]]), np.array([[100, 0]]))
    array([0.5])
    """
    distance: FloatArray = np.abs(_cumulative_gap(reference_counts, current_counts)).max(axis=1)
    return distance


def wasserstein_scaled(
    reference_counts: CountArray, current_counts: CountArray, centres: FloatArray, reference_std: FloatArray
) -> FloatArray:
    """Wasserstein-1 distance per quantity, in reference standard deviations.

    Each bin's mass stands at its centre: mass that moves inside a bin, or away beyond the outer
    ones, is not seen (`mean_shift` sees it).
    centres: (quantities, bins), ascending; whatever is in the padding is not looked at.
    reference_std: (quantities,); 0 gives 0, for a constant has a single bin.
    nan where a side has no values.

    >>> wasserstein_scaled(np.array([[1, 1]]), np.array([[0, 2]]), np.array([[0.0, 4.0]]), np.array([2.0]))
    array([1.])
    """
    gaps = np.abs(_cumulative_gap(reference_counts, current_counts))[:, :-1]
    moved: FloatArray = (gaps * np.diff(centres, axis=1)).sum(axis=1)
    return moved / np.where(reference_std > 0, reference_std, 1.0)


def deviation(
    reference_mean: FloatArray, reference_std: FloatArray, current_mean: FloatArray, current_std: FloatArray
) -> FloatArray:
    """The unit of a shift: the reference's standard deviation.

    A constant has none: what it varies by now takes its place, and at least the resolution of
    the float32 it was stored in, so that rounding is no shift and another constant is a large one.
    """
    resolution = _SINGLE_PRECISION * np.maximum(np.abs(reference_mean), np.abs(current_mean)) + _TINY
    return np.where(reference_std > resolution, reference_std, np.maximum(current_std, resolution))


def mean_shift(
    reference_mean: FloatArray, reference_std: FloatArray, current_mean: FloatArray, current_std: FloatArray
) -> FloatArray:
    """How far means moved, in units of `deviation`, clipped to +-100.

    >>> mean_shift(np.array([1.0]), np.array([2.0]), np.array([2.0]), np.array([9.0]))
    array([0.5])
    """
    unit = deviation(reference_mean, reference_std, current_mean, current_std)
    return np.clip((current_mean - reference_mean) / unit, -MOST_DEVIATIONS, MOST_DEVIATIONS)


def two_sided_p(difference: FloatArray, standard_error: FloatArray) -> FloatArray:
    """Chance of a normal difference at least this large if there is truly none.

    No error and no difference is 1, no error and a difference 0.

    >>> two_sided_p(np.array([0.0, 1.0, 0.0]), np.array([1.0, 0.0, 0.0]))
    array([1., 0., 1.])
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        z = np.where(difference == 0, 0.0, np.abs(difference) / standard_error)
    p: FloatArray = erfc(z / np.sqrt(2.0))
    return p


def benjamini_hochberg(p_values: FloatArray, alpha: float) -> NDArray[np.bool_]:
    """Which hypotheses to reject so that of the rejected at most a share alpha is wrong.

    Returns shape (hypotheses,). Without any true effect, the chance of rejecting one is alpha.

    Source: Benjamini & Hochberg, JRSS B 57(1), 1995.

    >>> benjamini_hochberg(np.array([0.01, 0.04, 0.03, 0.9]), alpha=0.05)
    array([ True, False, False, False])
    """
    order = np.argsort(p_values)
    allowed = alpha * np.arange(1, len(p_values) + 1) / len(p_values)
    within = np.flatnonzero(p_values[order] <= allowed)
    rejected = np.zeros(len(p_values), dtype=bool)
    if len(within):
        rejected[order[: within[-1] + 1]] = True
    return rejected


def _comparable(reference_counts: CountArray, current_counts: CountArray) -> NDArray[np.bool_]:
    both: NDArray[np.bool_] = (reference_counts.sum(axis=1) > 0) & (current_counts.sum(axis=1) > 0)
    return both


def _shares(counts: NDArray[np.float64] | CountArray) -> FloatArray:
    shares: FloatArray = counts / np.maximum(counts.sum(axis=1, keepdims=True), _TINY)
    return shares


def _cumulative_gap(reference_counts: CountArray, current_counts: CountArray) -> FloatArray:
    gap = np.cumsum(_shares(current_counts), axis=1) - np.cumsum(_shares(reference_counts), axis=1)
    return np.where(_comparable(reference_counts, current_counts)[:, None], gap, np.nan)
