"""What live traffic says of a rollout's step, as evidence: `interleaving` or `online_gate`. Pure.

Evidence is a function of the lists in the archive and of `GateInputs`, which stand in its body: whoever has the
archive makes the same bytes again, or finds out that the archive is another one.

Validity goes first. What breaks the measurement (data quality, a mix of people and simulated users, a sample ratio
that cannot be chance, another metric) is `errored`, whatever the figures say. An open drift alarm, and judged NDCG
that says the opposite, hold what would pass; they do not keep in traffic what people surely click less.
"""

from collections.abc import Sequence
from typing import Any

import msgspec

from pipelines.gates.data import GateSample
from pipelines.gates.gate_plan import GatePlan
from pipelines.gates.online import GateVerdict, judge
from pipelines.gates.scope import GateScope
from registry.contracts.gates import GateTerms
from registry.contracts.manifest import CLICK_NDCG
from registry.contracts.rollouts import Evidence, Rollout, Verdict
from registry.contracts.traffic import WEIGHT_STEPS, TrafficPlan

ALPHA = 0.05
"""Of a gate that nobody planned."""

ROLLBACK_AT = 2000.0
"""Information, of a gate whose traffic nobody measured: a standard error of 2.2 points."""


class GateInputs(msgspec.Struct, frozen=True, kw_only=True):
    """All that a gate's evidence is made of, beside the archive. JSON-able.

    step: its name. as_of_ms: what is known by then. weights: planned shares of units, champion's and challenger's.
    alarms: open on the window, in words. conflict: what judged NDCG says to the contrary, empty if nothing.
    """

    rollout: str
    step: str
    champion: int
    champion_digest: str
    challenger: int
    challenger_digest: str
    as_of_ms: int
    terms: GateTerms
    scope: GateScope
    weights: tuple[int, int]
    alarms: tuple[str, ...] = ()
    conflict: str = ""


def inputs_of(
    rollout: Rollout,
    plans: Sequence[TrafficPlan],
    as_of_ms: int,
    alarms: Sequence[str] = (),
    conflict: str = "",
) -> GateInputs:
    """Of the step that the rollout is in, which must have a gate. plans: the model's since the step began, all."""
    step = rollout.current_step
    assert step.gate is not None, f"step {step.name!r} has no gate"
    terms = step.gate
    salt, control, weights = _control(rollout, plans)
    scope = GateScope(
        model=rollout.model,
        kind="interleaving" if step.kind == "interleaving" else "ab",
        experiment=rollout.experiment,
        since_ms=rollout.entered_ms,
        plan_revision=rollout.plan_revision,
        look_ms=round(terms.look_s * 1000),
        clicks_within_ms=round(terms.clicks_within_s * 1000),
        before_ms=rollout.started_ms,
        history_ms=round(terms.history_s * 1000) if terms.cuped else 0,
        simulated=terms.simulated,
        scoring=terms.scoring,
        salt=salt,
        control=control,
    )
    return GateInputs(
        rollout=rollout.id,
        step=step.name,
        champion=rollout.champion,
        champion_digest=rollout.champion_digest,
        challenger=rollout.challenger,
        challenger_digest=rollout.challenger_digest,
        as_of_ms=as_of_ms,
        terms=terms,
        scope=scope,
        weights=weights,
        alarms=tuple(alarms),
        conflict=conflict,
    )


def plan_of(inputs: GateInputs) -> GatePlan:
    """The terms as the statistics know them."""
    terms = inputs.terms
    return GatePlan(
        kind=inputs.scope.kind,
        metric=terms.metric or CLICK_NDCG.digest,
        alpha=ALPHA if terms.alpha is None else terms.alpha,
        looks=terms.looks,
        spending=terms.spending,
        margin=terms.margin,
        least=-1.0 if terms.least is None else terms.least,
        scoring=terms.scoring,
        rollback_alpha=terms.rollback_alpha,
        rollback_margin=terms.rollback_margin,
        rollback_at=ROLLBACK_AT if terms.rollback_at is None else terms.rollback_at,
        weights=(float(inputs.weights[0]), float(inputs.weights[1])),
        min_units=terms.min_units,
    )


