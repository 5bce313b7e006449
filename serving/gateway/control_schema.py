"""Bodies and answers of the control plane: the gateway documents them, the controller reads and writes them.

Shares are whole numbers of 0.1 %, as in a traffic plan. `why` is kept for ever beside the change.
"""

from typing import Annotated, Any, Literal

import msgspec

from registry.audit_record import AuditRecord
from registry.contracts.drift import CalibrationRecord, Family, ShiftAlarm, ShiftKind, ShiftRecord
from registry.contracts.gates import GateTerms
from registry.contracts.glimpses import Glimpse
from registry.contracts.rollouts import Evidence, GuardrailLimits, Rollout, Step, Verdict, What
from registry.contracts.runs import Run
from registry.contracts.traffic import Arm, Kind, TrafficPlan
from registry.roles import Role
from serving.settings import LINE

Why = Annotated[str, msgspec.Meta(min_length=1, max_length=1000, description="The reason, in words.")]
Share = Annotated[int, msgspec.Meta(ge=0, le=1000, description="In steps of 0.1 %.")]
Version = Annotated[int, msgspec.Meta(ge=1)]
Name = Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
DAY_S, YEAR_S = 86_400, 366 * 86_400
Rate = Annotated[float, msgspec.Meta(ge=0, le=1e9, description="A second; 0: the platform's default for keys.")]


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
    expires_in_s: (
        Annotated[int, msgspec.Meta(ge=1, le=10 * YEAR_S, description="Never, if it is not given.")] | None
    ) = None
    requests_per_s: Rate = 0.0
    candidates_per_s: Rate = 0.0
    line: Annotated[str, msgspec.Meta(pattern=f"^({LINE})?$", description="Whose quota it draws on, too.")] = ""


class RotateBody(Body, frozen=True):
    """grace_s: how long the key's text of now is good beside the new one."""

    grace_s: Annotated[int, msgspec.Meta(ge=0, le=90 * DAY_S)] = DAY_S


class LimitBody(Body, frozen=True):
    """A key's quota."""

    requests_per_s: Rate
    candidates_per_s: Rate


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
    """The newest closed day of each arm, family and segment, the newest first; empty before a day was closed.
    calibration: of the newest collected window; null before one. reports: of these days, those that are there."""

    model: str
    plan_revision: int
    records: tuple[ShiftRecord, ...]
    calibration: CalibrationRecord | None = None
    reports: tuple[DriftReportLine, ...] = ()


class RebaselineAnswer(msgspec.Struct, frozen=True):
    """The anchor is laid anew from the first day that begins at from_ms or later."""

    model: str
    plan_revision: int
    from_ms: int
    who: str
    why: str


class ModelLine(msgspec.Struct, frozen=True):
    """A model that a key is good for. challengers: of rollouts that are on their way."""

    model: str
    plan_revision: int
    champion: int
    challengers: tuple[int, ...]


class MeAnswer(msgspec.Struct, frozen=True):
    """Whose key it is, and what there is for it."""

    name: str
    role: Role
    models: tuple[ModelLine, ...]


Place = Literal["champion", "challenger", "mirror", "interleaved", "holdback", "former", "registered", "archived"]
"""What a version is in the model's traffic. mirror: sees copies of queries only. former: was champion before."""


class VersionLine(msgspec.Struct, frozen=True):
    """One version and its place. share, mirror_share: in steps of 0.1 % of units and of queries. promoted_ms: when it
    last became champion. created_ms, metrics, parent: of the registry, None while it does not answer."""

    version: int
    place: Place
    share: int
    mirror_share: int
    experiment: str
    digest: str
    promoted_ms: int | None
    created_ms: int | None
    parent: int | None
    metrics: dict[str, float] | None


class VersionsAnswer(msgspec.Struct, frozen=True):
    """Those in traffic first, then the newest, 30 at most. registry: why it does not answer, empty if it does."""

    model: str
    plan_revision: int
    versions: tuple[VersionLine, ...]
    registry: str


class ArmTraffic(msgspec.Struct, frozen=True):
    """One arm over the time of the answer. version: that its units get by the plan now, None if the arm has left it.
    refused: 4xx; failed: 5xx; away: answered by the champion in the version's place. *_ms: from permit to answer;
    per_s, failures_per_s, p50_ms_of, p99_ms_of: by step, None where nobody looked or nothing came."""

    experiment: str
    arm: Arm
    version: int | None
    answered: int
    refused: int
    failed: int
    degraded: int
    away: int
    p50_ms: float | None
    p95_ms: float | None
    p99_ms: float | None
    per_s: tuple[float | None, ...]
    failures_per_s: tuple[float | None, ...]
    p50_ms_of: tuple[float | None, ...]
    p99_ms_of: tuple[float | None, ...]


