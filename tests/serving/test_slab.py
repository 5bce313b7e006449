"""The slab against a dictionary: bounded, never wrong, and full before it forgets."""

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from numpy.typing import NDArray

from serving.features.index import WAYS
from serving.features.slab import Slab

COLUMNS = 2
# few enough to meet again, more than the slab holds, and the whole range of 64 bits
HASHES = st.sampled_from([0, *(((i * 0x9E3779B97F4A7C15) & (2**64 - 1)) for i in range(2, 90)), 2**64 - 1])


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
        self.slab = Slab(32, COLUMNS)
        self.placed: dict[int, int] = {}
        self.written = 0

    @rule(keys=st.lists(HASHES, max_size=40, unique=True))
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
        if not (self.slab.evictions or self.slab.refusals):
            assert self.slab.size == len(self.placed)


SlabAgainstDictionary.TestCase.settings = settings(max_examples=40, stateful_step_count=25)
TestSlabAgainstDictionary = SlabAgainstDictionary.TestCase


@pytest.mark.parametrize(("offered", "kept"), [(0.70, 0.999), (0.90, 0.99), (1.0, 0.95)])
@pytest.mark.parametrize("seed", range(3))
def test_sets_fill_evenly(seed: int, offered: float, kept: float) -> None:
    slab = Slab(8192, COLUMNS)
    keys = np.random.default_rng(seed).integers(1, 2**64 - 1, int(offered * slab.capacity), dtype=np.uint64)

    for part in np.array_split(keys, 64):
        place(slab, part.tolist())

    assert slab.size >= kept * len(keys)
    assert slab.size == len(keys) - slab.evictions - slab.refusals


def test_a_newcomer_takes_the_cell_of_a_row_that_nobody_asks_for_any_more() -> None:
    slab = Slab(2 * WAYS, COLUMNS)
    keys = np.random.default_rng(5).integers(2, 2**63, 6 * WAYS, dtype=np.uint64)
    place(slab, keys.tolist())
    resident = keys[slab.look(keys) >= 0]
    forgotten, wanted = resident[::2], resident[1::2]
    for _ in range(8):
        slab.find(wanted)

    for newcomer in np.random.default_rng(6).integers(2, 2**63, 200, dtype=np.uint64).tolist():
        place(slab, [newcomer])

    assert (slab.look(wanted) >= 0).all()
    assert (slab.look(forgotten) < 0).all()


def test_rows_that_come_once_do_not_displace_those_that_are_asked_for() -> None:
    slab = Slab(1024, COLUMNS)
    rng = np.random.default_rng(3)
    place(slab, rng.integers(2, 2**63, 900, dtype=np.uint64).tolist())
    popular = slab._index._flat[slab.held()].copy()
    for _ in range(3):
        slab.find(popular)

    for scan in range(50):
        if scan % 10 == 0:
            slab.find(popular)
        scanned = rng.integers(2, 2**63, 1000, dtype=np.uint64)
        slab.find(scanned)
        place(slab, scanned.tolist())

    assert (slab.look(popular) >= 0).mean() > 0.95
    assert slab.refusals > 40_000


def test_a_row_that_is_asked_for_again_and_again_gets_in() -> None:
    slab = Slab(64, COLUMNS)
    residents = np.random.default_rng(4).integers(2, 2**63, 200, dtype=np.uint64)
    place(slab, residents.tolist())
    for _ in range(5):
        slab.find(residents)
    newcomer, attempts = hashes_of([42]), 0
    while slab.find(newcomer)[0] < 0:
        place(slab, [42], value=4.0)
        attempts += 1

    assert 1 < attempts <= 7


def test_what_was_popular_fades() -> None:
    slab = Slab(256, COLUMNS)
    rng = np.random.default_rng(8)
    yesterday, today = rng.integers(2, 2**63, (2, 200), dtype=np.uint64)
    for popular in (yesterday, today):
        for _ in range(1000):
            asked = rng.choice(popular, 20, replace=False)
            missed = asked[slab.find(asked) < 0]
            place(slab, missed.tolist())

    assert (slab.look(today) >= 0).mean() > 0.95


def test_a_dropped_row_comes_back_as_wanted_as_it_was() -> None:
    slab = Slab(32, COLUMNS)
    keys = np.random.default_rng(9).integers(2, 2**63, 100, dtype=np.uint64)
    place(slab, keys.tolist())
    resident = keys[slab.look(keys) >= 0]
    for _ in range(4):
        slab.find(resident)
    slab.drop(resident[:1])
    rivals = np.random.default_rng(10).integers(2, 2**63, 200, dtype=np.uint64)
    place(slab, rivals.tolist())  # one of them has the free cell by now

    place(slab, resident[:1].tolist())

    assert slab.look(resident[:1])[0] >= 0


def test_the_hashes_of_an_empty_cell_and_of_one_are_not_kept_both() -> None:
    slab = Slab(32, COLUMNS)

    place(slab, [0, 1, 2])

    assert slab.size == 2
    assert slab.look(hashes_of([1, 2])).min() >= 0


def test_a_row_that_is_used_all_the_time_outlives_any_number_of_newcomers() -> None:
    slab = Slab(64, COLUMNS)
    place(slab, [42], value=4.0)
    for newcomer in range(1000, 3000):
        slab.find(hashes_of([42]))
        place(slab, [newcomer])

    assert slab.values[slab.find(hashes_of([42]))[0]].tolist() == [4.0, 4.0]
    assert slab.evictions + slab.refusals > 1000


def test_a_batch_larger_than_the_slab_leaves_it_consistent() -> None:
    slab = Slab(32, COLUMNS)
    place(slab, list(range(1, 17)), value=-1.0)  # some are held when the batch comes, and evicted by it
    keys = list(range(1, 101))
    values = np.repeat(np.array(keys, dtype=np.float32)[:, None], COLUMNS, axis=1)

    slab.place(hashes_of(keys), values, hashes_of(keys))

    cells = slab.find(hashes_of(keys))
    survivors = [(key, cell) for key, cell in zip(keys, cells.tolist(), strict=True) if cell >= 0]
    assert len(survivors) == slab.size <= slab.capacity
    assert all(slab.values[cell].tolist() == [key, key] for key, cell in survivors)


@pytest.mark.parametrize(("rows", "capacity"), [(1, 32), (32, 32), (33, 64), (200_000, 262_144)])
def test_capacity_is_the_next_power_of_two(rows: int, capacity: int) -> None:
    assert Slab(rows, 1).capacity == capacity
