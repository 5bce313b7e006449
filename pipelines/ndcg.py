"""NDCG, the one implementation, as `contracts.manifest.MetricDefinition` defines it.

Others differ, and a figure of theirs is another metric: scikit-learn and Evidently use linear gain and average
over ties; LightGBM scores a list without a relevant item 1. So every report carries its definition, and two
reports are compared by `paired`, which refuses figures of different definitions.

Source: Järvelin & Kekäläinen, TOIS 20(4), 2002; exponential gain: Burges et al., ICML 2005.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pipelines.errors import DefinitionsDiffer
from registry.compare import define
from registry.contracts.manifest import MetricDefinition

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class NdcgReport:
    """mean: over the `counted` lists, nan if there are none. left_out: lists without a relevant
    item, if the definition leaves them out. per_list: shape (lists,), nan where left out.
    definition: what the figures are; its digest stands in every decision made on them."""

    mean: float
    counted: int
    left_out: int
    per_list: Floats
    definition: MetricDefinition


@dataclass(frozen=True, slots=True)
class PairedNdcg:
    """Both versions on the same lists, the counted ones. champion, challenger: shape (pairs,), > 0 on average.

    lists: shape (pairs,), which of the lists they are. left_out: lists that count for neither."""

    champion: Floats
    challenger: Floats
    lists: NDArray[np.int64]
    left_out: int
    definition: MetricDefinition

    def __len__(self) -> int:
        return len(self.champion)

    @property
    def differences(self) -> Floats:
        """Challenger minus champion. Shape (pairs,)."""
        return self.challenger - self.champion

    @property
    def lift(self) -> float:
        """(challenger - champion) / champion, of the means; nan without a pair or where the champion's mean is 0."""
        base = float(self.champion.mean()) if len(self) else 0.0
        return float(self.differences.mean()) / base if base > 0 else float("nan")


def ndcg_at_k(relevance: ArrayLike, scores: ArrayLike, k: int) -> float:
    """Normalised discounted cumulative gain of one query, in [0, 1], with gain 2**rel - 1.

    relevance: shape (candidates,), graded, >= 0.
    scores: shape (candidates,), any scale; ties keep input order.
    Returns nan if nothing is relevant: there is no ideal order to compare
    with, and the caller says whether to skip the query.
    Raises ValueError if shapes differ, k < 1, a label is negative or a number is nan.

    >>> ndcg_at_k([0.0, 1.0], [0.9, 0.1], k=2)
    0.6309297535714575
    """
    labels = np.asarray(relevance)
    return mean_ndcg(labels, scores, [0, len(labels)], MetricDefinition(k=k)).mean


def mean_ndcg(labels: ArrayLike, scores: ArrayLike, offsets: ArrayLike, definition: MetricDefinition) -> NdcgReport:
    """NDCG of many lists that lie one after the other.

    labels, scores: shape (candidates,); ties in scores keep the given order.
    offsets: shape (lists + 1,), ascending from 0; list i is candidates offsets[i]:offsets[i+1].
    Raises ValueError as `ndcg_at_k`, or if the offsets do not span the candidates.
    """
    relevance, given, bounds = _checked(labels, scores, offsets, definition)
    gains = gain(relevance, definition)
    reached = _dcg(gains, given, bounds, definition.k)
    ideal = _dcg(gains, gains, bounds, definition.k)
    return _report(reached, ideal, definition)


def ndcg_of_served(labels_in_served_order: ArrayLike, all_labels: ArrayLike, definition: MetricDefinition) -> float:
    """NDCG of one answered query, whose answer holds its best items only.

    labels_in_served_order: shape (shown,), best first; all_labels: shape (candidates,), of every
    candidate that was ranked, any order: the ideal order is over these.
    Returns nan (or 0, as the definition says) if nothing is relevant.
    Raises ValueError if more are shown than were ranked.

    >>> ndcg_of_served([1.0], [1.0, 1.0], MetricDefinition(k=2))
    0.6131471927654584
    """
    shown, ranked = np.asarray(labels_in_served_order), np.asarray(all_labels)
    if len(shown) > len(ranked):
        raise ValueError(f"{len(shown)} items shown of {len(ranked)} ranked: expected at most as many")
    served, shown_scores, shown_bounds = _checked(shown, -np.arange(len(shown)), [0, len(shown)], definition)
    every, _, bounds = _checked(ranked, ranked, [0, len(ranked)], definition)
    reached = _dcg(gain(served, definition), shown_scores, shown_bounds, definition.k)
    ideal = _dcg(gain(every, definition), every, bounds, definition.k)
    return float(_report(reached, ideal, definition).per_list[0])