class StageTraffic(msgspec.Struct, frozen=True):
    """Where answered queries' time went. p50_ms_of, p99_ms_of: by step."""

    stage: str
    p50_ms: float | None
    p95_ms: float | None
    p99_ms: float | None
    p50_ms_of: tuple[float | None, ...]
    p99_ms_of: tuple[float | None, ...]


class TrafficAnswer(msgspec.Struct, frozen=True):
    """Of all gateways, the last minutes. steps_ms: end of each step. watched_s: of the time, how long somebody
    counted: less, and there is a gap. answered: queries in the stages' figures."""

    model: str
    plan_revision: int
    since_ms: int
    until_ms: int
    step_s: float
    watched_s: float
    steps_ms: tuple[int, ...]
    arms: tuple[ArmTraffic, ...]
    answered: int
    stages: tuple[StageTraffic, ...]


class LookPoint(msgspec.Struct, frozen=True):
    """What a gate said at a moment. low, high: adjusted for looking, at the last planned look; anytime_*: over all
    until now. All in the unit of the gate's `kind`."""

    at_ms: int
    evidence: str
    verdict: Verdict
    why: str
    look: int
    closed: int
    lists: int
    champion_units: int
    challenger_units: int
    estimate: float | None
    low: float | None
    high: float | None
    anytime_low: float | None
    anytime_high: float | None
    z: float | None
    boundary: float | None


class GateLooks(msgspec.Struct, frozen=True):
    """One step's gate over time. kind: `ab`, relative lift of click-NDCG; `interleaving`, clicks a list. passes_over:
    that the interval's lower end has to pass at a planned look; fails_under: that it is rolled back for being surely
    under. looks_ms: when each planned look closes, empty before the step began. points: oldest first."""

    step: str
    kind: str
    terms: GateTerms
    passes_over: float
    fails_under: float
    began_ms: int | None
    looks_ms: tuple[int, ...]
    points: tuple[LookPoint, ...]


class LooksAnswer(msgspec.Struct, frozen=True):
    """Of all gates of a rollout, in the order of its steps."""

    model: str
    plan_revision: int
    rollout: str
    gates: tuple[GateLooks, ...]


class DriftDay(msgspec.Struct, frozen=True):
    """A closed day. version: that most of its lists were ranked by."""

    since_ms: int
    until_ms: int
    version: int
    verdict: Verdict
    why: str
    lists: int


class DriftRow(msgspec.Struct, frozen=True):
    """A quantity day by day. shifts: from the anchor, in standard deviations of single values (kind `mean`) or as a
    difference of shares; None where the day said nothing. cusums: the largest sum over its threshold; 1 and more, with
    a shift past the floor, is an alarm. floor: smallest shift that is alarmed on."""

    quantity: str
    kind: ShiftKind
    floor: float
    shifts: tuple[float | None, ...]
    cusums: tuple[float | None, ...]


class DriftDaysAnswer(msgspec.Struct, frozen=True):
    """A heat-map's numbers: days oldest first, rows that shifted most first. arms: that have days. total: rows that
    there are; fewer are shown if `?limit=` says so. alarms: that are open on the newest day."""

    model: str
    plan_revision: int
    arm: str
    family: Family
    arms: tuple[str, ...]
    days: tuple[DriftDay, ...]
    rows: tuple[DriftRow, ...]
    total: int
    alarms: tuple[ShiftAlarm, ...]


class LiveAnswer(msgspec.Struct, frozen=True):
    """A few of the newest answers, the newest first."""

    model: str
    plan_revision: int
    now_ms: int
    glimpses: tuple[Glimpse, ...]


class KeyAnswer(msgspec.Struct, frozen=True):
    """What is known of a key; the key itself is kept nowhere. prefix: how it begins; old_prefix: the text before, which
    is good until `old_until_ms`. used_ms: when it last was, to the minute and as far as is known."""

    id: str
    name: str
    prefix: str
    role: Role
    models: tuple[str, ...]
    created_ms: int
    revoked_ms: int | None = None
    created_by: str = ""
    expires_ms: int | None = None
    rotated_ms: int | None = None
    old_prefix: str = ""
    old_until_ms: int | None = None
    requests_per_s: float = 0.0
    candidates_per_s: float = 0.0
    line: str = ""
    used_ms: int | None = None


class AuditLine(msgspec.Struct, frozen=True):
    """seq: in the order written."""

    seq: int
    record: AuditRecord


class AuditAnswer(msgspec.Struct, frozen=True):
    """The newest first. before: for the next page, None if there is none."""

    lines: tuple[AuditLine, ...]
    before: int | None


class NewKeyAnswer(msgspec.Struct, frozen=True):
    """key: shown this once."""

    key: str
    about: KeyAnswer


class KeysAnswer(msgspec.Struct, frozen=True):
    """All keys, the oldest first, revoked ones too."""

    keys: tuple[KeyAnswer, ...]
