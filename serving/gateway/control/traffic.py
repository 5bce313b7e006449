"""Who answers whom: bodies that change it, and what is told of plans, versions and live figures."""

from typing import Annotated, Any, Literal

import msgspec

from registry.contracts.glimpses import Glimpse
from registry.contracts.traffic import Arm, Kind, TrafficPlan
from serving.gateway.control.fields import Body, Name, Share, Version, Why


class PromoteBody(Body, frozen=True):
    """evidence: what the decision was held against, any JSON object. holdback: share of units that
    keep the champion of before, to measure the long run."""

    version: Version
    why: Why
    evidence: dict[str, Any] = msgspec.field(default_factory=dict)
    holdback: Share = 0


class RollbackBody(Body, frozen=True):
    """Takes back what came last. If versions are under test, by rollouts or by hand, they get no more
    traffic and the champion stays; else, also with an A/A, the champion before becomes champion again. to: this
    former champion in any case, alone."""

    why: Why
    to: Version | None = None
    evidence: dict[str, Any] = msgspec.field(default_factory=dict)


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


class ModelLine(msgspec.Struct, frozen=True):
    """A model that a key is good for. challengers: of rollouts that are on their way."""

    model: str
    plan_revision: int
    champion: int
    challengers: tuple[int, ...]


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


class LiveAnswer(msgspec.Struct, frozen=True):
    """A few of the newest answers, the newest first."""

    model: str
    plan_revision: int
    now_ms: int
    glimpses: tuple[Glimpse, ...]
