"""The shelf of loaded versions: what the plans want is loaded and warm before anyone sees it.

Nothing is evicted to make room. A version that does not fit into its model's budget is refused and
the failure kept with its reason, so that the old champion stays until the new one is warm beside
it, and no model's load costs another model anything.
"""

import logging
import threading
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field

from registry.contracts.traffic import TrafficPlan
from serving import metrics
from serving.budget import UNLIMITED, MemoryBudget
from serving.footprint import Footprint, together
from serving.frames import FailedVersion, WorkerState
from serving.loaded import LoadedProgram

log = logging.getLogger(__name__)

VersionKey = tuple[str, int]
MAX_RETRY_S = 30.0
LEAVE_S = 1.0  # gateways hear of it in milliseconds; what they sent before must be answered


@dataclass(frozen=True)
class Stock:
    """What is on the shelf at one moment. slots never change their meaning.

    leaving: slots that gateways are not told of any more, kept for the queries under way.
    failures: why a wanted version is not here.
    """

    slots: Mapping[int, LoadedProgram] = field(default_factory=dict)
    ready: bool = False
    leaving: Mapping[int, LoadedProgram] = field(default_factory=dict)
    failures: Mapping[VersionKey, str] = field(default_factory=dict)

    def at(self, slot: int) -> LoadedProgram | None:
        """The version in a slot, also while it leaves."""
        return self.slots.get(slot) or self.leaving.get(slot)

    def state(self, replica: str, pid: int) -> WorkerState:
        """What gateways are told."""
        versions = tuple(loaded.describe(slot) for slot, loaded in sorted(self.slots.items()))
        failures = tuple(
            FailedVersion(model, version, reason) for (model, version), reason in sorted(self.failures.items())
        )
        return WorkerState(replica, pid, self.ready, versions, failures)


class _DoesNotFit(Exception):
    """The version would take more than it may."""


@dataclass(slots=True)
class _Failure:
    tries: int
    retry_at_s: float
    reason: str


