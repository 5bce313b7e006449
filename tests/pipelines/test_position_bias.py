"""Position bias is found where it is known, and labels freed of it are right on average."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.feedback.position_bias import (
    BEYOND,
    ClickCounts,
    counts_of,
    counts_without_each,
    debiased_labels,
    effective_size,
    harvest,
    harvest_along,
    jackknife_error,
    ranks_before_exploration,
    regression_em,
)
from tests.pipelines.click_log import ClickLog, click_log, orders

CURVE = np.array([1.0, 0.7, 0.45, 0.3])


def expected_counts(attraction: np.ndarray, impressions: float = 1000.0) -> ClickCounts:
    """Without noise: every stratum at every position."""
    seen = np.full((len(attraction), len(CURVE)), impressions)
    return ClickCounts(seen, seen * attraction[:, None] * CURVE)


def flat(log: ClickLog) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return log.positions.ravel(), log.clicks.ravel(), log.propensities.ravel()


@pytest.mark.parametrize("method", ["strata", "adjacent"])
def test_without_noise_the_examination_is_exact(method: str) -> None:
    found = harvest(expected_counts(np.array([0.1, 0.4, 0.8])), method)  # type: ignore[arg-type]

    np.testing.assert_allclose(found.examination, CURVE, rtol=1e-3)
    assert found.converged


@pytest.mark.parametrize("method", ["strata", "adjacent"])
def test_strata_at_two_positions_each_are_enough_whatever_their_attraction(method: str) -> None:
    counts = expected_counts(np.array([0.9, 0.5, 0.2]))
    kept = np.array([[1, 1, 0, 0], [0, 1, 1, 0], [0, 0, 1, 1]]) * np.array([[1.0], [0.02], [3.0]])

    found = harvest(ClickCounts(counts.impressions * kept, counts.clicks * kept), method)  # type: ignore[arg-type]

    np.testing.assert_allclose(found.examination, CURVE, rtol=1e-2)


@pytest.mark.parametrize("method", ["strata", "adjacent"])
def test_explored_swaps_alone_tell_the_examination(method: str) -> None:
    log = click_log(300_000, seed=1, shown=6, reach=10, share=0.4)
    positions, clicks, propensities = flat(log)
    ranks = ranks_before_exploration(propensities, np.arange(0, len(positions) + 1, 6))

    found = harvest(counts_of(ranks, positions, clicks, propensities), method)  # type: ignore[arg-type]

    np.testing.assert_allclose(found.examination, log.model.examination(6), rtol=0.12)


def test_items_of_queries_that_come_again_tell_it_at_the_usual_exploration() -> None:
    log = click_log(200_000, seed=2)
    positions, clicks, _ = flat(log)

    found = harvest(counts_of(log.pairs.ravel(), positions, clicks)).examination
    known = log.model.examination(10)

    np.testing.assert_allclose(found[:5], known[:5], rtol=0.15)
    np.testing.assert_allclose(found[5:], known[5:], rtol=0.3)  # some 45 clicks on displaced items at the last
    assert abs(np.log(found / known).mean()) < 0.1


def test_strata_come_to_rest_at_the_one_solution_whichever_units_are_left_out() -> None:
    log = click_log(50_000, seed=1020, noise=1.2)
    rows = (log.pairs.ravel(), log.positions.ravel(), log.clicks.ravel())
    whole = harvest(counts_of(*rows)).examination

    every = [harvest(one) for one in counts_without_each(*rows, np.repeat(np.arange(50_000), 10), groups=6)]

    assert all(found.converged for found in every)
    off = [np.abs(np.log(found.examination / whole)).max() for found in every]
    assert max(off) < 0.4  # a fifth of the clicks less, no other curve


def test_the_jackknife_says_how_far_the_examination_is_off() -> None:
    """Its error is the spread of the estimate over logs of other users."""
    estimates, errors = [], []
    for seed in range(8):
        log = click_log(20_000, seed=40 + seed, queries=50, shown=4, reach=6, share=0.4)
        rows = (log.pairs.ravel(), log.positions.ravel(), log.clicks.ravel())
        units = np.repeat(np.arange(20_000), 4)
        estimates.append(harvest(counts_of(*rows)).examination[3])
        errors.append(jackknife_error([harvest(one).examination[3] for one in counts_without_each(*rows, units)]))

    spread = np.std(np.array(estimates) - 0.25)

    assert 0.4 < np.mean(errors) / spread < 2.5


def test_one_group_is_no_jackknife() -> None:
    with pytest.raises(ValueError, match="groups=1"):
        counts_without_each([0, 0], [1, 2], [1, 1], [0, 1], groups=1)


def test_clicks_per_position_alone_would_be_wrong() -> None:
    log = click_log(200_000, seed=2, noise=0.3)
    naive = log.clicks.mean(axis=0)

    assert naive[9] / naive[0] < 0.5 * log.model.examination(10)[9]


def test_ranks_before_exploration_are_those_of_the_ranker() -> None:
    log = click_log(2000, seed=3, share=0.4)
    rank_of = np.argsort(log.base, axis=1)
    real = rank_of[log.query_of[:, None], log.shown] + 1

    found = ranks_before_exploration(log.propensities.ravel(), np.arange(0, 20_001, 10)).reshape(real.shape)

    assert (found == np.where(real > 10, BEYOND, real)).all()
    assert (found != log.positions).any()


def test_regression_em_finds_the_examination_where_features_tell_relevance() -> None:
    log = click_log(20_000, seed=4, queries=1000, noise=3.0, share=0.0)
    rng = np.random.default_rng(5)
    attraction = log.model.attraction(log.labels)
    logits = np.log(attraction / (1 - np.minimum(attraction, 0.999)))
    telling = logits[log.query_of[:, None], log.shown].ravel()
    features = np.column_stack([telling, rng.normal(size=len(telling))])
    positions, clicks, _ = flat(log)

    found = regression_em(features, positions, clicks)

    np.testing.assert_allclose(found.examination, log.model.examination(10), rtol=0.12)
    assert found.impressions.tolist() == [20_000] * 10


def test_regression_em_without_features_is_the_click_rate_by_position() -> None:
    log = click_log(5000, seed=6)
    positions, clicks, _ = flat(log)
    rates = log.clicks.mean(axis=0)

    found = regression_em(np.empty((len(positions), 0)), positions, clicks, most_iterations=3000, tolerance=1e-7)

    np.testing.assert_allclose(found.examination, rates / rates[0], rtol=0.02)


def test_a_position_that_shares_no_item_with_the_others_is_named() -> None:
    counts = expected_counts(np.array([0.5, 0.5]))
    kept = np.array([[1, 1, 0, 0], [0, 0, 1, 1]])

    with pytest.raises(ValueError, match="position 3: no clicks on items that stood there and at a position before"):
        harvest(ClickCounts(counts.impressions * kept, counts.clicks * kept))


def test_neighbours_without_a_common_item_are_named() -> None:
    counts = expected_counts(np.array([0.5, 0.5, 0.5]))
    kept = np.array([[1, 0, 1, 0], [1, 1, 0, 0], [1, 0, 0, 1]])

    with pytest.raises(ValueError, match="positions 2 and 3: no clicks"):
        harvest(ClickCounts(counts.impressions * kept, counts.clicks * kept), "adjacent")
    np.testing.assert_allclose(
        harvest(ClickCounts(counts.impressions * kept, counts.clicks * kept)).examination, CURVE, rtol=0.01
    )


def test_rows_of_equal_propensity_are_counted_plainly_and_others_by_their_inverse() -> None:
    plain = counts_of([7, 7, 7, 9], [1, 1, 2, 2], [1, 0, 1, 0])
    weighted = counts_of([0, 0], [1, 1], [1, 0], [0.5, 0.25])

    assert plain.impressions.tolist() == [[2, 1], [0, 1]]
    assert plain.clicks.tolist() == [[1, 1], [0, 0]]
    assert weighted.rates[0, 0] == pytest.approx(2 / 6)
    assert weighted.impressions[0, 0] == pytest.approx(36 / 20)


def test_debiased_labels_are_the_attraction_on_average() -> None:
    log = click_log(100_000, seed=7, share=0.0)
    positions, clicks, _ = flat(log)

    found = debiased_labels(clicks, positions, log.model.examination(10), most_weight=10)
    attraction = log.model.attraction(log.labels)[log.query_of[:, None], log.shown]

    np.testing.assert_allclose(found.labels.reshape(-1, 10).mean(axis=0), attraction.mean(axis=0), rtol=0.06)
    assert found.clipped == 0.0


def test_clipping_bounds_every_weight_and_says_how_many_it_cut() -> None:
    found = debiased_labels([1, 1, 1, 0], [1, 2, 3, 3], [1.0, 0.5, 0.01], most_weight=4)

    assert found.weights.tolist() == [1, 2, 4, 4]
    assert found.clipped == 0.5
    assert found.effective == pytest.approx(49 / 21)


@given(st.lists(st.floats(0.01, 100), min_size=1, max_size=20), st.floats(0.1, 10))
def test_the_effective_size_is_between_one_and_all_and_knows_no_scale(weights: list[float], scale: float) -> None:
    size = effective_size(weights)

    assert 1 - 1e-9 <= size <= len(weights) + 1e-9
    assert effective_size(np.array(weights) * scale) == pytest.approx(size)


@pytest.mark.parametrize(
    ("positions", "examination", "most", "rule"),
    [
        ([1], [1.0], 0.5, "most_weight"),
        ([2], [1.0], 2, "position"),
        ([0], [1.0], 2, "position"),
        ([1], [0.0], 2, "> 0"),
    ],
)
def test_labels_that_cannot_be_made_are_refused(
    positions: list[int], examination: list[float], most: float, rule: str
) -> None:
    with pytest.raises(ValueError, match=rule):
        debiased_labels([1], positions, examination, most)


def test_orders_of_the_log_are_better_with_less_noise() -> None:
    labels = click_log(1, seed=8).labels
    top = [np.take_along_axis(labels, orders(labels, noise, 9), axis=1)[:, 0].mean() for noise in (0.1, 3.0)]

    assert top[0] > top[1]


GROUPS = 10


def drawn(true: np.ndarray, impressions: float, seed: int) -> tuple[ClickCounts, list[ClickCounts]]:
    """Of items of every rank, most of them at their own position; all, and without each group."""
    rng = np.random.default_rng(seed)
    places = len(true)
    seen = np.full((places, places), impressions) + np.eye(places) * 50 * impressions
    wanted = np.linspace(0.6, 0.15, places)[:, None]
    parts = rng.poisson(seen * wanted * true / GROUPS, size=(GROUPS, places, places)).astype(float)
    whole = ClickCounts(seen, parts.sum(axis=0))
    rest = seen * (GROUPS - 1) / GROUPS
    return whole, [ClickCounts(rest, whole.clicks - part) for part in parts]


def test_a_power_of_the_position_is_known_better_together_than_position_by_position() -> None:
    true = np.arange(1, 11.0) ** -0.8
    logs = [drawn(true, 40.0, seed) for seed in range(40)]

    before = np.mean([np.log(harvest(whole).examination / true)[1:] ** 2 for whole, _ in logs])
    after = np.mean([np.log(harvest_along(whole, each)[0] / true)[1:] ** 2 for whole, each in logs])

    assert after < 0.5 * before  # not less: what the first position is off by is in all of them


def test_the_spread_over_the_groups_is_the_error_of_the_power() -> None:
    true = np.arange(1, 11.0) ** -0.8
    found = [harvest_along(*drawn(true, 40.0, seed)) for seed in range(40)]

    error = np.mean([jackknife_error(np.log(each[:, 9])) for _, each in found])

    assert 0.7 < error / np.std([np.log(whole[9]) for whole, _ in found]) < 1.4


def test_positions_that_are_surely_off_a_power_stay_where_they_were_found() -> None:
    true = np.array([1.0, 0.9, 0.85, 0.3, 0.25, 0.24, 0.1])  # a screen ends after the third, and after the sixth
    whole, each = drawn(true, 20_000.0, seed=1)

    found, others = harvest_along(whole, each)

    assert found == pytest.approx(true, rel=0.05)
    assert others == pytest.approx(np.tile(true, (GROUPS, 1)), rel=0.05)


def test_one_position_needs_no_power() -> None:
    one = ClickCounts(np.array([[5.0]]), np.array([[1.0]]))

    found, others = harvest_along(one, [one, one])

    assert (found.tolist(), others.tolist()) == ([1.0], [[1.0], [1.0]])


def test_examination_along_positions_takes_groups_of_the_same_positions() -> None:
    whole, each = drawn(np.array([1.0, 0.5, 0.3]), 100.0, seed=2)
    shorter = ClickCounts(whole.impressions[:, :2], whole.clicks[:, :2])

    with pytest.raises(ValueError, match="two groups at least, of 3 positions"):
        harvest_along(whole, [each[0], shorter])
    with pytest.raises(ValueError, match="two groups"):
        harvest_along(whole, each[:1])
