"""A set-associative slab: rows by 64-bit hash, looked up and placed a batch at a time.

Two candidate sets of eight ways per key (power of two choices, so that sets fill evenly: offered
nine tenths of its capacity a slab keeps 99 % of that, offered all of it 95 %). A lookup is two
gathers and a compare, whatever is in the slab; a deletion clears one cell. Eviction inside a key's
two sets takes the least recently used way.

Source: set-associative caches as in processors; two choices after Azar, Broder, Karlin & Upfal,
"Balanced Allocations", 1994.
"""

import numpy as np
from numpy.typing import NDArray

WAYS = 8
EMPTY = np.uint64(0)
_MIX = np.uint64(0x9E3779B97F4A7C15)


class Slab:
    """Rows of float32 in one preallocated matrix, addressed by hash.

    rows: capacity, rounded up to a power of two, at least 16. A hash of 0 stands for an empty
    cell and is stored as 1: one collision more in 2**64.
    """

    def __init__(self, rows: int, columns: int) -> None:
        sets = 1 << max(1, ((rows + WAYS - 1) // WAYS - 1).bit_length())
        self.capacity = sets * WAYS
        self.values = np.zeros((self.capacity, columns), dtype=np.float32)
        self.updated_ms = np.zeros(self.capacity, dtype=np.uint64)
        self._keys = np.zeros((sets, WAYS), dtype=np.uint64)
        self._used = np.zeros(self.capacity, dtype=np.uint64)
        self._shift = np.uint64(64 - (sets - 1).bit_length())
        self._mask = np.uint64(sets - 1)
        self._tick = 0
        self.size = 0
        self.evictions = 0

    def find(self, hashes: NDArray[np.uint64]) -> NDArray[np.int64]:
        """The cell of each hash, -1 where it is not here. Marks them as used. Shape (hashes,)."""
        keys = np.maximum(hashes, np.uint64(1))
        first, second = self._sets(keys)
        cells = np.full(len(keys), -1, dtype=np.int64)
        for sets in (first, second):
            match = self._keys[sets] == keys[:, None]
            hit = match.any(axis=1)
            cells[hit] = sets[hit].astype(np.int64) * WAYS + match.argmax(axis=1)[hit]
        self._tick += 1
        self._used[cells[cells >= 0]] = self._tick
        return cells

    def place(self, hashes: NDArray[np.uint64], values: NDArray[np.float32], updated_ms: NDArray[np.uint64]) -> None:
        """Stores rows, replacing those of the same hash, evicting where a key's sets are full.

        hashes: (rows,), distinct; values: (rows, columns); updated_ms: (rows,).
        """
        cells = self.find(hashes)
        held, new = np.flatnonzero(cells >= 0), np.flatnonzero(cells < 0)
        keys = np.maximum(hashes, np.uint64(1))
        first, second = self._sets(keys)
        for i in new.tolist():
            cells[i] = self._claim(keys[i], int(first[i]), int(second[i]))
        for part in (held, new):  # a new row may have evicted a held one: it must be written last
            self.values[cells[part]] = values[part]
            self.updated_ms[cells[part]] = updated_ms[part]

    def drop(self, hashes: NDArray[np.uint64]) -> None:
        """Forgets rows; unknown hashes do not matter."""
        cells = self.find(hashes)
        gone = np.unique(cells[cells >= 0])
        self._keys.reshape(-1)[gone] = EMPTY
        self.size -= len(gone)

    def clear(self) -> None:
        """Forgets everything."""
        self._keys[:] = EMPTY
        self.size = 0

    def _claim(self, key: np.uint64, first: int, second: int) -> int:
        """A cell for a new key: an empty one in the emptier set, else the least recently used."""
        room = [(int((self._keys[s] == EMPTY).sum()), s) for s in (first, second)]
        free, chosen = max(room)
        if free:
            way = int((self._keys[chosen] == EMPTY).argmax())
            self.size += 1
        else:
            ages = [int(self._used[s * WAYS : (s + 1) * WAYS].min()) for s in (first, second)]
            chosen = first if ages[0] <= ages[1] else second
            way = int(self._used[chosen * WAYS : (chosen + 1) * WAYS].argmin())
            self.evictions += 1
        self._keys[chosen, way] = key
        cell = chosen * WAYS + way
        self._used[cell] = self._tick
        return cell

    def _sets(self, keys: NDArray[np.uint64]) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
        return keys & self._mask, (keys * _MIX) >> self._shift
