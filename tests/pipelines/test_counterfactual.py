"""A challenger's click-NDCG from the champion's log: near the truth, honest about its support."""

from functools import cache
from itertools import product
from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from pipelines.feedback.click_ndcg import expected_ndcg
from pipelines.feedback.counterfactual import CounterfactualReport, CounterfactualRules, counterfactual
from pipelines.feedback.explored_lists import NONE, ClickLists, explored_depth, shown_chance
from pipelines.feedback.position_bias import counts_of, counts_without_each, harvest, harvest_along
from pipelines.ndcg import mean_ndcg
from registry.contracts.manifest import CLICK_NDCG, JUDGED_NDCG, MetricDefinition
from serving.exploration import Exploration
from tests.pipelines.click_log import ClickLog, click_log

SHOWN = 10


def by_enumeration(chances: np.ndarray, k: int = 10) -> np.ndarray:
    """Expected click-NDCG over every pattern of clicks, by the one implementation of NDCG."""
    width = chances.shape[1]
    patterns = np.array(list(product([0.0, 1.0], repeat=width)))
    offsets = np.arange(0, patterns.size + 1, width)
    definition = MetricDefinition(k=k, gain="linear", empty_lists="zero")
    served = -np.arange(patterns.size, dtype=float)
    quality = mean_ndcg(patterns.ravel(), served, offsets, definition).per_list
    chance = np.prod(np.where(patterns[None] > 0, chances[:, None], 1 - chances[:, None]), axis=2)
    return np.asarray(chance @ quality)


def lists_of(log: ClickLog, sessions_a_unit: int = 3) -> ClickLists:
    offsets = np.arange(0, log.shown.size + 1, SHOWN)
    chance = shown_chance(log.propensities.ravel(), offsets, depth=20)
    units = np.arange(len(log.query_of)) // sessions_a_unit
    return ClickLists(log.query_of, units, log.shown.ravel(), log.clicks.ravel(), chance, offsets)


def reordered(log: ClickLog, pull: float) -> np.ndarray:
    """The ranker's order, pulled towards the labels (away, if negative)."""
    score = -np.log1p(np.argsort(log.base, axis=1)) + pull * log.labels
    return np.argsort(-score, axis=1, kind="stable")


def true_lift(log: ClickLog, order: np.ndarray) -> float:
    def quality(of: np.ndarray) -> float:
        labels = np.take_along_axis(log.labels, of[:, :SHOWN], axis=1)
        chances = log.model.examination(SHOWN) * log.model.attraction(labels)
        return float(by_enumeration(chances)[log.query_of].mean())

    return quality(order) / quality(log.base) - 1


@cache
def the_log() -> tuple[ClickLog, np.ndarray]:
    """100,000 lists, 5 % explored, with examination as estimated from them."""
    log = click_log(100_000, seed=10, noise=1.2)
    found = harvest(counts_of(log.pairs.ravel(), log.positions.ravel(), log.clicks.ravel()))
    return log, found.examination


def report_of(
    log: ClickLog, order: np.ndarray, examination: np.ndarray, rules: CounterfactualRules | None = None
) -> CounterfactualReport:
    return counterfactual(lists_of(log), log.base, order, examination, rules or CounterfactualRules())


@pytest.mark.parametrize("pull", [0.5, -0.25])
def test_the_lift_is_within_a_point_and_a_half_of_the_truth_at_5_percent_exploration(pull: float) -> None:
    log, examination = the_log()
    order = reordered(log, pull)
    truth = true_lift(log, order)

    report = report_of(log, order, examination)

    assert abs(truth) > 0.04
    assert report.refused == ""
    assert [estimate.method for estimate in report.estimates] == ["ips", "snips", "doubly_robust"]
    for estimate in report.estimates:
        assert abs(estimate.lift - truth) < 0.015
        assert estimate.low < estimate.lift < estimate.high
    assert np.sign(report.estimates[-1].low) == np.sign(report.estimates[-1].high) == np.sign(truth)


