"""Quotas: how many tokens each may have a second, kept where all gateways meet.

A gateway takes tokens in leases and spends them by itself, so that a query needs no round trip. Whatever gateways do,
all of them together are never granted more than burst + rate * t within any time t.

Source: the generic cell rate algorithm (ITU-T I.371), in its form as a virtual scheduling algorithm: all there is to
keep of a quota is one moment, the theoretical arrival time.
"""

import math
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, cast

import redis

from registry.redis_errors import redis_errors

BUCKET_KEY = "{sluice:quotas}:of:"  # braces: one slot of a cluster holds all, and a lease is one script
GATEWAYS_KEY = "{sluice:quotas}:gateways"
GATEWAY_COUNTS_US = 10_000_000
"""So long after it last asked a gateway counts as one of those that share the quotas."""
_FAR_US = 1_000_000  # beyond what a quota can owe: the clock went back, or the quota was made larger
_ROUNDING = 1e-6  # of a token: a full bucket holds its burst, whatever floating point says


@dataclass(frozen=True, slots=True)
class Quota:
    """name: of the bucket. rate_per_s: tokens that come. burst: most that can be there, at least 1."""

    name: str
    rate_per_s: float
    burst: float

    def shared_by(self, gateways: int) -> "Quota":
        """What one of so many may have by itself.

        >>> Quota("search", 100.0, 200.0).shared_by(4)
        Quota(name='search', rate_per_s=25.0, burst=50.0)
        """
        return Quota(self.name, self.rate_per_s / gateways, max(1.0, self.burst / gateways))


@dataclass(frozen=True, slots=True)
class LeaseAsk:
    """wanted: tokens. least: with fewer than that there is no use, and none is taken."""

    quota: Quota
    wanted: int
    least: int = 1


@dataclass(frozen=True, slots=True)
class Lease:
    """granted: tokens. wait_s: if none, how long until `least` are there, unless others take them."""

    granted: int
    wait_s: float = 0.0


class QuotaLedger(Protocol):
    """Grants tokens; every gateway of a platform asks the same one. Safe for several threads."""

    def lease(self, gateway: str, asks: Sequence[LeaseAsk]) -> tuple[list[Lease], int]:
        """The leases, in the order asked, and how many gateways share the quotas, this one too. Without asks it says
        that the gateway is there. Raises StoreUnavailable."""
        ...


def grant(tat_us: float | None, now_us: float, ask: LeaseAsk) -> tuple[float, Lease]:
    """The quota's next theoretical arrival time and what is granted. tat_us: the one kept, None: a full bucket.

    >>> half = LeaseAsk(Quota("q", rate_per_s=10.0, burst=5.0), wanted=3)
    >>> tat_us, lease = grant(None, 0.0, half); lease.granted
    3
    >>> grant(tat_us, 0.0, half)[1].granted
    2
    """
    quota = ask.quota
    period_us = 1e6 / quota.rate_per_s
    span_us = quota.burst * period_us
    ahead_us = max(0.0, (now_us if tat_us is None else tat_us) - now_us)
    if ahead_us > span_us + _FAR_US:
        ahead_us = span_us
    there = (span_us - ahead_us) / period_us
    available = max(0, math.floor(there + _ROUNDING))
    if available < ask.least:
        return now_us + ahead_us, Lease(0, (ask.least - there) * period_us / 1e6)
    granted = min(ask.wanted, available)
    return now_us + math.ceil(ahead_us + granted * period_us), Lease(granted)


class MemoryLedger:
    """A ledger inside one process."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._tats_us: dict[str, float] = {}
        self._seen_us: dict[str, float] = {}

    def lease(self, gateway: str, asks: Sequence[LeaseAsk]) -> tuple[list[Lease], int]:
        """See `QuotaLedger`."""
        with self._lock:
            now_us = self._clock() * 1e6
            leases = []
            for ask in asks:
                self._tats_us[ask.quota.name], lease = grant(self._tats_us.get(ask.quota.name), now_us, ask)
                leases.append(lease)
            self._seen_us[gateway] = now_us
            self._seen_us = {one: us for one, us in self._seen_us.items() if us > now_us - GATEWAY_COUNTS_US}
            return leases, len(self._seen_us)

    def forget_full(self) -> None:
        """Lets go of quotas that have all their tokens again."""
        with self._lock:
            now_us = self._clock() * 1e6
            self._tats_us = {name: tat_us for name, tat_us in self._tats_us.items() if tat_us > now_us}


class RedisLedger:
    """On Redis, by Redis's clock; a quota that is full takes no memory. client: returns bytes."""

    def __init__(self, client: redis.Redis) -> None:
        self._client = client

    def lease(self, gateway: str, asks: Sequence[LeaseAsk]) -> tuple[list[Lease], int]:
        """See `QuotaLedger`."""
        told: list[str | int | float] = [gateway, GATEWAY_COUNTS_US]
        for ask in asks:
            told += [repr(ask.quota.rate_per_s), repr(ask.quota.burst), ask.wanted, ask.least]
        with redis_errors("lease tokens of quotas"):
            keys = [GATEWAYS_KEY, *(BUCKET_KEY + ask.quota.name for ask in asks)]
            gateways, *found = cast(list[int], self._client.eval(_LEASE, len(keys), *keys, *told))
        pairs = zip(found[::2], found[1::2], strict=True)
        return [Lease(granted, wait_us / 1e6) for granted, wait_us in pairs], max(1, gateways)


# as `grant`, for all asks at once; a script runs alone
_LEASE = """
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
redis.call('ZADD', KEYS[1], now, ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now - ARGV[2])
redis.call('PEXPIRE', KEYS[1], 60000)
local answer = {redis.call('ZCARD', KEYS[1])}
for i = 2, #KEYS do
  local at = 3 + (i - 2) * 4
  local period, wanted, least = 1e6 / tonumber(ARGV[at]), tonumber(ARGV[at + 2]), tonumber(ARGV[at + 3])
  local span = tonumber(ARGV[at + 1]) * period
  local ahead = math.max(0, (tonumber(redis.call('GET', KEYS[i]) or '') or now) - now)
  local far = ahead > span + 1000000
  if far then ahead = span end
  local there = (span - ahead) / period
  local available = math.max(0, math.floor(there + 1e-6))
  local granted, wait = 0, 0
  if available < least then
    wait = (least - there) * period
  else
    granted = math.min(wanted, available)
    ahead = math.ceil(ahead + granted * period)
  end
  if granted > 0 or far then
    redis.call('SET', KEYS[i], string.format('%.0f', now + ahead), 'PX', math.ceil(ahead / 1000) + 1)
  end
  answer[#answer + 1] = granted
  answer[#answer + 1] = math.ceil(wait)
end
return answer
"""
