"""One screen about a rollout's gates, for whoever wants to know why it stands where it stands.

All figures are those of evidence that is kept: what a person sees is what was or will be decided on, and the interval
is the one adjusted for looking, so that looking costs nothing.
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec

from pipelines.gates.evidence import inputs_in, verdict_in
from pipelines.gates.online import GateVerdict
from pipelines.gates.planning import AlphaBudget, alpha_of
from pipelines.gates.shrinkage import Prior, ShrunkenLift, prior_of, shrink
from registry.contracts.gates import GateTerms
from registry.contracts.rollouts import Evidence, Rollout, Verdict
from registry.rollouts import RolloutControl

PAST_DECISIONS = 50


class GateLine(msgspec.Struct, frozen=True, kw_only=True):
    """A step's gate as it stands. evidence: id of the newest, empty before there is any; then all figures are None.

    as_of_ms: what was known. next_look_ms, closes_ms: when the next look and the last one close, None of a step that
    has not begun, or has none left. figures: see `online.GateVerdict`; `terms` say what was planned.
    """

    step: str
    kind: str
    terms: GateTerms
    verdict: Verdict | None = None
    why: str = "not begun"
    evidence: str = ""
    as_of_ms: int | None = None
    next_look_ms: int | None = None
    closes_ms: int | None = None
    clicks: str = ""
    figures: GateVerdict | None = None
    dropped: int = 0
    alarms: tuple[str, ...] = ()


class Explanation(msgspec.Struct, frozen=True, kw_only=True):
    """All of it; text: the screen. lift: of the newest A/B, raw and shrunken. alpha: of this decision."""

    rollout: str
    state: str
    step: str
    gates: tuple[GateLine, ...]
    lift: ShrunkenLift | None
    alpha: float
    budget: AlphaBudget
    text: str


def explain(
    rollout: Rollout,
    evidence: Sequence[Evidence],
    begun_ms: Mapping[str, int],
    budget: AlphaBudget,
    prior: Prior,
    outlook: Mapping[str, Any],
) -> Explanation:
    """evidence: of the rollout's two versions. begun_ms: when each step began, by name, of those that have.
    prior: see `past_prior`. outlook: what the engine would do now, empty if the rollout is over."""
    gates = [_line(rollout, index, evidence, begun_ms) for index, step in enumerate(rollout.spec.steps) if step.gate]
    lift = _lift(gates, prior)
    shown = _shown(rollout, gates)
    lines = [_head(rollout)]
    lines += [f"earlier    {one.step}: {one.verdict}: {one.why}" for one in gates if one.verdict and one is not shown]
    lines += _screen(shown) if shown else ["gate       none: no step of this rollout judges clicks"]
    if lift is not None:
        lines.append(
            f"lift       {lift.raw:+.2%} as measured, {lift.lift:+.2%} shrunken ({lift.low:+.2%} to {lift.high:+.2%};"
            f" {prior.words()})"
        )
    alpha = 0.0 if rollout.spec.aa else alpha_of(rollout.spec.steps)
    spends = "an A/A spends nothing" if rollout.spec.aa else f"{alpha:.2%} of this decision"
    lines.append(f"alpha      {spends}; {budget.words()}")
    if outlook:
        lines.append(f"next       {str(outlook.get('next', '')).replace('_', ' ')}: {outlook.get('why', '')}")
    return Explanation(
        rollout=rollout.id,
        state=rollout.state,
        step=rollout.current_step.name,
        gates=tuple(gates),
        lift=lift,
        alpha=alpha,
        budget=budget,
        text="\n".join(lines),
    )


def past_prior(control: RolloutControl, rollout: Rollout) -> Prior:
    """Of the model's other decisions that had an A/B, whatever became of them. Raises StoreUnavailable."""
    past: list[tuple[float, float]] = []
    others = [one for one in control.rollouts(rollout.model) if one.id != rollout.id and not one.spec.aa]
    for one in others[:PAST_DECISIONS]:
        if one.active or not any(step.gate and step.kind == "ab" for step in one.spec.steps[: one.step + 1]):
            continue
        found = control.evidence(
            one.model, since_ms=one.started_ms, challenger_digest=one.challenger_digest, kind="online_gate", newest=20
        )
        mine = [each for each in found if (made_of := inputs_in(each)) and made_of.rollout == one.id]
        if mine and (measured := _measured(verdict_in(mine[-1]))) is not None:
            past.append(measured)
    return prior_of(past)


def _line(rollout: Rollout, index: int, evidence: Sequence[Evidence], begun_ms: Mapping[str, int]) -> GateLine:
    step = rollout.spec.steps[index]
    assert step.gate is not None
    mine = [
        one
        for one in evidence
        if one.kind == step.gate_evidence
        and one.is_of(rollout)
        and (made_of := inputs_in(one)) is not None
        and (made_of.rollout, made_of.step) == (rollout.id, step.name)
    ]
    newest = max(mine, key=lambda one: (one.made_ms, one.id), default=None)
    began_ms = begun_ms.get(step.name)
    closes_ms = None if began_ms is None else _closes_ms(began_ms, step.gate, step.gate.looks)
    next_look = 1 if newest is None else int(newest.body.get("closed", 0)) + 1
    over = began_ms is None or next_look > step.gate.looks
    next_look_ms = None if over or began_ms is None else _closes_ms(began_ms, step.gate, next_look)
    if newest is None:
        why = "not begun" if began_ms is None else "no look and no click yet"
        return GateLine(
            step=step.name,
            kind=step.kind,
            terms=step.gate,
            next_look_ms=next_look_ms,
            closes_ms=closes_ms,
            why=why,
        )
    inputs = inputs_in(newest)
    return GateLine(
        step=step.name,
        kind=step.kind,
        terms=step.gate,
        verdict=newest.verdict,
        why=newest.why,
        evidence=newest.id,
        as_of_ms=newest.made_ms,
        next_look_ms=next_look_ms,
        closes_ms=closes_ms,
        clicks=str(newest.body.get("clicks", "")),
        figures=verdict_in(newest),
        dropped=_dropped(newest),
        alarms=inputs.alarms if inputs else (),
    )