def gate_evidence(inputs: GateInputs, sample: GateSample) -> Evidence:
    """The gate's verdict and all it stands on. Equal arguments give equal bytes, id included."""
    plan = plan_of(inputs)
    found = judge(plan, sample.seen)
    verdict, why = _together(inputs, sample, found)
    scope = inputs.scope
    return Evidence(
        kind="interleaving" if scope.kind == "interleaving" else "online_gate",
        model=scope.model,
        champion=inputs.champion,
        champion_digest=inputs.champion_digest,
        challenger=inputs.challenger,
        challenger_digest=inputs.challenger_digest,
        verdict=verdict,
        made_ms=inputs.as_of_ms,
        since_ms=scope.since_ms,
        until_ms=max(scope.since_ms, inputs.as_of_ms),
        plan_revision=scope.plan_revision,
        experiment=scope.experiment,
        why=why,
        body={
            **found.body(plan),
            "clicks": "simulated" if scope.simulated else "people's",
            "closed": sample.closed,
            "quality": _plain(sample.quality),
            "inputs": _plain(inputs),
        },
    )


def inputs_in(evidence: Evidence) -> GateInputs | None:
    """What the evidence was made of; None if no gate made it."""
    try:
        return msgspec.convert(evidence.body["inputs"], GateInputs)
    except (KeyError, msgspec.ValidationError):
        return None


def verdict_in(evidence: Evidence) -> GateVerdict | None:
    """The figures in it; None if no gate made it."""
    try:
        return msgspec.convert(evidence.body["verdict"], GateVerdict)
    except (KeyError, msgspec.ValidationError):
        return None


def judged_conflict(evidence: Sequence[Evidence], rollout: Rollout) -> str:
    """What the newest offline gate of the two versions says against the challenger by judged NDCG; empty if nothing."""
    mine = [one for one in evidence if one.kind == "offline_gate" and one.is_of(rollout)]
    newest = max(mine, key=lambda one: (one.made_ms, one.id), default=None)
    judged = None if newest is None else newest.body.get("judged")
    if isinstance(judged, dict) and judged.get("verdict") == "failed":
        return f"judged NDCG failed ({judged.get('why', '')})"
    return ""


def _together(inputs: GateInputs, sample: GateSample, found: GateVerdict) -> tuple[Verdict, str]:
    figures = _figures(found)
    few = sample.quality.rankings < inputs.terms.min_units  # of a handful, one is a large share
    if found.verdict != "errored" and sample.quality.faults and not few:
        return "errored", "; ".join(sample.quality.faults)
    if found.verdict == "passed" and inputs.conflict:
        return "inconclusive", f"clicks passed{figures}, {inputs.conflict}: a conflict is a hold, decide by hand"
    if found.verdict == "passed" and inputs.alarms:
        return "inconclusive", f"it would pass{figures}, but for an open alarm: {'; '.join(inputs.alarms)}"
    return found.verdict, f"{found.why}{figures}"


def _figures(found: GateVerdict) -> str:
    if found.verdict == "failed" and found.anytime_high is not None:
        return f" (at most {_share(found, found.anytime_high)})"
    if found.estimate is None:
        return ""
    ends = ("no bound" if end is None else _share(found, end) for end in (found.low, found.high))
    return f" ({_share(found, found.estimate)}, interval {' to '.join(ends)})"


def _share(found: GateVerdict, figure: float) -> str:
    return f"{figure:+.2%}" if found.kind == "ab" else f"{figure:+.4f} clicks a list"


def _control(
    rollout: Rollout, plans: Sequence[TrafficPlan]
) -> tuple[str, tuple[tuple[int, int], ...], tuple[int, int]]:
    """The layer's salt, whose units are the champion's in all plans (none: all in its arm), and both arms' buckets."""
    mine = rollout.current_step.weight
    layers = [layer for plan in plans for layer in plan.layers if layer.name == rollout.layer]
    taken = [frozenset(bucket for one in layer.experiments for bucket in one.buckets) for layer in layers]
    if not taken:
        return "", (), (WEIGHT_STEPS - mine, mine)
    free = [bucket for bucket in range(WEIGHT_STEPS) if not any(bucket in one for one in taken)]
    if len(set(taken)) == 1:
        return "", (), (len(free), mine)
    return layers[-1].salt, _ranges(free), (len(free), mine)


def _ranges(buckets: Sequence[int]) -> tuple[tuple[int, int], ...]:
    """Runs of numbers that follow each other, as (first, last + 1).

    >>> _ranges([1, 2, 3, 7])
    ((1, 4), (7, 8))
    """
    found: list[tuple[int, int]] = []
    for bucket in buckets:
        if found and found[-1][1] == bucket:
            found[-1] = (found[-1][0], bucket + 1)
        else:
            found.append((bucket, bucket + 1))
    return tuple(found)


def _plain(record: msgspec.Struct) -> Any:
    """As JSON has it, so that evidence reads the same before and after it was stored."""
    return msgspec.json.decode(msgspec.json.encode(record))
