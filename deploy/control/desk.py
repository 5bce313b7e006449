"""The desk: what handlers of routes stand on, and the one way in which any of them changes something."""

import dataclasses
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from deploy.control.asks import Ask, Reply
from deploy.control.errors import Conflict, NotNow, NotThere
from deploy.control.sources import Sources
from deploy.control.trail import Strangers
from deploy.drift_reports.shelf import ReportShelf
from pipelines.gates.planning import GatePlanner
from pipelines.runs.schedule import DAY_MS
from registry.api_keys import KeyRing
from registry.audit import SqlAuditLog
from registry.contracts.drift import CalibrationRecord, Rebaseline, ShiftRecord
from registry.contracts.rollouts import Rollout
from registry.contracts.traffic import TrafficPlan
from registry.decisions import Decision
from registry.errors import StaleRevision, StoreUnavailable
from registry.rollouts import RolloutControl
from registry.runs import RunStore
from registry.store import ModelStore
from registry.traffic_control import TrafficChange
from serving.identity.tokens import TokenVerifier

TRIES = 10


@dataclass(frozen=True, slots=True)
class Desk:
    """The parts that handlers answer requests from, and how they decide; safe for several threads.

    store: versions; raises StoreUnavailable while it is not there. publish: makes traffic follow a model's
    plan; raises StoreUnavailable if the board is away. outlook: what the engine thinks of an active rollout, see
    `canary.outlook`; may raise StoreUnavailable. planner: of rollouts' gates. run_store: runs of pipelines;
    retrain_ms: of clicks that a retraining learns from, if nothing else is said. closed_days: of a model, the newest
    first; calibration: of its newest collected window. Both raise StoreUnavailable. sources: of the console's figures.
    publish_keys: shows gateways which keys are good; raises StoreUnavailable. tokens: whose are good beside keys, None:
    nobody's. audit: of every change. used_ms: when keys were last used, by id; raises StoreUnavailable. strangers: how
    many of their refusals are written down.
    declare: keeps a declared change, unless a newer one is there; raises StoreUnavailable. reports: of closed days
    (None: there are none).
    """

    control: RolloutControl
    ring: KeyRing
    store: Callable[[], ModelStore]
    publish: Callable[[str], None]
    outlook: Callable[[Rollout], Mapping[str, object]]
    planner: GatePlanner
    run_store: RunStore
    audit: SqlAuditLog
    wall_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000
    random_bytes: Callable[[int], bytes] = secrets.token_bytes
    retrain_ms: int = 14 * DAY_MS
    closed_days: Callable[[str], tuple[ShiftRecord, ...]] = lambda model: ()
    calibration: Callable[[str], CalibrationRecord | None] = lambda model: None
    sources: Sources = field(default_factory=Sources)
    publish_keys: Callable[[], None] = lambda: None
    tokens: TokenVerifier | None = None
    used_ms: Callable[[], Mapping[str, int]] = dict
    strangers: Strangers = field(default_factory=Strangers)
    declare: Callable[[Rebaseline], None] = lambda change: None
    reports: ReportShelf | None = None

    def decide(
        self,
        ask: Ask,
        decide: Callable[[TrafficPlan | None], Decision],
        answer: Callable[[TrafficPlan | None, Decision], Reply],
    ) -> Reply:
        """Decides on what is there now, again if somebody was quicker, and makes it true once.

        Raises OtherRevision if the client's condition does not hold, Conflict if others were quicker all the time.
        """
        for _ in range(TRIES):
            plan = self.control.plan(ask.model)
            ask.if_match.check(ask.model, plan.revision if plan else 0)
            decision = decide(plan)
            reply = answer(plan, decision)
            try:
                self.control.decide(dataclasses.replace(decision, receipt=ask.receipt(reply)))
            except StaleRevision:
                if ask.key and self.control.receipt(ask.caller.key.id, ask.key) is not None:
                    raise  # it was this very request that was quicker
                continue
            self.publish_decided(ask.model)
            return reply
        raise Conflict(f"the traffic of {ask.model!r} changed {TRIES} times meanwhile: look at it, then repeat")

    def publish_decided(self, model: str) -> None:
        """Raises NotNow if traffic cannot follow yet what is decided."""
        try:
            self.publish(model)
        except StoreUnavailable as error:
            raise NotNow(
                f"it is decided and recorded, but traffic does not follow yet ({error}): the controller goes on "
                "trying; repeat the request with the same Idempotency-Key to see it through"
            ) from error

    def digest(self, plan: TrafficPlan | None, model: str, version: int) -> str:
        """From the plan, if it names the version: that needs no registry. Raises UnknownVersion."""
        if plan is not None and (digest := plan.versions().get(version)):
            return digest
        return self.store().get(model, version).digest

    def history(self, model: str) -> list[TrafficChange]:
        if not (found := self.control.history(model)):
            raise no_plan(model)
        return found


def no_plan(model: str) -> NotThere:
    return NotThere(f"model {model!r} has no traffic plan: `sluice promote {model} VERSION` makes the first")
