"""What each route does: a method for each of the table's names, from a request to its answer."""

import dataclasses
import gzip
import logging
import secrets
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import msgspec
from msgspec.structs import replace

from deploy.control import changes
from deploy.control.access import Caller
from deploy.control.conditions import IfMatch
from deploy.control.errors import Conflict, ControlRefused, NotNow, NotThere
from deploy.drift_reports.shelf import ReportShelf, page_headers
from drift.evidently_reports.files import Form
from pipelines.errors import PipelineError
from pipelines.gates.explain import explain, past_prior
from pipelines.gates.planning import GatePlanner, PlannedGates, budget_of
from pipelines.runs.schedule import DAY_MS, STEPS, newest_window
from pipelines.settings import RunSettings
from registry import rollout_moves, run_moves
from registry.api_keys import SECRET_BYTES, ApiKey, KeyRing, key_text, make_key
from registry.contracts.drift import Rebaseline, ShiftRecord
from registry.contracts.rollouts import DAY_S, Evidence, Rollout, RolloutSpec, aa_spec, default_spec
from registry.contracts.runs import RUN_STATES, Run
from registry.contracts.traffic import TrafficPlan
from registry.decisions import Decision
from registry.errors import AnsweredBefore, StaleRevision, StoreUnavailable
from registry.receipts import Receipt
from registry.rollouts import RolloutControl
from registry.runs import RunStore, edit
from registry.store import ModelStore
from registry.traffic_control import TrafficChange
from serving.gateway.control_routes import ControlRoute
from serving.gateway.control_schema import (
    BudgetAnswer,
    ChangeAnswer,
    DriftAnswer,
    DriftReportList,
    EvidenceAnswer,
    EvidenceBody,
    EvidenceList,
    ExplainAnswer,
    GateAnswer,
    HistoryAnswer,
    KeyAnswer,
    KeyBody,
    KeysAnswer,
    LiftAnswer,
    NewKeyAnswer,
    PlanBody,
    PlannedAnswer,
    PlannedGateAnswer,
    PromoteBody,
    RebaselineAnswer,
    ReportBody,
    RetrainBody,
    RetryBody,
    RollbackBody,
    RolloutAnswer,
    RolloutBody,
    RolloutLine,
    RolloutList,
    RolloutReport,
    RunAnswer,
    RunList,
    RunsAnswer,
    WhyBody,
)

log = logging.getLogger(__name__)

TRIES = 10
PAGE = 100
RUN_LEASE_MS = int(RunSettings().lease_s * 1000)
MOST_CHANGES = 1000
NEWEST_OF_ROLLOUT, NEWEST_OF_GATE = 200, 50  # evidence; a step may have hundreds, and somebody asks each second
EVIDENCE_OF_MS = int(30 * DAY_S * 1000)
Shape = TypeVar("Shape")


@dataclass(frozen=True, slots=True)
class Reply:
    """body: JSON, unless media_type says otherwise. plan_revision: of the model's plan, None of routes without one."""

    status: int
    body: bytes
    plan_revision: int | None = None
    replayed: bool = False
    headers: Mapping[str, str] = field(default_factory=dict)
    media_type: str = "application/json"


@dataclass(frozen=True, slots=True)
class Ask:
    """A request by somebody who may make it. model, id: of the path, empty if it has none. key: for
    idempotency, empty if there is none. digest: see `conditions.digest_of`. accept, gzip: what answer is wanted."""

    route: ControlRoute
    caller: Caller
    now_ms: int
    model: str = ""
    id: str = ""
    query: Mapping[str, str] = field(default_factory=dict)
    body: Any = None
    if_match: IfMatch = field(default_factory=IfMatch)
    key: str = ""
    digest: str = ""
    accept: str = ""
    gzip: bool = False

    def reply(self, answer: msgspec.Struct) -> Reply:
        """With the route's status."""
        return Reply(self.route.success, msgspec.json.encode(answer), getattr(answer, "plan_revision", None))

    def receipt(self, reply: Reply) -> Receipt | None:
        """Of that reply; None without an idempotency key."""
        if not self.key:
            return None
        caller = self.caller.key.id
        return Receipt(caller, self.key, self.route.name, self.digest, reply.status, reply.body.decode(), self.now_ms)

    @property
    def words(self) -> dict[str, Any]:
        """For histories."""
        return {"who": self.caller.who, "why": self.body.why, "now_ms": self.now_ms}


