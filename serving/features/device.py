"""The device tier: rows resident in device memory over a tier on the host.

What is where is kept on the host, by the same slab as the host tier's, without values; the values
are one tensor. So a batch's lookup is a few numpy calls, and what crosses are cells (4 bytes a
candidate) and the rows that were missed.
"""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from serving import metrics
from serving.device.streams import Device
from serving.features.freshness import ValueCounts
from serving.features.leases import Lease
from serving.features.prefetch import LeasingTier
from serving.features.slab import Slab
from serving.features.suspects import CheckRule, Suspects
from serving.features.tier import NOTHING_FETCHED, Fetched, RowKeys, Rows, RowTier, sure_rows
from serving.tally import CounterTally


class ForgettingTier(LeasingTier, RowTier, Protocol):
    """A tier that keeps rows and can be told what became of them."""

    def drop(self, hashes: Iterable[int]) -> None:
        """Forgets rows that changed in the store."""
        ...

    def distrust(self) -> None:
        """Changes may have been missed: checks every row before long."""
        ...

    def close(self) -> None:
        """Says that it holds nothing any more."""
        ...


@dataclass(frozen=True, slots=True)
class Located:
    """Where a batch's rows are, and what has to be written to make it true for the next batch.

    cells: int32 (keys,), meaningless at the places in `missed`. missed: int64 (missed,), ascending.
    missed_rows: float32 (missed, columns). placed_cells, placed_from: int64 (placed,), the cells
    that take rows and which of `missed_rows` each takes: to be written AFTER the batch's gather,
    since they may have held rows of it. updated_ms: uint64 (keys,), 0 where there is no row.
    unchecked: bool (keys,), see `Rows`.
    """

    cells: NDArray[np.int32]
    missed: NDArray[np.int64]
    missed_rows: NDArray[np.float32]
    placed_cells: NDArray[np.int64]
    placed_from: NDArray[np.int64]
    placed_hashes: NDArray[np.uint64]
    updated_ms: NDArray[np.uint64]
    away: bool
    unchecked: NDArray[np.bool_] | None = None
    fetched: Fetched = NOTHING_FETCHED


