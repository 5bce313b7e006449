"""The plan board: where gateways and workers look for the traffic plans.

A copy, published from the tables of `promotion` after every change and again at start. It never
goes back: a late publisher cannot replace a newer revision.

Beside the plans it shows which models are held back: their plans stay as they are, revision and
all, but no worker keeps them loaded (load and unload of the Open Inference Protocol's model
repository extension).
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
HELD_BACK_KEY = "sluice:unloaded"


class PlanBoard(Protocol):
    """The current plan of every model."""

    def publish(self, plan: TrafficPlan) -> None:
        """Shows the plan, unless a higher revision is there. Raises StoreUnavailable."""
        ...

    def read(self) -> dict[str, TrafficPlan]:
        """By model; what is no plan is left out and logged. Raises StoreUnavailable."""
        ...

    def hold(self, model: str, wanted: bool) -> None:
        """Says whether workers are to hold the model, which they do until told otherwise; its plan
        need not be there yet. Raises StoreUnavailable."""
        ...

    def held_back(self) -> frozenset[str]:
        """The models that workers are not to hold. Raises StoreUnavailable."""
        ...


class MemoryBoard:
    """A board inside one process; safe for several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._plans: dict[str, TrafficPlan] = {}
        self._held_back: frozenset[str] = frozenset()

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

    def hold(self, model: str, wanted: bool) -> None:
        """See `PlanBoard`."""
        with self._lock:
            self._held_back = self._held_back - {model} if wanted else self._held_back | {model}

    def held_back(self) -> frozenset[str]:
        """See `PlanBoard`."""
        return self._held_back


class RedisBoard:
    """On Redis: a hash, plan by model, and a set of the models held back. client: returns bytes
    (`decode_responses` off)."""

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

    def hold(self, model: str, wanted: bool) -> None:
        """See `PlanBoard`."""
        with redis_errors(f"{'load' if wanted else 'unload'} {model!r}"):
            change = self._client.srem if wanted else self._client.sadd
            change(HELD_BACK_KEY, model)

    def held_back(self) -> frozenset[str]:
        """See `PlanBoard`."""
        with redis_errors("read which models are unloaded"):
            members = cast(set[bytes], self._client.smembers(HELD_BACK_KEY))
        return frozenset(model.decode(errors="replace") for model in members)


# a script runs alone: nobody publishes between looking and writing; garbage is written over
_PUBLISH = """
local shown = redis.call('HGET', KEYS[1], ARGV[1])
local known, plan = pcall(cjson.decode, shown)
local there = known and type(plan) == 'table' and tonumber(plan.revision) or 0
if there <= tonumber(ARGV[2]) then
  redis.call('HSET', KEYS[1], ARGV[1], ARGV[3])
end
"""
