"""Who holds the event stream back.

The controller looks, for whoever does it is away, and tells nobody.
"""

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from deploy.control import metrics
from deploy.machine.status import EVENTS, event_lag
from registry.errors import StoreUnavailable
from registry.redis_errors import redis_errors

if TYPE_CHECKING:
    import redis

log = logging.getLogger(__name__)

LOOK_EVERY_S = 15.0


@dataclass
class StreamWatch:
    """Shows how long the stream in Redis is and how far behind each of its groups, until stopped."""

    client: "redis.Redis"
    now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000
    _shown: set[str] = field(default_factory=set, init=False)
    _stop: threading.Event = field(default_factory=threading.Event, init=False)
    _away: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        self._thread = threading.Thread(target=self._run, name="stream-watch", daemon=True)

    def start(self) -> None:
        """From now on."""
        self._thread.start()

    def stop(self) -> None:
        """Ends the thread."""
        self._stop.set()
        self._thread.join()

    def look(self) -> None:
        """Once. A Redis that does not answer leaves the gauges as they are; a group that is gone is not behind."""
        try:
            with redis_errors("look at the event stream"):
                entries, lags = int(self.client.xlen(EVENTS)), event_lag(self.client, self.now_ms())
        except StoreUnavailable as error:
            if not self._away:
                log.warning("nobody sees how far behind the event stream's readers are: %s", error)
            self._away = True
            return
        self._away = False
        metrics.STREAM_ENTRIES.set(entries)
        for group in self._shown - lags.keys():
            metrics.STREAM_LAG.labels(group).set(0.0)
        for group, lag in lags.items():
            metrics.STREAM_LAG.labels(group).set(lag["lag_s"])
        self._shown |= lags.keys()

    def _run(self) -> None:
        self.look()
        while not self._stop.wait(LOOK_EVERY_S):
            self.look()
