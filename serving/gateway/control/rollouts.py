"""Rollouts and what they have cost: bodies and answers."""

from typing import Annotated, Any

import msgspec

from registry.contracts.gates import GateTerms
from registry.contracts.rollouts import GuardrailLimits, Rollout, Step, What
from serving.gateway.control.evidence import BudgetAnswer, EvidenceAnswer
from serving.gateway.control.fields import Body, Name, Share, Version, Why


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


class RolloutList(msgspec.Struct, frozen=True):
    """Newest first."""

    model: str
    plan_revision: int
    rollouts: tuple[RolloutAnswer, ...]
