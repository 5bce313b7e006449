"""The host slab over a slower tier: hits from memory, misses fetched once and kept."""

import time
from collections.abc import Callable, Iterable

import numpy as np
from numpy.typing import NDArray

from serving import metrics
from serving.features.freshness import ValueCounts
from serving.features.leases import Lease, Leases
from serving.features.slab import Slab
from serving.features.suspects import CheckRule, Suspects
from serving.features.tier import Fetched, RowKeys, Rows, RowTier, TierAway, sure_rows
from serving.tally import CounterTally


class HostTier:
    """A bounded cache in host memory. Absence is cached too: an update will push it out.

    name: of the feature view, for metrics. rows: how many to keep, as the slab rounds it. defaults:
    float32 (`row` columns,), for rows that do not exist. counts: told of every row handed out.
    rule, clock: how rows are checked after changes may have been missed. ahead: the slow tier
    again, on connections that another thread may use; None: nothing is fetched ahead.

    A fetch looks up and keeps on the one thread that is also told of changes, between fetches: a
    change that arrives while a fetch is under way is applied after it, and pushes its row out.
    """

    def __init__(
        self,
        name: str,
        slow: RowTier,
        rows: int,
        defaults: NDArray[np.float32],
        counts: ValueCounts | None = None,
        rule: CheckRule | None = None,
        ahead: RowTier | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._slow, self.ahead = slow, ahead
        self._defaults, self._counts = defaults, counts
        self._slab = Slab(rows, len(defaults))
        self._suspects = Suspects(self._slab.capacity, rule or CheckRule(), clock)
        self._leases = Leases()
        self._hits = CounterTally(metrics.TIER_LOOKUPS.labels(name, "hit"))
        self._misses = CounterTally(metrics.TIER_LOOKUPS.labels(name, "miss"))
        self._checks = CounterTally(metrics.TIER_CHECKS.labels(name))
        self._unchecked = CounterTally(metrics.TIER_UNCHECKED_ROWS.labels(name))
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
        if self._slab.missing is not None:
            rows.missing = self._slab.missing.take(cells, axis=0, mode="clip")
            rows.missing[missed] = 0
        self._hits.inc(len(keys) - len(missed))
        if self._suspects.any:
            self._fill_and_check(rows, keys, cells, missed)
        elif len(missed):
            self._misses.inc(len(missed))
            self._fetch(rows, keys, missed, missed)
        if self._counts is not None and not rows.away:
            self._counts.count(rows.updated_ms, rows.missing)
        return rows

    def _fill_and_check(self, rows: Rows, keys: RowKeys, cells: NDArray[np.int64], missed: NDArray[np.int64]) -> None:
        """Fetches what was missed, and of the marked rows those that are due."""
        unchecked = rows.unchecked = self._suspects.among(cells)
        due = self._suspects.due(unchecked)
        self._misses.inc(len(missed))
        self._checks.inc(int(due.sum()))
        due[missed] = True
        if due.any():
            self._fetch(rows, keys, np.flatnonzero(due), missed)
        self._unchecked.inc(int(unchecked.sum()))

    def _fetch(self, rows: Rows, keys: RowKeys, wanted: NDArray[np.int64], missed: NDArray[np.int64]) -> None:
        """Puts the wanted rows in their places, each asked for once, and keeps what is wanted enough.

        missed: the places among them of rows that are not held.
        """
        hashes, first, again = np.unique(keys.hashes[wanted], return_index=True, return_inverse=True)
        began_s = time.perf_counter()
        try:
            fetched = self._slow.fetch(keys.pick(wanted[first]))
        except TierAway:
            rows.fetched = Fetched(len(first), (time.perf_counter() - began_s) * 1e6)
            rows.values[missed], rows.updated_ms[missed], rows.away = self._defaults, 0, bool(len(missed))
            return
        rows.fetched = Fetched(len(first), (time.perf_counter() - began_s) * 1e6)
        told = wanted
        if fetched.away:  # what looks absent may exist: nothing to remember, and what is held is no worse
            arrived = fetched.updated_ms[again] > 0
            unheld = np.isin(wanted, missed)
            rows.away = bool((unheld & ~arrived).any())
            told, again = wanted[arrived | unheld], again[arrived | unheld]
        rows.values[told], rows.updated_ms[told] = fetched.values[again], fetched.updated_ms[again]
        if fetched.unchecked is not None and rows.unchecked is None:
            rows.unchecked = np.zeros(len(keys), dtype=bool)
        if rows.unchecked is not None:
            rows.unchecked[told] = False if fetched.unchecked is None else fetched.unchecked[again]
        if fetched.missing is not None and rows.missing is None:
            rows.missing = np.zeros((len(keys), fetched.missing.shape[1]), dtype=np.uint8)
        if rows.missing is not None:
            rows.missing[told] = 0 if fetched.missing is None else fetched.missing[again]
        self._keep(hashes, fetched)

    def _keep(self, hashes: NDArray[np.uint64], fetched: Rows, of: NDArray[np.bool_] | None = None) -> None:
        """Keeps what can be relied on of the fetched rows; of: those among them, None: all."""
        sure = sure_rows(fetched)
        if of is not None:
            sure = of if sure is None else of & sure
        if sure is not None:
            hashes, fetched = hashes[sure], fetched.pick(sure)
        cells = self._slab.place(hashes, fetched.values, fetched.updated_ms, fetched.missing)
        if self._suspects.any:
            self._suspects.unmark(cells[cells >= 0])
        self._held.set(self._slab.size)

    def lease(self, keys: RowKeys) -> Lease | None:
        """The rows that are worth fetching ahead: neither held nor under way. None if there are none.

        A batch does not wait for them: one round trip of its own takes no longer than the rest of theirs.
        """
        hashes, first = np.unique(keys.hashes, return_index=True)
        cells = self._slab.look(hashes)
        known = cells >= 0
        if self._suspects.any:
            known &= ~self._suspects.among(cells)
        wanted = first[~known & ~self._leases.under_way(hashes)]
        return self._leases.grant(keys.pick(wanted)) if len(wanted) else None

    def keep(self, lease: Lease, fetched: Rows | None) -> None:
        """Ends a lease and keeps what was fetched, but for rows that changed or came meanwhile.

        fetched: None if the store did not answer.
        """
        sure = self._leases.end(lease)
        if fetched is None:
            return
        hashes = lease.keys.hashes
        cells = self._slab.find(hashes)  # counts them as asked for, as far as admission is concerned
        sure &= (cells < 0) | self._suspects.among(cells)
        self._keep(hashes, fetched, sure)

    def drop(self, hashes: Iterable[int]) -> None:
        """Forgets rows that changed in the store."""
        changed = list(hashes)
        self._leases.revoke(changed)
        cells = self._slab.drop(np.array(changed, dtype=np.uint64))
        if self._suspects.any:
            self._suspects.unmark(cells)

    def close(self) -> None:
        """Says that it holds nothing any more; its memory goes with it."""
        self._held.set(0)

    def distrust(self) -> None:
        """Changes may have been missed: every row is checked before long, see `suspects`."""
        self._leases.revoke_all()
        self._suspects.mark(self._slab.held())
