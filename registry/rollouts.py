"""RolloutControl: plans, rollouts and evidence in one place, changed by decisions."""

from collections.abc import Sequence
from typing import Protocol

from registry.contracts.rollouts import Evidence, Rollout, RolloutChange
from registry.contracts.traffic import TrafficPlan
from registry.decisions import Decision
from registry.traffic_control import TrafficControl


class RolloutControl(TrafficControl, Protocol):
    """Every method may raise StoreUnavailable."""

    def decide(self, decision: Decision) -> TrafficPlan | None:
        """Makes all of it true at once; the plan as it is stored, None if the decision has none.

        Open rollouts that the plan leaves behind end with it, see `decisions.settle`.
        Raises StaleRevision or StaleRollout if plan or rollout is at another revision, RolloutConflict if
        the layer has an active rollout already or the plan changes one's experiment; then nothing was written.
        """
        ...

    def revisions(self) -> dict[str, int]:
        """Of every model's current plan."""
        ...

    def rollout(self, rollout_id: str) -> Rollout:
        """Raises UnknownRollout."""
        ...

    def rollouts(self, model: str | None = None, *, open_only: bool = False) -> list[Rollout]:
        """The newest first. open_only: those that are active or whose holdback goes on."""
        ...

    def rollout_history(self, rollout_id: str) -> list[RolloutChange]:
        """Every change, oldest first. Raises UnknownRollout."""
        ...

    def add_evidence(self, evidence: Evidence) -> str:
        """Keeps it, once however often it is sent; its id."""
        ...

    def evidence(self, model: str, *, since_ms: int = 0, challenger_digest: str | None = None) -> list[Evidence]:
        """What was made since then, oldest first."""
        ...

    def evidence_of(self, ids: Sequence[str]) -> list[Evidence]:
        """By id, in the order asked for; what is not there is left out."""
        ...