class Shelf(threading.Thread):
    """Loads what plans name, forgets what they no longer name, keeps trying what failed.

    load: opens and warms one version; may be slow, may raise. changed: called on this thread
    after every change of `stock`. kept: called on this thread, between loads, with all that is held;
    what only others needed may be let go. budget: what the versions of each model may take.
    """

    def __init__(
        self,
        load: Callable[[str, int, str], LoadedProgram],
        changed: Callable[[], None],
        unload_after_s: float,
        clock: Callable[[], float] = time.monotonic,
        budget: MemoryBudget = UNLIMITED,
        kept: Callable[[Collection[LoadedProgram]], None] = lambda held: None,
    ) -> None:
        super().__init__(name="shelf", daemon=True)
        self._kept = kept
        self._load, self._changed, self._unload_after_s, self._clock = load, changed, unload_after_s, clock
        self._budget = budget
        self._plans: Mapping[str, TrafficPlan] = {}
        self._held_back: frozenset[str] = frozenset()
        self._wake = threading.Event()
        self._stop_asked = False
        self._next_slot = 0
        self._unwanted_since_s: dict[int, float] = {}
        self._left_at_s: dict[int, float] = {}
        self._failures: dict[VersionKey, _Failure] = {}
        self._measured: dict[tuple[VersionKey, str], Footprint] = {}  # of what did not fit: no need to load it to know
        self._served: set[str] = set()  # models with their champion, or with the one before it
        self.stock = Stock()

    def follow(self, plans: Mapping[str, TrafficPlan]) -> None:
        """Takes new plans; returns at once."""
        self._plans = plans
        self._failures.clear()
        self._wake.set()

    def hold_back(self, models: frozenset[str]) -> None:
        """Takes the models not to hold, whatever their plans say; returns at once."""
        self._held_back = models
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
            self._wake.wait(LEAVE_S)
            self._wake.clear()

    def settle(self) -> None:
        """Loads what is wanted and missing, champions first, and drops what has been unwanted for long."""
        now_s = self._clock()
        self._drop(now_s)  # first, for the room it makes
        for key, digest in self._wanted().items():
            if self._slot_of(key, digest) is None and self._may_try(key, now_s):
                self._open(key, digest)
        self._drop(now_s)  # again: a load takes long, and newer plans may want again what older ones did not

    def _open(self, key: VersionKey, digest: str) -> None:
        model, version = key
        began_s = self._clock()
        try:
            loaded = self._load_what_fits(key, digest)
        except Exception as error:  # whatever a bad artefact raises: the others on the shelf go on serving
            failure = self._failures.get(key)  # looked at once: another thread clears them
            tries = failure.tries + 1 if failure else 1
            retry_s = min(MAX_RETRY_S, 0.5 * 2**tries)
            self._failures[key] = _Failure(tries, self._clock() + retry_s, str(error) or type(error).__name__)
            metrics.FAILED_LOADS.labels(model).inc()
            if isinstance(error, _DoesNotFit):
                log.warning("no room for %s@%d, next try in %.0f s: %s", model, version, retry_s, error)
            else:
                log.exception("could not load %s@%d, next try in %.0f s", model, version, retry_s)
            self._publish(dict(self.stock.slots), dict(self.stock.leaving))
            return
        self._failures.pop(key, None)
        slot, self._next_slot = self._next_slot, self._next_slot + 1
        log.info("loaded %s@%d into slot %d in %.2f s", model, version, slot, self._clock() - began_s)
        self._publish({**self.stock.slots, slot: loaded}, dict(self.stock.leaving))

    def _load_what_fits(self, key: VersionKey, digest: str) -> LoadedProgram:
        """Raises _DoesNotFit, without loading if the version was measured before, and what `load` raises."""
        known = self._measured.get((key, digest))
        loaded = None
        if known is None:
            loaded = self._load(*key, digest)
            known = loaded.footprint
        if refusal := self._budget.refusal(key[0], self._footprints(), known):
            self._measured[key, digest] = known
            if loaded is not None:
                loaded.release()
            raise _DoesNotFit(refusal)
        self._measured.pop((key, digest), None)
        return loaded if loaded is not None else self._load(*key, digest)

    def _footprints(self) -> dict[str, list[Footprint]]:
        held: dict[str, list[Footprint]] = {}
        for loaded in (*self.stock.slots.values(), *self.stock.leaving.values()):
            held.setdefault(loaded.model, []).append(loaded.footprint)
        return held

    def _drop(self, now_s: float) -> None:
        """Lets go of what has been unwanted for long, or is held back."""
        wanted, held_back = self._wanted(), self._held_back
        missing = {(key, digest) for key, digest in wanted.items() if self._slot_of(key, digest) is None}
        incomplete, cramped = {key[0] for key, _ in missing}, {key[0] for key, _ in missing & self._measured.keys()}
        slots, leaving = dict(self.stock.slots), dict(self.stock.leaving)
        for slot in [slot for slot, left_at_s in self._left_at_s.items() if now_s - left_at_s >= LEAVE_S]:
            leaving.pop(slot).release()
            del self._left_at_s[slot]
        for slot, loaded in self.stock.slots.items():
            if wanted.get((loaded.model, loaded.version)) == loaded.digest:
                self._unwanted_since_s.pop(slot, None)
                continue
            # What is to replace it is not there yet: gateways may still route to it. Only one that was
            # unwanted already when everything wanted was there may go, if its room is needed.
            makes_room = loaded.model in cramped and slot in self._unwanted_since_s
            if loaded.model in incomplete and not makes_room:
                continue
            unwanted_since_s = self._unwanted_since_s.setdefault(slot, now_s)
            if loaded.model in held_back or now_s - unwanted_since_s >= self._unload_after_s:
                log.info("unloading %s@%d from slot %d", loaded.model, loaded.version, slot)
                leaving[slot] = slots.pop(slot)
                self._left_at_s[slot] = now_s
                del self._unwanted_since_s[slot]
        self._publish(slots, leaving)

    def _publish(self, slots: dict[int, LoadedProgram], leaving: dict[int, LoadedProgram]) -> None:
        plans = self._plans
        active = {model: plan for model, plan in plans.items() if model not in self._held_back}
        held = {(loaded.model, loaded.version, loaded.digest) for loaded in slots.values()}
        self._served = {
            plan.model
            for plan in active.values()
            if (plan.model, plan.champion, plan.champion_digest) in held
            or (plan.model in self._served and any(loaded.model == plan.model for loaded in slots.values()))
        }
        wanted = self._wanted()
        failures = {key: failure.reason for key, failure in list(self._failures.items()) if key in wanted}
        stock = Stock(slots, bool(plans) and self._served == set(active), leaving, failures)
        if _outline(stock) != _outline(self.stock):
            before = self._footprints().keys()
            self.stock = stock
            footprints = self._footprints()
            for model in before | footprints.keys():
                metrics.MODEL_BYTES.labels(model).set(together(footprints.get(model, ())))
            self._changed()
        self._kept([*slots.values(), *leaving.values()])

    def _may_try(self, key: VersionKey, now_s: float) -> bool:
        failure = self._failures.get(key)
        return failure is None or now_s >= failure.retry_at_s

    def _slot_of(self, key: VersionKey, digest: str) -> int | None:
        for slot, loaded in self.stock.slots.items():
            if (loaded.model, loaded.version, loaded.digest) == (*key, digest):
                return slot
        return None

    def _wanted(self) -> dict[VersionKey, str]:
        """Digests by model and version, champions first."""
        plans = [plan for plan in self._plans.values() if plan.model not in self._held_back]
        champions = {(plan.model, plan.champion): plan.champion_digest for plan in plans}
        others = {(plan.model, v): digest for plan in plans for v, digest in plan.versions().items()}
        return {**champions, **others}


def _outline(stock: Stock) -> tuple[object, ...]:
    return stock.slots.keys(), stock.ready, stock.leaving.keys(), dict(stock.failures)