def _closes_ms(began_ms: int, terms: GateTerms, look: int) -> int:
    return began_ms + round((look * terms.look_s + terms.clicks_within_s) * 1000)


def _dropped(evidence: Evidence) -> int:
    """Lists that were left out for what is wrong with them, not for being another arm's or too young."""
    by_reason = evidence.body.get("quality", {}).get("dropped_rankings", {})
    return sum(count for reason, count in by_reason.items() if reason not in ("window_open", "other_arm"))


def _shown(rollout: Rollout, gates: Sequence[GateLine]) -> GateLine | None:
    """That of the step it is in, else the last that has begun, else the first."""
    here = next((one for one in gates if one.step == rollout.current_step.name), None)
    begun = [one for one in gates if one.verdict is not None or one.closes_ms is not None]
    return here or (begun[-1] if begun else (gates[0] if gates else None))


def _screen(gate: GateLine) -> list[str]:
    figures, terms = gate.figures, gate.terms
    lines = [f"gate       {gate.step}, {terms.looks} looks, one each {_span(terms.look_s)}"]
    if terms.size is not None:
        size = terms.size
        lines.append(
            f"planned    {size.needed_lists} lists needed, {size.available_lists} come in {terms.looks} looks: power"
            f" {size.power:.0%}{' (underpowered, as somebody wished)' if terms.underpowered else ''};"
            f" {size.expected_lists} expected"
        )
    elif terms.underpowered:
        lines.append("planned    without measured traffic, as somebody wished")
    closes = "" if gate.next_look_ms is None else f"; the next look closes {_time(gate.next_look_ms)}"
    closes += "" if gate.closes_ms is None else f", the last {_time(gate.closes_ms)}"
    if figures is None:
        return [*lines, f"verdict    none: {gate.why}{closes}"]
    expected = figures.expected_lists
    if expected is None and terms.size is not None:
        expected = max(0, terms.size.available_lists - figures.lists)
    ratio = "" if figures.ratio_p is None else f"sample ratio p = {figures.ratio_p:.2g}, "
    return [
        *lines,
        f"verdict    {gate.verdict}: {gate.why}",
        f"rule       {figures.rule}",
        f"estimate   {_figure(figures, figures.estimate)}, interval {_figure(figures, figures.low)} to"
        f" {_figure(figures, figures.high)} (adjusted for looking, {figures.level:.1%})",
        f"boundary   z {_z(figures.z)} of {_z(figures.boundary)} at look {figures.look} of {figures.looks}",
        f"anytime    {_figure(figures, figures.anytime_low)} to {_figure(figures, figures.anytime_high)}; rolled back"
        f" when surely under {_margin(figures, terms)}",
        f"sample     {figures.lists} lists, {figures.champion_units} and {figures.challenger_units} units,"
        f" {gate.clicks} clicks; {'as yet unknown' if expected is None else expected} still expected{closes}",
        f"validity   {ratio}{gate.dropped} lists dropped, {'; '.join(gate.alarms) or 'no open alarm'}",
        f"as of      {_time(gate.as_of_ms or 0)}, evidence {gate.evidence}",
    ]


def _head(rollout: Rollout) -> str:
    where = f"step {rollout.current_step.name} ({rollout.step + 1} of {len(rollout.spec.steps)})"
    what = "against itself (A/A)" if rollout.spec.aa else f"against @{rollout.champion}"
    return f"{rollout.model}@{rollout.challenger} {what}, rollout {rollout.id}, {rollout.state}, {where}"


def _lift(gates: Sequence[GateLine], prior: Prior) -> ShrunkenLift | None:
    for gate in reversed(gates):
        if gate.kind == "ab" and (measured := _measured(gate.figures)) is not None:
            return shrink(*measured, prior)
    return None


def _measured(figures: GateVerdict | None) -> tuple[float, float] | None:
    """Estimate and standard error at the last look that counted."""
    if figures is None or not figures.lines or not figures.lines[-1].information > 0:
        return None
    return figures.lines[-1].estimate, figures.lines[-1].information ** -0.5


def _figure(figures: GateVerdict, value: float | None) -> str:
    if value is None:
        return "none"
    return f"{value:+.2%}" if figures.kind == "ab" else f"{value:+.4f}"


def _margin(figures: GateVerdict, terms: GateTerms) -> str:
    return _figure(figures, min(terms.margin, 0.0) if terms.rollback_margin is None else terms.rollback_margin)


def _z(value: float | None) -> str:
    return "none" if value is None else f"{value:.2f}"


def _time(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S")


def _span(seconds: float) -> str:
    for name, size in (("day", 86400.0), ("hour", 3600.0), ("minute", 60.0)):
        if seconds >= size:
            count = seconds / size
            return name if count == 1 else f"{count:g} {name}s"
    return f"{seconds:g} s"
