"""The moves of a rollout, pure: from a rollout and the plan it stands in to the decision that moves both.

Whoever makes a decision true does it by compare-and-set (`RolloutControl.decide`): what was decided on a
plan or a rollout that is no more changes nothing.
"""

from collections.abc import Sequence
from typing import Any, Literal

from msgspec.structs import replace

from registry.contracts.rollouts import Evidence, Rollout, RolloutSpec, What
from registry.contracts.traffic import WEIGHT_STEPS, Experiment, TrafficPlan
from registry.decisions import Decision, Move
from registry.errors import RolloutConflict, UnknownVersion
from registry.promotion import with_champion, with_experiment, without_experiment
from registry.store import StoredVersion

ROLLOUT_LAYER = "rollout"
HOLDBACK_LAYER = "holdback"


def start(
    plan: TrafficPlan | None,
    stored: StoredVersion,
    spec: RolloutSpec,
    *,
    who: str,
    why: str,
    now_ms: int,
    layer: str = ROLLOUT_LAYER,
) -> Decision:
    """A new rollout of the version, in its first step, against the plan's champion.

    Its experiment gets buckets of the layer that are free and wide enough for its largest step.
    Raises UnknownVersion if the model has no champion, RolloutConflict if the version is champion or in an
    experiment already (held back is no obstacle), or the layer has no room; of an A/A, unless it is champion.
    """
    if plan is None:
        raise UnknownVersion(f"model {stored.model!r} has no champion to compare with: promote a version first")
    if spec.aa and stored.version != plan.champion:
        raise RolloutConflict(
            f"an A/A is of the champion, version {plan.champion} of {stored.model!r}, not of version {stored.version}"
        )
    if stored.version == plan.champion and not spec.aa:
        raise RolloutConflict(f"version {stored.version} of {stored.model!r} is its champion already")
    for there in plan.experiments:
        if there.version == stored.version and there.kind != "holdback":
            raise RolloutConflict(
                f"version {stored.version} of {stored.model!r} is in experiment {there.name!r} already: end that first"
            )
    revision = plan.revision + 1
    rollout = Rollout(
        id=f"{stored.model}-{revision}",
        model=stored.model,
        revision=1,
        state="running",
        spec=spec,
        step=0,
        champion=plan.champion,
        champion_digest=plan.champion_digest,
        challenger=stored.version,
        challenger_digest=stored.digest,
        experiment=f"rollout-{revision}",
        layer=layer,
        first=_free_buckets(plan, layer, spec.buckets),
        plan_revision=revision,
        started_revision=revision,
        started_ms=now_ms,
        entered_ms=now_ms,
        changed_ms=now_ms,
    )
    # a salt of its own where the layer is new: its arms know nothing of the arms before
    planned = with_experiment(plan, rollout.experiment_at(0), layer=layer, salt=rollout.id)
    return _decision(rollout, "started", planned, (), who, why, now_ms)


def advance(
    rollout: Rollout, plan: TrafficPlan, evidence: Sequence[Evidence], *, who: str, why: str, now_ms: int
) -> Decision:
    """Into its next step, or after the last one to champion.

    The old champion is then held back for the units that the spec says. Raises RolloutConflict unless it
    is active, and for an A/A after its last step: it promotes nothing.
    """
    _require_active(rollout, "advanced")
    if rollout.step + 1 == len(rollout.spec.steps):
        if rollout.spec.aa:
            raise RolloutConflict(f"rollout {rollout.id!r} is an A/A, which promotes nothing: roll it back")
        return _promoted(rollout, plan, evidence, who, why, now_ms)
    changed = replace(
        rollout,
        revision=rollout.revision + 1,
        step=rollout.step + 1,
        plan_revision=plan.revision + 1,
        entered_ms=now_ms,
        changed_ms=now_ms,
    )
    planned = with_experiment(plan, changed.experiment_at(changed.step), layer=rollout.layer, salt=rollout.id)
    return _decision(changed, "advanced", planned, evidence, who, why, now_ms)


def roll_back(
    rollout: Rollout, plan: TrafficPlan, evidence: Sequence[Evidence], *, who: str, why: str, now_ms: int
) -> Decision:
    """The challenger out of the plan, the champion for all. Raises RolloutConflict unless it is active."""
    return _ended(rollout, "rolled_back", plan, evidence, who, why, now_ms)


def abort(rollout: Rollout, plan: TrafficPlan, *, who: str, why: str, now_ms: int) -> Decision:
    """As `roll_back`, by hand and without a verdict."""
    return _ended(rollout, "aborted", plan, (), who, why, now_ms)


