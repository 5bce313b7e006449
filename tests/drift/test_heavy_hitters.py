"""Counts are bounded from both sides whatever was merged, and no value with a large share is lost."""

from collections import Counter

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from drift.errors import UnreadableSketch
from drift.sketches.heavy_hitters import LONGEST, HeavyHitters

values = st.lists(st.text("abcdefgh", min_size=1, max_size=1), max_size=60)


def counted(of: list[str], capacity: int = 3) -> HeavyHitters:
    hitters = HeavyHitters(capacity)
    for start in range(0, len(of), 7):
        hitters.update(of[start : start + 7])
    return hitters


def assert_bounds(hitters: HeavyHitters, all_values: list[str]) -> None:
    truth = Counter(all_values)
    assert hitters.total == len(all_values)
    assert len(hitters.counts) <= hitters.capacity
    assert hitters.missed <= hitters.total / (hitters.capacity + 1)
    for value, count in truth.items():
        assert count - hitters.missed <= hitters.counts.get(value, 0) <= count
    assert not hitters.counts.keys() - truth.keys()


@given(values)
def test_counts_are_never_too_high_and_at_most_so_much_too_low(of: list[str]) -> None:
    assert_bounds(counted(of), of)


@given(values, values, values)
def test_the_bounds_hold_in_any_grouping(one: list[str], two: list[str], three: list[str]) -> None:
    a, b, c = counted(one), counted(two), counted(three)

    assert_bounds(a.merge(b).merge(c), one + two + three)
    assert_bounds(a.merge(b.merge(c)), one + two + three)
    assert_bounds(c.merge(a).merge(b), one + two + three)


@given(values, values)
def test_merging_commutes(one: list[str], other: list[str]) -> None:
    a, b = counted(one), counted(other)

    assert a.merge(b).encode() == b.merge(a).encode()


@given(values)
def test_with_room_for_all_counts_are_exact(of: list[str]) -> None:
    assert counted(of, capacity=8).counts == dict(Counter(of))


def test_a_drawn_value_stands_for_several() -> None:
    hitters = HeavyHitters()
    hitters.update(["a", "b", "a"], each=8)

    assert hitters.shares() == {"a": pytest.approx(2 / 3), "b": pytest.approx(1 / 3)}
    assert hitters.total == 24


@given(values)
def test_decoding_is_the_inverse_of_encoding(of: list[str]) -> None:
    hitters = counted(of)

    assert HeavyHitters.decode(hitters.encode()).encode() == hitters.encode()


@given(st.binary(max_size=100))
def test_any_bytes_are_refused_or_read_never_worse(raw: bytes) -> None:
    with pytest.raises(UnreadableSketch):
        HeavyHitters.decode(raw)


@pytest.mark.parametrize(
    "parts",
    [
        (0, 0, 0, ()),
        (2, 1, 0, (("a", 2),)),
        (2, 9, -1, (("a", 2),)),
        (2, 9, 0, (("a", -2),)),
        (1, 9, 0, (("a", 2), ("b", 2))),
        (2, 9, 0, (("a", 2), ("a", 2))),
        (2, 9, 0, (("a" * (LONGEST + 1), 2),)),
        (2, 9, 0, ((b"\xff", 2),)),
        (1 << 40, 9, 0, ()),
        (2, 1 << 63, 0, (("a", 2),)),
        (2, 9, 1 << 63, (("a", 2),)),
    ],
)
def test_counts_that_do_not_add_up_are_refused(parts: tuple[object, ...]) -> None:
    with pytest.raises(UnreadableSketch):
        HeavyHitters.decode(msgspec.msgpack.encode(parts))


def test_long_values_are_cut() -> None:
    hitters = HeavyHitters()
    hitters.update(["x" * 1000])

    assert list(hitters.counts) == ["x" * LONGEST]


def test_a_count_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        HeavyHitters().add({"a": 0})
