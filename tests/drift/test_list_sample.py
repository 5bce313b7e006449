"""Lists out of an archive: bounded, and the same ones whoever reads it, in whatever order and parts."""

from collections.abc import Sequence

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from drift.evidently_reports.sample import Lists, ListSample
from registry.contracts.ids import hash64

FEATURES = 3


def lists(numbers: Sequence[int]) -> Lists:
    """List n was answered at n and shows n % 4 + 1 items; its values say which list and which item they are of."""
    shown = np.array([number % 4 + 1 for number in numbers], dtype=np.int64)
    rows = [[number, item, -number] for number in numbers for item in range(number % 4 + 1)]
    return Lists(
        hashes=np.array([hash64(f"r{number}") for number in numbers], dtype=np.uint64),
        answered_ms=np.array(numbers, dtype=np.int64),
        shown=shown,
        values=np.array(rows, dtype=np.float32).reshape(-1, FEATURES),
        margin=np.array(numbers, dtype=float),
        entropy=-np.array(numbers, dtype=float),
    )


def sampled(parts: Sequence[Sequence[int]], most: int) -> ListSample:
    sample = ListSample(most, FEATURES)
    for part in parts:
        sample.add(lists(part))
    return sample


def same(left: Lists, right: Lists) -> bool:
    names = ("hashes", "answered_ms", "shown", "values", "margin", "entropy")
    return all(np.array_equal(getattr(left, name), getattr(right, name)) for name in names)


@given(st.permutations(range(60)), st.lists(st.integers(0, 59), max_size=30), st.integers(1, 80))
def test_order_parts_and_repeats_change_nothing(order: list[int], again: list[int], most: int) -> None:
    whole = sampled([list(range(60))], most).taken()

    in_parts = sampled([order[:7], again, order[7:40], order[40:]], most)

    assert same(in_parts.taken(), whole)
    assert (len(whole), in_parts.offered) == (min(most, 60), 60 + len(again))


def test_it_keeps_the_smallest_hashes_with_their_own_rows_in_order_of_time() -> None:
    taken = sampled([list(range(40))], 10).taken()

    expected = sorted(sorted(range(40), key=lambda number: hash64(f"r{number}"))[:10])
    assert taken.answered_ms.tolist() == expected
    assert same(taken, lists(expected))


def test_every_list_is_as_likely_as_any_other() -> None:
    """2,000 of 20,000: how many are of the first half is binomial with sd 21; 5 sd are 105."""
    taken = sampled([list(range(start, start + 1000)) for start in range(0, 20_000, 1000)], 2000).taken()

    assert abs(int((taken.answered_ms < 10_000).sum()) - 1000) < 105


def test_a_sample_of_nothing_is_empty() -> None:
    taken = ListSample(5, FEATURES).taken()

    assert (len(taken), taken.values.shape) == (0, (0, FEATURES))
