"""Which cell of a slab holds which row: found, claimed and given up a batch at a time.

Sets of sixteen cells lie in one piece, two cache lines. A row stands in its first set; when that
fills up, in its second if there is more room (so that sets fill evenly: offered nine tenths of what it
holds, an index keeps 99.4 % of it); once both are full it competes for a cell of the first. So a
batch whose rows are all where they are looked for first costs one gather and one compare.

Who stays is decided as in TinyLFU: a newcomer takes the cell of the least wanted row of its set if
it has been asked for more often lately than that row. "Lately" is a count that decays by half
every `half_life_rows` lookups: held rows carry theirs, the rest are remembered in a sketch. So a
scan, whose rows come once, displaces only rows that are not wanted either, and what was popular
yesterday fades without a sweep.

Sources: Einziger, Friedman & Manes, "TinyLFU", ACM ToS 13(4), 2017; decayed counts after Lee et
al., "LRFU", IEEE ToC 50(12), 2001; two choices after Azar et al., "Balanced Allocations", 1994.
"""

import numpy as np
from numpy.typing import NDArray

from serving.features.sketch import FrequencySketch

WAYS = 16
EMPTY = np.uint64(0)
HALF_LIVES = 16  # of lookups, in units of the capacity
SPARE_WAYS = 2  # left free in a row's first set as long as its second has more room
_ONE = np.uint64(1)
_NOWHERE = np.empty(0, dtype=np.int64)
_MIX = np.uint64(0x9E3779B97F4A7C15)
_MOST_WEIGHT = 2.0**60  # weights are brought down before float32 ends at 2**128


