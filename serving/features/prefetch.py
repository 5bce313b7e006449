"""Rows fetched before the batch that needs them, on a thread of its own.

The worker's thread asks and keeps (`prefetch`, `hand_over`); only the round trip to the store is
made here. While it is made rows may change: the tier's leases see to it that such a row is not kept.
"""

import logging
import queue
import threading
from collections import deque
from collections.abc import Callable
from typing import Protocol

import numpy as np

from serving import metrics
from serving.features.leases import Lease
from serving.features.tier import RowKeys, Rows, RowTier, TierAway

log = logging.getLogger(__name__)

ROWS_A_ROUND_TRIP = 500  # an MGET holds up everybody else's commands


class LeasingTier(Protocol):
    """A tier into which rows can be fetched ahead."""

    @property
    def ahead(self) -> RowTier | None:
        """Where the rows come from, for this thread; None: nowhere."""
        ...

    def lease(self, keys: RowKeys) -> Lease | None:
        """The rows worth fetching, None if there are none."""
        ...

    def keep(self, lease: Lease, fetched: Rows | None) -> None:
        """Ends a lease with what was fetched, None if the store did not answer."""
        ...


class Prefetcher(threading.Thread):
    """Fetches what it is asked for, in that order.

    most_waiting: round trips that may wait; rows beyond are not fetched ahead, and counted. fetched:
    called on this thread after each round trip.
    """

    def __init__(self, most_waiting: int = 64, fetched: Callable[[], None] = lambda: None) -> None:
        super().__init__(name="prefetch", daemon=True)
        self._most_waiting, self._fetched = most_waiting, fetched
        self._asked: queue.SimpleQueue[tuple[LeasingTier, RowTier, Lease] | None] = queue.SimpleQueue()
        self._done: deque[tuple[LeasingTier, Lease, Rows | None]] = deque()
        self._waiting = 0  # asked for and not handed over

    def prefetch(self, tier: LeasingTier, keys: RowKeys) -> None:
        """Asks for rows; returns at once. On the tier's own thread."""
        if tier.ahead is None:
            return
        for start in range(0, len(keys), ROWS_A_ROUND_TRIP):
            stop = min(start + ROWS_A_ROUND_TRIP, len(keys))
            part = keys if len(keys) <= ROWS_A_ROUND_TRIP else keys.pick(np.arange(start, stop))
            if self._waiting >= self._most_waiting:
                metrics.PREFETCHES.labels("dropped").inc(len(keys) - start)
                return
            if (lease := tier.lease(part)) is not None:
                self._waiting += 1
                self._asked.put((tier, tier.ahead, lease))

    def hand_over(self) -> None:
        """Gives tiers what was fetched for them. On the tiers' own thread."""
        while self._done:
            tier, lease, rows = self._done.popleft()
            self._waiting -= 1
            metrics.PREFETCHES.labels("away" if rows is None else "fetched").inc(len(lease.keys))
            tier.keep(lease, rows)

    def run(self) -> None:
        """Fetches until stopped."""
        while (asked := self._asked.get()) is not None:
            tier, source, lease = asked
            rows = None
            try:
                rows = source.fetch(lease.keys)
            except TierAway:
                pass  # the batch that needs them will say so
            except Exception:  # the lease must end whatever happened, and the thread go on
                log.exception("could not fetch %d rows ahead", len(lease.keys))
            self._done.append((tier, lease, rows))
            self._fetched()

    def stop(self) -> None:
        """Ends the thread after what was asked for so far."""
        self._asked.put(None)
