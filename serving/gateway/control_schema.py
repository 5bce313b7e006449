"""Bodies and answers of the control plane: the gateway documents them, the controller reads and writes them.

Shares are whole numbers of 0.1 %, as in a traffic plan. `why` is kept for ever beside the change.
"""

from typing import Annotated, Any

import msgspec

from registry.contracts.drift import ShiftRecord
from registry.contracts.gates import GateTerms
from registry.contracts.rollouts import Evidence, GuardrailLimits, Rollout, Step, Verdict, What
from registry.contracts.runs import Run
from registry.contracts.traffic import Kind, TrafficPlan
from registry.roles import Role

Why = Annotated[str, msgspec.Meta(min_length=1, max_length=1000, description="The reason, in words.")]
Share = Annotated[int, msgspec.Meta(ge=0, le=1000, description="In steps of 0.1 %.")]
Version = Annotated[int, msgspec.Meta(ge=1)]
Name = Annotated[str, msgspec.Meta(min_length=1, max_length=64)]


class Body(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What all bodies have in common: a field that is not known is refused, not passed over."""


class PromoteBody(Body, frozen=True):
    """evidence: what the decision was held against, any JSON object. holdback: share of units that
    keep the champion of before, to measure the long run."""

    version: Version
    why: Why
    evidence: dict[str, Any] = {}
    holdback: Share = 0


class RollbackBody(Body, frozen=True):
    """Takes back what came last. If versions are under test, by rollouts or by hand, they get no more
    traffic and the champion stays; else the champion before becomes champion again. to: this former
    champion in any case, alone."""

    why: Why
    to: Version | None = None
    evidence: dict[str, Any] = {}


class RolloutBody(Body, frozen=True):
    """steps, guardrails, holdback_weight, holdback_s: in place of the default rollout's. interleaving:
    whether the default steps have one; online_gate: whether they wait for one, which needs clicks.
    layer: two rollouts in one exclude each other, so that a layer has one at a time.
    simulated: in the default steps, whether simulated users click, and people's clicks do not count.
    underpowered: start though live traffic does not bring what a gate needs. over_budget: start though the year's
    alpha is spent. aa: the champion against itself, which promotes nothing; version is the champion's."""

    version: Version
    why: Why
    steps: tuple[Step, ...] = ()
    guardrails: GuardrailLimits | None = None
    holdback_weight: Share | None = None
    holdback_s: Annotated[float, msgspec.Meta(ge=0)] | None = None
    interleaving: bool = False
    online_gate: bool = True
    layer: Name = "rollout"
    simulated: bool = False
    underpowered: bool = False
    over_budget: bool = False
    aa: bool = False


class EvidenceBody(Body, frozen=True):
    """What somebody measured of a challenger. champion: held against, by default the current one.
    plan_revision: of the plan whose traffic was measured. since_ms, until_ms: the window, by default now.
    body: plain JSON; estimate, interval, sample, and the rule it was held against."""

    kind: Annotated[str, msgspec.Meta(pattern="^[a-z][a-z0-9_]{0,31}$")]
    challenger: Version
    verdict: Verdict
    why: Why
    champion: Version | None = None
    plan_revision: Annotated[int, msgspec.Meta(ge=1)] | None = None
    experiment: str = ""
    since_ms: Annotated[int, msgspec.Meta(ge=0)] | None = None
    until_ms: Annotated[int, msgspec.Meta(ge=0)] | None = None
    body: dict[str, Any] = {}


class WhyBody(Body, frozen=True):
    """Of changes that need no more."""

    why: Why


class ExperimentBody(Body, frozen=True):
    """As in a traffic plan. first: the layer's bucket where its units begin; by default where it was,
    else the first place that is free."""

    name: Name
    version: Version
    weight: Share = 0
    kind: Kind = "ab"
    mirror_share: Share = 0
    first: Annotated[int, msgspec.Meta(ge=0, le=999)] | None = None


class LayerBody(Body, frozen=True):
    """salt: by default the one it had; of a new layer, a fresh one."""

    name: Name
    experiments: tuple[ExperimentBody, ...]
    salt: Annotated[str, msgspec.Meta(min_length=1, max_length=64)] | None = None


class OverrideBody(Body, frozen=True):
    """A tester's unit and the version it gets."""

    unit: Annotated[str, msgspec.Meta(min_length=1, max_length=256)]
    version: Version


class PlanBody(Body, frozen=True):
    """What is left out stays as it is. layers: each takes the place of the one with its name; one without
    experiments ends. overrides: take the place of all. The champion changes by `promote` and `rollback`
    only, a rollout's experiment by the rollout only."""

    why: Why
    layers: tuple[LayerBody, ...] | None = None
    overrides: tuple[OverrideBody, ...] | None = None
    explore_share: Share | None = None
    explore_depth: Annotated[int, msgspec.Meta(ge=2, le=1000)] | None = None


class KeyBody(Body, frozen=True):
    """name: who the history says it was. models: that the key is good for; none: every one."""

    name: Annotated[str, msgspec.Meta(pattern="^[A-Za-z0-9][A-Za-z0-9._@-]{0,63}$")]
    role: Role
    models: tuple[str, ...] = ()


class RetrainBody(Body, frozen=True):
    """since_ms, until_ms: the window of clicks to learn from, both or neither; by default what a scheduled
    retraining learns from, up to the last full hour. A window is run once: see the runs for one that was."""

    why: Why
    since_ms: Annotated[int, msgspec.Meta(ge=0)] | None = None
    until_ms: Annotated[int, msgspec.Meta(ge=0)] | None = None


class RetryBody(Body, frozen=True):
    """from_step: done again from this step on; by default what is done stays done."""

    why: Why
    from_step: Annotated[str, msgspec.Meta(max_length=64)] = ""


class ReportBody(Body, frozen=True):
    """A report of a closed day. day: its date, `2026-01-31`; by default the newest. arm: `champion`, or a challenger
    with its version, `challenger-2`."""

    day: Annotated[str, msgspec.Meta(max_length=32)] = ""
    arm: Annotated[str, msgspec.Meta(max_length=32)] = "champion"


class ChangeAnswer(msgspec.Struct, frozen=True):
    """One change of a model's traffic plan, and the plan that it made."""

    model: str
    plan_revision: int
    at_ms: int
    who: str
    why: str
    evidence: dict[str, Any]
    plan: TrafficPlan


class HistoryAnswer(msgspec.Struct, frozen=True):
    """Newest first. next_before: ask for `?before=` it to go on; none: this was the last page."""

    model: str
    plan_revision: int
    changes: tuple[ChangeAnswer, ...]
    next_before: int | None = None


class RolloutAnswer(msgspec.Struct, frozen=True):
    """A rollout as it is now. plan_revision, weight: of the plan now, and of its experiment in it."""

    plan_revision: int
    weight: int
    mirror_share: int
    rollout: Rollout


class RolloutLine(msgspec.Struct, frozen=True):
    """One line of a rollout's history. step: its name. evidence: ids."""

    revision: int
    what: What
    at_ms: int
    who: str
    why: str
    state: str
    step: str
    plan_revision: int
    evidence: tuple[str, ...]


class EvidenceAnswer(msgspec.Struct, frozen=True):
    """id: SHA-256 of the evidence's canonical JSON."""

    plan_revision: int
    id: str
    evidence: Evidence


class EvidenceList(msgspec.Struct, frozen=True):
    """Newest first."""

    model: str
    plan_revision: int
    evidence: tuple[EvidenceAnswer, ...]


class RolloutReport(msgspec.Struct, frozen=True):
    """All about a rollout. history: oldest first. evidence: of its two versions, newest first, 200 at most.
    outlook: what the controller would do now, why, and the counts it looks at."""

    plan_revision: int
    weight: int
    mirror_share: int
    rollout: Rollout
    history: tuple[RolloutLine, ...]
    evidence: tuple[EvidenceAnswer, ...]
    outlook: dict[str, Any]


class BudgetAnswer(msgspec.Struct, frozen=True):
    """A model's alpha of the last 365 days. yearly: chance, of all decisions together, to promote one that is no
    better. planned: decisions that share a year, `each` with so much alpha. spent: by `decisions`. frees_ms: when
    the oldest leaves the year."""

    yearly: float
    planned: int
    each: float
    spent: float
    decisions: int
    frees_ms: int | None = None


class PlannedGateAnswer(msgspec.Struct, frozen=True):
    """A step's gate as it would begin. refused: why it cannot finish, with the numbers; empty if it can."""

    step: str
    kind: str
    terms: GateTerms
    refused: str


class PlannedAnswer(msgspec.Struct, frozen=True):
    """What a rollout would begin with. refused: why it would not be started as it is asked for, empty if it would.
    alpha: of this decision. steps: with all that was planned in them."""

    model: str
    plan_revision: int
    version: int
    refused: str
    alpha: float
    budget: BudgetAnswer
    gates: tuple[PlannedGateAnswer, ...]
    steps: tuple[Step, ...]


class GateAnswer(msgspec.Struct, frozen=True):
    """A step's gate as it stands. figures: estimate, interval, boundary, sample, and what else the verdict was made
    of, of the newest evidence; None before there is any. next_look_ms, closes_ms: when the next look and the last
    one close, None if there is none. dropped: lists.
    clicks: `people's` or `simulated`."""

    step: str
    kind: str
    terms: GateTerms
    verdict: Verdict | None
    why: str
    evidence: str
    as_of_ms: int | None
    next_look_ms: int | None
    closes_ms: int | None
    clicks: str
    figures: dict[str, Any] | None
    dropped: int
    alarms: tuple[str, ...]


class PriorAnswer(msgspec.Struct, frozen=True):
    """Of true lifts, from so many of the model's decisions; 0: the default."""

    mean: float
    sd: float
    decisions: int


class LiftAnswer(msgspec.Struct, frozen=True):
    """raw: as measured in the A/B. lift, low, high: shrunken by the prior, with its central 95 %."""

    raw: float
    lift: float
    low: float
    high: float
    prior: PriorAnswer


class ExplainAnswer(msgspec.Struct, frozen=True):
    """Why a rollout stands where it stands. text: all of it on one screen."""

    plan_revision: int
    rollout: str
    state: str
    step: str
    gates: tuple[GateAnswer, ...]
    lift: LiftAnswer | None
    alpha: float
    budget: BudgetAnswer
    outlook: dict[str, Any]
    text: str


class RolloutList(msgspec.Struct, frozen=True):
    """Newest first."""

    model: str
    plan_revision: int
    rollouts: tuple[RolloutAnswer, ...]


class RunAnswer(msgspec.Struct, frozen=True):
    """A run of a pipeline as it is now. progress: in [0, 1], of all its steps. held: somebody works on it."""

    plan_revision: int
    progress: float
    held: bool
    run: Run


class RunList(msgspec.Struct, frozen=True):
    """The newest windows first."""

    model: str
    plan_revision: int
    runs: tuple[RunAnswer, ...]


class RunsAnswer(msgspec.Struct, frozen=True):
    """Of all models, the newest windows first."""

    runs: tuple[RunAnswer, ...]


class DriftReportLine(msgspec.Struct, frozen=True):
    """A report that is there. day, arm: its name. path: of its page, and with `?format=json` of its figures. alarms:
    open ones. against: `anchor` or `profile`. lists: of the day, that were looked at."""

    day: str
    arm: str
    version: int
    path: str
    since_ms: int
    until_ms: int
    made_ms: int
    verdicts: dict[str, Verdict]
    alarms: int
    against: str
    lists: int


class DriftReportWish(msgspec.Struct, frozen=True):
    """A report that is not there yet. state: `wanted`, or `failed`, after so many attempts, and why."""

    day: str
    arm: str
    state: str
    attempts: int = 0
    why: str = ""


class DriftReportList(msgspec.Struct, frozen=True):
    """The newest day first. waiting: those that somebody asked for, or that could not be made."""

    model: str
    plan_revision: int
    reports: tuple[DriftReportLine, ...]
    waiting: tuple[DriftReportWish, ...]


class DriftReportAnswer(msgspec.Struct, frozen=True):
    """A report's figures. about: what was looked at, and what the day came to. quantities: our figures of all of them.
    evidently: the metrics of its JSON, of those that it draws."""

    about: dict[str, Any]
    quantities: list[dict[str, Any]]
    evidently: list[dict[str, Any]]


class DriftAnswer(msgspec.Struct, frozen=True):
    """The newest closed day of each arm and family, the newest first; empty before a day was closed. reports: those of
    these days that are there."""

    model: str
    plan_revision: int
    records: tuple[ShiftRecord, ...]
    reports: tuple[DriftReportLine, ...] = ()


class RebaselineAnswer(msgspec.Struct, frozen=True):
    """The anchor is laid anew from the first day that begins at from_ms or later."""

    model: str
    plan_revision: int
    from_ms: int
    who: str
    why: str


class KeyAnswer(msgspec.Struct, frozen=True):
    """What is known of a key; the key itself is kept nowhere. prefix: how it begins."""

    id: str
    name: str
    prefix: str
    role: Role
    models: tuple[str, ...]
    created_ms: int
    revoked_ms: int | None = None


class NewKeyAnswer(msgspec.Struct, frozen=True):
    """key: shown this once."""

    key: str
    about: KeyAnswer


class KeysAnswer(msgspec.Struct, frozen=True):
    """All keys, the oldest first, revoked ones too."""

    keys: tuple[KeyAnswer, ...]
