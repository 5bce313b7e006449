"""Promotion: the next plan (pure), and the steps that make it true; what a rollback takes back.

A change is decided when the traffic control has it. Board and aliases follow as copies of what is
decided; a crash or a store that is away in between leaves them behind, and `Promoter.repair`
brings them up again. So there is always one champion: the old one or the new one.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from registry.board import PlanBoard
from registry.contracts.traffic import Experiment, Layer, TrafficPlan
from registry.errors import StoreUnavailable
from registry.lineage import all_roles
from registry.store import ModelStore
from registry.traffic_control import TrafficChange, TrafficControl


def promote(plan: TrafficPlan | None, model: str, version: int, digest: str) -> TrafficPlan:
    """The plan after this one, or the model's first, with the version as champion, alone; see `with_champion`."""
    return TrafficPlan(model, 1, version, digest) if plan is None else with_champion(plan, version, digest)


def with_champion(plan: TrafficPlan, version: int, digest: str) -> TrafficPlan:
    """The plan after this one with another champion, alone: experiments were held against the champion
    before, so they end. Testers' overrides and exploration stay."""
    return msgspec.structs.replace(
        plan, revision=plan.revision + 1, champion=version, champion_digest=digest, layers=()
    )


def with_experiment(plan: TrafficPlan, experiment: Experiment, *, layer: str, salt: str) -> TrafficPlan:
    """The plan after this one with the experiment in the layer: a new one, or other shares of one it has.

    salt: of the layer, if it is made for this; a layer that is there keeps its own, so that units stay
    in their arms. Raises ContractError if the experiment does not fit in.
    """
    there = next((one for one in plan.layers if one.name == layer), Layer(layer, salt, ()))
    others = tuple(one for one in there.experiments if one.name != experiment.name)
    changed = msgspec.structs.replace(there, experiments=(*others, experiment))
    layers = tuple(one for one in plan.layers if one.name != layer)
    return msgspec.structs.replace(plan, revision=plan.revision + 1, layers=(*layers, changed))


def without_experiment(plan: TrafficPlan, name: str) -> TrafficPlan:
    """The plan after this one without the experiment; its layer goes with the last one in it."""
    left = (
        msgspec.structs.replace(layer, experiments=tuple(one for one in layer.experiments if one.name != name))
        for layer in plan.layers
    )
    layers = tuple(layer for layer in left if layer.experiments)
    return msgspec.structs.replace(plan, revision=plan.revision + 1, layers=layers)


def without_experiments(plan: TrafficPlan, names: Sequence[str]) -> TrafficPlan:
    """The plan after this one without any of these."""
    left = plan
    for name in names:
        left = without_experiment(left, name)
    return msgspec.structs.replace(left, revision=plan.revision + 1)


def previous_champion(history: Sequence[TrafficChange]) -> int | None:
    """The champion before the current one, None if there was none.

    Going back undoes: a champion that was left for an older one does not count any more, so
    rolling back twice goes two champions back and never returns to one that failed.
    """
    line: list[int] = []
    for change in history:
        champion = change.plan.champion
        line = line[: line.index(champion)] if champion in line else line
        line.append(champion)
    return line[-2] if len(line) > 1 else None


class Promoter:
    """Publishes traffic plans, and changes them where no request asks for it. Safe to run in several processes."""

    def __init__(self, store: ModelStore, control: TrafficControl, board: PlanBoard) -> None:
        self._store, self._control, self._board = store, control, board

    def apply(self, plan: TrafficPlan, *, who: str, why: str, evidence: Mapping[str, Any], now_ms: int) -> TrafficPlan:
        """Decides on the plan, if nothing was decided since the revision before it, and publishes it.

        Whoever gives traffic to a version reads the plan before he asks for the version, see `retirement`.
        Raises StaleRevision or RolloutConflict (nothing was changed), or StoreUnavailable: the message says
        whether the change is decided already.
        """
        decided = self._control.change(
            plan, expected_revision=plan.revision - 1, who=who, why=why, evidence=evidence, now_ms=now_ms
        )
        self._publish_decided(decided)
        return decided

    def repair(self) -> None:
        """Publishes every plan again, as if nothing had come between; for every start."""
        self.publish(self._control.models())

    def publish(self, models: Sequence[str]) -> None:
        """Shows these models' plans and points their aliases, as the tables say now.

        Boards before aliases: traffic follows the board. Raises StoreUnavailable.
        """
        for model in models:
            if plan := self._control.plan(model):
                self._board.publish(plan)
        for model in models:
            # read again: another process may have decided since, and aliases know no revisions
            if plan := self._control.plan(model):
                self._point_aliases(plan)

    def _publish_decided(self, decided: TrafficPlan) -> None:
        try:
            self.publish([decided.model])
        except StoreUnavailable as error:
            raise StoreUnavailable(
                f"revision {decided.revision} of {decided.model!r} is decided and recorded, but not yet published "
                f"({error}): the controller does it as soon as it can"
            ) from error

    def _point_aliases(self, plan: TrafficPlan) -> None:
        aliases = self._store.aliases(plan.model)
        if aliases.get("champion") != plan.champion:
            self._store.set_alias(plan.model, "champion", plan.champion)
        if not plan.challengers:
            self._store.drop_alias(plan.model, "challenger")
        elif aliases.get("challenger") != plan.challengers[0].version:
            self._store.set_alias(plan.model, "challenger", plan.challengers[0].version)
        self._store.show_traffic(plan.model, all_roles(plan))
