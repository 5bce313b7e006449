"""The batch window: a decision about a queue and a clock."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from serving.batch_times import LEAST_BATCHES, BatchTimes
from serving.batching import SURE, Batch, BatchWindow, Pending
from serving.shares import Shares

Query = Pending[str, int]
SLOTS = {"a": 1, "b": 2, "c": 3}


def pending(
    number: int,
    rows: int = 1,
    key: str = "a",
    arrived_s: float = 10.0,
    deadline_s: float = 99.0,
    priority: int = 0,
    alone: bool = False,
) -> Query:
    return Pending(key, rows, arrived_s, deadline_s, number, f"model {key}", SLOTS[key], priority, alone)


def numbers(queries: list[Query]) -> list[int]:
    return [query.payload for query in queries]


def learnt(fixed_s: float, per_row_s: float, now_s: float) -> BatchTimes:
    """What a worker knows whose batches always took so long."""
    times = BatchTimes()
    for slot in SLOTS.values():
        for rows in range(1, 2 * LEAST_BATCHES):
            times.of(slot).observe(rows, fixed_s + per_row_s * rows, now_s)
    return times


@st.composite
def queues(draw: st.DrawFn, keys: str = "abc", priorities: int = 0) -> list[Query]:
    """In order of arrival; some are past their deadline at 20 s."""
    times = sorted(draw(st.lists(st.floats(0, 20), max_size=30)))
    return [
        pending(
            number,
            rows=draw(st.integers(1, 12)),
            key=draw(st.sampled_from(keys)),
            arrived_s=arrived_s,
            deadline_s=draw(st.sampled_from([19.9, 20.0, 20.1, 20.3, 99.0])),
            priority=draw(st.integers(-priorities, priorities)),
            alone=draw(st.integers(0, 9)) == 0,
        )
        for number, arrived_s in enumerate(times)
    ]


windows = st.builds(BatchWindow, st.integers(1, 20), st.sampled_from([0.0, 0.5, 5.0]))
free_devices = st.builds(BatchWindow, st.integers(1, 20))
known_times = st.builds(
    learnt, st.sampled_from([0.0, 0.05, 0.2]), st.sampled_from([0.0, 0.01, 0.1]), now_s=st.just(20.0)
)


@given(windows, queues(priorities=3), known_times)
def test_every_query_is_taken_refused_or_left_once(
    window: BatchWindow, waiting: list[Query], times: BatchTimes
) -> None:
    batch = window.take(waiting, 20.0, Shares(), times)

    everyone = [*batch.taken, *batch.expired, *batch.hopeless, *batch.left]
    assert sorted(numbers(everyone)) == numbers(waiting)
    for part in (batch.expired, batch.hopeless, batch.left):
        assert numbers(part) == sorted(numbers(part))


@given(windows, queues(), known_times)
def test_what_is_late_and_only_that_is_expired(window: BatchWindow, waiting: list[Query], times: BatchTimes) -> None:
    batch = window.take(waiting, 20.0, Shares(), times)

    assert numbers(batch.expired) == [query.payload for query in waiting if query.deadline_s <= 20.0]


@given(windows, queues(), known_times)
def test_what_cannot_be_in_time_even_alone_and_only_that_is_hopeless(
    window: BatchWindow, waiting: list[Query], times: BatchTimes
) -> None:
    batch = window.take(waiting, 20.0, Shares(), times)

    def expected_s(query: Query) -> float:
        return times.of(query.slot).expected_s(query.rows, 20.0)

    live = [query for query in waiting if query.deadline_s > 20.0]
    assert numbers(batch.hopeless) == [q.payload for q in live if 20.0 + SURE * expected_s(q) > q.deadline_s]


@given(windows, queues(), known_times)
def test_nobody_in_a_shared_batch_is_made_late_by_the_others(
    window: BatchWindow, waiting: list[Query], times: BatchTimes
) -> None:
    taken = window.take(waiting, 20.0, Shares(), times).taken

    if len(taken) > 1:
        expected_s = times.of(taken[0].slot).expected_s(sum(query.rows for query in taken), 20.0)
        assert all(20.0 + expected_s <= query.deadline_s for query in taken)


@given(windows, queues(priorities=3))
def test_a_batch_has_one_key_and_fits_unless_it_is_one_large_query(window: BatchWindow, waiting: list[Query]) -> None:
    taken = window.take(waiting, 20.0, Shares()).taken

    assert len({query.key for query in taken}) <= 1
    assert len(taken) <= 1 or sum(query.rows for query in taken) <= window.max_candidates


@given(windows, queues(priorities=3))
@example(BatchWindow(2), [pending(0, rows=1), pending(1, rows=1, alone=True)])  # of a version that has gone meanwhile
def test_what_is_not_batchable_goes_alone(window: BatchWindow, waiting: list[Query]) -> None:
    taken = window.take(waiting, 20.0, Shares()).taken

    assert len(taken) <= 1 or not any(query.alone for query in taken)


@given(free_devices, queues(priorities=3))
def test_a_free_device_never_waits(window: BatchWindow, waiting: list[Query]) -> None:
    batch = window.take(waiting, 20.0, Shares())

    assert bool(batch.taken) == any(query.deadline_s > 20.0 for query in waiting)


@given(free_devices, queues(priorities=3))
def test_the_most_urgent_query_is_taken_and_nobody_of_its_key_before_a_more_urgent_one(
    window: BatchWindow, waiting: list[Query]
) -> None:
    batch = window.take(waiting, 20.0)

    for left in batch.left:
        assert window.due_s(batch.taken[0]) <= window.due_s(left)
        for taken in batch.taken:
            assert taken.key != left.key or window.due_s(taken) <= window.due_s(left)


@given(free_devices, queues(keys="a", priorities=3))
def test_no_query_is_overtaken_by_one_that_arrived_later_than_the_bound(
    window: BatchWindow, waiting: list[Query]
) -> None:
    batch = window.take(waiting, 20.0)

    for left in batch.left:
        for taken in batch.taken:
            bound_s = window.patience_s + (left.priority - taken.priority) * window.priority_step_s
            assert taken.arrived_s - left.arrived_s <= bound_s + 1e-9


@given(windows, queues(priorities=3))
def test_repeated_taking_ends_and_every_time_somebody_goes(window: BatchWindow, waiting: list[Query]) -> None:
    shares = Shares()
    live = [query for query in waiting if query.deadline_s > 30.0]
    while live:
        batch: Batch[str, int] = window.take(live, 30.0, shares)  # all have waited for longer than max_wait_s
        assert batch.taken
        shares.charge(batch.taken[0].model, sum(query.rows for query in batch.taken))
        live = batch.left


def test_queries_of_a_key_share_a_batch_across_other_keys() -> None:
    waiting = [pending(1, key="a"), pending(2, key="b"), pending(3, key="a")]

    batch = BatchWindow(max_candidates=10).take(waiting, now_s=10.0)

    assert (numbers(batch.taken), numbers(batch.left)) == ([1, 3], [2])


def test_a_query_that_does_not_fit_closes_the_batch_to_smaller_ones_behind_it() -> None:
    waiting = [pending(1, rows=3), pending(2, rows=4), pending(3, rows=1)]

    batch = BatchWindow(max_candidates=4).take(waiting, now_s=10.0)

    assert (numbers(batch.taken), numbers(batch.left)) == ([1], [2, 3])


def test_a_query_larger_than_the_window_goes_alone() -> None:
    waiting = [pending(1, rows=9), pending(2, rows=1)]

    batch = BatchWindow(max_candidates=4).take(waiting, now_s=10.0)

    assert (numbers(batch.taken), numbers(batch.left)) == ([1], [2])


def test_when_not_all_fit_the_earliest_deadlines_go_first() -> None:
    waiting = [pending(1, 2, deadline_s=10.4), pending(2, 2, deadline_s=10.3), pending(3, 2, deadline_s=10.2)]

    batch = BatchWindow(max_candidates=4).take(waiting, now_s=10.0)

    assert (numbers(batch.taken), numbers(batch.left)) == ([3, 2], [1])


def test_a_smaller_priority_goes_first_and_a_larger_one_that_has_waited_long_enough_before_it() -> None:
    window = BatchWindow(max_candidates=1, priority_step_s=0.1)
    late_and_low = pending(1, arrived_s=10.0, priority=2)

    soon = window.take([late_and_low, pending(2, arrived_s=10.19, priority=0)], now_s=10.3)
    later = window.take([late_and_low, pending(2, arrived_s=10.21, priority=0)], now_s=10.3)

    assert (numbers(soon.taken), numbers(later.taken)) == ([2], [1])


def test_a_batch_that_would_make_its_first_query_late_is_cut_short() -> None:
    times = learnt(fixed_s=0.0, per_row_s=0.1, now_s=10.0)
    waiting = [pending(1, deadline_s=10.25), pending(2), pending(3)]

    batch = BatchWindow(max_candidates=10).take(waiting, 10.0, times=times)

    assert (numbers(batch.taken), numbers(batch.left)) == ([1, 2], [3])


def test_two_models_take_turns_whoever_came_first() -> None:
    window, shares = BatchWindow(max_candidates=2), Shares()
    waiting = [*(pending(number, key="a") for number in range(8)), *(pending(number, key="b") for number in (8, 9, 10))]
    order = ""
    while waiting:
        batch = window.take(waiting, 10.0, shares)
        shares.charge(batch.taken[0].model, len(batch.taken))
        order, waiting = order + batch.taken[0].key, batch.left

    assert order == "ababaa"


def test_a_full_window_leaves_before_its_wait_is_over() -> None:
    waiting = [pending(1, rows=3), pending(2, rows=1)]

    assert numbers(BatchWindow(max_candidates=4, max_wait_s=0.005).take(waiting, now_s=10.0).taken) == [1, 2]


@pytest.mark.parametrize("second", [pending(2, rows=2), pending(2, alone=True)], ids=["too large", "not batchable"])
def test_a_window_that_nobody_else_may_enter_does_not_wait(second: Query) -> None:
    batch = BatchWindow(max_candidates=4, max_wait_s=0.005).take([pending(1, rows=3), second], now_s=10.0)

    assert (numbers(batch.taken), numbers(batch.left)) == ([1], [2])


def test_an_open_window_waits_for_its_oldest_query_and_no_longer() -> None:
    window = BatchWindow(max_candidates=4, max_wait_s=0.5)
    waiting = [pending(1, arrived_s=10.0), pending(2, arrived_s=10.4), pending(3, arrived_s=10.0, deadline_s=10.2)]

    early, due = window.take(waiting, now_s=10.25), window.take(waiting, now_s=10.5)

    assert (numbers(early.taken), numbers(early.expired), numbers(early.left)) == ([], [3], [1, 2])
    assert (numbers(due.taken), numbers(due.expired), numbers(due.left)) == ([1, 2], [3], [])


def test_an_empty_queue_gives_an_empty_batch() -> None:
    assert BatchWindow(max_candidates=4).take([], now_s=10.0) == Batch([], [], [])
