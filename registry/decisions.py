"""A decision: everything that one transaction makes true of plans, rollouts and evidence.

Plan and rollout change together or not at all. So two controllers can never advance one rollout, and no
rollout ever says what its plan does not do.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from msgspec.structs import replace

from registry.contracts.rollouts import Evidence, Rollout, RolloutChange, What
from registry.contracts.traffic import TrafficPlan
from registry.errors import RolloutConflict, UnknownRollout


@dataclass(frozen=True, slots=True)
class Move:
    """A rollout's next revision. what: the word for it in the history."""

    rollout: Rollout
    what: What

    def change(self, decision: "Decision", plan_revision: int) -> RolloutChange:
        """Its line in the history. plan_revision: of the plan after the decision."""
        ids = tuple(evidence.id for evidence in decision.evidence)
        return RolloutChange(self.rollout, self.what, decision.now_ms, decision.who, decision.why, plan_revision, ids)


@dataclass(frozen=True, slots=True)
class Decision:
    """who, why: for both histories.

    plan: at the revision after the one it was decided on; None leaves the plan as it is.
    moves: rollouts of one model at the revision after the one they were decided on, 1 for a new one.
    evidence: kept with it, and named in every history line of a rollout.
    record: plain JSON for the plan's history.
    """

    who: str
    why: str
    now_ms: int
    plan: TrafficPlan | None = None
    moves: tuple[Move, ...] = ()
    evidence: tuple[Evidence, ...] = ()
    record: Mapping[str, Any] = field(default_factory=dict)

    @property
    def model(self) -> str | None:
        """Whose plan or rollouts it is about; None of evidence alone."""
        if self.plan is not None:
            return self.plan.model
        return self.moves[0].rollout.model if self.moves else None


def settle(plan: TrafficPlan, rollouts: Sequence[Rollout], now_ms: int) -> list[Move]:
    """What a plan does to the model's open rollouts that its decision does not move.

    Its champion is the challenger: promoted, by hand. Another champion: superseded. The experiment is
    gone: rolled back. A holdback that is gone has ended.
    Raises RolloutConflict if the plan keeps an experiment but changes it: only its rollout may.
    """
    moves = []
    for rollout in rollouts:
        what = _done_to(rollout, plan)
        if what is None:
            continue
        changed = replace(rollout, holdback_until_ms=None) if what == "holdback_ended" else replace(rollout, state=what)
        moves.append(Move(replace(changed, revision=rollout.revision + 1, changed_ms=now_ms), what))
    return moves


def _done_to(
    rollout: Rollout, plan: TrafficPlan
) -> Literal["promoted", "superseded", "rolled_back", "holdback_ended"] | None:
    if not rollout.active:
        ended = rollout.holdback_until_ms is not None and plan.experiment(rollout.holdback) is None
        return "holdback_ended" if ended else None
    if (plan.champion, plan.champion_digest) != (rollout.champion, rollout.champion_digest):
        return "promoted" if plan.champion_digest == rollout.challenger_digest else "superseded"
    there = plan.experiment(rollout.experiment)
    if there is None:
        return "rolled_back"
    layer = next(layer.name for layer in plan.layers if there in layer.experiments)
    if (layer, there) != (rollout.layer, rollout.experiment_at(rollout.step)):
        raise RolloutConflict(
            f"experiment {there.name!r} belongs to rollout {rollout.id!r}: abort the rollout first, or leave its "
            "experiment as it is"
        )
    return None


def unknown_rollout(rollout_id: str) -> UnknownRollout:
    """The error that every control raises for a rollout that it does not have."""
    return UnknownRollout(f"there is no rollout {rollout_id!r}: `sluice rollout list` shows what there is")


def layer_is_taken(wanted: Rollout, by: Rollout) -> RolloutConflict:
    """The error of every control when a layer would have two active rollouts."""
    return RolloutConflict(
        f"layer {wanted.layer!r} of {wanted.model!r} has rollout {by.id!r}, which is {by.state}: wait for its end, "
        "abort it, or name another layer"
    )
