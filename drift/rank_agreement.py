"""How alike two rankings of one query are: many pairs of lists at once, arrays in, arrays out.

A pair is what matters of two lists of distinct items: how long each is, and where each item of the
first stands in the second (`Pairs`). Every measure but `score_shift` is of the order alone. Each
returns shape (pairs,), and nan where a pair says nothing, such as two empty lists.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, repeat

import numpy as np
from numpy.typing import NDArray

from drift.moments import FloatArray

IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Pairs:
    """partner: (pairs, width), the place in the second list, from 0, of the first's item at this place;
    -1 where there is no item, or it is not in the second list. first, second: (pairs,), lengths.
    """

    partner: IntArray
    first: IntArray
    second: IntArray

    @staticmethod
    def of(lists: Sequence[tuple[Sequence[str], Sequence[str]]], depth: int) -> "Pairs":
        """Of lists of distinct items, best first, cut to their first `depth`. Raises ValueError if depth < 1.

        >>> Pairs.of([(("a", "b", "c"), ("b", "d"))], depth=10).partner
        array([[-1,  0, -1]])
        """
        if depth < 1:
            raise ValueError(f"depth={depth}: expected 1 or more")
        cut = [(first[:depth], second[:depth]) for first, second in lists]
        lengths = np.array([(len(first), len(second)) for first, second in cut], dtype=np.int64).reshape(-1, 2)
        places = (map(dict(zip(second, range(depth), strict=False)).get, first, repeat(-1)) for first, second in cut)
        partner = np.full((len(cut), max(1, int(lengths[:, 0].max(initial=0)))), -1, dtype=np.int64)
        filled = np.arange(partner.shape[1]) < lengths[:, :1]
        partner[filled] = np.fromiter(chain.from_iterable(places), np.int64, int(lengths[:, 0].sum()))
        return Pairs(partner, lengths[:, 0], lengths[:, 1])

    def __len__(self) -> int:
        return len(self.partner)

    @property
    def common(self) -> BoolArray:
        """(pairs, width): whether the first's item is in the second list too."""
        return self.partner >= 0

    @property
    def swapped(self) -> "Pairs":
        """The second lists first."""
        width = max(1, int(self.second.max(initial=0)))
        partner = np.full((len(self), width), -1, dtype=np.int64)
        pair, place = np.nonzero(self.common)
        partner[pair, self.partner[pair, place]] = place
        return Pairs(partner, self.second, self.first)


def overlap_at(pairs: Pairs, k: int) -> FloatArray:
    """Share of the first k items that both lists have there, in [0, 1].

    Of the longer list, if both are shorter than k. nan if both are empty.

    >>> overlap_at(Pairs.of([("abc", "bcd"), ("ab", "ba")], depth=10), k=3)
    array([0.66666667, 1.        ])
    """
    both = (pairs.common & (pairs.partner < k))[:, :k].sum(axis=1)
    return _ratio(both, np.minimum(k, np.maximum(pairs.first, pairs.second)))


def first_agrees(pairs: Pairs) -> FloatArray:
    """1 where both lists begin with the same item, 0 where not; nan if both are empty.

    >>> first_agrees(Pairs.of([("ab", "ac"), ("ab", "ba")], depth=10))
    array([1., 0.])
    """
    return np.where(pairs.first + pairs.second > 0, pairs.partner[:, 0] == 0, np.nan)


def rank_biased_overlap(pairs: Pairs, p: float) -> FloatArray:
    """Extrapolated rank-biased overlap, RBO_ext, in [0, 1]: agreement at each depth, the top weighing most.

    p: how likely a reader is to go on to the next item, 0 < p < 1; the first ten places carry 86 % of
    the weight at p = 0.9. Lists may differ in length; what lies below them is taken to agree as what
    is seen does. 0 if one list is empty, nan if both are. Raises ValueError for another p.

    Source: Webber, Moffat & Zobel, TOIS 28(4), 2010, equation 32.

    >>> rank_biased_overlap(Pairs.of([("abc", "abc"), ("abc", "xyz"), ("ab", "ba")], depth=10), p=0.9).round(4)
    array([1. , 0. , 0.9])
    """
    if not 0 < p < 1:
        raise ValueError(f"p={p}: expected 0 < p < 1")
    shorter, longer = np.minimum(pairs.first, pairs.second), np.maximum(pairs.first, pairs.second)
    depths = max(1, int(longer.max(initial=0)))
    pair, place = np.nonzero(pairs.common)
    met = np.maximum(place, pairs.partner[pair, place])  # the item is in both from here on
    shared = np.bincount(pair * depths + met, minlength=len(pairs) * depths).reshape(-1, depths).cumsum(axis=1)

    depth = np.arange(1, depths + 1)
    of_shorter = np.maximum(shorter, 1)
    at_shorter = _at(shared, of_shorter - 1)
    at_longer = _at(shared, np.maximum(longer, 1) - 1)
    beyond = np.maximum(depth - shorter[:, None], 0)  # places where the shorter list's items are assumed
    assumed = at_shorter[:, None] * beyond / (of_shorter[:, None] * depth)
    weighted = np.where(depth <= longer[:, None], (shared / depth + assumed) * p**depth, 0.0).sum(axis=1)
    rest = ((at_longer - at_shorter) / np.maximum(longer, 1) + at_shorter / of_shorter) * p**longer
    return np.where(longer > 0, np.clip((1 - p) / p * weighted + rest, 0.0, 1.0), np.nan)


