"""What was counted is known for as long as it could be counted again, in eight bytes each."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from drift.windows.counted import Counted, CountedSecond

SECOND_MS = 1000


def filled(seconds: range, a_second: int = 20, **limits: int) -> Counted:
    counted = Counted(**limits)
    for second in seconds:
        for place in range(a_second):
            assert counted.is_new(f"{second}-{place}", second * SECOND_MS + place)
    return counted


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 40)), max_size=300), st.integers(0, 300))
def test_each_ranking_is_new_once_in_whatever_order_and_across_restarts(
    came: list[tuple[int, int]], killed_at: int
) -> None:
    counted, told = Counted(hot_seconds=3), []
    for place, (second, number) in enumerate(came):
        if place == killed_at:
            kept = msgspec.msgpack.encode(counted.seconds())
            counted = Counted(msgspec.msgpack.decode(kept, type=tuple[CountedSecond, ...]), hot_seconds=3)
        if counted.is_new(f"{second}-{number}", second * SECOND_MS):
            told.append((second, number))

    assert told == list(dict.fromkeys(came))
    assert len(counted) == len(told)


def test_what_is_over_is_forgotten() -> None:
    counted = filled(range(30))

    counted.forget(25 * SECOND_MS)

    assert len(counted) == 5 * 20
    assert not counted.is_new("25-0", 25 * SECOND_MS)
    assert counted.is_new("24-0", 24 * SECOND_MS)


def test_past_its_limit_the_oldest_second_is_forgotten() -> None:
    counted = filled(range(30), most=200)

    assert len(counted) <= 200
    assert not counted.is_new("29-0", 29 * SECOND_MS)


def test_a_snapshot_holds_eight_bytes_a_ranking() -> None:
    assert sum(len(second.digests) for second in filled(range(30)).seconds()) == 8 * 30 * 20


def test_a_damaged_second_is_refused() -> None:
    damaged = msgspec.msgpack.encode([{"second": 1, "digests": b"1234567"}])

    with pytest.raises(msgspec.ValidationError, match="digests of 8 bytes"):
        msgspec.msgpack.decode(damaged, type=tuple[CountedSecond, ...])
