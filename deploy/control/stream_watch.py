"""Who holds the event stream back.

The controller looks, for whoever does it is away, and tells nobody.
"""

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from deploy.control import metrics
from deploy.control.looker import Looker
from deploy.machine.status import EVENTS, event_lag
from registry.redis_errors import redis_errors

if TYPE_CHECKING:
    import redis

LOOK_EVERY_S = 15.0


class StreamWatch(Looker):
    """Shows how long the stream in Redis is and how far behind each of its groups, until stopped. A Redis that does not
    answer leaves the gauges as they are; a group that is gone is not behind."""

    def __init__(self, client: "redis.Redis", now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000) -> None:
        super().__init__("stream-watch", LOOK_EVERY_S, "nobody sees how far behind the event stream's readers are")
        self._client, self._now_ms = client, now_ms
        self._shown: set[str] = set()

    def _look(self) -> None:
        with redis_errors("look at the event stream"):
            entries, lags = int(self._client.xlen(EVENTS)), event_lag(self._client, self._now_ms())
        metrics.STREAM_ENTRIES.set(entries)
        for group in self._shown - lags.keys():
            metrics.STREAM_LAG.labels(group).set(0.0)
        for group, lag in lags.items():
            metrics.STREAM_LAG.labels(group).set(lag["lag_s"])
        self._shown |= lags.keys()
