"""What is learned of batch times: a line, quickly enough, and nothing from one pause."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.batch_times import FRESH_S, LEAST_BATCHES, MEMORY, BatchTime, BatchTimes


def seen(fixed_s: float, per_row_s: float, batches: int = 3 * MEMORY, noise: float = 0.0, seed: int = 0) -> BatchTime:
    """Batches of 1 to 4,000 rows on a device that takes so long."""
    time, random = BatchTime(), np.random.default_rng(seed)
    for rows in random.integers(1, 4001, batches).tolist():
        time.observe(rows, (fixed_s + per_row_s * rows) * random.lognormal(0, noise), now_s=10.0)
    return time


@given(st.floats(0, 0.01), st.floats(1e-7, 1e-4), st.integers(1, 4000))
def test_a_steady_device_is_known_exactly(fixed_s: float, per_row_s: float, rows: int) -> None:
    expected_s = seen(fixed_s, per_row_s).expected_s(rows, now_s=10.0)

    assert expected_s == pytest.approx(fixed_s + per_row_s * rows, rel=0.01, abs=1e-6)


@pytest.mark.parametrize("seed", range(5))
def test_a_device_that_scatters_by_a_fifth_is_known_to_a_fifth(seed: int) -> None:
    expected_s = seen(0.001, 1e-5, noise=0.2, seed=seed).expected_s(2000, now_s=10.0)

    assert expected_s == pytest.approx(0.021, rel=0.2)


def test_before_a_few_batches_nothing_is_known() -> None:
    assert seen(1.0, 1.0, batches=LEAST_BATCHES - 1).expected_s(100, now_s=10.0) == 0.0
    assert seen(1.0, 1.0, batches=LEAST_BATCHES).expected_s(100, now_s=10.0) > 0.0


def test_what_is_known_is_forgotten_so_that_a_worker_tries_again() -> None:
    time = seen(1.0, 1.0)

    assert time.expected_s(100, now_s=10.0 + FRESH_S) > 0.0
    assert time.expected_s(100, now_s=10.1 + FRESH_S) == 0.0


def test_one_pause_changes_little_and_a_device_that_has_become_slow_is_found_out() -> None:
    time = seen(0.0, 1e-5)
    time.observe(1000, 3.0, now_s=10.0)
    assert time.expected_s(1000, now_s=10.0) < 0.015

    for _ in range(3 * MEMORY):
        time.observe(1000, 0.1, now_s=10.0)
    assert time.expected_s(1000, now_s=10.0) == pytest.approx(0.1, rel=0.1)


def test_batches_of_one_size_count_as_proportional_to_their_rows() -> None:
    time = BatchTime()
    for _ in range(MEMORY):
        time.observe(100, 0.01, now_s=10.0)

    assert time.expected_s(200, now_s=10.0) == pytest.approx(0.02)


@given(st.lists(st.tuples(st.integers(1, 4000), st.floats(0, 10)), min_size=LEAST_BATCHES, max_size=80))
def test_more_rows_never_take_less_and_nothing_takes_less_than_no_time(batches: list[tuple[int, float]]) -> None:
    time = BatchTime()
    for rows, took_s in batches:
        time.observe(rows, took_s, now_s=10.0)

    expected_s = [time.expected_s(rows, now_s=10.0) for rows in (1, 10, 100, 1000)]
    assert expected_s == sorted(expected_s)
    assert expected_s[0] >= 0.0


def test_slots_are_learned_apart_and_a_forgotten_one_begins_again() -> None:
    times = BatchTimes()
    for _ in range(LEAST_BATCHES):
        times.of(1).observe(100, 0.01, now_s=10.0)

    assert times.of(1).expected_s(100, 10.0) > 0.0 == times.of(2).expected_s(100, 10.0)
    times.keep([2])
    assert times.of(1).expected_s(100, 10.0) == 0.0


def test_a_model_whose_time_does_not_follow_its_rows_is_not_guessed_at() -> None:
    time = BatchTime()
    for batch in range(3 * MEMORY):
        time.observe(1, 0.001 if batch % 2 else 0.1, now_s=10.0)

    assert time.expected_s(1, now_s=10.0) == 0.0
