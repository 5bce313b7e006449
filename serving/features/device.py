"""The device tier: rows resident in device memory over a tier on the host.

What is where is kept on the host, by the same slab as the host tier's, without values; the values
are one tensor. So a batch's lookup is a few numpy calls, and what crosses are cells (4 bytes a
candidate) and the rows that were missed.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from serving import metrics
from serving.device.streams import Device
from serving.features.slab import Slab
from serving.features.tier import RowKeys, Rows, RowTier
from serving.tally import CounterTally


class ForgettingTier(RowTier, Protocol):
    """A tier that keeps rows and can be told to forget them."""

    def drop(self, hashes: Iterable[int]) -> None:
        """Forgets rows that changed in the store."""
        ...

    def clear(self) -> None:
        """Forgets everything."""
        ...


@dataclass(frozen=True, slots=True)
class Located:
    """Where a batch's rows are, and what has to be written to make it true for the next batch.

    cells: int32 (keys,), meaningless at the places in `missed`. missed: int64 (missed,), ascending.
    missed_rows: float32 (missed, columns). placed_cells, placed_from: int64 (placed,), the cells
    that take rows and which of `missed_rows` each takes: to be written AFTER the batch's gather,
    since they may have held rows of it. updated_ms: uint64 (keys,), 0 where there is no row.
    """

    cells: NDArray[np.int32]
    missed: NDArray[np.int64]
    missed_rows: NDArray[np.float32]
    placed_cells: NDArray[np.int64]
    placed_from: NDArray[np.int64]
    placed_hashes: NDArray[np.uint64]
    updated_ms: NDArray[np.uint64]
    away: bool


class DeviceTier:
    """values: float32 (capacity, columns) on the device; read and written on one stream alone.

    name: of the feature view, for metrics. rows: capacity, as the slab rounds it. Absence is kept
    too, as the slow tier's defaults.
    """

    def __init__(self, name: str, slow: ForgettingTier, rows: int, columns: int, device: Device) -> None:
        self._slow = slow
        self._slab = Slab(rows, 0)
        self.values = device.empty((self._slab.capacity, columns), torch.float32)
        self._hits = CounterTally(metrics.DEVICE_LOOKUPS.labels(name, "hit"))
        self._misses = CounterTally(metrics.DEVICE_LOOKUPS.labels(name, "miss"))
        self._held = metrics.DEVICE_ROWS.labels(name)

    @property
    def size(self) -> int:
        """Rows resident now."""
        return self._slab.size

    def locate(self, keys: RowKeys) -> Located:
        """Looks rows up and decides what becomes resident; nothing is written yet.

        From now on the slab counts `placed_cells` as held: they are written, or `forget` is called.
        """
        cells = self._slab.find(keys.hashes)
        missed = np.flatnonzero(cells < 0)
        updated_ms = self._slab.updated_ms[cells]
        self._hits.inc(len(keys) - len(missed))
        if not len(missed):
            nothing = np.empty(0, dtype=np.int64)
            no_rows = np.empty((0, self.values.shape[1]), dtype=np.float32)
            return Located(
                cells.astype(np.int32), nothing, no_rows, nothing, nothing, keys.hashes[:0], updated_ms, False
            )
        self._misses.inc(len(missed))
        fetched = self._slow.fetch(keys.pick(missed))
        updated_ms[missed] = fetched.updated_ms
        cells[missed] = 0
        placed_cells, placed_from, hashes = self._place(keys.hashes[missed], fetched)
        return Located(
            cells.astype(np.int32), missed, fetched.values, placed_cells, placed_from, hashes, updated_ms, fetched.away
        )

    def forget(self, located: Located) -> None:
        """What was to be placed will not be written."""
        self._slab.drop(located.placed_hashes)

    def fetch(self, keys: RowKeys) -> Rows:
        """The rows on the host: from the tier below, which knows no less."""
        return self._slow.fetch(keys)

    def drop(self, hashes: Iterable[int]) -> None:
        """Forgets rows that changed in the store, here and below."""
        changed = list(hashes)
        self._slab.drop(np.array(changed, dtype=np.uint64))
        self._slow.drop(changed)

    def clear(self) -> None:
        """Forgets everything, here and below."""
        self._slab.clear()
        self._slow.clear()

    def _place(
        self, hashes: NDArray[np.uint64], fetched: Rows
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.uint64]]:
        if fetched.away:  # what looks absent may exist: nothing to keep
            nothing = np.empty(0, dtype=np.int64)
            return nothing, nothing, hashes[:0]
        distinct, places = np.unique(hashes, return_index=True)
        nothing_here = np.empty((len(distinct), 0), dtype=np.float32)  # values lie on the device
        cells = self._slab.place(distinct, nothing_here, fetched.updated_ms[places])
        self._held.set(self._slab.size)
        kept = cells >= 0  # one of them may have taken another's cell
        return cells[kept], places[kept].astype(np.int64), distinct[kept]