@dataclass(frozen=True, slots=True)
class Desk:
    """The parts that requests are answered from; safe for several threads.

    store: versions; raises StoreUnavailable while it is not there. publish: makes traffic follow a model's
    plan; raises StoreUnavailable if the board is away. outlook: what the engine thinks of an active rollout, see
    `canary.outlook`; may raise StoreUnavailable. planner: of rollouts' gates. run_store: runs of pipelines;
    retrain_ms: of clicks that a retraining learns from, if nothing else is said. closed_days: of a model, the newest
    first; raises StoreUnavailable. declare: keeps a declared change, unless a newer one is there; raises
    StoreUnavailable. reports: of closed days, None where there are none.
    """

    control: RolloutControl
    ring: KeyRing
    store: Callable[[], ModelStore]
    publish: Callable[[str], None]
    outlook: Callable[[Rollout], Mapping[str, object]]
    planner: GatePlanner
    run_store: RunStore
    wall_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000
    random_bytes: Callable[[int], bytes] = secrets.token_bytes
    retrain_ms: int = 14 * DAY_MS
    closed_days: Callable[[str], tuple[ShiftRecord, ...]] = lambda model: ()
    declare: Callable[[Rebaseline], None] = lambda change: None
    reports: ReportShelf | None = None

    def promote(self, ask: Ask) -> Reply:
        """A version becomes champion."""
        body: PromoteBody = ask.body

        def decide(plan: TrafficPlan | None) -> Decision:
            digest = self._digest(plan, ask.model, body.version)
            planned = changes.promoted(plan, ask.model, body.version, digest, body.holdback)
            return Decision(**ask.words, plan=planned, record=_record("promoted", ask, body.evidence))

        return self._change_plan(ask, decide)

    def rollback(self, ask: Ask) -> Reply:
        """What came last is taken back."""
        body: RollbackBody = ask.body

        def decide(plan: TrafficPlan | None) -> Decision:
            seen = plan.revision if plan else 0  # the history may have gone on meanwhile
            history = [change for change in self.control.history(ask.model) if change.revision <= seen]
            planned = changes.rolled_back(history, ask.model, body.to)
            return Decision(**ask.words, plan=planned, record=_record("rolled_back", ask, body.evidence))

        return self._change_plan(ask, decide)

    def change_plan(self, ask: Ask) -> Reply:
        """Experiments, overrides and exploration by hand."""
        body: PlanBody = ask.body

        def decide(plan: TrafficPlan | None) -> Decision:
            if plan is None:
                raise _no_plan(ask.model)

            def digest_of(version: int) -> str:
                return self._digest(plan, ask.model, version)

            planned = changes.by_hand(plan, body, digest_of, lambda: self.random_bytes(8).hex())
            return Decision(**ask.words, plan=planned, record=_record("changed", ask, {}))

        return self._change_plan(ask, decide)

    def plan(self, ask: Ask) -> Reply:
        """The last change, and with it the plan."""
        return ask.reply(_change_answer(self._history(ask.model)[-1]))

    def history(self, ask: Ask) -> Reply:
        """Newest first, a page at a time."""
        found = self._history(ask.model)
        before = _number(ask, "before", len(found) + 1)
        limit = min(_number(ask, "limit", PAGE), MOST_CHANGES)
        older = [change for change in found if change.revision < before]
        page = older[::-1][:limit]
        more = len(older) > len(page) and page
        answer = HistoryAnswer(
            ask.model, found[-1].revision, tuple(map(_change_answer, page)), page[-1].revision if more else None
        )
        return ask.reply(answer)

    def start_rollout(self, ask: Ask) -> Reply:
        """A version on its way to champion."""
        body: RolloutBody = ask.body
        planned = self._planned(ask, body)
        if words := planned.refusal(underpowered=body.underpowered, over_budget=body.over_budget):
            raise Conflict(words)
        spec = planned.as_it_is

        def decide(plan: TrafficPlan | None) -> Decision:
            stored = self.store().get(ask.model, body.version)
            return rollout_moves.start(plan, stored, spec, **ask.words, layer=body.layer)

        return self._move_rollout(ask, decide)

    def plan_rollout(self, ask: Ask) -> Reply:
        """What a rollout would begin with, and whether it would; nothing is changed."""
        body: RolloutBody = ask.body
        plan = self.control.plan(ask.model)
        planned = self._planned(ask, body)
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

    def explain_rollout(self, ask: Ask) -> Reply:
        """Its gates' figures, what they are held against, and what the year has spent."""
        rollout, plan = self._rollout(ask), self.control.plan(ask.model)
        history = self.control.rollout_history(rollout.id)
        begun_ms = {change.rollout.current_step.name: change.rollout.entered_ms for change in history}
        measured = self.control.evidence_of([one for change in history for one in change.evidence])
        for kind in dict.fromkeys(step.gate_evidence for step in rollout.spec.steps if step.gate):
            measured += self.control.evidence(
                ask.model,
                since_ms=rollout.started_ms,
                challenger_digest=rollout.challenger_digest,
                kind=kind,
                newest=NEWEST_OF_GATE,
            )
        budget = budget_of(self.control.rollouts(ask.model), self.planner.settings, ask.now_ms)
        outlook = self._outlook(rollout) if rollout.active else {}
        found = explain(rollout, measured, begun_ms, budget, past_prior(self.control, rollout), outlook)
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

    def pause_rollout(self, ask: Ask) -> Reply:
        """It advances no more; failing evidence still rolls it back."""
        return self._move_rollout(ask, lambda _: rollout_moves.pause(self._rollout(ask), **ask.words))

    def resume_rollout(self, ask: Ask) -> Reply:
        """On from where it was paused."""
        return self._move_rollout(ask, lambda _: rollout_moves.resume(self._rollout(ask), **ask.words))

    def abort_rollout(self, ask: Ask) -> Reply:
        """The champion for all."""

        def decide(plan: TrafficPlan | None) -> Decision:
            if plan is None:
                raise _no_plan(ask.model)
            return rollout_moves.abort(self._rollout(ask), plan, **ask.words)

        return self._move_rollout(ask, decide)

    def rollouts(self, ask: Ask) -> Reply:
        """Newest first."""
        state = ask.query.get("state", "all")
        if state not in ("all", "open"):
            raise ControlRefused(f"state={state[:32]!r}: expected open or all")
        plan = self.control.plan(ask.model)
        found = self.control.rollouts(ask.model, open_only=state == "open")
        revision = plan.revision if plan else 0
        return ask.reply(RolloutList(ask.model, revision, tuple(_rollout_answer(plan, one, revision) for one in found)))

    def rollout(self, ask: Ask) -> Reply:
        """One rollout with all that is known of it."""
        rollout, plan = self._rollout(ask), self.control.plan(ask.model)
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
            for change in self.control.rollout_history(rollout.id)
        )
        measured = self.control.evidence(
            ask.model, challenger_digest=rollout.challenger_digest, newest=NEWEST_OF_ROLLOUT
        )
        about = _rollout_answer(plan, rollout, plan.revision if plan else 0)
        answer = RolloutReport(
            about.plan_revision,
            about.weight,
            about.mirror_share,
            rollout,
            lines,
            _evidence_answers(about.plan_revision, (one for one in measured if one.is_of(rollout))),
            self._outlook(rollout) if rollout.active else {},
        )
        return ask.reply(answer)

    def add_evidence(self, ask: Ask) -> Reply:
        """A gate or a CI job hands in what it measured."""
        body: EvidenceBody = ask.body

        def decide(plan: TrafficPlan | None) -> Decision:
            if plan is None:
                raise _no_plan(ask.model)
            champion = plan.champion if body.champion is None else body.champion
            until_ms = ask.now_ms if body.until_ms is None else body.until_ms
            evidence = Evidence(
                kind=body.kind,
                model=ask.model,
                champion=champion,
                champion_digest=self._digest(plan, ask.model, champion),
                challenger=body.challenger,
                challenger_digest=self._digest(plan, ask.model, body.challenger),
                verdict=body.verdict,
                made_ms=ask.now_ms,
                since_ms=until_ms if body.since_ms is None else body.since_ms,
                until_ms=until_ms,
                plan_revision=body.plan_revision,
                experiment=body.experiment,
                why=body.why,
                body={**body.body, "handed_in_by": ask.caller.who},
            )
            return Decision(**ask.words, evidence=(evidence,))

        def answer(plan: TrafficPlan | None, decision: Decision) -> Reply:
            return ask.reply(_evidence_answers(plan.revision if plan else 0, decision.evidence)[0])

        return self._decide(ask, decide, answer)

    def evidence(self, ask: Ask) -> Reply:
        """Of any two versions of the model."""
        plan = self.control.plan(ask.model)
        since_ms = _number(ask, "since_ms", ask.now_ms - EVIDENCE_OF_MS, least=0)
        found = self.control.evidence(ask.model, since_ms=since_ms)
        revision = plan.revision if plan else 0
        return ask.reply(EvidenceList(ask.model, revision, _evidence_answers(revision, found)))

    def retrain(self, ask: Ask) -> Reply:
        """A run of a window, if it has none."""
        body: RetrainBody = ask.body
        plan = self.control.plan(ask.model)
        if plan is None:
            raise _no_plan(ask.model)
        since_ms, until_ms = _window(ask, body, self.retrain_ms)
        run = run_moves.ask(ask.model, "retrain", "api", since_ms, until_ms, STEPS["retrain"], **ask.words)
        self.run_store.add(run, ask.receipt(reply := ask.reply(self._run_answer(run, plan.revision, ask.now_ms))))
        return reply

    def drift(self, ask: Ask) -> Reply:
        """What the newest closed days came to."""
        plan, records = self.control.plan(ask.model), self.closed_days(ask.model)
        there = self.reports.of(records) if self.reports else ()
        return ask.reply(DriftAnswer(ask.model, plan.revision if plan else 0, records, there))

    def rebaseline(self, ask: Ask) -> Reply:
        """Decided when its receipt is kept; the board may hear of it later, and twice."""
        body: WhyBody = ask.body
        plan = self.control.plan(ask.model)
        answer = RebaselineAnswer(ask.model, plan.revision if plan else 0, ask.now_ms, ask.caller.who, body.why)
        reply = ask.reply(answer)
        if (receipt := ask.receipt(reply)) is not None:
            kept = self.control.keep_receipt(receipt)  # another request with this key may have been quicker
            if kept != receipt:
                raise AnsweredBefore(f"Idempotency-Key {ask.key!r} is being answered: repeat the request")
        self.declare_decided(answer)
        return reply

    def declare_decided(self, answer: RebaselineAnswer) -> None:
        """Raises NotNow if the monitor cannot hear yet of what is decided."""
        try:
            self.declare(Rebaseline(answer.model, answer.from_ms, answer.who, answer.why))
        except StoreUnavailable as error:
            raise NotNow(
                f"the change is not declared yet ({error}): repeat the request with the same Idempotency-Key"
            ) from error

    def drift_reports(self, ask: Ask) -> Reply:
        """Those that are there, and those that are wanted."""
        plan, shelf = self.control.plan(ask.model), self._shelf()
        revision = plan.revision if plan else 0
        return ask.reply(DriftReportList(ask.model, revision, shelf.lines(ask.model), shelf.waiting(ask.model)))

    def drift_report(self, ask: Ask) -> Reply:
        """The page for people, the figures for programs."""
        told = ask.query.get("format", "") or ("html" if "text/html" in ask.accept else "json")
        if told not in ("html", "json"):
            raise ControlRefused(f"format={told[:32]!r}: expected html or json")
        form: Form = "html" if told == "html" else "json"
        about, content = self._shelf().content(ask.model, ask.id, ask.query.get("arm", "champion"), form)
        if form == "json":
            return Reply(200, content)
        headers = page_headers(about) | ({"content-encoding": "gzip"} if ask.gzip else {})
        page = content if ask.gzip else gzip.decompress(content)
        return Reply(200, page, headers=headers, media_type="text/html; charset=utf-8")

    def want_drift_report(self, ask: Ask) -> Reply:
        """The same wish again changes nothing."""
        body: ReportBody = ask.body
        return ask.reply(self._shelf().want(ask.model, body.day, body.arm, self.closed_days(ask.model)))

    def _shelf(self) -> ReportShelf:
        if self.reports is None:
            raise NotThere("this platform keeps no reports of closed days")
        return self.reports

    def all_runs(self, ask: Ask) -> Reply:
        """Of all models."""
        return ask.reply(RunsAnswer(self._runs(ask, None)))

    def runs(self, ask: Ask) -> Reply:
        """Of one model."""
        plan = self.control.plan(ask.model)
        return ask.reply(RunList(ask.model, plan.revision if plan else 0, self._runs(ask, ask.model)))

    def run(self, ask: Ask) -> Reply:
        """One run with its steps."""
        plan = self.control.plan(ask.model)
        return ask.reply(self._run_answer(self._run(ask), plan.revision if plan else 0, ask.now_ms))

    def retry_run(self, ask: Ask) -> Reply:
        """Of one that failed, was cancelled or is dead."""
        body: RetryBody = ask.body
        return self._move_run(ask, lambda run: run_moves.retry(run, **ask.words, from_step=body.from_step))

    def cancel_run(self, ask: Ask) -> Reply:
        """At once, or as soon as whoever works on it hears of it."""
        return self._move_run(ask, lambda run: run_moves.cancel(run, **ask.words, lease_ms=RUN_LEASE_MS))

    def keys(self, ask: Ask) -> Reply:
        """Without the keys themselves."""
        return ask.reply(KeysAnswer(tuple(map(_key_answer, self.ring.every()))))

    def make_key(self, ask: Ask) -> Reply:
        """Shown in the answer and kept nowhere: so the receipt cannot show it again."""
        body: KeyBody = ask.body
        text = key_text(self.random_bytes(SECRET_BYTES))
        key = make_key(text, body.name, body.role, body.models, created_ms=ask.now_ms, created_by=ask.caller.who)
        told = (
            f"this request made API key {key.name!r} ({key.id}), which was shown once and is kept nowhere: "
            f"`sluice keys revoke {key.id}`, then make another"
        )
        made_before = Reply(409, msgspec.json.encode({"error": told}))
        if (receipt := ask.receipt(made_before)) is not None:
            self.control.decide(Decision(ask.caller.who, told, ask.now_ms, receipt=receipt))
        self.ring.add(key, text)
        return ask.reply(NewKeyAnswer(text, _key_answer(key)))

    def revoke_key(self, ask: Ask) -> Reply:
        """Once; a second time changes nothing."""
        return ask.reply(_key_answer(self.ring.revoke(ask.id, ask.now_ms)))

    def _change_plan(self, ask: Ask, decide: Callable[[TrafficPlan | None], Decision]) -> Reply:
        def answer(_: TrafficPlan | None, decision: Decision) -> Reply:
            assert decision.plan is not None
            change = TrafficChange(decision.plan, decision.now_ms, decision.who, decision.why, decision.record)
            return ask.reply(_change_answer(change))

        return self._decide(ask, decide, answer)

    def _move_rollout(self, ask: Ask, decide: Callable[[TrafficPlan | None], Decision]) -> Reply:
        def answer(plan: TrafficPlan | None, decision: Decision) -> Reply:
            now = decision.plan or plan
            return ask.reply(_rollout_answer(now, decision.moves[0].rollout, now.revision if now else 0))

        return self._decide(ask, decide, answer)

    def _decide(
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

    def _move_run(self, ask: Ask, move: Callable[[Run], Run]) -> Reply:
        plan = self.control.plan(ask.model)
        self._run(ask)

        def reply(run: Run) -> Reply:
            return ask.reply(self._run_answer(run, plan.revision if plan else 0, ask.now_ms))

        return reply(edit(self.run_store, ask.id, move, lambda run: ask.receipt(reply(run))))

    def _run(self, ask: Ask) -> Run:
        run = self.run_store.run(ask.id)
        if run.model != ask.model:
            raise NotThere(f"run {ask.id!r} is of model {run.model!r}, not {ask.model!r}")
        return run

    def _runs(self, ask: Ask, model: str | None) -> tuple[RunAnswer, ...]:
        state = ask.query.get("state", "")
        if state and state not in RUN_STATES:
            raise ControlRefused(f"state={state[:32]!r}: expected one of {', '.join(RUN_STATES)}")
        states = [one for one in RUN_STATES if one == state]
        plans = self.control.revisions()
        found = self.run_store.runs(model, states=states, newest=min(_number(ask, "limit", PAGE), MOST_CHANGES))
        return tuple(self._run_answer(run, plans.get(run.model, 0), ask.now_ms) for run in found)

    def _run_answer(self, run: Run, plan_revision: int, now_ms: int) -> RunAnswer:
        return RunAnswer(plan_revision, run.progress, run_moves.held(run, now_ms, RUN_LEASE_MS), run)

    def _planned(self, ask: Ask, body: RolloutBody) -> PlannedGates:
        """Raises NotNow if what was measured cannot be read."""
        plan, rollouts = self.control.plan(ask.model), self.control.rollouts(ask.model)
        try:
            return self.planner.plan(ask.model, _spec(body), plan, body.layer, rollouts, ask.now_ms)
        except (PipelineError, OSError) as error:
            raise NotNow(f"live traffic cannot be read from the archive, so no gate can be planned: {error}") from error

    def _digest(self, plan: TrafficPlan | None, model: str, version: int) -> str:
        """From the plan, if it names the version: that needs no registry. Raises UnknownVersion."""
        if plan is not None and (digest := plan.versions().get(version)):
            return digest
        return self.store().get(model, version).digest

    def _outlook(self, rollout: Rollout) -> dict[str, Any]:
        try:
            return dict(self.outlook(rollout))
        except StoreUnavailable as error:
            return {"next": "hold", "why": f"no counters: {error}", "guardrails": None, "evidence": []}

    def _rollout(self, ask: Ask) -> Rollout:
        rollout = self.control.rollout(ask.id)
        if rollout.model != ask.model:
            raise NotThere(f"rollout {ask.id!r} is of model {rollout.model!r}, not {ask.model!r}")
        return rollout

    def _history(self, model: str) -> list[TrafficChange]:
        if not (found := self.control.history(model)):
            raise _no_plan(model)
        return found


def _no_plan(model: str) -> NotThere:
    return NotThere(f"model {model!r} has no traffic plan: `sluice promote {model} VERSION` makes the first")


def _record(what: str, ask: Ask, evidence: Mapping[str, Any]) -> dict[str, Any]:
    """For the plan's history: the caller's evidence, and how the change came about."""
    return {**evidence, "what": what, "by": f"{ask.route.name}, key {ask.caller.key.name} ({ask.caller.key.id})"}


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


def _number(ask: Ask, name: str, default: int, least: int = 1) -> int:
    told = ask.query.get(name, "")
    if not told:
        return default
    if not (told.isascii() and told.isdigit() and len(told) < 18 and int(told) >= least):
        raise ControlRefused(f"{name}={told[:32]!r}: expected a whole number from {least}")
    return int(told)


def _window(ask: Ask, body: RetrainBody, retrain_ms: int) -> tuple[int, int]:
    """Of a retraining. Raises ControlRefused."""
    if (body.since_ms is None) != (body.until_ms is None):
        raise ControlRefused("since_ms, until_ms: expected both or neither")
    if body.since_ms is None or body.until_ms is None:
        window = newest_window(retrain_ms, ask.now_ms)
        return window.since_ms, window.until_ms
    if not body.since_ms < body.until_ms <= ask.now_ms:
        raise ControlRefused(
            f"since_ms={body.since_ms}, until_ms={body.until_ms}: expected since_ms < until_ms <= now, {ask.now_ms}"
        )
    return body.since_ms, body.until_ms


def _change_answer(change: TrafficChange) -> ChangeAnswer:
    plan = change.plan
    return ChangeAnswer(plan.model, plan.revision, change.at_ms, change.who, change.why, dict(change.evidence), plan)


def _rollout_answer(plan: TrafficPlan | None, rollout: Rollout, plan_revision: int) -> RolloutAnswer:
    there = plan.experiment(rollout.experiment) if plan else None
    return RolloutAnswer(plan_revision, there.weight if there else 0, there.mirror_share if there else 0, rollout)


def _evidence_answers(plan_revision: int, found: Iterable[Evidence]) -> tuple[EvidenceAnswer, ...]:
    newest_first = sorted(found, key=lambda one: (one.made_ms, one.id), reverse=True)
    return tuple(EvidenceAnswer(plan_revision, one.id, one) for one in newest_first)


def _key_answer(key: ApiKey) -> KeyAnswer:
    return KeyAnswer(key.id, key.name, key.prefix, key.role, key.models, key.created_ms, key.revoked_ms)
