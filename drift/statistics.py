"""Distances between a reference and what is seen now: arrays in, arrays out.

Binned distances take counts of shape (quantities, bins). Quantities with fewer bins are padded
with empty ones, which change no result. Distances of samples take values with weights, raw or from a sketch.
"""

import numpy as np
from numpy.typing import NDArray
from scipy.special import erfc

FloatArray = NDArray[np.float64]
CountArray = NDArray[np.int64]

PSI_PSEUDO_COUNT = 0.5
MOST_DEVIATIONS = 100.0
MOST_SPREAD = 5.0
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


def psi_by_chance(
    reference_counts: CountArray, current_counts: CountArray, design_effect: FloatArray | float = 1.0
) -> FloatArray:
    """What `psi` comes to on average without drift, in nats: (bins - 1) (1 / n + 1 / m), times the design effect.

    Subtract it to compare windows of different sizes: then 0 is what quiet traffic has on average, and a half of
    quiet windows lie below. bins: those that either side uses. design_effect: how much less rows tell for coming in
    lists, (quantities,) or one for all. nan where a side has no values.

    Source: Yurdakul & Naranjo, Journal of Risk Model Validation 14(4), 2020: psi is (1/n + 1/m) chi-squared with
    bins - 1 degrees of freedom.

    >>> psi_by_chance(np.array([[100, 100]]), np.array([[25, 25]]))
    array([0.025])
    """
    used = ((reference_counts + current_counts) > 0).sum(axis=1)
    n, m = (np.maximum(counts.sum(axis=1), 1) for counts in (reference_counts, current_counts))
    expected = np.maximum(used - 1, 0) * (1.0 / n + 1.0 / m) * design_effect
    by_chance: FloatArray = np.where(_comparable(reference_counts, current_counts), expected, np.nan)
    return by_chance


def jensen_shannon(reference_counts: CountArray, current_counts: CountArray) -> FloatArray:
    """Jensen-Shannon distance per quantity, in [0, 1]: for categories, whose order means nothing.

    The square root of the divergence in bits: 0 for equal shares, 1 if no category is in both. It is a metric, and
    finite where a category is new or gone. nan where a side has no values.

    Source: Endres & Schindelin, IEEE Transactions on Information Theory 49(7), 2003.

    >>> jensen_shannon(np.array([[1, 1, 0]]), np.array([[0, 0, 7]]))
    array([1.])
    """
    reference, current = _shares(reference_counts), _shares(current_counts)
    middle = (reference + current) / 2
    divergence = (_entropy_bits(middle) - (_entropy_bits(reference) + _entropy_bits(current)) / 2).clip(0.0, 1.0)
    distance: FloatArray = np.where(_comparable(reference_counts, current_counts), np.sqrt(divergence), np.nan)
    return distance


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


def ks_of_samples(
    reference: FloatArray, current: FloatArray, reference_weights: FloatArray, current_weights: FloatArray
) -> float:
    """Kolmogorov-Smirnov distance of two weighted samples of one quantity, in [0, 1].

    Values without nan, any order, weights above 0. nan if a side is empty. Of two sketches it is off by the sum of
    their rank errors at most.

    >>> ks_of_samples(np.array([1.0, 2.0]), np.array([2.0, 3.0]), np.ones(2), np.ones(2))
    0.5
    """
    if not len(reference) or not len(current):
        return float("nan")
    at = np.concatenate([reference, current])
    return float(np.abs(_reached(reference, reference_weights, at) - _reached(current, current_weights, at)).max())


def wasserstein_of_samples(
    reference: FloatArray, current: FloatArray, reference_weights: FloatArray, current_weights: FloatArray
) -> float:
    """Wasserstein-1 distance of two weighted samples of one quantity, in its own unit; as `ks_of_samples`.

    Divide by the reference's standard deviation (`deviation`) to compare quantities.

    >>> wasserstein_of_samples(np.array([1.0, 2.0]), np.array([2.0, 3.0]), np.ones(2), np.ones(2))
    1.0
    """
    if not len(reference) or not len(current):
        return float("nan")
    at = np.sort(np.concatenate([reference, current]))
    gap = np.abs(_reached(reference, reference_weights, at) - _reached(current, current_weights, at))
    return float((gap[:-1] * np.diff(at)).sum())


def spread_shift(reference_std: FloatArray, current_std: FloatArray) -> FloatArray:
    """How far the spread changed: the natural logarithm of the current standard deviation over the reference's.

    0.69 is twice the spread, -0.69 half of it; clipped to +-`MOST_SPREAD`, which is where constants that begin to vary,
    and what becomes constant, come to lie. 0 if both are constant.

    >>> spread_shift(np.array([1.0, 1.0, 0.0]), np.array([2.0, 0.0, 0.0])).round(2)
    array([ 0.69, -5.  ,  0.  ])
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.log(current_std) - np.log(reference_std)
    return np.clip(np.where(reference_std == current_std, 0.0, ratio), -MOST_SPREAD, MOST_SPREAD)


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


def _comparable(reference_counts: CountArray, current_counts: CountArray) -> NDArray[np.bool_]:
    both: NDArray[np.bool_] = (reference_counts.sum(axis=1) > 0) & (current_counts.sum(axis=1) > 0)
    return both


def _shares(counts: NDArray[np.float64] | CountArray) -> FloatArray:
    shares: FloatArray = counts / np.maximum(counts.sum(axis=1, keepdims=True), _TINY)
    return shares


def _cumulative_gap(reference_counts: CountArray, current_counts: CountArray) -> FloatArray:
    gap = np.cumsum(_shares(current_counts), axis=1) - np.cumsum(_shares(reference_counts), axis=1)
    return np.where(_comparable(reference_counts, current_counts)[:, None], gap, np.nan)


def _entropy_bits(shares: FloatArray) -> FloatArray:
    terms = shares * np.log2(np.where(shares > 0, shares, 1.0))
    entropy: FloatArray = -terms.sum(axis=1)
    return entropy


def _reached(values: FloatArray, weights: FloatArray, at: FloatArray) -> FloatArray:
    """The share of the weight whose value is at most that."""
    order = np.argsort(values, kind="stable")
    cumulative = np.concatenate([[0.0], np.cumsum(weights[order])])
    shares: FloatArray = cumulative[np.searchsorted(values[order], at, side="right")] / cumulative[-1]
    return shares
