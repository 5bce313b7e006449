"""A rollout's gates planned before it begins: each gate's alpha from the model's year, its size from live traffic.

- A year's decisions share one budget: the chance that any of them promotes a challenger that is no better. A rollout
  spends its alpha when it enters its first gate; one that has several promotes only if all pass, so it spends the
  largest. A spent year refuses, unless somebody says so.
- Variance is measured on the champion's traffic of the last days, as an A/A that costs nobody anything: its units
  by halves of a hash for an A/B, its clicks under fair coins for interleaving. CUPED is left out of it, which can only
  make a plan more careful.
- Of interleaving, a relative lift is taken to move the credit by that share of the clicks of a list. That is a
  convention, so that both gates speak of one effect: in the click model of `clicks` the credit moves by 0.8 to 1.0 of
  it (lists of 10 of 10 to 50 candidates, lifts of 5 to 11 %).
- What cannot finish is refused with the numbers, before anybody waits for it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from dataclasses import replace as replaced

import msgspec
import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from pipelines.archive.files import Archive
from pipelines.feedback.cleaning import CleaningRules
from pipelines.gates.cleaned_lists import CleanedLists, Floats, Ints, cleaned_lists
from pipelines.gates.clustered import ArmUnits, compare
from pipelines.gates.evidence import ALPHA, ROLLBACK_AT
from pipelines.gates.planner import Design, Measured, Sized, alpha_a_decision, measured_ab, size
from pipelines.gates.scope import CHUNK_MS
from pipelines.settings import GateSettings
from registry.contracts.gates import GateSize, GateTerms
from registry.contracts.manifest import CLICK_NDCG
from registry.contracts.rollouts import DAY_S, Rollout, RolloutSpec, Step
from registry.contracts.traffic import WEIGHT_STEPS, TrafficPlan

DAY_MS = int(DAY_S * 1000)
YEAR_MS = 365 * DAY_MS
ENOUGH_LISTS = 200_000
"""Of traffic that is looked at, if they are of a day at least; more does not make variance better known."""

MOST_LISTS = 1_000_000
"""Somebody waits: then less than a day has to do, and what it brings a day is what those hours brought."""

ROLLBACK_SHARE = 0.1  # of the horizon's information: rollback is to be soonest there


class AlphaBudget(msgspec.Struct, frozen=True, kw_only=True):
    """What a model's year has spent. JSON-able.

    yearly: chance, of all decisions of a year together, to promote one that is no better. spent: of the decisions
    in the last 365 days; decisions: how many. each: alpha of one decision if `planned` of them share a year.
    frees_ms: when the oldest of them leaves the year, None without one.
    """

    yearly: float
    planned: int
    each: float
    spent: float
    decisions: int
    frees_ms: int | None = None

    @property
    def left(self) -> float:
        """The largest alpha that a decision may still have."""
        return max(0.0, 1 - (1 - self.yearly) / (1 - self.spent)) if self.spent < 1 else 0.0

    def allows(self, alpha: float) -> bool:
        """Whether a decision of that alpha stays within the year's chance."""
        return 1 - (1 - self.spent) * (1 - alpha) <= self.yearly + 1e-9

    def words(self) -> str:
        """In one line."""
        return (
            f"decisions of the last 365 days: {self.decisions}, which have spent {self.spent:.1%} of {self.yearly:.0%};"
            f" {self.each:.2%} each for {self.planned} a year"
        )


class PlannedGate(msgspec.Struct, frozen=True, kw_only=True):
    """A step's gate as it would begin. refused: why it cannot finish, in words with the numbers; empty if it can."""

    step: str
    kind: str
    terms: GateTerms
    refused: str = ""


