"""Confidence shift: how sure a ranker is of its lists, and how far another one disagrees. Not quality.

Three things are watched together, in day blocks, for each misses something: the margin of the first over the
second and the entropy over the list, both of scores that are standardised by their version's own profile (a
harmless other scale is no shift), and the disagreement with a shadow, 1 - Kendall's tau over the items that
both lists have, which knows neither scale nor time of day but misses what moves both rankers alike.
"""

import numpy as np
from numpy.typing import NDArray

from drift.days.means import DayMeans, Level
from drift.days.shift_watch import Watched
from drift.moments import FloatArray, Moments
from drift.rank_agreement import Pairs, kendall_tau
from registry.contracts.profile import confidences

MARGIN, ENTROPY, DISAGREEMENT = "ranking:margin", "ranking:entropy", "ranking:disagreement"
TOGETHER = Watched((MARGIN, ENTROPY, DISAGREEMENT), ("mean",) * 3)
"""One watch over all three, where they come from one place."""
FAMILY = len(TOGETHER.names)


def of_lists(scores: NDArray[np.float32], shadow: NDArray[np.float32], score_std: float) -> FloatArray:
    """Margin, entropy and disagreement of each list, (lists, 3).

    scores, shadow: (lists, candidates), of the same candidates in the same order, by the version and by its
    shadow. score_std: of the version's scores when it was made.
    """
    lists, candidates = scores.shape
    lengths = np.full(lists, candidates)
    sure = confidences(scores, lengths, score_std)
    same = Pairs(np.tile(np.arange(candidates), (lists, 1)), lengths, lengths)
    tau = kendall_tau(same, scores.astype(np.float64), shadow.astype(np.float64))
    return np.column_stack([sure.margin, sure.entropy, 1.0 - tau])


def level_of(values: FloatArray) -> Level:
    """Of the lists that a version was made on. values: (lists, quantities)."""
    mean, std, error = _described(values)
    return Level(mean, std, error)


def day_of(values: FloatArray, start_ms: int, end_ms: int, version: int) -> DayMeans:
    """A day of lists. values: (lists, quantities), nan where a list says nothing."""
    mean, std, error = _described(values)
    return DayMeans(start_ms, end_ms, version, len(values), mean, std, error)


def _described(values: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
    known = np.isfinite(values)
    moments = Moments.of(np.where(known, values, 0.0), known.astype(np.float64))
    std = np.sqrt(moments.variance)
    mean = np.where(moments.weight > 0, moments.mean, np.nan)
    return mean, std, std / np.sqrt(np.maximum(moments.weight, 1.0))
