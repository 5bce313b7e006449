"""The glimpse board: where gateways show a few of their answers, and the console sees them.

Of each model the newest KEPT stay, for KEPT_S after the last one. What is shown nowhere is not missed.
"""

import logging
import threading
from collections.abc import Sequence
from itertools import groupby
from typing import Protocol, cast

import redis

from registry.contracts.errors import ContractError
from registry.contracts.glimpses import Glimpse
from registry.redis_errors import redis_errors

log = logging.getLogger(__name__)

GLIMPSES_PREFIX = "sluice:glimpses:"
KEPT = 200
KEPT_S = 3600


class GlimpseBoard(Protocol):
    """Glimpses by model. Every method may raise StoreUnavailable."""

    def publish(self, glimpses: Sequence[Glimpse]) -> None:
        """Shows them, the last as the newest; the oldest beyond KEPT of their model go."""
        ...

    def newest(self, model: str, limit: int = KEPT) -> tuple[Glimpse, ...]:
        """At most so many, the newest first; what is no glimpse is left out and logged."""
        ...


class MemoryGlimpseBoard:
    """A board inside one process; safe for several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._shown: dict[str, list[Glimpse]] = {}

    def publish(self, glimpses: Sequence[Glimpse]) -> None:
        """See `GlimpseBoard`."""
        with self._lock:
            for glimpse in glimpses:
                self._shown[glimpse.model] = [glimpse, *self._shown.get(glimpse.model, [])][:KEPT]

    def newest(self, model: str, limit: int = KEPT) -> tuple[Glimpse, ...]:
        """See `GlimpseBoard`."""
        with self._lock:
            return tuple(self._shown.get(model, [])[:limit])


class RedisGlimpseBoard:
    """On Redis: a list a model. client: returns bytes (`decode_responses` off)."""

    def __init__(self, client: redis.Redis) -> None:
        self._client = client

    def publish(self, glimpses: Sequence[Glimpse]) -> None:
        """See `GlimpseBoard`."""
        by_model = sorted(glimpses, key=lambda one: one.model)  # stable: the order of each model's stays
        with redis_errors("publish glimpses"), self._client.pipeline(transaction=False) as pipeline:
            for model, found in groupby(by_model, key=lambda one: one.model):
                key = f"{GLIMPSES_PREFIX}{model}"
                pipeline.lpush(key, *(glimpse.encode() for glimpse in found))
                pipeline.ltrim(key, 0, KEPT - 1)
                pipeline.expire(key, KEPT_S)
            pipeline.execute()

    def newest(self, model: str, limit: int = KEPT) -> tuple[Glimpse, ...]:
        """See `GlimpseBoard`."""
        if limit < 1:
            return ()
        with redis_errors(f"read glimpses of {model}"):
            raws = cast(list[bytes], self._client.lrange(f"{GLIMPSES_PREFIX}{model}", 0, limit - 1))
        found = []
        for raw in raws:
            try:
                found.append(Glimpse.decode(raw))
            except ContractError as error:
                log.warning("left out a glimpse of %s: %s", model, error)
        return tuple(found)