class PlannedGates(msgspec.Struct, frozen=True, kw_only=True):
    """A spec with its gates' alpha, metric and size in it, and what was found on the way."""

    spec: RolloutSpec
    gates: tuple[PlannedGate, ...]
    budget: AlphaBudget
    alpha: float

    @property
    def as_it_is(self) -> RolloutSpec:
        """The spec with the gates that cannot finish marked as meant."""
        refused = {gate.step for gate in self.gates if gate.refused and not self.spec.aa}
        steps = tuple(
            replace(step, gate=replace(step.gate, underpowered=True)) if step.gate and step.name in refused else step
            for step in self.spec.steps
        )
        return replace(self.spec, steps=steps)

    def refusal(self, *, underpowered: bool = False, over_budget: bool = False) -> str:
        """Why it may not begin as it is; empty if it may. underpowered, over_budget: what was said to be meant."""
        meant = underpowered or self.spec.aa  # where there is nothing to be found no power is missing
        reasons = [] if meant else [f"step {gate.step!r}: {gate.refused}" for gate in self.gates if gate.refused]
        if reasons:
            reasons.append("or say that you mean it: underpowered=true (`--underpowered`)")
        if self.gates and not self.spec.aa and not over_budget and not self.budget.allows(self.alpha):
            reasons.append(
                f"the year's alpha is spent: {self.budget.words()}, this one would take {self.alpha:.2%};"
                f" {self.budget.left:.2%} are left: ask for a smaller alpha, wait, or say that you mean it:"
                " over_budget=true (`--over-budget`)"
            )
        return "; ".join(reasons)


@dataclass(frozen=True, slots=True)
class GatePlanner:
    """archive: of live traffic; where there is none, nothing was measured and every gate is refused."""

    archive: Archive
    settings: GateSettings = field(default_factory=GateSettings)
    rules: CleaningRules = field(default_factory=CleaningRules)

    def plan(
        self,
        model: str,
        spec: RolloutSpec,
        traffic_plan: TrafficPlan | None,
        layer: str,
        rollouts: Sequence[Rollout],
        now_ms: int,
    ) -> PlannedGates:
        """traffic_plan: as it is. layer: that the rollout would be in. rollouts: all of the model's, for what its
        year has spent. Raises DataRefused, OSError."""
        budget = budget_of(rollouts, self.settings, now_ms)
        seen: dict[tuple[float, float, bool], _Traffic | None] = {}
        steps: list[Step] = []
        gates: list[PlannedGate] = []
        for step in spec.steps:
            if step.gate is None:
                steps.append(step)
                continue
            # a promotion needs every gate, so each may have all of the decision's alpha
            alpha = budget.each if step.gate.alpha is None else step.gate.alpha
            terms = replace(step.gate, alpha=alpha, metric=step.gate.metric or CLICK_NDCG.digest)
            key = (terms.history_s, terms.clicks_within_s, terms.simulated)
            if key not in seen:
                seen[key] = self._traffic(model, terms, now_ms)
            terms, refused = _sized(step, terms, seen[key], _others(traffic_plan, layer))
            steps.append(replace(step, gate=terms))
            gates.append(PlannedGate(step=step.name, kind=step.kind, terms=terms, refused=refused))
        planned = replace(spec, steps=tuple(steps))
        return PlannedGates(spec=planned, gates=tuple(gates), budget=budget, alpha=alpha_of(steps))

    def _traffic(self, model: str, terms: GateTerms, now_ms: int) -> "_Traffic | None":
        """The newest whose clicks have come: of a day at least, and of more until it is enough. None without any."""
        rules = replaced(
            self.rules,
            clicks_within_ms=round(terms.clicks_within_s * 1000),
            arms=("champion", "challenger", "interleaved"),
        )
        until_ms = now_ms - rules.clicks_within_ms
        oldest_ms = until_ms - round(terms.history_s * 1000)
        parts: list[CleanedLists] = []
        lists, end_ms, span_ms = 0, until_ms, CHUNK_MS
        while end_ms > oldest_ms and lists < MOST_LISTS:
            if lists >= ENOUGH_LISTS and until_ms - end_ms >= DAY_MS:
                break
            begin_ms = max(oldest_ms, end_ms - span_ms)
            found = cleaned_lists(self.archive, model, begin_ms, end_ms, rules, terms.simulated, now_ms)
            if not len(found.shown) or len(found.shown) * DAY_MS < ENOUGH_LISTS * span_ms:
                span_ms *= 2  # there is little: larger bites
            parts.append(found)
            lists += len(found.shown)
            end_ms = begin_ms
        return _Traffic.of(parts, until_ms)


