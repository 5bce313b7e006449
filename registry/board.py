"""The plan board: where gateways and workers look for the traffic plans.

A copy, published from the tables of `promotion` after every change and again at start. It never
goes back: a late publisher cannot replace a newer revision.
"""

import logging
import threading
from typing import Protocol, cast

import redis

from registry.contracts.errors import ContractError
from registry.contracts.traffic import TrafficPlan
from registry.redis_errors import redis_errors

log = logging.getLogger(__name__)

BOARD_KEY = "sluice:traffic"


class PlanBoard(Protocol):
    """The current plan of every model."""

    def publish(self, plan: TrafficPlan) -> None:
        """Shows the plan, unless a higher revision is there. Raises StoreUnavailable."""
        ...

    def read(self) -> dict[str, TrafficPlan]:
        """By model; what is no plan is left out and logged. Raises StoreUnavailable."""
        ...


class MemoryBoard:
    """A board inside one process; safe for several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._plans: dict[str, TrafficPlan] = {}

    def publish(self, plan: TrafficPlan) -> None:
        """See `PlanBoard`."""
        with self._lock:
            shown = self._plans.get(plan.model)
            if shown is None or shown.revision <= plan.revision:
                self._plans[plan.model] = plan

    def read(self) -> dict[str, TrafficPlan]:
        """See `PlanBoard`."""
        with self._lock:
            return dict(self._plans)


class RedisBoard:
    """A hash on Redis, plan by model. client: returns bytes (`decode_responses` off)."""

    def __init__(self, client: redis.Redis) -> None:
        self._client = client
        self._left_out: dict[bytes, bytes] = {}

    def publish(self, plan: TrafficPlan) -> None:
        """See `PlanBoard`."""
        with redis_errors(f"publish the traffic plan of {plan.model!r}"):
            self._client.eval(_PUBLISH, 1, BOARD_KEY, plan.model, plan.revision, plan.encode())

    def read(self) -> dict[str, TrafficPlan]:
        """See `PlanBoard`."""
        with redis_errors("read the traffic plans"):
            shown = cast(dict[bytes, bytes], self._client.hgetall(BOARD_KEY))
        plans = {}
        for model, raw in shown.items():
            try:
                plans[model.decode()] = TrafficPlan.decode(raw)
            except ContractError as error:
                if self._left_out.get(model) != raw:  # readers poll: say it once
                    log.warning("left out what the board shows for %r: %s", model, error)
                self._left_out[model] = raw
        return plans


# a script runs alone: nobody publishes between looking and writing; garbage is written over
_PUBLISH = """
local shown = redis.call('HGET', KEYS[1], ARGV[1])
local known, plan = pcall(cjson.decode, shown)
local there = known and type(plan) == 'table' and tonumber(plan.revision) or 0
if there <= tonumber(ARGV[2]) then
  redis.call('HSET', KEYS[1], ARGV[1], ARGV[3])
end
"""
