"""What a rollout is decided on: bodies and answers."""

from typing import Annotated, Any

import msgspec

from registry.contracts.gates import GateTerms
from registry.contracts.rollouts import Evidence, Verdict
from serving.gateway.control.fields import Body, Version, Why


class EvidenceBody(Body, frozen=True):
    """What somebody measured of a challenger. champion: held against, by default the current one.
    plan_revision: of the plan whose traffic was measured. since_ms, until_ms: the window, by default now.
    body: plain JSON; estimate, interval, sample, and the rule it was held against."""

    kind: Annotated[str, msgspec.Meta(pattern=r"^[a-z][a-z0-9_]{0,31}$(?!\n)")]
    challenger: Version
    verdict: Verdict
    why: Why
    champion: Version | None = None
    plan_revision: Annotated[int, msgspec.Meta(ge=1)] | None = None
    experiment: str = ""
    since_ms: Annotated[int, msgspec.Meta(ge=0)] | None = None
    until_ms: Annotated[int, msgspec.Meta(ge=0)] | None = None
    body: dict[str, Any] = msgspec.field(default_factory=dict)


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