def budget_of(rollouts: Sequence[Rollout], settings: GateSettings, now_ms: int) -> AlphaBudget:
    """What the model's rollouts of the last 365 days have spent: those that reached a gate. An A/A spends nothing."""
    reached = [(one, alpha_of(one.spec.steps[: one.step + 1])) for one in rollouts if not one.spec.aa]
    counted = [(one, alpha) for one, alpha in reached if alpha > 0 and one.started_ms > now_ms - YEAR_MS]
    kept = 1.0
    for _, alpha in counted:
        kept *= 1 - alpha
    return AlphaBudget(
        yearly=settings.yearly_alpha,
        planned=settings.decisions,
        each=alpha_a_decision(settings.yearly_alpha, settings.decisions),
        spent=1 - kept,
        decisions=len(counted),
        frees_ms=min((one.started_ms + YEAR_MS for one, _ in counted), default=None),
    )


def alpha_of(steps: Sequence[Step]) -> float:
    """Chance that these steps pass one that is no better: the largest of their gates' alphas, 0 without a gate."""
    alphas = [ALPHA if step.gate.alpha is None else step.gate.alpha for step in steps if step.gate is not None]
    return max(alphas, default=0.0)


@dataclass(frozen=True, slots=True)
class _Traffic:
    """Of the champion's arm: units, values of lists, shape (lists,); squared fair credit of all of them together,
    and clicks. a day: of all of the model's arms."""

    units: Ints
    values: Floats
    squared_credit: float
    clicks: int
    lists_per_day: float
    units_per_day: float
    since_ms: int
    until_ms: int

    @staticmethod
    def of(parts: Sequence[CleanedLists], until_ms: int) -> "_Traffic | None":
        """None if the champion has no list in them."""
        mine = [(part.arms == "champion") & (part.units != 0) for part in parts]
        if not any(one.any() for one in mine):
            return None
        since_ms = min(int(part.answered_ms.min()) for part in parts if len(part.shown))
        days = max(1, until_ms - since_ms) / DAY_MS
        return _Traffic(
            units=np.concatenate([part.units[inside] for part, inside in zip(parts, mine, strict=True)]),
            values=np.concatenate([part.values[inside] for part, inside in zip(parts, mine, strict=True)]),
            squared_credit=sum(_squared_credit(part, inside) for part, inside in zip(parts, mine, strict=True)),
            clicks=sum(
                int(part.shown.clicks[inside[part.shown.list_of]].sum())
                for part, inside in zip(parts, mine, strict=True)
            ),
            lists_per_day=sum(len(part.shown) for part in parts) / days,
            units_per_day=len(np.unique(np.concatenate([part.units for part in parts]))) / days,
            since_ms=since_ms,
            until_ms=until_ms,
        )


