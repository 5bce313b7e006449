"""Rollouts: planned, started, stopped and explained."""

from collections.abc import Callable
from typing import Any, TypeVar

import msgspec
from msgspec.structs import replace

from deploy.control.asks import Ask, Reply
from deploy.control.desk import Desk, no_plan
from deploy.control.errors import Conflict, ControlRefused, NotNow, NotThere
from deploy.control.evidence import evidence_answers
from pipelines.errors import PipelineError
from pipelines.gates.explain import explain, past_prior
from pipelines.gates.planning import PlannedGates, budget_of
from registry import rollout_moves
from registry.contracts.rollouts import Rollout, RolloutSpec, aa_spec, default_spec
from registry.contracts.traffic import TrafficPlan
from registry.decisions import Decision
from registry.errors import StoreUnavailable
from serving.gateway.control.evidence import BudgetAnswer, ExplainAnswer, GateAnswer, LiftAnswer
from serving.gateway.control.rollouts import (
    PlannedAnswer,
    PlannedGateAnswer,
    RolloutAnswer,
    RolloutBody,
    RolloutLine,
    RolloutList,
    RolloutReport,
)

NEWEST_OF_ROLLOUT, NEWEST_OF_GATE = 200, 50  # evidence; a step may have hundreds, and somebody asks each second
Shape = TypeVar("Shape")


def start_rollout(desk: Desk, ask: Ask) -> Reply:
    """A version on its way to champion."""
    body: RolloutBody = ask.body
    planned = _planned(desk, ask, body)
    if words := planned.refusal(underpowered=body.underpowered, over_budget=body.over_budget):
        raise Conflict(words)
    spec = planned.as_it_is

    def decide(plan: TrafficPlan | None) -> Decision:
        stored = desk.store().get(ask.model, body.version)
        return rollout_moves.start(plan, stored, spec, **ask.words, layer=body.layer)

    return _move_rollout(desk, ask, decide)


def plan_rollout(desk: Desk, ask: Ask) -> Reply:
    """What a rollout would begin with, and whether it would; nothing is changed."""
    body: RolloutBody = ask.body
    plan = desk.control.plan(ask.model)
    planned = _planned(desk, ask, body)
    return ask.reply(
        PlannedAnswer(
            ask.model,
            plan.revision if plan else 0,
            body.version,
            planned.refusal(underpowered=body.underpowered, over_budget=body.over_budget),
            planned.alpha,
            _as(planned.budget, BudgetAnswer),
            tuple(_as(gate, PlannedGateAnswer) for gate in planned.gates),
            planned.spec.steps,
        )
    )


def explain_rollout(desk: Desk, ask: Ask) -> Reply:
    """Its gates' figures, what they are held against, and what the year has spent."""
    rollout, plan = _rollout(desk, ask), desk.control.plan(ask.model)
    history = desk.control.rollout_history(rollout.id)
    begun_ms = {change.rollout.current_step.name: change.rollout.entered_ms for change in history}
    measured = desk.control.evidence_of([one for change in history for one in change.evidence])
    for kind in dict.fromkeys(step.gate_evidence for step in rollout.spec.steps if step.gate):
        measured += desk.control.evidence(
            ask.model,
            since_ms=rollout.started_ms,
            challenger_digest=rollout.challenger_digest,
            kind=kind,
            newest=NEWEST_OF_GATE,
        )
    budget = budget_of(desk.control.rollouts(ask.model), desk.planner.settings, ask.now_ms)
    outlook = _outlook(desk, rollout) if rollout.active else {}
    found = explain(rollout, measured, begun_ms, budget, past_prior(desk.control, rollout), outlook)
    return ask.reply(
        ExplainAnswer(
            plan.revision if plan else 0,
            found.rollout,
            found.state,
            found.step,
            tuple(_as(gate, GateAnswer) for gate in found.gates),
            None if found.lift is None else _as(found.lift, LiftAnswer),
            found.alpha,
            _as(found.budget, BudgetAnswer),
            outlook,
            found.text,
        )
    )


def pause_rollout(desk: Desk, ask: Ask) -> Reply:
    """It advances no more; failing evidence still rolls it back."""
    return _move_rollout(desk, ask, lambda _: rollout_moves.pause(_rollout(desk, ask), **ask.words))


def resume_rollout(desk: Desk, ask: Ask) -> Reply:
    """On from where it was paused."""
    return _move_rollout(desk, ask, lambda _: rollout_moves.resume(_rollout(desk, ask), **ask.words))


