"""Laws of agreement, and each measure against scipy, the definition itself, or a value worked by hand."""

from collections.abc import Sequence
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import kendalltau

from drift.moments import FloatArray
from drift.rank_agreement import (
    Pairs,
    first_agrees,
    kendall_tau,
    overlap_at,
    rank_biased_overlap,
    score_shift,
    top_distance,
)

List = tuple[str, ...]
DEPTH = 12

lists = st.lists(st.sampled_from("abcdefghijklmn"), max_size=9, unique=True).map(tuple)
pairs_of_lists = st.lists(st.tuples(lists, lists), min_size=1, max_size=8)


def padded(rows: Sequence[Sequence[float]]) -> FloatArray:
    """As one matrix, nan where a row has ended."""
    width = max(1, *(len(row) for row in rows))
    return np.array([[*row, *[np.nan] * (width - len(row))] for row in rows])


def falling(given_: Sequence[List]) -> FloatArray:
    """Scores that say what the order says."""
    return padded([np.arange(len(one), 0, -1.0).tolist() for one in given_])


def tau(given_: Sequence[tuple[List, List]]) -> FloatArray:
    first, second = zip(*given_, strict=True)
    return kendall_tau(Pairs.of(given_, DEPTH), falling(first), falling(second))


def agreement(first: List, second: List, depth: int) -> float:
    """Of the prefixes; the shorter list's is all of it once the depth is past its end."""
    return len(set(first[:depth]) & set(second[:depth])) / depth


def rbo_of_the_definition(first: List, second: List, p: float) -> float:
    """The sum over all depths, the lists being continued so that agreement goes on as the paper assumes:
    beyond the shorter list its share of agreement, beyond the longer one the last agreement."""
    short, long = sorted((first, second), key=len)
    s, l = len(short), len(long)  # noqa: E741 - the paper's names
    if s == 0:
        return 0.0
    of_short = len(set(short) & set(long[:s])) / s

    def at(depth: int) -> float:
        seen = min(depth, l)
        assumed = of_short * max(seen - s, 0) / seen
        return agreement(first, second, seen) + assumed

    return float((1 - p) * sum(at(depth) * p ** (depth - 1) for depth in range(1, 2000)))


def fagin(first: List, second: List, penalty: float) -> float:
    """K^(p), case by case over all pairs of items of the union."""

    def place(of: List, item: str) -> float:
        return of.index(item) if item in of else float("inf")

    total = 0.0
    for i, j in combinations(sorted(set(first) | set(second)), 2):
        a = place(first, i) - place(first, j)
        b = place(second, i) - place(second, j)
        if np.isnan(a) or np.isnan(b):  # both items lack in one list
            total += penalty
        elif a * b < 0:
            total += 1
    return total


@pytest.mark.parametrize("p", [0.5, 0.9, 0.98])
@given(given_=pairs_of_lists)
def test_rank_biased_overlap_is_the_sum_of_its_definition(p: float, given_: list[tuple[List, List]]) -> None:
    found = rank_biased_overlap(Pairs.of(given_, DEPTH), p)

    for (first, second), value in zip(given_, found.tolist(), strict=True):
        if first or second:
            assert value == pytest.approx(rbo_of_the_definition(first, second, p), abs=1e-9)
        else:
            assert np.isnan(value)


def test_rank_biased_overlap_of_uneven_lists_is_as_worked_by_hand() -> None:
    # S = a b, L = b a c; X = 0, 2, 2; s = 2, l = 3, p = 1/2
    # (1-p)/p * (0 + 2/2 p^2 + 2/3 p^3 + 2 * 1/(2*3) p^3) + ((2-2)/3 + 2/2) p^3 = 1/4 + 1/8 + 1/8
    assert rank_biased_overlap(Pairs.of([("ab", "bac")], DEPTH), 0.5).tolist() == pytest.approx([0.5])


@pytest.mark.parametrize("penalty", [0.0, 0.5])
@given(given_=pairs_of_lists)
def test_top_distance_is_fagins_over_that_of_disjoint_lists(penalty: float, given_: list[tuple[List, List]]) -> None:
    found = top_distance(Pairs.of(given_, DEPTH), penalty)

    for (first, second), value in zip(given_, found.tolist(), strict=True):
        if first and second:
            most = fagin(first, tuple(item.upper() for item in second), penalty)
            assert value == pytest.approx(fagin(first, second, penalty) / most)
        else:
            assert np.isnan(value)


@given(st.data())
def test_kendall_tau_is_scipys_over_the_common_items_ties_too(data: st.DataObject) -> None:
    given_ = data.draw(pairs_of_lists)
    grades = st.integers(0, 3).map(float)
    scores = [tuple([data.draw(grades) for _ in one] for one in pair) for pair in given_]

    found = kendall_tau(Pairs.of(given_, DEPTH), padded([s[0] for s in scores]), padded([s[1] for s in scores]))

    for (first, second), (of_first, of_second), value in zip(given_, scores, found.tolist(), strict=True):
        common = [item for item in first if item in second]
        x, y = [of_first[first.index(i)] for i in common], [of_second[second.index(i)] for i in common]
        if len(set(x)) > 1 and len(set(y)) > 1:
            assert value == pytest.approx(kendalltau(x, y, variant="b").statistic)
        else:
            assert np.isnan(value)


