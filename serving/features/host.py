"""The host slab over a slower tier: hits from memory, misses fetched once and kept."""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from serving import metrics
from serving.features.slab import Slab
from serving.features.tier import RowKeys, Rows, RowTier, TierAway
from serving.tally import CounterTally


class HostTier:
    """A bounded cache in host memory. Absence is cached too: an update will push it out.

    name: of the feature view, for metrics. defaults: float32 (`row` columns,), for rows that do
    not exist.
    """

    def __init__(self, name: str, slow: RowTier, rows: int, defaults: NDArray[np.float32]) -> None:
        self._slow = slow
        self._defaults = defaults
        self._slab = Slab(rows, len(defaults))
        self._hits = CounterTally(metrics.TIER_LOOKUPS.labels(name, "hit"))
        self._misses = CounterTally(metrics.TIER_LOOKUPS.labels(name, "miss"))
        self._held = metrics.TIER_ROWS.labels(name)

    @property
    def size(self) -> int:
        """Rows held now."""
        return self._slab.size

    def fetch(self, keys: RowKeys) -> Rows:
        """Never raises TierAway: rows that cannot be fetched are defaults, and `away` says so."""
        cells = self._slab.find(keys.hashes)
        missed = np.flatnonzero(cells < 0)
        self._hits.inc(len(keys) - len(missed))
        rows = Rows(self._slab.values[cells], self._slab.updated_ms[cells])
        if not len(missed):
            return rows
        self._misses.inc(len(missed))
        try:
            fetched = self._slow.fetch(keys.pick(missed))
        except TierAway:
            rows.values[missed], rows.updated_ms[missed], rows.away = self._defaults, 0, True
            return rows
        rows.values[missed], rows.updated_ms[missed] = fetched.values, fetched.updated_ms
        if fetched.away:  # what looks absent may exist: nothing to remember
            rows.away = True
            return rows
        distinct, places = np.unique(keys.hashes[missed], return_index=True)
        self._slab.place(distinct, fetched.values[places], fetched.updated_ms[places])
        self._held.set(self._slab.size)
        return rows

    def drop(self, hashes: Iterable[int]) -> None:
        """Forgets rows that changed in the store."""
        self._slab.drop(np.fromiter(hashes, dtype=np.uint64))

    def clear(self) -> None:
        """Forgets everything: after missed invalidations nothing here can be trusted."""
        self._slab.clear()
