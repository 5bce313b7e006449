"""The shelf of loaded versions: what the plans want is loaded and warm before anyone sees it."""

import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from registry.contracts.traffic import TrafficPlan
from serving import metrics
from serving.frames import WorkerState
from serving.loaded import LoadedProgram

log = logging.getLogger(__name__)

VersionKey = tuple[str, int]
MAX_RETRY_S = 30.0


@dataclass(frozen=True)
class Stock:
    """What is on the shelf at one moment. slots never change their meaning."""

    slots: Mapping[int, LoadedProgram] = field(default_factory=dict)
    ready: bool = False

    def state(self, replica: str, pid: int) -> WorkerState:
        """What gateways are told."""
        versions = tuple(loaded.describe(slot) for slot, loaded in sorted(self.slots.items()))
        return WorkerState(replica, pid, self.ready, versions)


@dataclass(slots=True)
class _Failure:
    tries: int
    retry_at_s: float


class Shelf(threading.Thread):
    """Loads what plans name, forgets what they no longer name, keeps trying what failed.

    load: opens and warms one version; may be slow, may raise. changed: called on this thread
    after every change of `stock`.
    """

    def __init__(
        self,
        load: Callable[[str, int, str], LoadedProgram],
        changed: Callable[[], None],
        unload_after_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(name="shelf", daemon=True)
        self._load, self._changed, self._unload_after_s, self._clock = load, changed, unload_after_s, clock
        self._plans: Mapping[str, TrafficPlan] = {}
        self._wake = threading.Event()
        self._stop_asked = False
        self._next_slot = 0
        self._unwanted_since_s: dict[int, float] = {}
        self._failures: dict[VersionKey, _Failure] = {}
        self._served: set[str] = set()  # models with their champion, or with the one before it
        self.stock = Stock()

    def follow(self, plans: Mapping[str, TrafficPlan]) -> None:
        """Takes new plans; returns at once."""
        self._plans = plans
        self._failures.clear()
        self._wake.set()

    def stop(self) -> None:
        """Ends the thread when the load in progress is over."""
        self._stop_asked = True
        self._wake.set()

    def run(self) -> None:
        """Settles on every change of plans, and once a second for retries and unloading."""
        while not self._stop_asked:
            self.settle()
            self._wake.wait(1.0)
            self._wake.clear()

    def settle(self) -> None:
        """Loads what is wanted and missing, champions first, and drops what has been unwanted for long."""
        now_s = self._clock()
        for key, digest in self._wanted(self._plans).items():
            if self._slot_of(key, digest) is None and self._may_try(key, now_s):
                self._open(key, digest)
        plans = self._plans  # a load takes long: a newer plan may want again what the one before did not
        self._drop_unwanted(plans, now_s)
        self._publish(dict(self.stock.slots), plans)

    def _open(self, key: VersionKey, digest: str) -> None:
        model, version = key
        began_s = self._clock()
        try:
            loaded = self._load(model, version, digest)
        except Exception:  # whatever a bad artefact raises: the others on the shelf go on serving
            failure = self._failures.get(key)  # looked at once: another thread clears them
            tries = failure.tries + 1 if failure else 1
            retry_s = min(MAX_RETRY_S, 0.5 * 2**tries)
            self._failures[key] = _Failure(tries, self._clock() + retry_s)
            metrics.FAILED_LOADS.labels(model).inc()
            log.exception("could not load %s@%d, next try in %.0f s", model, version, retry_s)
            return
        self._failures.pop(key, None)
        slot, self._next_slot = self._next_slot, self._next_slot + 1
        log.info("loaded %s@%d into slot %d in %.2f s", model, version, slot, self._clock() - began_s)
        self._publish({**self.stock.slots, slot: loaded}, self._plans)

    def _drop_unwanted(self, plans: Mapping[str, TrafficPlan], now_s: float) -> None:
        wanted = self._wanted(plans)
        incomplete = {key[0] for key, digest in wanted.items() if self._slot_of(key, digest) is None}
        kept = dict(self.stock.slots)
        for slot, loaded in self.stock.slots.items():
            # what is to replace it is not there yet: gateways still route to it
            if loaded.model in incomplete or wanted.get((loaded.model, loaded.version)) == loaded.digest:
                self._unwanted_since_s.pop(slot, None)
            elif now_s - self._unwanted_since_s.setdefault(slot, now_s) >= self._unload_after_s:
                log.info("unloaded %s@%d from slot %d", loaded.model, loaded.version, slot)
                del kept[slot], self._unwanted_since_s[slot]
        if kept != self.stock.slots:
            self._publish(kept, plans)

    def _publish(self, slots: dict[int, LoadedProgram], plans: Mapping[str, TrafficPlan]) -> None:
        held = {(loaded.model, loaded.version, loaded.digest) for loaded in slots.values()}
        self._served = {
            plan.model
            for plan in plans.values()
            if (plan.model, plan.champion, plan.champion_digest) in held
            or (plan.model in self._served and any(loaded.model == plan.model for loaded in slots.values()))
        }
        stock = Stock(slots, ready=bool(plans) and self._served == set(plans))
        if (stock.slots.keys(), stock.ready) != (self.stock.slots.keys(), self.stock.ready):
            self.stock = stock
            self._changed()

    def _may_try(self, key: VersionKey, now_s: float) -> bool:
        failure = self._failures.get(key)
        return failure is None or now_s >= failure.retry_at_s

    def _slot_of(self, key: VersionKey, digest: str) -> int | None:
        for slot, loaded in self.stock.slots.items():
            if (loaded.model, loaded.version, loaded.digest) == (*key, digest):
                return slot
        return None

    @staticmethod
    def _wanted(plans: Mapping[str, TrafficPlan]) -> dict[VersionKey, str]:
        champions = {(plan.model, plan.champion): plan.champion_digest for plan in plans.values()}
        others = {(plan.model, v): digest for plan in plans.values() for v, digest in plan.versions().items()}
        return {**champions, **others}
