"""D6, D7 and D11 of DECISIONS.md in few runs; `python -m tests.bench.drift_detectors` does many."""

import numpy as np
import pytest

from drift.days.characteristics import Found, Rate, false_alarms, time_to_find
from drift.days.resampled import ResampledWorld
from drift.days.simulated import DayWorld, ramp
from drift.settings import ShiftSettings

SETTINGS = ShiftSettings()
MILD, STRONG = DayWorld(weekly_sd=0.05), DayWorld(weekly_sd=0.2)


@pytest.mark.parametrize("world", [MILD, STRONG, DayWorld(day_memory=0.5)])
def test_two_hundred_quiet_features_raise_less_than_an_alarm_a_month(world: DayWorld) -> None:
    """Reached is a tenth of that: one alarm in the ten months of five runs, give or take one; eight are refused."""
    assert false_alarms(world, SETTINGS, runs=5, seed=3).value <= 0.8


@pytest.mark.parametrize("world", [MILD, STRONG, DayWorld(odd_day=10)])
def test_a_ramp_to_35_percent_in_14_days_is_found_in_its_first_week(world: DayWorld) -> None:
    found = time_to_find(world, SETTINGS, runs=20, seed=4)

    assert found.by(14).value >= 0.95
    assert found.median <= 6
    assert found.false.value <= 0.8


WHOLE, SEGMENT = DayWorld(parts=2), DayWorld(rows_a_day=2000, parts=10, profiled=False)  # beside, and of, five


def test_five_segments_and_the_whole_share_one_budget() -> None:
    """Reached is none; what is refused is one alarm too many in the forty months of all of them."""
    whole, segments = (
        false_alarms(world, SETTINGS, runs=runs, seed=5).value for world, runs in ((WHOLE, 3), (SEGMENT, 15))
    )

    assert whole + 5 * segments <= 0.8


def test_a_ramp_in_a_fifth_of_the_traffic_is_found_within_its_14_days() -> None:
    found = time_to_find(SEGMENT, SETTINGS, runs=20, seed=6)

    assert found.by(14).value >= 0.95
    assert found.median <= 8


def test_the_worlds_days_are_as_they_say() -> None:
    world = DayWorld(features=50, weekly_sd=0.2, day_sd=0.05, day_memory=0.3, tails=5.0, common=0.5)
    means = np.array([day.mean for day, _ in world.days(7 * 60, np.random.default_rng(1))])[:, :50]

    week = means.reshape(60, 7, 50).mean(axis=0)
    apart = (means.reshape(60, 7, 50) - week).reshape(-1, 50)
    error = next(world.days(1, np.random.default_rng(1)))[0].error[0]
    assert week.std(axis=0).mean() == pytest.approx(0.2, abs=0.02)
    assert apart.std(axis=0).mean() == pytest.approx(np.hypot(0.05, error), rel=0.15)
    together = np.corrcoef(apart.T)[np.triu_indices(50, 1)].mean()
    assert together == pytest.approx(0.5 * 0.05**2 / (0.05**2 + error**2), abs=0.15)


def test_a_ramp_begins_on_its_day_and_stays_where_it_arrived() -> None:
    moved = ramp(days=20, features=3, feature=1, begins=4, over=14, to=0.35)

    assert not moved[:4].any()
    assert not moved[:, [0, 2]].any()
    assert moved[4, 1] == pytest.approx(0.025)
    assert moved[17:, 1].tolist() == [0.35] * 3


def test_figures_have_their_errors() -> None:
    found = Found(np.array([2.0, 5.0, np.inf, 4.0]), Rate.of([0.0, 1.0]))

    assert (found.by(4).value, found.median) == (0.5, 4.5)
    assert found.by(4).error == pytest.approx(0.25)
    assert str(found.false) == "0.500 +- 0.500"


def real_lists(queries: int = 80, seed: int = 6) -> list[np.ndarray]:
    """As real ones are: of their query, long tails, many zeros, some missing."""
    rng = np.random.default_rng(seed)
    lists = []
    for _ in range(queries):
        rows = int(rng.integers(1, 20))
        matrix = np.exp(rng.normal(size=(rows, 6)) + rng.normal(size=6))
        matrix[rng.random((rows, 6)) < 0.3] = 0.0
        matrix[rng.random((rows, 6)) < 0.05] = np.nan
        lists.append(matrix.astype(np.float32))
    return lists


def test_a_resampled_day_is_made_of_its_lists() -> None:
    lists = real_lists()
    world = ResampledWorld.of([f"f{i}" for i in range(6)], lists)

    rows = np.concatenate(lists).astype(np.float64)
    shares = [np.isnan(rows).mean(axis=0), (rows == 0).mean(axis=0)]
    np.testing.assert_allclose(world.level.mean, np.concatenate([np.nanmean(rows, axis=0), *shares]))
    np.testing.assert_allclose(world.level.std[:6], np.nanstd(rows, axis=0))
    days = list(world.days(50, np.random.default_rng(1)))
    assert {day.lists for day, _ in days} == {1000}
    spread = np.std([day.mean for day, _ in days], axis=0)
    assert (spread > 0.5 * days[0][0].error).all(), "days lie apart by what is asked, too"


def test_days_of_real_lists_are_quiet_until_one_feature_moves() -> None:
    world = ResampledWorld.of([f"f{i}" for i in range(6)], real_lists())

    assert false_alarms(world, SETTINGS, runs=5, seed=3).value == 0.0
    found = time_to_find(world, SETTINGS, runs=6, seed=3, by_share=1.0)
    assert found.by(14).value == 1.0
    assert found.false.value == 0.0
