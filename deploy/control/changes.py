"""The plans that a request by hand asks for, pure: from the plan there is to the one after it."""

from collections.abc import Callable, Iterable, Sequence

from msgspec.structs import replace

from deploy.control.errors import Conflict, NotThere
from registry.contracts.errors import ContractError
from registry.contracts.traffic import WEIGHT_STEPS, Experiment, Layer, Override, TrafficPlan
from registry.promotion import previous_champion, promote, with_champion, with_experiment, without_experiments
from registry.rollout_moves import HOLDBACK_LAYER
from registry.traffic_control import TrafficChange
from serving.gateway.control.traffic import ExperimentBody, LayerBody, PlanBody

DigestOf = Callable[[int], str]
"""A version's digest. Raises UnknownVersion."""


def promoted(plan: TrafficPlan | None, model: str, version: int, digest: str, holdback: int) -> TrafficPlan:
    """With the version as champion, alone but for the units that keep the one before.

    holdback: how many of 1000. Raises Conflict if there is nobody to hold back with.
    """
    planned = promote(plan, model, version, digest)
    if not holdback:
        return planned
    if plan is None:
        raise Conflict(f"holdback={holdback}: {model!r} has no champion yet that units could keep")
    if plan.champion == version:
        raise Conflict(f"holdback={holdback}: version {version} is the champion already: promote another, or without")
    held = Experiment(f"holdback-{planned.revision}", plan.champion, plan.champion_digest, holdback, kind="holdback")
    salt = f"{HOLDBACK_LAYER} of {model}"  # as the rollouts' holdback: the same units each time
    return replace(with_experiment(planned, held, layer=HOLDBACK_LAYER, salt=salt), revision=planned.revision)


def rolled_back(history: Sequence[TrafficChange], model: str, to: int | None) -> TrafficPlan:
    """What came last taken back, see `RollbackBody`.

    Needs no registry: digests are in the history. That the champion it goes back to may still have traffic is the
    caller's to ask. Raises NotThere, or Conflict if there is nothing to take back.
    """
    if not history:
        raise NotThere(f"model {model!r} has no traffic plan: promote a version first")
    plan = history[-1].plan
    tested = [one.name for one in plan.challengers]
    if to is None and tested:
        return without_experiments(plan, tested)
    target = to if to is not None else previous_champion(history)
    if target is None:
        raise Conflict(f"model {model!r} had no champion before version {plan.champion}: promote a version instead")
    if target == plan.champion and not plan.layers:
        raise Conflict(f"version {target} of {model!r} is its champion, alone, already")
    digest = next((one.plan.champion_digest for one in reversed(history) if one.plan.champion == target), None)
    if digest is None:
        raise Conflict(f"version {target} of {model!r} was never its champion: promote it instead")
    return with_champion(plan, target, digest)


def by_hand(plan: TrafficPlan, body: PlanBody, digest_of: DigestOf, fresh_salt: Callable[[], str]) -> TrafficPlan:
    """With what the body gives in place of what was there.

    Raises ContractError if the parts contradict each other, UnknownVersion.
    """
    planned = replace(plan, revision=plan.revision + 1)
    if body.layers is not None:
        names = [layer.name for layer in body.layers]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ContractError(f"layer {twice[0]!r} is there twice")
        others = [layer for layer in plan.layers if layer.name not in names]
        new = (_layer(plan, layer, digest_of, fresh_salt) for layer in body.layers if layer.experiments)
        planned = replace(planned, layers=(*others, *new))
    if body.overrides is not None:
        overrides = tuple(Override(one.unit, one.version, digest_of(one.version)) for one in body.overrides)
        planned = replace(planned, overrides=overrides)
    if body.explore_share is not None:
        planned = replace(planned, explore_share=body.explore_share)
    if body.explore_depth is not None:
        planned = replace(planned, explore_depth=body.explore_depth)
    return planned


def _layer(plan: TrafficPlan, body: LayerBody, digest_of: DigestOf, fresh_salt: Callable[[], str]) -> Layer:
    there = next((layer for layer in plan.layers if layer.name == body.name), None)
    salt = body.salt or (there.salt if there else fresh_salt())
    placed: list[Experiment] = []
    # who says where, and who was there before, keep their place; then the others
    for wanted in sorted(body.experiments, key=lambda one: _place(there, one) is None):
        first = _place(there, wanted)
        if first is None:
            first = _free(placed, wanted.weight, body.name)
        digest = digest_of(wanted.version)
        placed.append(
            Experiment(wanted.name, wanted.version, digest, wanted.weight, first, wanted.kind, wanted.mirror_share)
        )
    order = [one.name for one in body.experiments]
    return Layer(body.name, salt, tuple(sorted(placed, key=lambda one: order.index(one.name))))


def _place(there: Layer | None, wanted: ExperimentBody) -> int | None:
    if wanted.first is not None:
        return wanted.first
    known = [one.first for one in there.experiments if one.name == wanted.name] if there else []
    return known[0] if known else None


def _free(placed: Iterable[Experiment], weight: int, layer: str) -> int:
    taken = {bucket for one in placed for bucket in one.buckets}
    for first in range(WEIGHT_STEPS - weight + 1):
        if taken.isdisjoint(range(first, first + weight)):
            return first
    raise ContractError(f"layer {layer!r} has no {weight} free buckets side by side: take less, or another layer")
