"""A slab: rows of float32 in one preallocated matrix, found by the index beside it."""

import numpy as np
from numpy.typing import NDArray

from serving.features.index import SlabIndex


class Slab:
    """The rows of a view that are kept in host memory. One thread uses it.

    rows: capacity, rounded up to a power of two, at least 32. See `index` for who stays.
    """

    def __init__(self, rows: int, columns: int) -> None:
        self._index = SlabIndex(rows)
        self.capacity = self._index.capacity
        self.values = np.zeros((self.capacity, columns), dtype=np.float32)
        self.updated_ms = np.zeros(self.capacity, dtype=np.uint64)
        self.missing: NDArray[np.uint8] | None = None
        """A bit a column where a value is missing, see `tier.Rows`; None until a row came that lacks one."""

    @property
    def size(self) -> int:
        """Rows held."""
        return self._index.size

    @property
    def evictions(self) -> int:
        """Rows that gave way to more wanted ones, so far."""
        return self._index.evictions

    @property
    def refusals(self) -> int:
        """Rows that were not kept because those held were more wanted, so far."""
        return self._index.refusals

    def find(self, hashes: NDArray[np.uint64]) -> NDArray[np.int64]:
        """The cell of each hash, -1 where it is not here. Counts them as asked for. Shape (hashes,)."""
        return self._index.find(hashes)

    def locate(self, hashes: NDArray[np.uint64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """As `find`, and the places of those that are not here, ascending."""
        return self._index.locate(hashes)

    def look(self, hashes: NDArray[np.uint64]) -> NDArray[np.int64]:
        """As `find`, without counting."""
        return self._index.look(hashes)

    def place(
        self,
        hashes: NDArray[np.uint64],
        values: NDArray[np.float32],
        updated_ms: NDArray[np.uint64],
        missing: NDArray[np.uint8] | None = None,
    ) -> NDArray[np.int64]:
        """Stores rows, replacing those of the same hash; returns their cells, -1 for a row that is
        less wanted than those in its way.

        hashes: (rows,), distinct; values: (rows, columns); updated_ms: (rows,); missing: see
        `tier.Rows`.
        """
        cells = self._index.claim(hashes)
        kept = (cells >= 0).nonzero()[0]
        self.values[cells[kept]] = values[kept]
        self.updated_ms[cells[kept]] = updated_ms[kept]
        if missing is not None and self.missing is None:
            self.missing = np.zeros((self.capacity, missing.shape[1]), dtype=np.uint8)
        if self.missing is not None:
            self.missing[cells[kept]] = 0 if missing is None else missing[kept]
        return cells

    def drop(self, hashes: NDArray[np.uint64]) -> NDArray[np.int64]:
        """Forgets rows; unknown hashes do not matter. Returns the cells that are free now."""
        return self._index.drop(hashes)

    def clear(self) -> None:
        """Forgets everything."""
        self._index.clear()

    def held(self) -> NDArray[np.bool_]:
        """Which cells hold a row. Shape (capacity,)."""
        return self._index.held()