def estimated(log: ClickLog, order: np.ndarray, groups: int | None) -> CounterfactualReport:
    """With examination from the same log, and without each of so many groups of units."""
    units = np.repeat(np.arange(len(log.query_of)) // 3, SHOWN)
    rows = (log.pairs.ravel(), log.positions.ravel(), log.clicks.ravel())
    examination, without_each = harvest_along(counts_of(*rows), counts_without_each(*rows, units, groups or 10))
    rules = CounterfactualRules()
    return counterfactual(lists_of(log), log.base, order, examination, rules, without_each if groups else None)


def test_with_examination_estimated_too_the_interval_covers_the_truth_as_often_as_it_says() -> None:
    covered, width = {None: 0, 10: 0}, {None: 0.0, 10: 0.0}
    for seed in range(16):
        log = click_log(2000, seed=340 + seed, queries=40, noise=1.2, share=0.2)
        order = reordered(log, 0.5)
        truth = true_lift(log, order)
        for groups in covered:
            estimate = estimated(log, order, groups).doubly_robust
            assert estimate is not None
            covered[groups] += estimate.low <= truth <= estimate.high
            width[groups] += estimate.high - estimate.low

    assert covered[10] >= 13  # at 95 %, 1 in 140 series of 16 has fewer
    assert width[10] > 1.1 * width[None]  # examination taken as known


def test_lists_that_do_not_differ_have_an_interval_of_nothing_also_where_examination_may_be_off() -> None:
    log = click_log(3000, seed=19, queries=40, noise=1.2, share=0.2)

    report = estimated(log, log.base, 10)

    assert not report.examination_known
    assert [(one.lift, one.low, one.high) for one in report.estimates] == [(0.0, 0.0, 0.0)] * 3


def test_the_champions_own_log_alone_would_be_far_off() -> None:
    """What the challenger's order of the shown items would score with the clicks as they were."""
    log, _ = the_log()
    order = reordered(log, 0.5)
    rank_of = np.argsort(order, axis=1)
    scores = -rank_of[log.query_of[:, None], log.shown].astype(float)
    offsets = np.arange(0, log.shown.size + 1, SHOWN)
    naive = mean_ndcg(log.clicks.ravel().astype(float), scores.ravel(), offsets, CLICK_NDCG).mean
    logged = mean_ndcg(log.clicks.ravel().astype(float), -np.arange(log.shown.size), offsets, CLICK_NDCG).mean

    assert naive / logged - 1 < true_lift(log, order) - 0.03


def test_the_same_lists_have_a_lift_of_exactly_nothing() -> None:
    log = click_log(5000, seed=11)

    report = report_of(log, log.base, log.model.examination(SHOWN))

    for estimate in report.estimates:
        assert (estimate.lift, estimate.low, estimate.high) == (0.0, 0.0, 0.0)
    assert report.support == 1.0


def test_an_unexplored_log_says_of_its_own_policy_what_was_seen() -> None:
    log = click_log(3000, seed=12, share=0.0)

    report = report_of(log, log.base, log.model.examination(SHOWN))
    offsets = np.arange(0, log.shown.size + 1, SHOWN)
    seen = mean_ndcg(log.clicks.ravel().astype(float), -np.arange(log.shown.size), offsets, CLICK_NDCG).mean

    assert report.logged == pytest.approx(seen, abs=1e-12)
    assert report.estimates[0].champion == pytest.approx(seen, abs=1e-12)
    assert report.estimates[1].champion == pytest.approx(seen, abs=1e-12)
    assert report.estimates[2].champion == pytest.approx(seen, abs=0.01)


def test_what_was_never_shown_is_not_spoken_of() -> None:
    log = click_log(20_000, seed=13, share=0.0)
    order = reordered(log, 0.5)

    report = report_of(log, order, log.model.examination(SHOWN))

    assert report.support < 0.9
    assert report.estimates == ()
    assert report.doubly_robust is None
    assert "limit 90%: explore more traffic" in report.refused


def test_support_counts_shown_items_of_the_challengers_first_k() -> None:
    lists = ClickLists(
        np.array([0, 1]),
        np.array([0, 1]),
        np.array([1, 2, 1, 3]),
        np.array([True, False, False, True]),
        np.ones(4),
        np.array([0, 2, 4]),
    )
    challenger = np.array([[2, 9], [3, NONE]])

    report = counterfactual(lists, np.array([[1, 2], [1, 2]]), challenger, [1.0, 0.5], CounterfactualRules())

    assert report.support == pytest.approx(2 / 3)
    assert report.refused


def test_few_weighted_clicks_are_not_spoken_of() -> None:
    log = click_log(100, seed=14)

    report = report_of(log, log.base, log.model.examination(SHOWN), CounterfactualRules(least_effective=1000))

    assert report.effective < 1000
    assert "ask again with more lists" in report.refused


def test_clipping_is_counted_and_lowers_the_estimate() -> None:
    log, examination = the_log()
    order = reordered(log, 0.5)

    whole, cut = (report_of(log, order, examination, CounterfactualRules(most_weight=most)) for most in (1e6, 1.5))

    assert whole.clipped == 0.0 < cut.clipped
    assert cut.estimates[0].challenger < whole.estimates[0].challenger


def test_lists_of_one_unit_make_the_interval_wider_than_as_many_units() -> None:
    log, examination = click_log(4000, seed=15), np.power(np.arange(1, SHOWN + 1.0), -1.0)
    champion, challenger = log.base, reordered(log, 0.05)
    rules = CounterfactualRules(least_support=0.01)
    doubled = lists_of(log, sessions_a_unit=1)
    twice = ClickLists(
        *(np.tile(values, 2) for values in (doubled.queries, doubled.units, doubled.items, doubled.clicks)),
        np.tile(doubled.shown_chance, 2),
        np.arange(0, 2 * log.shown.size + 1, SHOWN),
    )

    once = counterfactual(doubled, champion, challenger, examination, rules).estimates[0]
    again = counterfactual(twice, champion, challenger, examination, rules)

    assert again.estimates[0].lift == pytest.approx(once.lift)
    assert again.estimates[0].high - again.estimates[0].low == pytest.approx(once.high - once.low, rel=1e-6)


@given(arrays(np.float64, st.tuples(st.integers(1, 4), st.integers(1, 6)), elements=st.floats(0, 1)), st.integers(1, 7))
def test_the_expected_ndcg_is_that_over_all_patterns_of_clicks(chances: np.ndarray, k: int) -> None:
    definition = MetricDefinition(k=k, gain="linear", empty_lists="zero")

    np.testing.assert_allclose(expected_ndcg(chances, definition), by_enumeration(chances, k), atol=1e-12)


def test_the_chance_to_be_shown_is_that_of_the_draws() -> None:
    log = click_log(60_000, seed=16, queries=1, share=0.4)
    offsets = np.arange(0, log.shown.size + 1, SHOWN)
    found = shown_chance(log.propensities.ravel(), offsets, depth=20).reshape(log.shown.shape)
    rank = np.argsort(log.base[0])[log.shown]

    for inside in (True, False):
        claimed = np.unique(found[(rank < SHOWN) == inside].round(6))
        times = np.bincount(rank.ravel(), minlength=20)[:SHOWN] if inside else np.bincount(rank.ravel())[SHOWN:]
        assert len(claimed) == 1
        assert times.mean() / len(log.shown) == pytest.approx(claimed[0], rel=0.05)


@pytest.mark.parametrize(("share", "shown", "reach"), [(50, 10, 20), (20, 3, 30), (200, 10, 12), (50, 10, 1000)])
def test_the_explored_depth_is_read_from_what_was_logged(share: int, shown: int, reach: int) -> None:
    """Of lists as `serving` explores and logs them, in float32."""
    coins, chances = Random(reach), Exploration(share, shown, reach)
    logged = [chances.propensities(chances.draw(coins) if i % 2 else None).astype(np.float32) for i in range(200)]
    unexplored = [chances.propensities().astype(np.float32)] * 20

    assert explored_depth(np.concatenate(logged), np.arange(0, 200 * shown + 1, shown)) == reach
    assert explored_depth(np.concatenate(unexplored), np.arange(0, 20 * shown + 1, shown)) is None


def test_equal_data_give_equal_bytes_and_another_click_another_hash() -> None:
    log = click_log(2000, seed=17)
    examination = log.model.examination(SHOWN)
    one, same = (report_of(log, log.base, examination) for _ in range(2))
    log.clicks[0, 0] ^= True

    assert one.encode() == same.encode()
    assert report_of(log, log.base, examination).data != one.data


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"metric": JUDGED_NDCG}, "expected linear"),
        ({"most_weight": 0.5}, "most_weight"),
        ({"least_support": 0.0}, "least_support"),
        ({"groups": 1}, "groups"),
        ({"alpha": 1.0}, "alpha"),
    ],
)
def test_rules_that_cannot_be_are_refused(change: dict[str, object], rule: str) -> None:
    with pytest.raises(ValueError, match=rule):
        CounterfactualRules(**change)  # type: ignore[arg-type]


def test_an_examination_too_short_is_refused() -> None:
    log = click_log(10, seed=18)

    with pytest.raises(ValueError, match="10 positions"):
        report_of(log, log.base, np.ones(4))
