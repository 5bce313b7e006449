"""What was measured of two versions."""

from collections.abc import Iterable

from deploy.control.asks import Ask, Reply, number
from deploy.control.desk import Desk, no_plan
from registry.contracts.rollouts import DAY_S, Evidence
from registry.contracts.traffic import TrafficPlan
from registry.decisions import Decision
from serving.gateway.control.evidence import EvidenceAnswer, EvidenceBody, EvidenceList

EVIDENCE_OF_MS = int(30 * DAY_S * 1000)


def add_evidence(desk: Desk, ask: Ask) -> Reply:
    """A gate or a CI job hands in what it measured."""
    body: EvidenceBody = ask.body

    def decide(plan: TrafficPlan | None) -> Decision:
        if plan is None:
            raise no_plan(ask.model)
        champion = plan.champion if body.champion is None else body.champion
        until_ms = ask.now_ms if body.until_ms is None else body.until_ms
        evidence = Evidence(
            kind=body.kind,
            model=ask.model,
            champion=champion,
            champion_digest=desk.digest(plan, ask.model, champion),
            challenger=body.challenger,
            challenger_digest=desk.digest(plan, ask.model, body.challenger),
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
        return ask.reply(evidence_answers(plan.revision if plan else 0, decision.evidence)[0])

    return desk.decide(ask, decide, answer)


def evidence(desk: Desk, ask: Ask) -> Reply:
    """Of any two versions of the model."""
    plan = desk.control.plan(ask.model)
    since_ms = number(ask, "since_ms", ask.now_ms - EVIDENCE_OF_MS, least=0)
    found = desk.control.evidence(ask.model, since_ms=since_ms)
    revision = plan.revision if plan else 0
    return ask.reply(EvidenceList(ask.model, revision, evidence_answers(revision, found)))


def evidence_answers(plan_revision: int, found: Iterable[Evidence]) -> tuple[EvidenceAnswer, ...]:
    newest_first = sorted(found, key=lambda one: (one.made_ms, one.id), reverse=True)
    return tuple(EvidenceAnswer(plan_revision, one.id, one) for one in newest_first)
