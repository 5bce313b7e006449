"""CUSUM charts: the textbook's figures, the exact rate of false alarms, and what a budget does."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm

from drift.days.cusum import MONTH_DAYS, Sums, false_alarms_a_day, raised_by_importance, threshold

# Montgomery, Introduction to Statistical Quality Control, example 9.1: 20 values around 10, then 10 around 11
VALUES = """9.45 7.99 9.29 11.66 12.16 10.18 8.04 11.46 9.20 10.34 9.03 11.47 10.51 9.40 10.08 9.37 10.62 10.31 8.52
10.84 10.90 9.33 12.29 11.50 10.60 11.08 10.38 11.62 11.31 10.52"""
UP = """0 0 0 1.16 2.82 2.50 0.04 1.00 0 0 0 0.97 0.98 0 0 0 0.12 0 0 0.34
0.74 0 1.79 2.79 2.89 3.47 3.35 4.47 5.28 5.30"""
DOWN_AT_FIRST = [0.05, 1.56, 1.77, 0.0]


def added(values: list[float], k: float, most: float = np.inf) -> list[Sums]:
    sums, all_sums = Sums.zero(1), []
    for day, value in enumerate(values, start=1):
        sums = sums.add(np.array([value]), k, most, day)
        all_sums.append(sums)
    return all_sums


def test_the_sums_are_those_of_the_textbook() -> None:
    sums = added([float(value) - 10.0 for value in VALUES.split()], k=0.5)

    assert [round(float(each.up[0]), 2) for each in sums] == [float(value) for value in UP.split()]
    assert [round(float(each.down[0]), 2) for each in sums[:4]] == DOWN_AT_FIRST
    assert sums[28].up_from[0] == 23, "the sum that passes 5 on day 29 grows from day 23"


def brook_and_evans(k: float, h: float, spread: float, states: int = 400) -> float:
    """Average run length of one side, by a Markov chain over its sum: exact as states grow."""
    width = 2 * h / (2 * states - 1)
    at = np.arange(states) * width
    upper = norm.cdf((at[None, :] - at[:, None] + width / 2 + k) / spread)
    lower = norm.cdf((at[None, :] - at[:, None] - width / 2 + k) / spread)
    step = upper - lower
    step[:, 0] = upper[:, 0]
    return float(np.linalg.solve(np.eye(states) - step, np.ones(states))[0])


@pytest.mark.parametrize(("k", "h", "spread"), [(0.25, 8.0, 1.0), (0.5, 4.0, 1.0), (0.5, 5.0, 1.2), (1.0, 3.0, 1.35)])
def test_the_rate_of_false_alarms_is_the_exact_one_within_a_twentieth(k: float, h: float, spread: float) -> None:
    exact = 2.0 / brook_and_evans(k, h, spread)

    assert false_alarms_a_day(k, h, spread) == pytest.approx(exact, rel=0.05)


def test_nine_is_enough_for_hundreds_of_features_and_grows_beyond() -> None:
    charts = 2 * 3 * 200

    assert threshold(charts, 1.0, k=1.0, spread=1.35, least=9.0) == pytest.approx(9.0, abs=0.5)
    larger = threshold(100 * charts, 1.0, k=1.0, spread=1.35, least=9.0)
    assert larger > 12
    assert 100 * charts * MONTH_DAYS * false_alarms_a_day(1.0, larger, 1.35) == pytest.approx(1.0, rel=1e-6)


@given(st.lists(st.floats(0.5, 4.0), min_size=1, max_size=20))
def test_importance_splits_the_budget_and_spends_no_more(importance: list[float]) -> None:
    raised = raised_by_importance(np.array(importance), k=1.0)

    shares = np.exp(-2.0 * raised)
    assert shares.mean() == pytest.approx(1.0)
    np.testing.assert_allclose(shares / shares[0], np.array(importance) / importance[0])


@given(st.lists(st.floats(-5, 5), max_size=30))
def test_the_sides_mirror_each_other_and_a_day_without_a_value_changes_nothing(values: list[float]) -> None:
    sums, mirrored = Sums.zero(1), Sums.zero(1)
    for day, value in enumerate(values, start=1):
        sums = sums.add(np.array([value]), 1.0, 18.0, day).add(np.array([np.nan]), 1.0, 18.0, day)
        mirrored = mirrored.add(np.array([-value]), 1.0, 18.0, day)

    assert (sums.up, sums.down) == (mirrored.down, mirrored.up)
    assert (sums.up_from, sums.down_from) == (mirrored.down_from, mirrored.up_from)


def test_a_sum_stops_at_its_most_and_comes_back_in_as_many_days() -> None:
    sums = added([50.0] * 9 + [0.0] * 18, k=1.0, most=18.0)

    assert (sums[8].up[0], sums[25].up[0], sums[26].up[0]) == (18.0, 1.0, 0.0)
    assert sums[26].up_from[0] == 0
