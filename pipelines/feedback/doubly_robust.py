"""Two policies' click-NDCG from all looks at each item, and from what chance showed of them.

Under the position-based model a log says of an item what was clicked and how often it was looked at; where it stood
is in the looks. So everything is summed by query and item first (`attraction`): a log of many lists of few queries
says more of each item than any one of its lists does. Both policies' lists are then worth what their items attract.

- The model: every item's attraction, pooled with items like it. It has little variance, and is as right as likeness is.
- The correction: how far off the model was where chance showed an item, by the inverse of that chance. It is right
  whatever the model, and scatters.

Of the correction counts as much as is more than chance makes it in one of a hundred logs: where the log does not
contradict the model, the model stands; where it does, the correction takes its place. Clicks of one list hang together,
as some users click more than others, and a click is worth less beside others: how much they do is estimated from pairs
of clicks, and the expectation is taken over users so unequal.

The error is that of the whole estimate made again without each group of units (delete-a-group jackknife), for
examination and attraction are of the same clicks as the lift. The click-NDCG of the groups is taken as if users were
alike, which costs an eighth and hardly changes how far they are apart.

Sources: Dudík, Langford & Li, "Doubly robust policy evaluation and learning", ICML 2011; with as much of a correction
as its variance bears: Su, Dimakopoulou, Krishnamurthy & Dudík, "Doubly robust off-policy evaluation with shrinkage",
ICML 2020; weights over all positions that chance might have given an item: Li, Abbasi-Yadkori, Kveton, Muthukrishnan,
Vinay & Wen, "Offline evaluation of ranking policies with click models", KDD 2018.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import chi2, gamma

from pipelines.feedback.attraction import Attraction, Kinds, attraction
from pipelines.feedback.click_ndcg import expected_ndcg
from pipelines.feedback.explored_lists import ClickLists
from registry.contracts.manifest import MetricDefinition

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Mask = NDArray[np.bool_]

_BY_CHANCE = 0.01  # how often a correction counts that is none
_LEVELS = 8  # of keenness
_MOST_UNEQUAL = 4.0  # variance of keenness
_STEPS = 2001  # of a chance, of which those between are taken linearly


@dataclass(frozen=True, slots=True)
class Lift:
    """champion, challenger: click-NDCG. lift: relative. corrected: the part of it that is correction."""

    champion: float
    challenger: float
    lift: float
    corrected: float


@dataclass(frozen=True, slots=True)
class _Sums:
    """What some of the lists say, with examination as they tell it. rows: of the log, those of these lists. clicks,
    looks and the looks' squares: (pairs,). lists: how many, (queries,)."""

    rows: Mask
    examination: Floats
    clicks: Floats
    looks: Floats
    squares: Floats
    lists: Floats


