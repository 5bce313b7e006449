"""The counter board: where gateways show what they answered, arm by arm, and guardrails read it.

Every process writes under its own name, and what it wrote stays when it is gone: its answers happened.
`forget` drops what no window reaches back to any more.
"""

import logging
import threading
from typing import Protocol, cast

import redis

from registry.contracts.counters import CounterSnapshot
from registry.contracts.errors import ContractError
from registry.redis_errors import redis_errors

log = logging.getLogger(__name__)

ARMS_KEY = "sluice:arms"


class CounterBoard(Protocol):
    """The newest snapshot of every process. Every method may raise StoreUnavailable."""

    def publish(self, snapshot: CounterSnapshot) -> None:
        """Shows the snapshot in place of the process's earlier one."""
        ...

    def read(self) -> dict[str, CounterSnapshot]:
        """By process; what is no snapshot is left out and logged."""
        ...

    def forget(self, before_ms: int) -> int:
        """Drops snapshots taken before then, of processes that are gone; how many."""
        ...


class MemoryCounterBoard:
    """A board inside one process; safe for several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._shown: dict[str, CounterSnapshot] = {}

    def publish(self, snapshot: CounterSnapshot) -> None:
        """See `CounterBoard`."""
        with self._lock:
            self._shown[snapshot.process] = snapshot

    def read(self) -> dict[str, CounterSnapshot]:
        """See `CounterBoard`."""
        with self._lock:
            return dict(self._shown)

    def forget(self, before_ms: int) -> int:
        """See `CounterBoard`."""
        with self._lock:
            gone = [process for process, snapshot in self._shown.items() if snapshot.at_ms < before_ms]
            for process in gone:
                del self._shown[process]
            return len(gone)


class RedisCounterBoard:
    """On Redis: a hash, snapshot by process. client: returns bytes (`decode_responses` off)."""

    def __init__(self, client: redis.Redis) -> None:
        self._client = client
        self._left_out: dict[bytes, bytes] = {}

    def publish(self, snapshot: CounterSnapshot) -> None:
        """See `CounterBoard`."""
        with redis_errors("publish the counters by arm"):
            self._client.hset(ARMS_KEY, snapshot.process, snapshot.encode())

    def read(self) -> dict[str, CounterSnapshot]:
        """See `CounterBoard`."""
        with redis_errors("read the counters by arm"):
            shown = cast(dict[bytes, bytes], self._client.hgetall(ARMS_KEY))
        snapshots = {}
        for process, raw in shown.items():
            try:
                snapshots[process.decode()] = CounterSnapshot.decode(raw)
            except (ContractError, UnicodeDecodeError) as error:
                if self._left_out.get(process) != raw:  # readers poll: say it once
                    log.warning("left out what the board shows for %r: %s", process, error)
                self._left_out[process] = raw
        return snapshots

    def forget(self, before_ms: int) -> int:
        """See `CounterBoard`."""
        old = [process for process, snapshot in self.read().items() if snapshot.at_ms < before_ms]
        with redis_errors("drop old counters by arm"):
            return self._client.hdel(ARMS_KEY, *old) if old else 0