def abort_rollout(desk: Desk, ask: Ask) -> Reply:
    """The champion for all."""

    def decide(plan: TrafficPlan | None) -> Decision:
        if plan is None:
            raise no_plan(ask.model)
        return rollout_moves.abort(_rollout(desk, ask), plan, **ask.words)

    return _move_rollout(desk, ask, decide)


def rollouts(desk: Desk, ask: Ask) -> Reply:
    """Newest first."""
    state = ask.query.get("state", "all")
    if state not in ("all", "open"):
        raise ControlRefused(f"state={state[:32]!r}: expected open or all")
    plan = desk.control.plan(ask.model)
    found = desk.control.rollouts(ask.model, open_only=state == "open")
    revision = plan.revision if plan else 0
    return ask.reply(RolloutList(ask.model, revision, tuple(_rollout_answer(plan, one, revision) for one in found)))


def rollout(desk: Desk, ask: Ask) -> Reply:
    """One rollout with all that is known of it."""
    rollout, plan = _rollout(desk, ask), desk.control.plan(ask.model)
    lines = tuple(
        RolloutLine(
            change.rollout.revision,
            change.what,
            change.at_ms,
            change.who,
            change.why,
            change.rollout.state,
            change.rollout.current_step.name,
            change.plan_revision,
            change.evidence,
        )
        for change in desk.control.rollout_history(rollout.id)
    )
    measured = desk.control.evidence(ask.model, challenger_digest=rollout.challenger_digest, newest=NEWEST_OF_ROLLOUT)
    about = _rollout_answer(plan, rollout, plan.revision if plan else 0)
    answer = RolloutReport(
        about.plan_revision,
        about.weight,
        about.mirror_share,
        rollout,
        lines,
        evidence_answers(about.plan_revision, (one for one in measured if one.is_of(rollout))),
        _outlook(desk, rollout) if rollout.active else {},
    )
    return ask.reply(answer)


def _move_rollout(desk: Desk, ask: Ask, decide: Callable[[TrafficPlan | None], Decision]) -> Reply:
    def answer(plan: TrafficPlan | None, decision: Decision) -> Reply:
        now = decision.plan or plan
        return ask.reply(_rollout_answer(now, decision.moves[0].rollout, now.revision if now else 0))

    return desk.decide(ask, decide, answer)


def _planned(desk: Desk, ask: Ask, body: RolloutBody) -> PlannedGates:
    """Raises NotNow if what was measured cannot be read."""
    plan, rollouts = desk.control.plan(ask.model), desk.control.rollouts(ask.model)
    try:
        return desk.planner.plan(ask.model, _spec(body), plan, body.layer, rollouts, ask.now_ms)
    except (PipelineError, OSError) as error:
        raise NotNow(f"live traffic cannot be read from the archive, so no gate can be planned: {error}") from error


def _outlook(desk: Desk, rollout: Rollout) -> dict[str, Any]:
    try:
        return dict(desk.outlook(rollout))
    except StoreUnavailable as error:
        return {"next": "hold", "why": f"no counters: {error}", "guardrails": None, "evidence": []}


def _rollout(desk: Desk, ask: Ask) -> Rollout:
    rollout = desk.control.rollout(ask.id)
    if rollout.model != ask.model:
        raise NotThere(f"rollout {ask.id!r} is of model {rollout.model!r}, not {ask.model!r}")
    return rollout


def _spec(body: RolloutBody) -> RolloutSpec:
    spec = aa_spec() if body.aa else default_spec(interleaving=body.interleaving, online_gate=body.online_gate)
    if body.simulated:
        steps = tuple(
            replace(step, gate=replace(step.gate, simulated=True)) if step.gate else step for step in spec.steps
        )
        spec = replace(spec, steps=steps)
    given = {
        "steps": body.steps or None,
        "guardrails": body.guardrails,
        "holdback_weight": body.holdback_weight,
        "holdback_s": body.holdback_s,
    }
    return replace(spec, **{name: value for name, value in given.items() if value is not None})


def _as(found: msgspec.Struct, answer: type[Shape]) -> Shape:
    """A record of the pipelines in the API's words, which have the same names."""
    return msgspec.convert(msgspec.to_builtins(found), answer)


def _rollout_answer(plan: TrafficPlan | None, rollout: Rollout, plan_revision: int) -> RolloutAnswer:
    there = plan.experiment(rollout.experiment) if plan else None
    return RolloutAnswer(plan_revision, there.weight if there else 0, there.mirror_share if there else 0, rollout)