def pause(rollout: Rollout, *, who: str, why: str, now_ms: int) -> Decision:
    """Its traffic stays as it is, it advances no more; failing evidence still rolls it back.

    Raises RolloutConflict unless it is running.
    """
    if rollout.state != "running":
        raise _conflict(rollout, "paused", "running")
    paused = replace(rollout, revision=rollout.revision + 1, state="paused", changed_ms=now_ms)
    return Decision(who, why, now_ms, moves=(Move(paused, "paused"),))


def resume(rollout: Rollout, *, who: str, why: str, now_ms: int) -> Decision:
    """On from where it was paused. Raises RolloutConflict unless it is paused."""
    if rollout.state != "paused":
        raise _conflict(rollout, "resumed", "paused")
    running = replace(rollout, revision=rollout.revision + 1, state="running", changed_ms=now_ms)
    return Decision(who, why, now_ms, moves=(Move(running, "resumed"),))


def end_holdback(rollout: Rollout, plan: TrafficPlan, *, who: str, why: str, now_ms: int) -> Decision:
    """The champion for those who were held back, too. Raises RolloutConflict if nobody is."""
    if rollout.holdback_until_ms is None or plan.experiment(rollout.holdback) is None:
        raise RolloutConflict(f"rollout {rollout.id!r} holds nobody back")
    ended = replace(rollout, revision=rollout.revision + 1, holdback_until_ms=None, changed_ms=now_ms)
    planned = without_experiment(plan, rollout.holdback)
    return Decision(
        who, why, now_ms, plan=planned, moves=(Move(ended, "holdback_ended"),), record={"rollout": rollout.id}
    )


def _promoted(
    rollout: Rollout, plan: TrafficPlan, evidence: Sequence[Evidence], who: str, why: str, now_ms: int
) -> Decision:
    spec = rollout.spec
    planned = with_champion(plan, rollout.challenger, rollout.challenger_digest)
    holdback_until_ms = None
    if spec.holdback_weight and spec.holdback_s:
        held = Experiment(
            *(rollout.holdback, rollout.champion, rollout.champion_digest, spec.holdback_weight),
            kind="holdback",
            mirror_share=spec.shadow_share,
        )
        # the layer's salt is fixed: the same units are held back each time, and measure the longest run
        held_back = with_experiment(planned, held, layer=HOLDBACK_LAYER, salt=f"{HOLDBACK_LAYER} of {plan.model}")
        planned = replace(held_back, revision=planned.revision)
        holdback_until_ms = now_ms + int(spec.holdback_s * 1000)
    changed = replace(
        rollout,
        revision=rollout.revision + 1,
        state="promoted",
        plan_revision=planned.revision,
        changed_ms=now_ms,
        holdback_until_ms=holdback_until_ms,
    )
    return _decision(changed, "promoted", planned, evidence, who, why, now_ms)


def _ended(
    rollout: Rollout,
    state: Literal["rolled_back", "aborted"],
    plan: TrafficPlan,
    evidence: Sequence[Evidence],
    who: str,
    why: str,
    now_ms: int,
) -> Decision:
    _require_active(rollout, state)
    planned = without_experiment(plan, rollout.experiment)
    changed = replace(
        rollout, revision=rollout.revision + 1, state=state, plan_revision=planned.revision, changed_ms=now_ms
    )
    return _decision(changed, state, planned, evidence, who, why, now_ms)


def _decision(
    rollout: Rollout,
    what: What,
    plan: TrafficPlan,
    evidence: Sequence[Evidence],
    who: str,
    why: str,
    now_ms: int,
) -> Decision:
    record: dict[str, Any] = {"rollout": rollout.id, "what": what, "step": rollout.current_step.name}
    if evidence:
        record["evidence"] = [one.id for one in evidence]
    return Decision(who, why, now_ms, plan, (Move(rollout, what),), tuple(evidence), record)


def _free_buckets(plan: TrafficPlan, layer: str, wanted: int) -> int:
    there = next((one.experiments for one in plan.layers if one.name == layer), ())
    taken = {bucket for experiment in there for bucket in experiment.buckets}
    for first in range(WEIGHT_STEPS - wanted + 1):
        if taken.isdisjoint(range(first, first + wanted)):
            return first
    raise RolloutConflict(
        f"layer {layer!r} has no {wanted} free buckets side by side for the rollout's largest step: end another "
        "experiment of the layer, or name another layer"
    )


def _require_active(rollout: Rollout, what: str) -> None:
    if not rollout.active:
        raise _conflict(rollout, what, "running or paused")


def _conflict(rollout: Rollout, what: str, wanted: str) -> RolloutConflict:
    return RolloutConflict(f"rollout {rollout.id!r} is {rollout.state}: only one that is {wanted} can be {what}")