def _squared_credit(lists: CleanedLists, inside: NDArray[np.bool_]) -> float:
    """What the squared score of these lists would be on average, drafted with themselves.

    Two items of a round are of two teams: a fair coin credits each round's difference to the one or the other.
    """
    shown = lists.shown
    place = shown.positions - 1
    rounds = int(place.max(initial=0)) // 2 + 1
    signed = np.where(place % 2 == 0, 1.0, -1.0) * shown.clicks
    rows = inside[shown.list_of]
    by_round = np.bincount((shown.list_of * rounds + place // 2)[rows], weights=signed[rows])
    return float((by_round**2).sum())


def _others(plan: TrafficPlan | None, layer: str) -> int:
    """Buckets of the layer that other experiments have."""
    there = [one for one in plan.layers if one.name == layer] if plan else []
    return sum(experiment.weight for one in there for experiment in one.experiments)


def _sized(step: Step, terms: GateTerms, seen: _Traffic | None, others: int) -> tuple[GateTerms, str]:
    """The terms with what traffic said of them, and why the gate cannot finish."""
    fallback = replace(terms, rollback_at=terms.rollback_at or ROLLBACK_AT)
    if seen is None:
        return fallback, (
            f"the champion has had no traffic in the last {terms.history_s / DAY_S:g} days whose clicks"
            f" ({'simulated ones' if terms.simulated else 'of people'}) have come, so nothing can be planned: let it"
            " answer some queries first"
        )
    try:
        measured, effect, share = _measured(step, terms, seen, others)
        design = Design(
            effect=effect,
            alpha=terms.alpha or ALPHA,
            power=terms.power,
            looks=terms.looks,
            spending=terms.spending,
            least=0.0 if terms.least is None else max(0.0, terms.least - terms.margin),
        )
        found = size(design, measured, terms.looks * terms.look_s / DAY_S)
    except ValueError as error:
        return fallback, f"what was measured of the champion does not do for a plan: {error}"
    units = seen.units_per_day * share
    at_the_end = found.available_lists * measured.information_per_list
    told = replace(
        terms,
        rollback_at=terms.rollback_at or max(1.0, ROLLBACK_SHARE * at_the_end),
        size=_size(found, measured, seen, units),
    )
    if found.reached_power >= terms.power:
        return told, ""
    words = (
        f"{seen.lists_per_day * share:.0f} lists and {units:.0f} units a day: an effect of"
        f" {terms.effect:+.2%}{f' over a margin of {terms.margin:+.2%}' if terms.margin else ''} with power"
        f" {terms.power:.0%} {found.words()}"
    )
    hint = "" if step.kind == "interleaving" else " (interleaving needs a fraction of that: `--interleaving`)"
    return told, f"{words}: give it more looks or traffic, or ask for a larger effect{hint}"


def _measured(step: Step, terms: GateTerms, seen: _Traffic, others: int) -> tuple[Measured, float, float]:
    """What a list tells, the distance to be found in the estimate's unit, and the share of lists that come in."""
    if step.kind == "interleaving":
        share = step.weight / WEIGHT_STEPS
        lists = len(seen.values)
        information = lists / seen.squared_credit if seen.squared_credit else 0.0
        return Measured(information, seen.lists_per_day * share), terms.effect * seen.clicks / lists, share
    free = max(1, WEIGHT_STEPS - others - step.weight)
    share = (free + step.weight) / WEIGHT_STEPS
    half = (seen.units & 1).astype(bool)
    arms = [ArmUnits.of(seen.values[mask], seen.units[mask]) for mask in (half, ~half)]
    if min(arm.units for arm in arms) < 2:
        raise ValueError(f"{sum(arm.units for arm in arms)} units: expected four at least")
    lists_of = (int(half.sum()), int((~half).sum()))
    measured = measured_ab(
        compare(*arms), lists_of, step.weight / (step.weight + free), seen.lists_per_day * share, terms.margin
    )
    return measured, terms.effect - terms.margin, share


def _size(found: Sized, measured: Measured, seen: _Traffic, units_per_day: float) -> GateSize:
    return GateSize(
        lists_per_day=measured.lists_per_day,
        units_per_day=units_per_day,
        needed_lists=found.needed_lists,
        needed_days=found.needed_days,
        expected_lists=found.expected_lists,
        expected_days=found.expected_days,
        available_lists=found.available_lists,
        power=found.reached_power,
        smallest_effect=found.smallest_effect,
        measured_lists=len(seen.values),
        measured_since_ms=seen.since_ms,
        measured_until_ms=seen.until_ms,
    )
