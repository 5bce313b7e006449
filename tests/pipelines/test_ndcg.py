from itertools import pairwise
from random import Random

import lightgbm
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.metrics import ndcg_score

from pipelines.errors import DefinitionsDiffer
from pipelines.ndcg import mean_ndcg, ndcg_at_k, ndcg_of_served, paired
from registry.contracts.manifest import CLICK_NDCG, JUDGED_NDCG, MetricDefinition

LABELS = st.integers(0, 4).map(float)
Pairs = list[tuple[float, float]]  # label and score
LISTS = st.lists(st.tuples(LABELS, st.integers(-50, 50).map(float)), min_size=1, max_size=20)


def split(pairs: Pairs) -> tuple[np.ndarray, np.ndarray]:
    labels, scores = zip(*pairs, strict=True)
    return np.array(labels), np.array(scores)


def test_a_list_worked_by_hand() -> None:
    # served order: labels 3, 0, 2; gains 7, 0, 3; ideal 7, 3, 0
    reached = 7 / np.log2(2) + 3 / np.log2(4)
    ideal = 7 / np.log2(2) + 3 / np.log2(3)

    assert ndcg_at_k([0.0, 3.0, 2.0], [2.0, 3.0, 1.0], k=3) == pytest.approx(reached / ideal, abs=1e-12)


def test_it_is_sklearns_on_exponential_gains_without_ties() -> None:
    rng = np.random.default_rng(0)
    for size in (2, 9, 10, 11, 60):
        labels, scores = rng.integers(0, 5, size).astype(float), rng.permutation(size).astype(float)
        labels[0] = 1.0

        expected = ndcg_score([np.exp2(labels) - 1], [scores], k=10)

        assert ndcg_at_k(labels, scores, k=10) == pytest.approx(expected, abs=1e-12)


def test_it_is_lightgbms_over_ragged_lists_that_have_something_relevant_at_every_cut() -> None:
    rng = np.random.default_rng(1)
    sizes = rng.integers(2, 60, 80)
    starts = np.cumsum(sizes) - sizes
    features, labels = rng.normal(size=(sizes.sum(), 3)), rng.integers(0, 5, sizes.sum()).astype(float)
    labels[starts] = np.maximum(labels[starts], 1.0)
    data = lightgbm.Dataset(features, labels, group=sizes, params={"min_data_in_leaf": 1, "verbose": -1})
    figures: dict[str, dict[str, list[float]]] = {}
    cuts = [1, 3, 10, 50]
    booster = lightgbm.train(
        {"objective": "lambdarank", "eval_at": cuts, "verbose": -1, "min_data_in_leaf": 1, "num_threads": 1},
        data,
        num_boost_round=20,
        valid_sets=[data],
        callbacks=[lightgbm.record_evaluation(figures)],
    )
    scores, offsets = booster.predict(features), np.concatenate([[0], sizes.cumsum()])

    for k in cuts:
        ours = mean_ndcg(labels, scores, offsets, MetricDefinition(k=k))
        assert ours.counted == 80
        assert ours.mean == pytest.approx(figures["training"][f"ndcg@{k}"][-1], abs=1e-9)


@given(LISTS, st.integers(-1000, 1000), st.integers(1, 12))
def test_a_shift_of_all_scores_changes_nothing(pairs: Pairs, shift: int, k: int) -> None:
    labels, scores = split(pairs)

    np.testing.assert_equal(ndcg_at_k(labels, scores + shift, k), ndcg_at_k(labels, scores, k))


@given(LISTS, st.integers(1, 12))
def test_it_lies_between_0_and_1_or_nothing_is_relevant(pairs: Pairs, k: int) -> None:
    labels, scores = split(pairs)
    value = ndcg_at_k(labels, scores, k)

    assert np.isnan(value) if not labels.any() else 0 <= value <= 1 + 1e-12


