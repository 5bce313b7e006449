"""Where a query goes: to the least busy, and to equals in turn."""

from hypothesis import given
from hypothesis import strategies as st

from serving.balance import choose

loads = st.lists(st.integers(0, 3), min_size=1, max_size=8)


@given(loads, st.integers(0, 1000))
def test_nobody_is_less_busy_than_the_one_chosen(loads: list[int], turn: int) -> None:
    assert loads[choose(loads, turn)] == min(loads)


@given(loads, st.integers(0, 1000))
def test_equals_get_equally_many(loads: list[int], first: int) -> None:
    ties = loads.count(min(loads))

    chosen = [choose(loads, turn) for turn in range(first, first + 3 * ties)]

    assert sorted(chosen) == sorted([place for place, load in enumerate(loads) if load == min(loads)] * 3)
