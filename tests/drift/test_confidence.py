"""Confidence: three things together, none of them moved by another scale of scores."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import kendalltau

from drift.days.characteristics import confidence_alarms, raised, time_to_find_decay
from drift.days.confidence import DISAGREEMENT, ENTROPY, MARGIN, TOGETHER, day_of, level_of, of_lists
from drift.days.simulated_lists import ListWorld
from drift.settings import ShiftSettings

SETTINGS = ShiftSettings()
RNG = np.random.default_rng(5)
SCORES = RNG.normal(size=(30, 8)).astype(np.float32)
SHADOW = (SCORES + RNG.normal(size=(30, 8))).astype(np.float32)


def test_disagreement_is_one_less_scipy_s_tau() -> None:
    told = of_lists(SCORES, SHADOW, score_std=1.0)

    taus = [kendalltau(one, other).statistic for one, other in zip(SCORES, SHADOW, strict=True)]
    np.testing.assert_allclose(told[:, TOGETHER.names.index(DISAGREEMENT)], 1.0 - np.array(taus), atol=1e-12)


@given(st.floats(0.1, 10.0), st.floats(-5.0, 5.0))
def test_scores_on_another_scale_say_the_same_if_their_version_s_profile_does(scale: float, by: float) -> None:
    rescaled = SCORES.astype(np.float64) * scale + by

    told = of_lists(rescaled.astype(np.float32), SHADOW, score_std=scale)

    np.testing.assert_allclose(told, of_lists(SCORES, SHADOW, 1.0), atol=1e-4)


def test_margin_and_entropy_move_with_a_scale_that_the_profile_does_not_know() -> None:
    """What standardising is for: DECISIONS.md measured +0.47 and -0.76 deviations for a factor of 1.5."""
    as_made, rescaled = of_lists(SCORES, SHADOW, 1.0), of_lists(SCORES * np.float32(1.5), SHADOW, 1.0)

    moved = (rescaled - as_made).mean(axis=0) / as_made.std(axis=0)
    assert moved[TOGETHER.names.index(MARGIN)] > 0.3
    assert moved[TOGETHER.names.index(ENTROPY)] < -0.5
    assert moved[TOGETHER.names.index(DISAGREEMENT)] == 0.0


def test_the_order_of_lists_in_a_day_does_not_matter_and_those_that_say_nothing_are_left_out() -> None:
    told = of_lists(SCORES, SHADOW, 1.0)
    told[3, 2] = np.nan

    day, other = (day_of(values, 0, 1000, 1) for values in (told, told[::-1]))

    for name in ("mean", "std", "error"):
        np.testing.assert_allclose(getattr(day, name), getattr(other, name))
    assert day.mean[2] == pytest.approx(np.nanmean(told[:, 2]))
    assert level_of(told).error[2] == pytest.approx(np.nanstd(told[:, 2]) / np.sqrt(29))


@pytest.mark.parametrize(
    ("world", "rescaled"),
    [
        (ListWorld(lists_a_day=240), True),
        (ListWorld(lists_a_day=240, daily_cycle=0.4), False),
        (ListWorld(lists_a_day=240, weekly_cycle=0.2), False),
    ],
)
def test_neither_another_scale_nor_the_time_of_day_or_week_is_alarmed_on(world: ListWorld, rescaled: bool) -> None:
    assert confidence_alarms(world, SETTINGS, runs=3, seed=7, rescaled=rescaled).value == 0.0


def test_a_ranker_that_lost_its_best_feature_is_found_within_days() -> None:
    found = time_to_find_decay(ListWorld(lists_a_day=240, daily_cycle=0.4), SETTINGS, runs=4, seed=8)

    assert found.days.max() <= 7
    assert found.false.value == 0.0


def test_what_is_raised_is_told_by_name() -> None:
    season = ListWorld(lists_a_day=240).days(SETTINGS.anchor_days + 8, np.random.default_rng(9), broken_from=30)

    told = raised(season, TOGETHER, SETTINGS)

    assert {(name, kind) for _, name, kind in told} <= {(name, "mean") for name in TOGETHER.names}
    assert min(day for day, _, _ in told) >= 30