def kendall_tau(pairs: Pairs, first_scores: FloatArray, second_scores: FloatArray) -> FloatArray:
    """Kendall's tau-b of the items that both lists have, by their scores in each, in [-1, 1].

    1: the same order, -1: the reverse. It does not see items that one list lacks: `top_distance` does.
    first_scores: (pairs, width of the first lists), second_scores: likewise of the second; whatever is
    in the padding is not looked at. nan with fewer than two items in common, or if a list ties them all.

    Source: Kendall, Biometrika 33(3), 1945.
    """
    common = pairs.common
    first = np.where(common, first_scores[:, : common.shape[1]], np.nan)
    second = np.where(common, np.take_along_axis(second_scores, np.maximum(pairs.partner, 0), axis=1), np.nan)
    zeros = np.zeros(len(pairs))
    agreement, untied_first, untied_second = zeros.copy(), zeros.copy(), zeros.copy()
    for apart in range(1, common.shape[1]):
        compared = common[:, apart:] & common[:, :-apart]
        left = np.where(compared, np.sign(first[:, :-apart] - first[:, apart:]), 0.0)
        right = np.where(compared, np.sign(second[:, :-apart] - second[:, apart:]), 0.0)
        agreement += (left * right).sum(axis=1)
        untied_first += np.abs(left).sum(axis=1)
        untied_second += np.abs(right).sum(axis=1)
    return _ratio(agreement, np.sqrt(untied_first * untied_second))


def top_distance(pairs: Pairs, penalty: float) -> FloatArray:
    """Kendall distance of two top lists over all items in either, 0 (the same list) to 1 (nothing in common).

    A pair of items counts 1 if the lists surely order it differently, an item being below the end of a
    list that lacks it, and `penalty` if one list has both and the other neither: 0 is the optimistic
    distance, 1/2 the neutral one. Over what disjoint lists of these lengths have. nan if one is empty.

    Source: Fagin, Kumar & Sivakumar, SIAM J. Discrete Math. 17(1), 2003, section 3.1: K^(p).

    >>> top_distance(Pairs.of([("ab", "ba"), ("ab", "cd"), ("ab", "ac")], depth=10), penalty=0.5).round(4)
    array([0.2, 1. , 0.2])
    """
    if not 0 <= penalty <= 0.5:
        raise ValueError(f"penalty={penalty}: expected 0 <= penalty <= 0.5")
    both = pairs.common.sum(axis=1)
    only_first, only_second = pairs.first - both, pairs.second - both
    differently = _crossings(pairs) + _overtaken(pairs) + _overtaken(pairs.swapped) + only_first * only_second
    unknown = _choose_two(only_first) + _choose_two(only_second)
    most = pairs.first * pairs.second + penalty * (_choose_two(pairs.first) + _choose_two(pairs.second))
    return np.where((pairs.first > 0) & (pairs.second > 0), _ratio(differently + penalty * unknown, most), np.nan)


def score_shift(
    first_scores: FloatArray,
    first_standard: tuple[float, float],
    second_scores: FloatArray,
    second_standard: tuple[float, float],
) -> FloatArray:
    """How much higher the second lists score than the first, each in its own version's standard deviations.

    scores: (pairs, width), nan where there is no item. standard: mean and standard deviation of the
    version's scores where it was made (its reference profile): a version whose scores are another one's
    times a factor shows no shift. nan where a list is empty, or a deviation is not above 0.
    """
    if not (first_standard[1] > 0 and second_standard[1] > 0):
        return np.full(len(first_scores), np.nan)
    means = []
    for scores, (mean, std) in ((first_scores, first_standard), (second_scores, second_standard)):
        present = ~np.isnan(scores)
        total = np.where(present, scores, 0.0).sum(axis=1)
        means.append((_ratio(total, present.sum(axis=1)) - mean) / std)
    return means[1] - means[0]


def _crossings(pairs: Pairs) -> IntArray:
    """Pairs of common items that the lists order differently."""
    common, partner = pairs.common, pairs.partner
    crossed = np.zeros(len(pairs), dtype=np.int64)
    for apart in range(1, common.shape[1]):
        compared = common[:, apart:] & common[:, :-apart]
        crossed += (compared & (partner[:, :-apart] > partner[:, apart:])).sum(axis=1)
    return crossed


def _overtaken(pairs: Pairs) -> IntArray:
    """Pairs of a common item and one of the first list alone, where the latter stands ahead."""
    alone = ~pairs.common & (np.arange(pairs.partner.shape[1]) < pairs.first[:, None])
    overtaken: IntArray = np.where(pairs.common, alone.cumsum(axis=1), 0).sum(axis=1)
    return overtaken


def _choose_two(count: IntArray) -> IntArray:
    return count * (count - 1) // 2


def _at(rows: IntArray, column: IntArray) -> IntArray:
    found: IntArray = np.take_along_axis(rows, column[:, None], axis=1)[:, 0]
    return found


def _ratio(above: FloatArray | IntArray, below: FloatArray | IntArray) -> FloatArray:
    """nan where there is nothing to divide by."""
    return np.where(below > 0, above / np.where(below > 0, below, 1), np.nan)
