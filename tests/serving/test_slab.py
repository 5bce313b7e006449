"""The slab against a dictionary: bounded, never wrong, and full before it forgets."""

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from numpy.typing import NDArray

from serving.features.slab import WAYS, Slab

COLUMNS = 2
# few enough to meet again, more than the slab holds, and the whole range of 64 bits
HASHES = st.sampled_from([0, *(((i * 0x9E3779B97F4A7C15) & (2**64 - 1)) for i in range(2, 60)), 2**64 - 1])


def hashes_of(keys: list[int]) -> NDArray[np.uint64]:
    return np.array(keys, dtype=np.uint64)


def place(slab: Slab, keys: list[int], value: float = 0.0) -> None:
    """Stores a row of that value under every key."""
    stamps = np.full(len(keys), 7, dtype=np.uint64)
    slab.place(hashes_of(keys), np.full((len(keys), COLUMNS), value, dtype=np.float32), stamps)


class SlabAgainstDictionary(RuleBasedStateMachine):
    """`placed` never evicts, so whatever the slab finds must be there with the same value."""

    def __init__(self) -> None:
        super().__init__()
        self.slab = Slab(16, COLUMNS)
        self.placed: dict[int, int] = {}
        self.written = 0

    @rule(keys=st.lists(HASHES, max_size=24, unique=True))
    def place(self, keys: list[int]) -> None:
        stamps = np.arange(self.written + 1, self.written + 1 + len(keys), dtype=np.uint64)
        self.written += len(keys)
        self.slab.place(hashes_of(keys), np.stack([stamps, -stamps.astype(np.float64)], axis=1), stamps)
        self.placed.update(zip(keys, stamps.tolist(), strict=True))

    @rule(keys=st.lists(HASHES, max_size=8))
    def drop(self, keys: list[int]) -> None:
        self.slab.drop(hashes_of(keys))
        for key in keys:
            self.placed.pop(key, None)

    @rule()
    def clear(self) -> None:
        self.slab.clear()
        self.placed.clear()

    @rule(keys=st.lists(HASHES, min_size=1, max_size=30))
    def find(self, keys: list[int]) -> None:
        for key, cell in zip(keys, self.slab.find(hashes_of(keys)).tolist(), strict=True):
            if cell >= 0:
                stamp = self.placed[key]
                assert self.slab.values[cell].tolist() == [stamp, -stamp]
                assert self.slab.updated_ms[cell] == stamp

    @invariant()
    def holds_what_it_says_and_no_more_than_it_may(self) -> None:
        found = self.slab.find(hashes_of(list(self.placed)))
        cells = found[found >= 0]

        assert len(cells) == len(np.unique(cells)) == self.slab.size <= self.slab.capacity

    @invariant()
    def forgets_nothing_without_an_eviction(self) -> None:
        if not self.slab.evictions:
            assert self.slab.size == len(self.placed)


SlabAgainstDictionary.TestCase.settings = settings(max_examples=40, stateful_step_count=25)
TestSlabAgainstDictionary = SlabAgainstDictionary.TestCase


@pytest.mark.parametrize(("offered", "kept"), [(0.70, 1.0), (0.90, 0.99), (1.0, 0.95)])
@pytest.mark.parametrize("seed", range(3))
def test_sets_fill_evenly(seed: int, offered: float, kept: float) -> None:
    slab = Slab(8192, COLUMNS)
    keys = np.random.default_rng(seed).integers(1, 2**64 - 1, int(offered * slab.capacity), dtype=np.uint64)

    for part in np.array_split(keys, 64):
        place(slab, part.tolist())

    assert slab.size >= kept * len(keys)
    assert slab.size == len(keys) - slab.evictions


def test_an_eviction_takes_the_least_recently_used_of_both_sets() -> None:
    newcomers = np.random.default_rng(5).integers(1, 2**64 - 1, 200, dtype=np.uint64).tolist()
    taken_from_the_unused_set = 0
    for newcomer in newcomers:
        slab = Slab(2 * WAYS, COLUMNS)
        for key in range(1, 4 * WAYS):
            place(slab, [key << 40 | key])
        resident = hashes_of([key << 40 | key for key in range(1, 4 * WAYS)])
        cells = slab.find(resident)
        slab.find(resident[(cells >= 0) & (cells < WAYS)])  # the first set is used once more, the second is not
        place(slab, [newcomer])
        taken_from_the_unused_set += int(slab.find(hashes_of([newcomer]))[0] >= WAYS)

    # of two sets a quarter of all keys may stand in the first alone: all others go to the second
    assert taken_from_the_unused_set / len(newcomers) == pytest.approx(0.75, abs=0.1)


def test_a_row_that_is_used_all_the_time_outlives_any_number_of_newcomers() -> None:
    slab = Slab(64, COLUMNS)
    place(slab, [42], value=4.0)
    for newcomer in range(1000, 3000):
        slab.find(hashes_of([42]))
        place(slab, [newcomer])

    assert slab.values[slab.find(hashes_of([42]))[0]].tolist() == [4.0, 4.0]
    assert slab.evictions > 1000


def test_a_batch_larger_than_the_slab_leaves_it_consistent() -> None:
    slab = Slab(16, COLUMNS)
    place(slab, list(range(1, 17)), value=-1.0)  # some are held when the batch comes, and evicted by it
    keys = list(range(1, 101))
    values = np.repeat(np.array(keys, dtype=np.float32)[:, None], COLUMNS, axis=1)

    slab.place(hashes_of(keys), values, hashes_of(keys))

    cells = slab.find(hashes_of(keys))
    survivors = [(key, cell) for key, cell in zip(keys, cells.tolist(), strict=True) if cell >= 0]
    assert len(survivors) == slab.size <= slab.capacity
    assert all(slab.values[cell].tolist() == [key, key] for key, cell in survivors)


@pytest.mark.parametrize(("rows", "capacity"), [(1, 16), (16, 16), (17, 32), (200_000, 262_144)])
def test_capacity_is_the_next_power_of_two(rows: int, capacity: int) -> None:
    assert Slab(rows, 1).capacity == capacity
