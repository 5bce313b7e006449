"""The next step of a rollout, from what was measured: hold, advance or roll back. Pure.

- No data is a hold, whatever is missing: evidence, gateways, a sample. Nothing passes by default.
- Evidence counts for a step only if it compares these two versions, is young enough, and was measured
  since the step's plan (or the rollout's, or ever, as the step says); of several, the newest counts.
- Bad news does not get stale within a rollout: a failed verdict about these versions since it began rolls
  it back, whichever step asked for it, also while it is paused.
- `errored` and `inconclusive` hold: a broken measurement is no verdict on the model.
- An A/A goes through its steps, as their time is over at the latest, and then ends: it promotes nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from pipelines.rollouts.guardrails import GuardrailReport, Sample, judge
from registry.contracts.rollouts import Evidence, Need, Rollout, Verdict

_WORST_LAST: tuple[Verdict, ...] = ("passed", "inconclusive", "errored", "failed")


@dataclass(frozen=True, slots=True)
class Hold:
    """Nothing changes. guardrails: as they stand, None in a step without answers."""

    why: str
    guardrails: GuardrailReport | None = None


@dataclass(frozen=True, slots=True)
class Advance:
    """Into the next step, or to champion. evidence: what it stands on."""

    why: str
    evidence: tuple[Evidence, ...]
    guardrails: GuardrailReport | None = None


@dataclass(frozen=True, slots=True)
class RollBack:
    """The challenger out of the traffic."""

    why: str
    evidence: tuple[Evidence, ...]
    guardrails: GuardrailReport | None = None


Outcome = Hold | Advance | RollBack


def decide(rollout: Rollout, evidence: Sequence[Evidence], sample: Sample, now_ms: int) -> Outcome:
    """What is to be done with an active rollout.

    evidence: of the model; what is of other versions is left out here. sample: see `guardrails.sample_of`.
    """
    step = rollout.current_step
    mine = [one for one in evidence if one.is_of(rollout)]
    report = None
    if step.has_answers:
        report = judge(rollout.spec.guardrails, sample, step.min_answers, now_ms)
    if failed := _failed(rollout, mine, now_ms):
        return RollBack("; ".join(_words(one) for one in failed), tuple(failed), report)
    if report is not None and report.verdict == "failed":
        return RollBack(f"guardrails failed: {report.why}", (guardrail_evidence(rollout, report, now_ms),), report)
    waits_for = _missing(rollout, mine, report, now_ms)
    if waits_for is not None:
        in_step_s = (now_ms - rollout.entered_ms) / 1000
        if rollout.state == "running" and step.max_s is not None and in_step_s >= step.max_s:
            if rollout.spec.aa and not _in_last_step(rollout):
                return Advance(f"A/A: the time of step {step.name!r} is over: {waits_for}", (), report)
            return RollBack(f"step {step.name!r} was not passed within {step.max_s:.0f} s: {waits_for}", (), report)
        return Hold(waits_for, report)
    if rollout.state == "paused":
        return Hold("paused; it would advance", report)
    stands_on = [one for need in step.needs if (one := _newest(rollout, need, mine, now_ms))]
    if report is not None:
        stands_on.append(guardrail_evidence(rollout, report, now_ms))
    if rollout.spec.aa and _in_last_step(rollout):
        return RollBack(f"A/A: step {step.name!r} passed, an equal would have been promoted", tuple(stands_on), report)
    return Advance(f"step {step.name!r} passed", tuple(stands_on), report)


def outlook(outcome: Outcome) -> dict[str, object]:
    """The outcome as plain JSON, for those who watch a rollout: `next`, `why`, `guardrails`, `evidence` (ids)."""
    words = {Hold: "hold", Advance: "advance", RollBack: "roll_back"}
    return {
        "next": words[type(outcome)],
        "why": outcome.why,
        "guardrails": None if outcome.guardrails is None else _plain(outcome.guardrails),
        "evidence": [] if isinstance(outcome, Hold) else [one.id for one in outcome.evidence],
    }


def guardrail_evidence(rollout: Rollout, report: GuardrailReport, now_ms: int) -> Evidence:
    """What the guardrails say, as evidence to keep with the decision made on it."""
    return Evidence(
        kind="guardrails",
        model=rollout.model,
        champion=rollout.champion,
        champion_digest=rollout.champion_digest,
        challenger=rollout.challenger,
        challenger_digest=rollout.challenger_digest,
        verdict=report.verdict,
        made_ms=now_ms,
        since_ms=min(rollout.entered_ms, now_ms),
        until_ms=now_ms,
        plan_revision=rollout.plan_revision,
        experiment=rollout.experiment,
        why=report.why,
        body={
            "report": _plain(report),
            "limits": _plain(rollout.spec.guardrails),
            "min_answers": rollout.current_step.min_answers,
        },
    )


def _in_last_step(rollout: Rollout) -> bool:
    return rollout.step + 1 == len(rollout.spec.steps)


def _failed(rollout: Rollout, mine: Sequence[Evidence], now_ms: int) -> list[Evidence]:
    """What failed since the rollout began, and what a step of it asks for and failed before."""
    since_start = [
        one
        for one in mine
        if one.verdict == "failed"
        and one.made_ms >= rollout.started_ms
        and (one.plan_revision is None or one.plan_revision >= rollout.started_revision)
    ]
    asked = [_newest(rollout, need, mine, now_ms) for need in rollout.current_step.needs]
    before = [one for one in asked if one is not None and one.verdict == "failed" and one not in since_start]
    return since_start + before


def _missing(rollout: Rollout, mine: Sequence[Evidence], report: GuardrailReport | None, now_ms: int) -> str | None:
    """What the step still waits for, None if it has all."""
    step = rollout.current_step
    left_s = step.min_s - (now_ms - rollout.entered_ms) / 1000
    if left_s > 0:
        return f"{left_s:.0f} s of the step's {step.min_s:.0f} s are left"
    for need in step.needs:
        found = _newest(rollout, need, mine, now_ms)
        if found is None:
            stale = any(one.kind == need.kind for one in mine)
            return f"no {'fresh ' if stale else ''}evidence of {need.kind}"
        if found.verdict != "passed":
            return _words(found)
    if report is not None and report.verdict != "passed":
        return f"guardrails {report.verdict}: {report.why}"
    return None


def _newest(rollout: Rollout, need: Need, mine: Sequence[Evidence], now_ms: int) -> Evidence | None:
    """The newest evidence that counts for the need; of the same age, the worst."""
    counting = [one for one in mine if one.kind == need.kind and _counts(rollout, need, one, now_ms)]
    return max(counting, key=lambda one: (one.made_ms, _WORST_LAST.index(one.verdict)), default=None)


def _counts(rollout: Rollout, need: Need, one: Evidence, now_ms: int) -> bool:
    if now_ms - one.made_ms > need.max_age_s * 1000:
        return False
    if need.since == "ever":
        return True
    since_ms, revision = (
        (rollout.entered_ms, rollout.plan_revision)
        if need.since == "step"
        else (rollout.started_ms, rollout.started_revision)
    )
    return one.made_ms >= since_ms and one.plan_revision is not None and one.plan_revision >= revision


def _words(one: Evidence) -> str:
    return f"{one.kind} {one.verdict}{f': {one.why}' if one.why else ''}"


def _plain(record: msgspec.Struct) -> object:
    """As JSON has it, so that evidence reads the same before and after it was stored."""
    return msgspec.json.decode(msgspec.json.encode(record))