@given(LISTS, st.integers(1, 12), st.randoms())
def test_items_of_equal_label_can_change_places(pairs: Pairs, k: int, random: Random) -> None:
    labels, scores = split(pairs)
    distinct = scores + np.arange(len(scores)) / 100  # between tied items the order would matter
    swapped = distinct.copy()
    for label in set(labels):
        places = np.flatnonzero(labels == label)
        swapped[places] = distinct[random.sample(places.tolist(), len(places))]

    np.testing.assert_allclose(ndcg_at_k(labels, swapped, k), ndcg_at_k(labels, distinct, k), rtol=1e-12)


@given(st.lists(LISTS, min_size=1, max_size=6), st.sampled_from([JUDGED_NDCG, CLICK_NDCG, MetricDefinition(k=3)]))
def test_lists_in_a_batch_count_as_each_alone(lists: list[Pairs], definition: MetricDefinition) -> None:
    parts = [split(pairs) for pairs in lists]
    offsets = np.concatenate([[0], np.cumsum([len(labels) for labels, _ in parts])])
    labels, scores = (np.concatenate(whole) for whole in zip(*parts, strict=True))

    together = mean_ndcg(labels, scores, offsets, definition)
    alone = [mean_ndcg(own, given, [0, len(own)], definition).per_list[0] for own, given in parts]

    np.testing.assert_allclose(together.per_list, alone, rtol=1e-12)
    assert together.counted + together.left_out == len(lists)


@given(LISTS, st.integers(1, 12))
def test_a_served_top_k_counts_as_the_whole_ranking(pairs: Pairs, k: int) -> None:
    labels, scores = split(pairs)
    definition = MetricDefinition(k=k)
    served = labels[np.argsort(-scores, kind="stable")[:k]]

    np.testing.assert_allclose(ndcg_of_served(served, labels, definition), ndcg_at_k(labels, scores, k), rtol=1e-12)


def test_ties_keep_the_served_order() -> None:
    assert ndcg_at_k([1.0, 0.0], [5.0, 5.0], k=1) == 1.0
    assert ndcg_at_k([0.0, 1.0], [5.0, 5.0], k=1) == 0.0


def test_lists_without_a_relevant_item_are_left_out_and_counted() -> None:
    report = mean_ndcg([1.0, 0.0, 0.0], [1.0, 0.0, 1.0], [0, 2, 3], JUDGED_NDCG)

    assert (report.mean, report.counted, report.left_out) == (1.0, 1, 1)
    assert np.isnan(report.per_list[1])


def test_sessions_without_a_click_score_zero_and_stay() -> None:
    report = mean_ndcg([1.0, 0.0, 0.0], [1.0, 0.0, 1.0], [0, 2, 3], CLICK_NDCG)

    assert (report.mean, report.counted, report.left_out) == (0.5, 2, 0)


@given(arrays(np.float64, st.integers(1, 9), elements=st.floats(-4, -0.5)))
def test_negative_labels_are_refused(labels: np.ndarray) -> None:
    with pytest.raises(ValueError, match=">= 0"):
        ndcg_at_k(labels, np.zeros(len(labels)), 10)


@pytest.mark.parametrize(
    ("labels", "scores", "offsets", "k", "rule"),
    [
        ([1.0], [1.0, 2.0], [0, 1], 10, "the same"),
        ([1.0], [np.nan], [0, 1], 10, "numbers"),
        ([1.0, 1.0], [1.0, 2.0], [0, 1], 10, "ascend"),
        ([1.0], [1.0], [0, 1], 0, "k >= 1"),
    ],
)
def test_what_is_no_ranking_is_refused_with_the_rule(
    labels: list[float], scores: list[float], offsets: list[int], k: int, rule: str
) -> None:
    with pytest.raises(ValueError, match=rule):
        mean_ndcg(labels, scores, offsets, MetricDefinition(k=k))


def test_more_shown_than_ranked_is_refused() -> None:
    with pytest.raises(ValueError, match="at most as many"):
        ndcg_of_served([1.0, 0.0], [1.0], JUDGED_NDCG)


