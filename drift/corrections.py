"""Many quantities at once: p-values adjusted for how many were looked at, weighted by how much each matters.

An adjusted p-value is at most alpha exactly where the procedure rejects at alpha. Weights split the budget: of two
quantities, the one with twice the weight is allowed twice the chance of a false alarm.
"""

import numpy as np
from numpy.typing import NDArray

from drift.moments import FloatArray
from drift.settings import Correction

MOST_WEIGHT = 10.0


def adjusted(p_values: FloatArray, correction: Correction, weights: FloatArray | None = None) -> FloatArray:
    """p-values adjusted by that procedure, in [0, 1].

    p_values: (hypotheses,). weights: (hypotheses,), above 0, taken relative to their mean; all equal if None.
    Raises ValueError if a weight is not above 0, or there are not as many as p-values.

    >>> adjusted(np.array([0.01, 0.04, 0.03]), "holm").round(3)
    array([0.03, 0.06, 0.06])
    """
    share = _relative(weights, len(p_values))
    if not len(p_values):
        return p_values.copy()
    if correction == "bonferroni":
        return _bonferroni(p_values, share)
    return _holm(p_values, share) if correction == "holm" else _benjamini_hochberg(p_values, share)


def weights_of(importance: FloatArray) -> FloatArray:
    """Weights from importance: relative to the mean, but a tenth at least and ten times it at most, so that nothing
    is given up on. importance: (hypotheses,), 0 or more; all equal if none is known.

    >>> weights_of(np.array([0.0, 1.0, 2.0]))
    array([0.1, 1. , 2. ])
    """
    mean = float(importance.mean()) if len(importance) else 0.0
    if mean <= 0:
        return np.ones(len(importance))
    bounded: FloatArray = np.clip(importance / mean, 1 / MOST_WEIGHT, MOST_WEIGHT)
    return bounded


def benjamini_hochberg(p_values: FloatArray, alpha: float) -> NDArray[np.bool_]:
    """Which hypotheses to reject so that of the rejected at most a share alpha is wrong.

    Returns shape (hypotheses,). Without any true effect, the chance of rejecting one is alpha.

    Source: Benjamini & Hochberg, JRSS B 57(1), 1995.

    >>> benjamini_hochberg(np.array([0.01, 0.04, 0.03, 0.9]), alpha=0.05)
    array([ True, False, False, False])
    """
    return adjusted(p_values, "benjamini_hochberg") <= alpha


def _bonferroni(p_values: FloatArray, weights: FloatArray) -> FloatArray:
    """The chance of any wrong rejection is at most alpha, whatever depends on what.

    Source: Genovese, Roeder & Wasserman, Biometrika 93(3), 2006 (with weights).
    """
    bounded: FloatArray = np.minimum(p_values * len(p_values) / weights, 1.0)
    return bounded


def _holm(p_values: FloatArray, weights: FloatArray) -> FloatArray:
    """As Bonferroni's, and never rejects less: what was rejected leaves its share to the others.

    Source: Holm, Scandinavian Journal of Statistics 6(2), 1979, section 4 (with weights).
    """
    order = np.argsort(p_values / weights, kind="stable")
    left = np.cumsum(weights[order][::-1])[::-1]  # of those not yet rejected
    steps = np.maximum.accumulate(p_values[order] / weights[order] * left)
    return _unsorted(np.minimum(steps, 1.0), order)


def _benjamini_hochberg(p_values: FloatArray, weights: FloatArray) -> FloatArray:
    """Of the rejected a share of at most alpha is wrong, of quantities that are independent or rise together.

    Source: Benjamini & Hochberg, JRSS B 57(1), 1995; weights as Genovese, Roeder & Wasserman, 2006.
    """
    weighted = p_values / weights
    order = np.argsort(weighted, kind="stable")
    steps = weighted[order] * len(p_values) / np.arange(1, len(p_values) + 1)
    return _unsorted(np.minimum(np.minimum.accumulate(steps[::-1])[::-1], 1.0), order)


def _unsorted(values: FloatArray, order: NDArray[np.intp]) -> FloatArray:
    placed = np.empty_like(values)
    placed[order] = values
    return placed


def _relative(weights: FloatArray | None, hypotheses: int) -> FloatArray:
    """Of mean 1."""
    if weights is None:
        return np.ones(hypotheses)
    if len(weights) != hypotheses:
        raise ValueError(f"{len(weights)} weights of {hypotheses} p-values: expected one each")
    if not (weights > 0).all():
        raise ValueError("weights: expected all above 0")
    relative: FloatArray = weights / weights.mean() if hypotheses else weights
    return relative