@given(pairs_of_lists, st.integers(1, 10))
def test_overlap_and_first_item_are_those_of_sets(given_: list[tuple[List, List]], k: int) -> None:
    pairs = Pairs.of(given_, DEPTH)

    for (first, second), overlap, agrees in zip(given_, overlap_at(pairs, k), first_agrees(pairs), strict=True):
        if first or second:
            shown = min(k, max(len(first), len(second)))
            assert overlap == pytest.approx(len(set(first[:k]) & set(second[:k])) / shown)
            assert agrees == (first[:1] == second[:1])
        else:
            assert np.isnan(overlap) and np.isnan(agrees)


@given(st.lists(st.lists(st.sampled_from("abcdefgh"), min_size=2, unique=True).map(tuple), min_size=1, max_size=5))
def test_identical_lists_agree_in_everything_and_disjoint_ones_in_nothing(given_: list[List]) -> None:
    same = [(one, one) for one in given_]
    apart = [(one, tuple(item.upper() for item in one)) for one in given_]
    reversed_ = [(one, one[::-1]) for one in given_]

    for measure in (lambda p: overlap_at(p, 10), first_agrees, lambda p: rank_biased_overlap(p, 0.9)):
        assert measure(Pairs.of(same, DEPTH)) == pytest.approx(1.0)
        assert measure(Pairs.of(apart, DEPTH)) == pytest.approx(0.0)
    for penalty in (0.0, 0.5):
        assert top_distance(Pairs.of(same, DEPTH), penalty) == pytest.approx(0.0)
        assert top_distance(Pairs.of(apart, DEPTH), penalty) == pytest.approx(1.0)
    assert tau(same) == pytest.approx(1.0)
    assert tau(reversed_) == pytest.approx(-1.0)
    assert np.isnan(tau(apart)).all()


@given(pairs_of_lists)
def test_no_list_comes_first(given_: list[tuple[List, List]]) -> None:
    there, back = Pairs.of(given_, DEPTH), Pairs.of([(second, first) for first, second in given_], DEPTH)

    for measure in (
        lambda p: overlap_at(p, 5),
        first_agrees,
        lambda p: rank_biased_overlap(p, 0.9),
        lambda p: top_distance(p, 0.5),
    ):
        np.testing.assert_allclose(measure(there), measure(back), atol=1e-12)
    np.testing.assert_allclose(tau(given_), tau([(second, first) for first, second in given_]))
    np.testing.assert_array_equal(there.swapped.partner, back.partner)


@given(pairs_of_lists)
def test_a_pair_among_many_has_the_value_it_has_alone(given_: list[tuple[List, List]]) -> None:
    together = rank_biased_overlap(Pairs.of(given_, DEPTH), 0.9)
    alone = [rank_biased_overlap(Pairs.of([one], DEPTH), 0.9)[0] for one in given_]

    np.testing.assert_allclose(together, alone)


@pytest.mark.parametrize(("factor", "offset"), [(1.5, 0.0), (1e-3, 40.0), (100.0, -7.0)])
def test_a_version_whose_scores_are_rescaled_shifts_nothing_and_reorders_nothing(factor: float, offset: float) -> None:
    rng = np.random.default_rng(5)
    first, second = (-np.sort(-rng.normal(size=(20, 6)), axis=1) for _ in range(2))
    pairs = Pairs.of([("abcdef", "fbxcad")] * 20, DEPTH)
    standard = (0.3, 2.0)
    rescaled = (standard[0] * factor + offset, standard[1] * factor)

    shift = score_shift(first, standard, second, standard)

    np.testing.assert_allclose(shift, score_shift(first, standard, second * factor + offset, rescaled), atol=1e-9)
    np.testing.assert_array_equal(
        kendall_tau(pairs, first, second), kendall_tau(pairs, first, second * factor + offset)
    )
    np.testing.assert_allclose(shift, (second.mean(axis=1) - first.mean(axis=1)) / 2.0)


def test_a_shift_without_a_deviation_or_a_list_is_unknown() -> None:
    scores = padded([[1.0, 2.0], []])

    assert np.isnan(score_shift(scores, (0.0, 0.0), scores, (0.0, 1.0))).all()
    assert np.isnan(score_shift(scores, (0.0, 1.0), scores, (1.0, 1.0))).tolist() == [False, True]


@pytest.mark.parametrize("wrong", [0.0, 1.0, -0.1])
def test_parameters_without_meaning_are_refused(wrong: float) -> None:
    pairs = Pairs.of([("ab", "ba")], DEPTH)

    with pytest.raises(ValueError, match="expected 0 < p < 1"):
        rank_biased_overlap(pairs, wrong)
    with pytest.raises(ValueError, match="penalty"):
        top_distance(pairs, 0.51)
    with pytest.raises(ValueError, match="depth"):
        Pairs.of([], 0)


def test_no_lists_have_no_values() -> None:
    pairs = Pairs.of([], DEPTH)

    for values in (
        overlap_at(pairs, 10),
        first_agrees(pairs),
        rank_biased_overlap(pairs, 0.9),
        top_distance(pairs, 0.5),
    ):
        assert values.shape == (0,)