def test_two_lists_of_different_length_worked_by_hand() -> None:
    # list 1 serves labels 1, 0, 2 and list 2 serves 0, 1; gains 1, 0, 3 and 0, 1
    first = (1 / np.log2(2) + 3 / np.log2(4)) / (3 / np.log2(2) + 1 / np.log2(3))
    second = (1 / np.log2(3)) / 1

    report = mean_ndcg([2.0, 1.0, 0.0, 1.0, 0.0], [1.0, 3.0, 2.0, 1.0, 2.0], [0, 3, 5], JUDGED_NDCG)

    np.testing.assert_allclose(report.per_list, [first, second], atol=1e-12)
    assert report.mean == pytest.approx((first + second) / 2, abs=1e-12)


def test_ragged_lists_are_sklearns_one_by_one_also_with_linear_gain() -> None:
    rng = np.random.default_rng(3)
    sizes = rng.integers(2, 40, 60)
    offsets = np.concatenate([[0], sizes.cumsum()])
    labels, scores = rng.integers(1, 5, offsets[-1]).astype(float), rng.permutation(offsets[-1]).astype(float)
    linear = MetricDefinition(gain="linear")

    ours, exponential = mean_ndcg(labels, scores, offsets, linear), mean_ndcg(labels, scores, offsets, JUDGED_NDCG)

    for i, (start, end) in enumerate(pairwise(offsets)):
        own, given = labels[start:end], scores[start:end]
        assert ours.per_list[i] == pytest.approx(ndcg_score([own], [given], k=10), abs=1e-12)
        assert exponential.per_list[i] == pytest.approx(ndcg_score([np.exp2(own) - 1], [given], k=10), abs=1e-12)


def test_lightgbm_scores_a_list_without_a_relevant_item_one_and_we_leave_it_out() -> None:
    rng = np.random.default_rng(4)
    sizes = np.array([8, 8, 8])
    features, labels = rng.normal(size=(24, 2)), rng.integers(0, 3, 24).astype(float)
    labels[:8] = 0.0
    data = lightgbm.Dataset(features, labels, group=sizes, params={"min_data_in_leaf": 1, "verbose": -1})
    figures: dict[str, dict[str, list[float]]] = {}
    booster = lightgbm.train(
        {"objective": "lambdarank", "eval_at": [10], "verbose": -1, "min_data_in_leaf": 1, "num_threads": 1},
        data,
        num_boost_round=5,
        valid_sets=[data],
        callbacks=[lightgbm.record_evaluation(figures)],
    )

    ours = mean_ndcg(labels, booster.predict(features), [0, 8, 16, 24], JUDGED_NDCG)

    assert ours.left_out == 1
    assert figures["training"]["ndcg@10"][-1] == pytest.approx((1 + 2 * ours.mean) / 3, abs=1e-9)


def test_figures_of_two_definitions_are_not_compared() -> None:
    judged = mean_ndcg([1.0, 0.0], [1.0, 0.0], [0, 2], JUDGED_NDCG)
    clicked = mean_ndcg([1.0, 0.0], [1.0, 0.0], [0, 2], CLICK_NDCG)

    with pytest.raises(DefinitionsDiffer, match="measure both versions under one definition"):
        paired(judged, clicked)


def test_lists_that_count_for_neither_are_left_out_of_a_pair_and_counted() -> None:
    labels, offsets = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0], [0, 2, 4, 6]

    pair = paired(
        mean_ndcg(labels, [0, 1, 0, 1, 1, 0], offsets, JUDGED_NDCG),
        mean_ndcg(labels, [1, 0, 0, 1, 1, 0], offsets, JUDGED_NDCG),
    )

    assert (len(pair), pair.left_out, pair.lists.tolist()) == (2, 1, [0, 2])
    np.testing.assert_allclose(pair.differences, [1 - 1 / np.log2(3), 0.0])
    assert pair.lift == pytest.approx(2 / (1 + 1 / np.log2(3)) - 1)


def test_figures_of_other_lists_are_not_paired() -> None:
    one = mean_ndcg([1.0, 0.0], [1.0, 0.0], [0, 2], JUDGED_NDCG)
    none_relevant = mean_ndcg([0.0, 0.0], [1.0, 0.0], [0, 2], JUDGED_NDCG)

    with pytest.raises(ValueError, match="the same lists"):
        paired(one, none_relevant)
    assert np.isnan(paired(none_relevant, none_relevant).lift)
