"""Rank-diffs as evidence: what the mirror monitor tells, for rollouts to be decided on and people to see."""

import logging
from collections import OrderedDict
from collections.abc import Callable
from typing import TYPE_CHECKING

import msgspec

from drift.mirrors.rank_diff import KIND, RankDiff, as_evidence
from registry.contracts.errors import UNDECODABLE
from registry.contracts.rollouts import Evidence
from registry.contracts.traffic import TrafficPlan

if TYPE_CHECKING:
    from registry.rollouts import RolloutControl

log = logging.getLogger(__name__)

DAY_MS = 86_400_000
_PLANS_KEPT = 64
_LOOK_BACK_MS = (3_600_000, DAY_MS, 30 * DAY_MS)  # a mirror that runs tells each minute: mostly the first will do


class RankEvidence:
    """The sink of a `MirrorMonitor`. control: asked for each time, so that a database that is away when
    the process starts is one that is away for a while."""

    def __init__(self, control: "Callable[[], RolloutControl]") -> None:
        self._control = control
        self._plans: OrderedDict[tuple[str, int], TrafficPlan] = OrderedDict()

    def keep(self, diff: RankDiff) -> None:
        """Keeps it once, however often it is told. What no plan knows of is evidence of nothing: it is
        logged and left out. Nor is a shadow, the champion of before, which no rollout is about: how far it disagrees is
        watched by the day. Raises RegistryError."""
        plan = self._plan(diff.model, diff.plan_revision)
        digests = plan.versions() if plan else {}
        if diff.champion not in digests or diff.version not in digests:
            log.warning(
                "a rank-diff of %s is left out: revision %d of its plan does not name both @%d and @%d",
                *(diff.model, diff.plan_revision, diff.champion, diff.version),
            )
            return
        if plan is not None and (told := plan.experiment(diff.experiment)) is not None and told.kind == "holdback":
            return
        self._control().add_evidence(as_evidence(diff, digests[diff.champion], digests[diff.version]))

    def _plan(self, model: str, revision: int) -> TrafficPlan | None:
        if (model, revision) not in self._plans:
            found = [change.plan for change in self._control().history(model) if change.revision == revision]
            if not found:
                return None
            self._plans[model, revision] = found[0]
            if len(self._plans) > _PLANS_KEPT:
                self._plans.popitem(last=False)
        return self._plans[model, revision]


def newest_diff(control: "RolloutControl", model: str, rollout_id: str | None, now_ms: int) -> RankDiff | None:
    """The model's newest rank-diff, of the rollout's two versions if one is named; None if there is none.

    Raises UnknownRollout, StoreUnavailable.
    """
    rollout = control.rollout(rollout_id) if rollout_id is not None else None
    oldest_ms = rollout.started_ms if rollout else 0
    digest = rollout.challenger_digest if rollout else None
    for since_ms in (*(max(now_ms - back_ms, oldest_ms) for back_ms in _LOOK_BACK_MS), oldest_ms):
        for evidence in reversed(control.evidence(model, since_ms=since_ms, challenger_digest=digest)):
            if evidence.kind == KIND and (rollout is None or evidence.is_of(rollout)) and (diff := _read(evidence)):
                return diff
    return None


def _read(evidence: Evidence) -> RankDiff | None:
    try:
        return msgspec.convert(evidence.body, RankDiff)
    except UNDECODABLE:  # somebody else's, posted under our kind
        return None
