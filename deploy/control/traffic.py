"""Who answers whom: plans looked at and changed, champions promoted and taken back."""

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from typing import Any

from deploy.control import changes
from deploy.control.asks import Ask, Reply, number, page_size
from deploy.control.desk import Desk, no_plan
from registry.contracts.traffic import TrafficPlan
from registry.decisions import Decision
from registry.errors import StoreUnavailable
from registry.store import ModelStore
from registry.traffic_control import TrafficChange
from serving.gateway.control.traffic import ChangeAnswer, HistoryAnswer, PlanBody, PromoteBody, RollbackBody

log = logging.getLogger(__name__)

REGISTRY_PATIENCE_S = 2.0


def promote(desk: Desk, ask: Ask) -> Reply:
    """A version becomes champion."""
    body: PromoteBody = ask.body

    def decide(plan: TrafficPlan | None) -> Decision:
        digest = desk.digest(plan, ask.model, body.version)
        planned = changes.promoted(plan, ask.model, body.version, digest, body.holdback)
        return Decision(**ask.words, plan=planned, record=_record("promoted", ask, body.evidence))

    return _change_plan(desk, ask, decide)


def rollback(desk: Desk, ask: Ask) -> Reply:
    """What came last is taken back."""
    body: RollbackBody = ask.body

    def decide(plan: TrafficPlan | None) -> Decision:
        seen = plan.revision if plan else 0  # the history may have gone on meanwhile
        history = [change for change in desk.control.history(ask.model) if change.revision <= seen]
        planned = taken_back(history, ask.model, body.to, desk.store)
        return Decision(**ask.words, plan=planned, record=_record("rolled_back", ask, body.evidence))

    return _change_plan(desk, ask, decide)


def change_plan(desk: Desk, ask: Ask) -> Reply:
    """Experiments, overrides and exploration by hand."""
    body: PlanBody = ask.body

    def decide(plan: TrafficPlan | None) -> Decision:
        if plan is None:
            raise no_plan(ask.model)

        def digest_of(version: int) -> str:
            return desk.digest(plan, ask.model, version)

        planned = changes.by_hand(plan, body, digest_of, lambda: desk.random_bytes(8).hex())
        return Decision(**ask.words, plan=planned, record=_record("changed", ask, {}))

    return _change_plan(desk, ask, decide)


def plan(desk: Desk, ask: Ask) -> Reply:
    """The last change, and with it the plan."""
    return ask.reply(_change_answer(desk.history(ask.model)[-1]))


def history(desk: Desk, ask: Ask) -> Reply:
    """Newest first, a page at a time."""
    found = desk.history(ask.model)
    before = number(ask, "before", len(found) + 1)
    limit = page_size(ask)
    older = [change for change in found if change.revision < before]
    page = older[::-1][:limit]
    more = len(older) > len(page) and page
    answer = HistoryAnswer(
        ask.model, found[-1].revision, tuple(map(_change_answer, page)), page[-1].revision if more else None
    )
    return ask.reply(answer)


def taken_back(
    history: Sequence[TrafficChange], model: str, to: int | None, open_store: Callable[[], ModelStore]
) -> TrafficPlan:
    """The plan of `changes.rolled_back`, if its champion may have traffic.

    open_store: of versions that may, see `ServableVersions`; raises StoreUnavailable while it is not there. Asked
    only if the champion is to be another one, and after the history was read, see `retirement`.
    Raises as `changes.rolled_back` does; RefusedVersion or UnknownVersion.
    """
    planned = changes.rolled_back(history, model, to)
    if planned.champion != history[-1].plan.champion:
        _refuse_unservable(open_store, model, planned.champion)
    return planned


def _refuse_unservable(open_store: Callable[[], ModelStore], model: str, version: int) -> None:
    """Raises RefusedVersion or UnknownVersion if the registry says that the version may have no traffic, or is gone.

    A registry that is away, or takes its time, does not hold up a rollback: it collects no versions meanwhile.
    """
    answer = Future[object]()

    def ask() -> None:
        try:
            answer.set_result(open_store().get(model, version))
        except Exception as error:  # raised below
            answer.set_exception(error)

    threading.Thread(target=ask, name="registry for a rollback", daemon=True).start()
    try:
        answer.result(REGISTRY_PATIENCE_S)
    except (StoreUnavailable, TimeoutError) as error:
        why = str(error) or f"no answer in {REGISTRY_PATIENCE_S:g} s"
        log.warning("%s goes back to version %d unasked, the registry is away: %s", model, version, why)


def _change_plan(desk: Desk, ask: Ask, decide: Callable[[TrafficPlan | None], Decision]) -> Reply:
    def answer(_: TrafficPlan | None, decision: Decision) -> Reply:
        assert decision.plan is not None
        change = TrafficChange(decision.plan, decision.now_ms, decision.who, decision.why, decision.record)
        return ask.reply(_change_answer(change))

    return desk.decide(ask, decide, answer)


def _record(what: str, ask: Ask, evidence: Mapping[str, Any]) -> dict[str, Any]:
    """For the plan's history: the caller's evidence, and how the change came about."""
    return {
        **evidence,
        "what": what,
        "by": f"{ask.route.name}, {ask.caller.kind} {ask.caller.key.name} ({ask.caller.key.id})",
    }


def _change_answer(change: TrafficChange) -> ChangeAnswer:
    plan = change.plan
    return ChangeAnswer(plan.model, plan.revision, change.at_ms, change.who, change.why, dict(change.evidence), plan)