class PairedPolicies:
    """The log by query and item, with both policies' lists.

    champion, challenger: (queries, width), item numbers, best first, `NONE` where shorter, of the queries that the
    log's numbers name. Estimated are the first k; what is deeper tells what items are like. most_weight: a larger
    inverse of a chance is cut.
    """

    def __init__(
        self, log: ClickLists, champion: Ints, challenger: Ints, metric: MetricDefinition, most_weight: float
    ) -> None:
        self._log, self._metric, self._most_weight = log, metric, most_weight
        sizes = np.diff(log.offsets)
        self._list_of = np.repeat(np.arange(len(sizes)), sizes)
        self._place = np.arange(len(self._list_of)) - log.offsets[:-1][self._list_of]
        width = 1 + max(int(log.items.max(initial=0)), int(champion.max(initial=0)), int(challenger.max(initial=0)))
        query = np.arange(len(champion))[:, None]
        shown = log.queries[self._list_of] * width + log.items
        ours, theirs = (np.where(of >= 0, query * width + of, -1) for of in (champion, challenger))
        pairs = np.unique(np.concatenate([shown, ours.ravel(), theirs.ravel()]))
        pairs = pairs[pairs >= 0]
        self._pair = np.searchsorted(pairs, shown)
        of_each = [np.where(of >= 0, np.searchsorted(pairs, of), -1) for of in (ours, theirs)]
        self._slots = [of[:, : metric.k] for of in of_each]
        self._chance = np.zeros(len(pairs))  # to be shown at all
        np.maximum.at(self._chance, self._pair, log.shown_chance)
        ranks = [_ranks(of, len(pairs)) for of in of_each]
        self._kinds = Kinds(pairs // width, ranks[0], ranks[1], self._chance < 0.5, metric.k)

    def lift(self, examination: Floats) -> "Estimated":
        """By all lists. examination: as long as the lists are."""
        sums = self._sums(np.ones(len(self._log.queries), dtype=bool), examination)
        found = self._attraction(sums)
        levels = _levels(self._unequal(sums, found))
        champion, challenger = (self._value(slots, sums, found, levels) for slots in self._slots)
        lift = challenger / champion - 1 if champion > 0 else float("nan")
        correction, error = self._correction(sums, found)
        bound = float(chi2.ppf(1 - _BY_CHANCE, 1)) * error**2
        counts = max(0.0, 1 - bound / correction**2) if correction**2 > bound else 0.0
        whole = lift + counts * correction
        return Estimated(self, Lift(champion, (1 + whole) * champion, whole, counts * correction), counts)

    def without(self, group_of: Ints, group: int, examination: Floats, counts: float) -> float:
        """The lift by the lists of all other groups of units. counts: how much of the correction. group_of: (lists,)"""
        sums = self._sums(group_of != group, examination)
        found = self._attraction(sums)
        champion, challenger = (self._value(slots, sums, found, np.ones(1)) for slots in self._slots)
        if champion <= 0:
            return float("nan")
        return challenger / champion - 1 + (counts * self._correction(sums, found)[0] if counts else 0.0)

    def _sums(self, lists: Mask, examination: Floats) -> _Sums:
        rows, pairs = lists[self._list_of], len(self._chance)
        clicks = np.bincount(self._pair, weights=self._log.clicks & rows, minlength=pairs).astype(np.float64)
        looked = examination[self._place] * rows
        looks, squares = (
            np.bincount(self._pair, weights=of, minlength=pairs).astype(np.float64) for of in (looked, looked**2)
        )
        times = np.bincount(self._log.queries[lists], minlength=len(self._slots[0])).astype(np.float64)
        return _Sums(rows, examination, clicks, looks, squares, times)

    def _attraction(self, sums: _Sums) -> Attraction:
        return attraction(sums.clicks, sums.looks, sums.squares, self._kinds)

    def _chances(self, slots: Ints, sums: _Sums, found: Attraction) -> Floats:
        """Of a click, of a usual user. Shape (queries, k)."""
        return np.where(slots >= 0, found.pooled[slots] * sums.examination[: slots.shape[1]], 0.0)

    def _value(self, slots: Ints, sums: _Sums, found: Attraction, levels: Floats) -> float:
        """Expected click-NDCG over users of these levels of keenness, each an equal part of them.

        None clicks with a chance above 1: where an item was mostly seen at the top, its clicks are already those of
        users of whom the keen could not click more, and it attracts more than they tell.
        """
        usual = np.where(sums.looks > 0, sums.squares / np.maximum(sums.looks, 1e-300), sums.examination.mean())
        attracts = _unbounded(found.pooled * usual, levels) / usual
        wanted = np.where(slots >= 0, attracts[slots] * sums.examination[: slots.shape[1]], 0.0)
        values = [expected_ndcg(np.minimum(level * wanted, 1.0), self._metric) for level in levels]
        return float(np.mean(values, axis=0) @ sums.lists / sums.lists.sum())

    def _unequal(self, sums: _Sums, found: Attraction) -> float:
        """Variance of keenness: how many more pairs of clicks lists have than if each were clicked by itself."""
        lists = len(self._log.queries)
        chance = found.pooled[self._pair] * sums.examination[self._place]
        clicks, wanted, squares = (
            np.bincount(self._list_of, weights=of, minlength=lists) for of in (self._log.clicks, chance, chance**2)
        )
        pairs, expected = float((clicks * (clicks - 1)).sum()), float((wanted**2 - squares).sum())
        return min(max(pairs / expected - 1, 0.0), _MOST_UNEQUAL) if expected > 0 else 0.0

    def _correction(self, sums: _Sums, found: Attraction) -> tuple[float, float]:
        """Of the lift, with its standard error over units.

        An item that is always shown has been looked at as often as could be expected; one that chance brings in,
        with the chance of it, at each position alike.
        """
        log, pairs = self._log, len(self._chance)
        usual = np.append(0.0, np.cumsum(sums.examination))[np.diff(log.offsets)] / np.maximum(np.diff(log.offsets), 1)
        rows = np.flatnonzero(sums.rows)
        pair = self._pair[rows]
        times = np.maximum(np.bincount(pair, minlength=pairs), 1)
        by_list = np.bincount(pair, weights=usual[self._list_of[rows]], minlength=pairs) / times
        chance = np.maximum(self._chance, 1 / self._most_weight)
        expected = np.where(self._kinds.by_chance, sums.lists[self._kinds.query] * chance * by_list, sums.looks)
        seen = sums.looks > 0
        moves = np.where(seen, 1 / np.where(seen, expected, 1.0) - 1 / (sums.looks + found.looks), 0.0)
        worth = self._worth(sums, found)
        off = self._log.clicks[rows] - sums.examination[self._place[rows]] * found.expected[pair]
        added = (worth * moves)[pair] * off
        by_unit = np.bincount(np.unique(log.units[self._list_of[rows]], return_inverse=True)[1], weights=added)
        units = len(by_unit)
        error = float(np.sqrt(units / (units - 1) * (by_unit**2).sum())) if units > 1 else float("nan")
        return float(added.sum()), error

    def _worth(self, sums: _Sums, found: Attraction) -> Floats:
        """How the lift rises with each pair's attraction. Shape (pairs,)."""
        values, slopes = [], []
        for slots in self._slots:
            chances = self._chances(slots, sums, found)
            value = expected_ndcg(chances, self._metric)
            values.append(float(value @ sums.lists))
            slope = np.zeros(len(self._chance))
            for place in range(slots.shape[1]):  # affine in each chance
                more = chances.copy()
                more[:, place] += 1.0
                rise = (expected_ndcg(more, self._metric) - value) * sums.lists * sums.examination[place]
                there = slots[:, place] >= 0
                slope += np.bincount(slots[there, place], weights=rise[there], minlength=len(slope))
            slopes.append(slope)
        if values[0] <= 0:
            return np.zeros(len(self._chance))
        return (slopes[1] - values[1] / values[0] * slopes[0]) / values[0]


@dataclass(frozen=True, slots=True)
class Estimated:
    """The whole estimate, and what it takes to make it again without a group."""

    policies: PairedPolicies
    whole: Lift
    counts: float

    def without_each(self, group_of: Ints, examinations: Floats) -> Floats:
        """The lift without each group of units, with examination as the others tell it. Shape (groups,).

        group_of: of each list, from 0; examinations: (groups, positions)."""
        return np.array(
            [self.policies.without(group_of, group, looked, self.counts) for group, looked in enumerate(examinations)]
        )


def _ranks(pair_at: Ints, pairs: int) -> Ints:
    """The rank of every pair in its query's list; one below the last for those that are not in it. Shape (pairs,)."""
    found = np.full(pairs, pair_at.shape[1] + 1, dtype=np.int64)
    query, place = np.nonzero(pair_at >= 0)
    found[pair_at[query, place]] = place + 1
    return found


def _unbounded(chances: Floats, levels: Floats) -> Floats:
    """What chances would be, if users as keen as these could click more than surely. Same shape.

    chances: as they are over all levels, of which each is an equal part.
    """
    if len(levels) == 1:
        return chances
    wanted = np.linspace(0.0, 1.0, _STEPS) / levels.min()
    of_all = np.minimum(levels[:, None] * wanted, 1.0).mean(axis=0)
    return np.asarray(np.interp(chances, of_all, wanted), dtype=np.float64)


def _levels(unequal: float) -> Floats:
    """Keenness of each eighth of the users, 1 on average, of a gamma of this variance. Shape (levels,)."""
    if unequal < 1e-3:
        return np.ones(1)
    shape = 1 / unequal
    edges = gamma.ppf(np.arange(_LEVELS + 1) / _LEVELS, shape)
    return np.asarray(np.diff(gamma.cdf(edges, shape + 1)) * _LEVELS, dtype=np.float64)
