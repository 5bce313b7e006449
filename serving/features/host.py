"""The host slab over a slower tier: hits from memory, misses fetched once and kept."""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from serving import metrics
from serving.features.freshness import ValueCounts
from serving.features.slab import Slab
from serving.features.tier import RowKeys, Rows, RowTier, TierAway
from serving.tally import CounterTally


class HostTier:
    """A bounded cache in host memory. Absence is cached too: an update will push it out.

    name: of the feature view, for metrics. rows: how many to keep, as the slab rounds it. defaults:
    float32 (`row` columns,), for rows that do not exist. counts: told of every row handed out.
    """

    def __init__(
        self,
        name: str,
        slow: RowTier,
        rows: int,
        defaults: NDArray[np.float32],
        counts: ValueCounts | None = None,
    ) -> None:
        self._slow = slow
        self._defaults, self._counts = defaults, counts
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
        cells, missed = self._slab.locate(keys.hashes)
        # `take` clips the -1 of a miss to a row that is overwritten below; it copies twice as fast as indexing
        rows = Rows(self._slab.values.take(cells, axis=0, mode="clip"), self._slab.updated_ms.take(cells, mode="clip"))
        self._hits.inc(len(keys) - len(missed))
        if len(missed):
            self._misses.inc(len(missed))
            self._fill(rows, keys, missed)
        if self._counts is not None and not rows.away:
            self._counts.count(rows.updated_ms)
        return rows

    def _fill(self, rows: Rows, keys: RowKeys, missed: NDArray[np.int64]) -> None:
        """Fetches what was missed, once a key, and keeps of it what is wanted enough."""
        distinct, first, places = np.unique(keys.hashes[missed], return_index=True, return_inverse=True)
        try:
            fetched = self._slow.fetch(keys.pick(missed[first]))
        except TierAway:
            rows.values[missed], rows.updated_ms[missed], rows.away = self._defaults, 0, True
            return
        rows.values[missed], rows.updated_ms[missed] = fetched.values[places], fetched.updated_ms[places]
        if fetched.away:  # what looks absent may exist: nothing to remember
            rows.away = True
            return
        self._slab.place(distinct, fetched.values, fetched.updated_ms)
        self._held.set(self._slab.size)

    def drop(self, hashes: Iterable[int]) -> None:
        """Forgets rows that changed in the store."""
        self._slab.drop(np.fromiter(hashes, dtype=np.uint64))

    def clear(self) -> None:
        """Forgets everything: after missed invalidations nothing here can be trusted."""
        self._slab.clear()