class DeviceTier:
    """values: float32 (capacity, columns) on the device; read and written on one stream alone.

    name: of the feature view, for metrics. rows: capacity, as the slab rounds it. Absence is kept
    too, as the slow tier's defaults. rule, clock: see `HostTier`. counts: told of every row handed out,
    here or from below; the slow tier then tells nobody.
    """

    def __init__(
        self,
        name: str,
        slow: ForgettingTier,
        rows: int,
        columns: int,
        device: Device,
        rule: CheckRule | None = None,
        clock: Callable[[], float] = time.monotonic,
        counts: ValueCounts | None = None,
    ) -> None:
        self._slow, self._counts = slow, counts
        self._slab = Slab(rows, 0)
        self._suspects = Suspects(self._slab.capacity, rule or CheckRule(), clock)
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
        located, missing = self._locate(keys)
        if self._counts is not None and not located.away:
            self._counts.count(located.updated_ms, missing)
        return located

    def _locate(self, keys: RowKeys) -> tuple[Located, NDArray[np.uint8] | None]:
        """As `locate`, and the values that are missing, see `Rows`."""
        cells = self._slab.find(keys.hashes)
        absent = cells < 0
        missed = np.flatnonzero(absent)
        updated_ms = self._slab.updated_ms[cells]
        missing = None if self._slab.missing is None else self._slab.missing[cells]
        self._hits.inc(len(keys) - len(missed))
        unchecked = None
        if self._suspects.any:
            unchecked = self._suspects.among(cells)
            missed = np.flatnonzero(absent | self._suspects.due(unchecked))
        if not len(missed):
            nothing = np.empty(0, dtype=np.int64)
            no_rows = np.empty((0, self.values.shape[1]), dtype=np.float32)
            located = Located(
                cells.astype(np.int32),
                nothing,
                no_rows,
                nothing,
                nothing,
                keys.hashes[:0],
                updated_ms,
                False,
                unchecked,
            )
            return located, missing
        self._misses.inc(int(absent.sum()))
        fetched = self._slow.fetch(keys.pick(missed))
        if fetched.away and unchecked is not None:  # what is held here is no worse than what is below
            sure = sure_rows(fetched)
            assert sure is not None
            useful = absent[missed] | sure
            fetched.away = bool((absent[missed] & (fetched.updated_ms == 0)).any())
            missed, fetched = missed[useful], fetched.pick(useful)
        if unchecked is not None or fetched.unchecked is not None:
            unchecked = np.zeros(len(keys), dtype=bool) if unchecked is None else unchecked
            unchecked[missed] = False if fetched.unchecked is None else fetched.unchecked
        updated_ms[missed] = fetched.updated_ms
        if fetched.missing is not None and missing is None:
            missing = np.zeros((len(keys), fetched.missing.shape[1]), dtype=np.uint8)
        if missing is not None:
            missing[missed] = 0 if fetched.missing is None else fetched.missing
        cells[missed] = 0
        placed_cells, placed_from, hashes = self._place(keys.hashes[missed], fetched)
        located = Located(
            cells=cells.astype(np.int32),
            missed=missed,
            missed_rows=fetched.values,
            placed_cells=placed_cells,
            placed_from=placed_from,
            placed_hashes=hashes,
            updated_ms=updated_ms,
            away=fetched.away,
            unchecked=unchecked,
            fetched=fetched.fetched,
        )
        return located, missing

    def forget(self, located: Located) -> None:
        """What was to be placed will not be written."""
        self._slab.drop(located.placed_hashes)

    def fetch(self, keys: RowKeys) -> Rows:
        """The rows on the host: from the tier below, which knows no less."""
        rows = self._slow.fetch(keys)
        if self._counts is not None and not rows.away:
            self._counts.count(rows.updated_ms, rows.missing)
        return rows

    def drop(self, hashes: Iterable[int]) -> None:
        """Forgets rows that changed in the store, here and below."""
        changed = list(hashes)
        cells = self._slab.drop(np.array(changed, dtype=np.uint64))
        if self._suspects.any:
            self._suspects.unmark(cells)
        self._slow.drop(changed)

    def close(self) -> None:
        """Says that it holds nothing any more, here and below; its memory goes with it."""
        self._held.set(0)
        self._slow.close()

    def distrust(self) -> None:
        """Changes may have been missed: checks every row before long, here and below."""
        self._suspects.mark(self._slab.held())
        self._slow.distrust()

    @property
    def ahead(self) -> RowTier | None:
        """Rows are fetched ahead into the tier below."""
        return self._slow.ahead

    def lease(self, keys: RowKeys) -> Lease | None:
        """See `HostTier`: below, since from there on the way is short."""
        return self._slow.lease(keys)

    def keep(self, lease: Lease, fetched: Rows | None) -> None:
        """See `HostTier`."""
        self._slow.keep(lease, fetched)

    def _place(
        self, hashes: NDArray[np.uint64], fetched: Rows
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.uint64]]:
        distinct, places = np.unique(hashes, return_index=True)
        if (sure := sure_rows(fetched)) is not None:
            distinct, places = distinct[sure[places]], places[sure[places]]
        nothing_here = np.empty((len(distinct), 0), dtype=np.float32)  # values lie on the device
        lacking = None if fetched.missing is None else fetched.missing[places]
        cells = self._slab.place(distinct, nothing_here, fetched.updated_ms[places], lacking)
        self._held.set(self._slab.size)
        if self._suspects.any:
            self._suspects.unmark(cells[cells >= 0])
        kept = cells >= 0  # one of them may have taken another's cell
        return cells[kept], places[kept].astype(np.int64), distinct[kept]
