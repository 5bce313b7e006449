"""The anchor: weekdays apart, deploys apart, and how far days lie apart and remember each other."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from drift.days.anchor import Anchor

WEEKS = 4
WEEKDAYS = np.arange(7 * WEEKS) % 7
ONE_VERSION = np.ones(7 * WEEKS, dtype=np.int64)


def noise(seed: int, quantities: int, memory: float = 0.0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    days = rng.normal(size=(7 * WEEKS, quantities))
    for day in range(1, len(days)):
        days[day] = memory * days[day - 1] + np.sqrt(1 - memory**2) * days[day]
    return days


def test_levels_are_the_weekdays_means_and_the_spread_is_around_them() -> None:
    days = noise(1, 3) + 10.0 * (WEEKDAYS == 6)[:, None]

    anchor = Anchor.of(days, WEEKDAYS, ONE_VERSION)

    for weekday in range(7):
        np.testing.assert_allclose(anchor.level[weekday], days[weekday == WEEKDAYS].mean(axis=0))
    apart = days - anchor.level[WEEKDAYS]
    np.testing.assert_allclose(anchor.day_sd**2, (apart**2).sum(axis=0) / 21)
    np.testing.assert_allclose(anchor.leverage, 0.25)


def test_a_deploy_within_the_stretch_moves_the_level_and_not_the_spread() -> None:
    versions = np.where(np.arange(28) < 16, 1, 2)
    days = noise(2, 5) * 0.1 + 3.0 * (versions == 2)[:, None] + (WEEKDAYS == 0)[:, None]

    anchor = Anchor.of(days, WEEKDAYS, versions)

    np.testing.assert_allclose(anchor.level, 3.0 + (np.arange(7) == 0)[:, None] + np.zeros(5), atol=0.3)
    assert anchor.day_sd.max() < 0.2
    assert anchor.leverage.min() > 0.25, "fewer days speak of the last version's level"


@given(st.floats(-1e3, 1e3), st.floats(0.1, 10.0))
def test_a_shift_of_all_days_shifts_the_level_alone(by: float, scale: float) -> None:
    days = noise(3, 2)

    one, other = Anchor.of(days, WEEKDAYS, ONE_VERSION), Anchor.of(days * scale + by, WEEKDAYS, ONE_VERSION)

    np.testing.assert_allclose(other.level, one.level * scale + by, atol=1e-9)
    np.testing.assert_allclose(other.day_sd, one.day_sd * scale, rtol=1e-6)
    np.testing.assert_allclose(other.memory, one.memory, atol=1e-6)


def test_an_odd_day_moves_neither_level_nor_spread() -> None:
    usual = noise(6, 50)
    days = usual.copy()
    days[10] += 30.0

    anchor, without = Anchor.of(days, WEEKDAYS, ONE_VERSION), Anchor.of(usual, WEEKDAYS, ONE_VERSION)

    others = np.array([weekday != WEEKDAYS[10] for weekday in range(7)])
    np.testing.assert_allclose(anchor.level[others], without.level[others])
    rest = usual[(WEEKDAYS[10] == WEEKDAYS) & (np.arange(28) != 10)].mean(axis=0)
    np.testing.assert_allclose(anchor.level[WEEKDAYS[10]], rest, atol=1e-6)
    assert anchor.day_sd.max() < 1.5


def test_a_day_without_values_is_told_by_the_others_of_its_weekday() -> None:
    days = noise(7, 1) * 0.1 + 5.0 * WEEKDAYS[:, None]
    days[13] = np.nan

    anchor = Anchor.of(days, WEEKDAYS, ONE_VERSION)

    assert anchor.level[6, 0] == pytest.approx(np.nanmean(days[WEEKDAYS == 6]))


def test_memory_is_found_over_many_features_and_not_where_there_is_none() -> None:
    forgetful, mindful = (Anchor.of(noise(4, 200, memory), WEEKDAYS, ONE_VERSION) for memory in (0.0, 0.5))

    assert forgetful.memory.max() < 0.1
    assert mindful.memory.mean() == pytest.approx(0.5, abs=0.1), "a little low, for weekdays take some of it"
    assert mindful.long_run_sd.mean() == pytest.approx(np.sqrt(3.0), abs=0.3)


def test_unseen_weekdays_and_quantities_known_on_few_days_say_so() -> None:
    workdays = WEEKDAYS < 5
    days = noise(5, 3)
    days[::3, 1] = np.nan
    days[5, 2] = np.nan

    anchor = Anchor.of(days[workdays], WEEKDAYS[workdays], ONE_VERSION[workdays])

    assert np.isinf(anchor.leverage).tolist() == [False] * 5 + [True] * 2
    assert np.isinf(anchor.day_sd).tolist() == [False, True, False]
    assert np.isfinite(anchor.level).all()


def test_no_days_are_no_anchor() -> None:
    with pytest.raises(ValueError, match="needs days"):
        Anchor.of(np.zeros((0, 2)), np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64))