class SlabIndex:
    """Cells by 64-bit hash.

    rows: capacity, rounded up to a power of two, at least 32. A hash of 0 stands for an empty cell
    and is stored as 1: one collision more in 2**64. One thread uses it.
    """

    def __init__(self, rows: int, half_life_rows: int | None = None) -> None:
        sets = 1 << max(1, ((rows + WAYS - 1) // WAYS - 1).bit_length())
        self.capacity = sets * WAYS
        self.size = 0
        self.evictions = 0
        self.refusals = 0
        self._keys = np.zeros((sets, WAYS), dtype=np.uint64)
        self._flat = self._keys.reshape(-1)
        self._wanted = np.zeros(self.capacity, dtype=np.float32)  # decayed count, in units of _weight
        self._sketch = FrequencySketch(self.capacity)
        self._mask = np.int64(sets - 1)
        self._shift = np.uint64(64 - (sets - 1).bit_length())
        self._half_life_rows = half_life_rows or HALF_LIVES * self.capacity
        self._weight = 1.0  # of a lookup now: instead of every count halving, each new one weighs more

    def find(self, hashes: NDArray[np.uint64]) -> NDArray[np.int64]:
        """The cell of each hash, -1 where it is not here. Counts them as asked for. Shape (hashes,)."""
        return self.locate(hashes)[0]

    def locate(self, hashes: NDArray[np.uint64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """As `find`, and the places of those that are not here, ascending."""
        cells, missed = self._look(hashes)
        self._wanted[cells[cells >= 0] if len(missed) else cells] += np.float32(self._weight)
        self._weight *= 2.0 ** (len(cells) / self._half_life_rows)
        if self._weight > _MOST_WEIGHT:
            self._rescale()
        return cells, missed

    def look(self, hashes: NDArray[np.uint64]) -> NDArray[np.int64]:
        """As `find`, without counting."""
        return self._look(hashes)[0]

    def _look(self, hashes: NDArray[np.uint64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        keys = np.maximum(hashes, _ONE)
        first = keys.view(np.int64) & self._mask
        matches = (self._keys.take(first, axis=0, mode="clip") == keys[:, None]).reshape(-1).nonzero()[0]
        first <<= 4
        if len(matches) == len(keys):  # no key stands twice in its set: all are here, in order
            matches &= 15
            first += matches
            return first, _NOWHERE
        cells = np.full(len(keys), -1, dtype=np.int64)
        rows = matches >> 4
        cells[rows] = first[rows] + (matches & 15)
        elsewhere = (cells < 0).nonzero()[0]
        keys = keys[elsewhere]
        second = self._second(keys)
        matches = (self._keys.take(second, axis=0, mode="clip") == keys[:, None]).reshape(-1).nonzero()[0]
        rows = matches >> 4
        cells[elsewhere[rows]] = second[rows] * WAYS + (matches & 15)
        return cells, elsewhere[cells[elsewhere] < 0]

    def claim(self, hashes: NDArray[np.uint64]) -> NDArray[np.int64]:
        """A cell for each hash: its own, a free one, or that of a row less wanted; -1 where none.

        hashes: (rows,), distinct. A newcomer counts as asked for once more.
        """
        cells = self.look(hashes)
        new = (cells < 0).nonzero()[0]
        if not len(new):
            return cells
        if np.count_nonzero(hashes[new] <= _ONE) > 1:  # 0 and 1 are one key: it may not stand here twice
            new = new[hashes[new] != EMPTY]
        keys = np.maximum(hashes[new], _ONE)
        wanted = self._sketch.estimate(keys) + np.float32(self._weight)
        first = keys.view(np.int64) & self._mask
        second = self._second(keys)
        got = np.full(len(keys), -1, dtype=np.int64)
        left = np.arange(len(keys))
        for sets, spare in ((first, SPARE_WAYS), (second, SPARE_WAYS), (first, 0), (second, 0), (first, None)):
            got[left] = self._settle(keys[left], sets[left], wanted[left], spare)
            left = (got < 0).nonzero()[0]
            if not len(left):
                break
        self._sketch.raise_to(keys[left], wanted[left])
        self.refusals += len(left)
        cells[new] = got
        # a newcomer may have taken the cell of a row of this very batch
        lost = (cells >= 0).nonzero()[0]
        cells[lost[self._flat[cells[lost]] != np.maximum(hashes[lost], _ONE)]] = -1
        return cells

    def drop(self, hashes: NDArray[np.uint64]) -> NDArray[np.int64]:
        """Gives up cells, but not how wanted their rows are. Returns the cells that were held."""
        cells = self.look(hashes)
        gone = np.unique(cells[cells >= 0])
        self._sketch.raise_to(self._flat[gone], self._wanted[gone])
        self._flat[gone] = EMPTY
        self.size -= len(gone)
        return gone

    def clear(self) -> None:
        """Gives up every cell."""
        self._keys[:] = EMPTY
        self.size = 0

    def held(self) -> NDArray[np.bool_]:
        """Which cells hold a row. Shape (capacity,)."""
        held: NDArray[np.bool_] = self._flat != EMPTY
        return held

    def _settle(
        self, keys: NDArray[np.uint64], sets: NDArray[np.int64], wanted: NDArray[np.float32], spare: int | None
    ) -> NDArray[np.int64]:
        """Cells of these sets for new keys: the most wanted newcomer gets the least wanted cell.

        spare: take free cells only, and leave so many in every set; None: compete for all of them.
        """
        cells = np.full(len(keys), -1, dtype=np.int64)
        order = np.lexsort((-wanted, sets))
        chosen, starts, counts = np.unique(sets[order], return_index=True, return_counts=True)
        rank = np.arange(len(keys)) - np.repeat(starts, counts)
        fits = rank < WAYS
        order, rank, place = order[fits], rank[fits], np.repeat(np.arange(len(chosen)), counts)[fits]
        held = self._keys[chosen]
        price = np.where(held == EMPTY, np.float32(-1), self._wanted.reshape(-1, WAYS)[chosen])
        ways = np.argsort(price, axis=1, kind="stable")[place, rank]
        price = price[place, ways]
        free = (held == EMPTY).sum(axis=1)[place]
        taken = wanted[order] > price if spare is None else rank < free - spare
        order, ways, place, price = order[taken], ways[taken], place[taken], price[taken]
        found = chosen[place] * WAYS + ways
        evicted = found[price >= 0]
        self._sketch.raise_to(self._flat[evicted], self._wanted[evicted])
        self.evictions += len(evicted)
        self.size += len(found) - len(evicted)
        self._flat[found] = keys[order]
        self._wanted[found] = wanted[order]
        cells[order] = found
        return cells

    def _second(self, keys: NDArray[np.uint64]) -> NDArray[np.int64]:
        return ((keys * _MIX) >> self._shift).view(np.int64)

    def _rescale(self) -> None:
        factor = 1.0 / self._weight
        self._wanted *= np.float32(factor)
        self._sketch.scale(factor)
        self._weight = 1.0
