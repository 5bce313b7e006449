"""How often rows that are not held were asked for lately: a count-min sketch of decayed counts."""

import numpy as np
from numpy.typing import NDArray

_MIX = np.uint64(0xD6E8FEB86659FD93)  # odd, and not the one that chooses a slab's second set
SLOTS_A_ROW = 4
LEAST_SLOTS = 64
SAMPLED_SLOTS = 4096


class FrequencySketch:
    """Estimates of the weight that was noted for a key.

    Two keys that meet in a counter raise each other: under a long scan of rows that come once,
    every counter rises. So an estimate is what stands above the median counter.

    rows: how many rows the slab holds; `SLOTS_A_ROW` counters of four bytes are kept for each, in
    either of two tables; memory that nobody writes to is not taken. Ageing is the caller's: a note
    made later weighs more, and `scale` brings all of them down before they leave float32.

    Source: count-min with conservative update, Estan & Varghese, "New Directions in Traffic
    Measurement and Accounting", SIGCOMM 2002.
    """

    def __init__(self, rows: int) -> None:
        slots = max(LEAST_SLOTS, 1 << (SLOTS_A_ROW * rows - 1).bit_length())
        self._tables = np.zeros((2, slots), dtype=np.float32)
        self._noise = np.float32(0)
        self._raised = 0  # since the noise was looked at
        self._mask = np.uint64(slots - 1)
        self._shift = np.uint64(64 - (slots - 1).bit_length())

    def estimate(self, keys: NDArray[np.uint64]) -> NDArray[np.float32]:
        """The weight noted for each key. Shape (keys,)."""
        first, second = self._slots(keys)
        noted = np.minimum(self._tables[0][first], self._tables[1][second])
        counts: NDArray[np.float32] = np.maximum(noted - self._noise, np.float32(0))
        return counts

    def raise_to(self, keys: NDArray[np.uint64], weights: NDArray[np.float32]) -> None:
        """Notes that these keys have at least these weights, as estimates go now."""
        weights = weights + self._noise
        self._raised += len(keys)
        if self._raised > self._tables.shape[1] // 16:
            self._noise = np.float32(np.median(self._tables[0, :: max(1, self._tables.shape[1] // SAMPLED_SLOTS)]))
            self._raised = 0
        for table, slots in zip(self._tables, self._slots(keys), strict=True):
            np.maximum.at(table, slots, weights)

    def scale(self, factor: float) -> None:
        """Multiplies everything; exact for powers of two."""
        self._tables *= np.float32(factor)
        self._noise *= np.float32(factor)

    def _slots(self, keys: NDArray[np.uint64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        first = ((keys * _MIX) >> self._shift).view(np.int64)
        second = ((keys >> np.uint64(17)) & self._mask).view(np.int64)
        return first, second
