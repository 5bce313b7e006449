"""The replica board: where workers say that they are there, and gateways look for them.

A record lasts for its time to live unless it is announced again. A worker that drains announces
that instead of vanishing: a gateway can then tell "leave it" from "its heartbeat, or Redis' memory,
was lost", and in the second case keep a replica that still answers.
"""

import logging
import threading
import time
from collections.abc import Callable
from typing import Protocol, cast

import redis

from registry.contracts.errors import ContractError
from registry.contracts.replicas import ReplicaRecord
from registry.redis_errors import redis_errors

log = logging.getLogger(__name__)

RECORDS_KEY = "{sluice:replicas}:records"  # braces: one slot of a cluster holds both
UNTIL_KEY = "{sluice:replicas}:until"


class ReplicaBoard(Protocol):
    """The replicas of a platform, by address."""

    def announce(self, record: ReplicaRecord, ttl_s: float) -> None:
        """Shows the record for so long. A process that drains does not replace the one that has
        taken its address. Raises StoreUnavailable."""
        ...

    def read(self) -> dict[str, ReplicaRecord]:
        """Records by address, without those whose time is over; what is no record is left out and
        logged. Raises StoreUnavailable."""
        ...


class MemoryReplicaBoard:
    """A board inside one process; safe for several threads."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._lock = clock, threading.Lock()
        self._shown: dict[str, tuple[ReplicaRecord, float]] = {}

    def announce(self, record: ReplicaRecord, ttl_s: float) -> None:
        """See `ReplicaBoard`."""
        with self._lock:
            shown = self._live().get(record.address)
            if not record.draining or shown is None or shown.is_same_process(record):
                self._shown[record.address] = record, self._clock() + ttl_s

    def read(self) -> dict[str, ReplicaRecord]:
        """See `ReplicaBoard`."""
        with self._lock:
            return self._live()

    def _live(self) -> dict[str, ReplicaRecord]:
        now_s = self._clock()
        self._shown = {address: shown for address, shown in self._shown.items() if now_s < shown[1]}
        return {address: record for address, (record, _) in self._shown.items()}


class RedisReplicaBoard:
    """On Redis: a hash, record by address, and a sorted set, address by the end of its time.

    Times are Redis' own: clocks of several machines need not agree. client: returns bytes
    (`decode_responses` off).
    """

    def __init__(self, client: redis.Redis) -> None:
        self._client = client
        self._left_out: dict[bytes, bytes] = {}

    def announce(self, record: ReplicaRecord, ttl_s: float) -> None:
        """See `ReplicaBoard`."""
        process = f"{record.pid}:{record.started_ms}"
        with redis_errors(f"announce replica {record.address}"):
            self._client.eval(
                _ANNOUNCE,
                2,
                RECORDS_KEY,
                UNTIL_KEY,
                record.address,
                record.encode(),
                int(ttl_s * 1000),
                process if record.draining else "",
            )

    def read(self) -> dict[str, ReplicaRecord]:
        """See `ReplicaBoard`."""
        with redis_errors("read the replicas"):
            pairs = cast(list[bytes], self._client.eval(_READ, 2, RECORDS_KEY, UNTIL_KEY))
        records = {}
        for address, raw in zip(pairs[::2], pairs[1::2], strict=True):
            try:
                records[address.decode()] = ReplicaRecord.decode(raw)
            except (ContractError, UnicodeDecodeError) as error:
                if self._left_out.get(address) != raw:  # readers poll: say it once
                    log.warning("left out what the board shows for replica %r: %s", address, error)
                self._left_out[address] = raw
        return records


_NOW_MS = """
local time = redis.call('TIME')
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)
"""

# `string.format`: started_ms is larger than what Lua writes without an exponent
_ANNOUNCE = (
    _NOW_MS
    + """
if ARGV[4] ~= '' then
  local until_ms = redis.call('ZSCORE', KEYS[2], ARGV[1])
  local shown = redis.call('HGET', KEYS[1], ARGV[1])
  local known, record = pcall(cjson.decode, shown)
  if until_ms and tonumber(until_ms) > now_ms and known and type(record) == 'table' then
    local pid, started_ms = tonumber(record.pid), tonumber(record.started_ms)
    if pid and started_ms and string.format('%.0f:%.0f', pid, started_ms) ~= ARGV[4] then
      return 0
    end
  end
end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
redis.call('ZADD', KEYS[2], now_ms + ARGV[3], ARGV[1])
return 1
"""
)

_READ = (
    _NOW_MS
    + """
for _, address in ipairs(redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', now_ms)) do
  redis.call('ZREM', KEYS[2], address)
  redis.call('HDEL', KEYS[1], address)
end
local pairs_ = {}
for _, address in ipairs(redis.call('ZRANGE', KEYS[2], 0, -1)) do
  local record = redis.call('HGET', KEYS[1], address)
  if record then
    pairs_[#pairs_ + 1] = address
    pairs_[#pairs_ + 1] = record
  end
end
return pairs_
"""
)
