"""The batch window: a decision about a queue and a clock."""

from hypothesis import given
from hypothesis import strategies as st

from serving.batching import Batch, BatchWindow, Pending

Query = Pending[str, int]


def pending(
    number: int, candidates: int = 1, key: str = "a", arrived_s: float = 10.0, deadline_s: float = 99.0
) -> Query:
    return Pending(key, candidates, arrived_s, deadline_s, number)


def numbers(queries: list[Query]) -> list[int]:
    return [query.payload for query in queries]


@st.composite
def queues(draw: st.DrawFn) -> list[Query]:
    """Oldest first; some are past their deadline at 20 s."""
    times = sorted(draw(st.lists(st.floats(0, 20), max_size=30)))
    return [
        pending(
            number,
            candidates=draw(st.integers(1, 12)),
            key=draw(st.sampled_from("abc")),
            arrived_s=arrived_s,
            deadline_s=draw(st.sampled_from([19.9, 20.0, 20.1, 99.0])),
        )
        for number, arrived_s in enumerate(times)
    ]


windows = st.builds(BatchWindow, st.integers(1, 20), st.sampled_from([0.0, 0.5, 5.0]))


@given(windows, queues())
def test_every_query_is_taken_expired_or_left_once_and_in_order(window: BatchWindow, waiting: list[Query]) -> None:
    batch = window.take(waiting, now_s=20.0)

    assert sorted(numbers(batch.taken) + numbers(batch.expired) + numbers(batch.left)) == numbers(waiting)
    for part in (batch.taken, batch.expired, batch.left):
        assert numbers(part) == sorted(numbers(part))


@given(windows, queues())
def test_what_is_late_and_only_that_is_expired(window: BatchWindow, waiting: list[Query]) -> None:
    batch = window.take(waiting, now_s=20.0)

    assert numbers(batch.expired) == [query.payload for query in waiting if query.deadline_s <= 20.0]


@given(windows, queues())
def test_a_batch_has_one_key_and_fits_unless_it_is_one_large_query(window: BatchWindow, waiting: list[Query]) -> None:
    taken = window.take(waiting, now_s=20.0).taken

    assert len({query.key for query in taken}) <= 1
    assert len(taken) <= 1 or sum(query.candidates for query in taken) <= window.max_candidates


@given(st.integers(1, 20), queues())
def test_a_free_device_never_waits(max_candidates: int, waiting: list[Query]) -> None:
    batch = BatchWindow(max_candidates).take(waiting, now_s=20.0)
    live = [query for query in waiting if query.deadline_s > 20.0]

    assert numbers(batch.taken[:1]) == numbers(live[:1])


@given(windows, queues())
def test_no_query_of_a_key_is_overtaken(window: BatchWindow, waiting: list[Query]) -> None:
    batch = window.take(waiting, now_s=20.0)

    for left in batch.left:
        assert all(taken.payload < left.payload for taken in batch.taken if taken.key == left.key)


@given(windows, queues())
def test_repeated_taking_ends_and_the_oldest_never_starves(window: BatchWindow, waiting: list[Query]) -> None:
    live = [query for query in waiting if query.deadline_s > 30.0]
    rounds = 0
    while live:
        batch: Batch[str, int] = window.take(live, now_s=30.0)  # everybody has waited for longer than max_wait_s
        assert batch.taken[0].payload == live[0].payload
        live, rounds = batch.left, rounds + 1

    assert rounds <= len(waiting)


def test_queries_of_a_key_share_a_batch_across_other_keys() -> None:
    waiting = [pending(1, key="a"), pending(2, key="b"), pending(3, key="a")]

    batch = BatchWindow(max_candidates=10).take(waiting, now_s=10.0)

    assert (numbers(batch.taken), numbers(batch.left)) == ([1, 3], [2])


def test_a_query_that_does_not_fit_closes_the_batch_to_smaller_ones_behind_it() -> None:
    waiting = [pending(1, candidates=3), pending(2, candidates=4), pending(3, candidates=1)]

    batch = BatchWindow(max_candidates=4).take(waiting, now_s=10.0)

    assert (numbers(batch.taken), numbers(batch.left)) == ([1], [2, 3])


def test_a_query_larger_than_the_window_goes_alone() -> None:
    waiting = [pending(1, candidates=9), pending(2, candidates=1)]

    batch = BatchWindow(max_candidates=4).take(waiting, now_s=10.0)

    assert (numbers(batch.taken), numbers(batch.left)) == ([1], [2])


def test_a_full_window_leaves_before_its_wait_is_over() -> None:
    waiting = [pending(1, candidates=3), pending(2, candidates=1)]

    assert numbers(BatchWindow(max_candidates=4, max_wait_s=0.005).take(waiting, now_s=10.0).taken) == [1, 2]


def test_an_open_window_waits_for_its_oldest_query_and_no_longer() -> None:
    window = BatchWindow(max_candidates=4, max_wait_s=0.5)
    waiting = [pending(1, arrived_s=10.0), pending(2, arrived_s=10.4), pending(3, arrived_s=10.0, deadline_s=10.2)]

    early, due = window.take(waiting, now_s=10.25), window.take(waiting, now_s=10.5)

    assert (numbers(early.taken), numbers(early.expired), numbers(early.left)) == ([], [3], [1, 2])
    assert (numbers(due.taken), numbers(due.expired), numbers(due.left)) == ([1, 2], [3], [])


def test_an_empty_queue_gives_an_empty_batch() -> None:
    assert BatchWindow(max_candidates=4).take([], now_s=10.0) == Batch([], [], [])
