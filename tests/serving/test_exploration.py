"""Exploration: every propensity is what all coins and swaps together give, and at each position they sum to 1."""

import itertools
import random
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.contracts.traffic import WEIGHT_STEPS
from serving.exploration import Exploration, unexplored

explorations = st.builds(Exploration, st.integers(0, WEIGHT_STEPS), st.integers(1, 8), st.integers(2, 10))


def all_swaps(exploration: Exploration) -> list[tuple[int, int]]:
    pairs = itertools.product(range(exploration.shown), range(exploration.reach))
    return [(left, right) for left, right in pairs if left != right]


def by_enumeration(exploration: Exploration) -> Counter[tuple[int, int]]:
    """Probability by position and rank, from every swap that there is."""
    swaps, share = all_swaps(exploration), exploration.share / WEIGHT_STEPS
    found: Counter[tuple[int, int]] = Counter()
    for position in range(exploration.shown):
        found[position, position] += 1 - share
    for swap in swaps:
        for position, rank in enumerate(exploration.order(swap)):
            found[position, rank] += share / len(swaps)
    return found


@given(explorations)
def test_a_propensity_is_the_sum_over_the_coin_and_all_swaps(exploration: Exploration) -> None:
    expected = by_enumeration(exploration)
    for swap in [None, *all_swaps(exploration)]:
        order = exploration.order(swap) if swap else range(exploration.shown)

        told = exploration.propensities(swap)

        assert told == pytest.approx([expected[position, rank] for position, rank in enumerate(order)], abs=1e-12)


@given(explorations)
def test_at_every_position_the_propensities_of_all_items_sum_to_one(exploration: Exploration) -> None:
    told: dict[tuple[int, int], float] = {}
    for swap in [None, *all_swaps(exploration)]:
        order = exploration.order(swap) if swap else range(exploration.shown)
        told |= {(at, rank): p for (at, rank), p in zip(enumerate(order), exploration.propensities(swap), strict=True)}

    for position in range(exploration.shown):
        assert sum(p for (at, _), p in told.items() if at == position) == pytest.approx(1.0)


@given(explorations, st.integers(0, 2**32))
def test_a_swap_is_one_transposition_and_shows_an_item_within_reach(exploration: Exploration, seed: int) -> None:
    swap = exploration.draw(random.Random(seed))
    order = exploration.order(swap)

    assert swap in all_swaps(exploration)
    assert len(set(order)) == exploration.shown
    assert 1 <= sum(rank != position for position, rank in enumerate(order)) <= 2


def test_swaps_are_drawn_evenly_and_the_shares_are_the_propensities() -> None:
    source, exploration, lists = random.Random(3), Exploration(share=300, shown=3, reach=5), 40_000
    seen: Counter[tuple[int, int]] = Counter()
    weighed = np.zeros(lists)
    worth = [3.0, 1.0, 0.5, 0.0, 7.0]  # of the item of each rank, wherever it stands
    for i in range(lists):
        swap = exploration.draw(source) if source.randrange(WEIGHT_STEPS) < exploration.share else None
        order = exploration.order(swap) if swap else list(range(3))
        seen.update(enumerate(order))
        told = exploration.propensities(swap)
        weighed[i] = worth[order[0]] / told[0]

    for (position, rank), probability in by_enumeration(exploration).items():
        error = np.sqrt(probability * (1 - probability) / lists)
        assert abs(seen[position, rank] / lists - probability) < 4 * error, (position, rank)
    # weighing by the propensity gives back what a uniform look at all items in reach would have seen
    assert abs(weighed.mean() - sum(worth)) < 4 * weighed.std() / np.sqrt(lists)


def test_a_list_of_one_is_left_alone() -> None:
    alone = Exploration(share=1000, shown=1, reach=1)

    assert alone.propensities().tolist() == [1.0]
    with pytest.raises(ValueError, match="nothing to swap"):
        alone.draw(random.Random(1))


def test_propensities_of_lists_left_alone_are_float32() -> None:
    exploration = Exploration(share=50, shown=10, reach=20)

    assert np.frombuffer(unexplored(exploration), "<f4") == pytest.approx(exploration.propensities(), rel=1e-6)