def paired(champion: NdcgReport, challenger: NdcgReport) -> PairedNdcg:
    """Two versions, measured on the same lists in the same order, list by list.

    Raises DefinitionsDiffer if the two figures are not the same metric, ValueError if they are not of the same
    lists: another number of them, or one is left out of the one report only.

    >>> before = mean_ndcg([0, 1, 1, 0], [2, 1, 2, 1], [0, 2, 4], MetricDefinition())
    >>> after = mean_ndcg([0, 1, 1, 0], [1, 2, 2, 1], [0, 2, 4], MetricDefinition())
    >>> round(paired(before, after).lift, 4)
    0.2263
    """
    if champion.definition != challenger.definition:
        raise DefinitionsDiffer(
            f"the figures are different metrics (champion: {define(champion.definition)}; challenger: "
            f"{define(challenger.definition)}): measure both versions under one definition, then compare"
        )
    a, b = champion.per_list, challenger.per_list
    if a.shape != b.shape or (np.isnan(a) != np.isnan(b)).any():
        raise ValueError(f"champion measured on {len(a)} lists, challenger on {len(b)}: expected the same lists")
    counted = np.flatnonzero(~np.isnan(a))
    return PairedNdcg(a[counted], b[counted], counted, len(a) - len(counted), champion.definition)


def gain(labels: Floats, definition: MetricDefinition) -> Floats:
    """What an item of each label is worth. Same shape as labels."""
    return np.exp2(labels) - 1 if definition.gain == "exponential" else labels


def _dcg(gains: Floats, scores: Floats, offsets: NDArray[np.int64], k: int) -> Floats:
    """Shape (lists,)."""
    sizes = np.diff(offsets)
    list_of = np.repeat(np.arange(len(sizes)), sizes)
    order = np.lexsort((-scores, list_of))  # stable, so ties keep the given order
    position = np.arange(len(gains)) - np.repeat(offsets[:-1], sizes)
    discounted = np.where(position < k, gains[order] / np.log2(position + 2), 0.0)
    sums: Floats = np.bincount(list_of, weights=discounted, minlength=len(sizes)).astype(np.float64)
    return sums


def _report(reached: Floats, ideal: Floats, definition: MetricDefinition) -> NdcgReport:
    empty = ideal == 0
    without = np.nan if definition.empty_lists == "left_out" else 0.0
    per_list = np.where(empty, without, reached / np.where(empty, 1.0, ideal))
    left_out = int(np.isnan(per_list).sum())
    counted = len(per_list) - left_out
    mean = float(np.nansum(per_list) / counted) if counted else float("nan")
    return NdcgReport(mean, counted, left_out, per_list, definition)


def _checked(
    labels: ArrayLike, scores: ArrayLike, offsets: ArrayLike, definition: MetricDefinition
) -> tuple[Floats, Floats, NDArray[np.int64]]:
    relevance, given = np.asarray(labels, dtype=np.float64), np.asarray(scores, dtype=np.float64)
    bounds = np.asarray(offsets, dtype=np.int64)
    if definition.k < 1:
        raise ValueError(f"k={definition.k}: expected k >= 1")
    if relevance.ndim != 1 or relevance.shape != given.shape:
        raise ValueError(f"labels {relevance.shape} and scores {given.shape}: expected the same (candidates,)")
    if np.isnan(given).any() or not (np.isfinite(relevance).all() and (relevance >= 0).all()):
        raise ValueError("labels must be finite and >= 0, scores must be numbers")
    if not len(bounds) or bounds[0] != 0 or bounds[-1] != len(given) or (np.diff(bounds) < 0).any():
        raise ValueError(f"offsets must ascend from 0 to the {len(given)} candidates")
    return relevance, given, bounds
