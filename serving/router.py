"""Which version answers a query, and how: the plan's word, and what of it can be kept now.

The plan assigns units (`TrafficPlan.assign`); here it meets the query (a tester's own wish), the moment
(the experiment's version is away) and chance (whether this list is explored).
"""

import functools
import logging
import random
from collections.abc import Callable
from dataclasses import dataclass

from registry.contracts.traffic import WEIGHT_STEPS, Arm, TrafficPlan
from serving import metrics
from serving.breaker import Breaker, State
from serving.errors import QueryRefused

log = logging.getLogger(__name__)

EXPLORING: tuple[Arm, ...] = ("champion", "challenger")
"""Arms whose lists may be explored. Drafts are randomised already, and testers want to see what a version does."""

BREAKING: tuple[Arm, ...] = ("champion", "challenger")
"""Arms whose versions have breakers."""

CHALLENGER_AWAY, INTERLEAVING_AWAY = "challenger_away", "interleaving_away"


@dataclass(frozen=True, slots=True)
class Route:
    """One query's way.

    arm: what the answer says. version: whose list it is; drafted: of an interleaved list, the version
    whose ranking is drafted with it, else 0. experiment: whose unit it is, empty for the champion's
    arm and for who is in none. assigned: the arm that the plan gave the unit, which is what guardrails
    count: an arm that cannot be served must not look well for it. without: why the arm is another.
    explored: the coin fell for a swap.
    """

    arm: Arm
    version: int
    experiment: str = ""
    assigned: Arm = "champion"
    drafted: int = 0
    explored: bool = False
    without: tuple[str, ...] = ()

    def away(self, champion: int) -> "Route":
        """The way instead, when the experiment's version cannot take part: the champion answers, and
        the answer counts in no arm."""
        reason = INTERLEAVING_AWAY if self.assigned == "interleaved" else CHALLENGER_AWAY
        return route("outside", champion, self.experiment, self.assigned, without=(reason,))


route = functools.lru_cache(maxsize=1024)(Route)
"""As `Route`: there are few, so that a query's costs a look into a cache."""


class Router:
    """holds: whether some replica holds the version (model, version). coins: for exploration. clock: seconds."""

    def __init__(self, holds: Callable[[str, int], bool], coins: random.Random, clock: Callable[[], float]) -> None:
        self._holds, self._coins, self._clock = holds, coins, clock
        self.failed: dict[tuple[str, int], Breaker] = {}
        """Breakers of the versions that have failed: without any, nobody needs to be asked."""

    def of(self, plan: TrafficPlan, unit: str, version: int = 0) -> Route:
        """The way of a query to be ranked. version: that a tester asks for, 0 for none.

        Raises QueryRefused if the plan does not name that version.
        """
        if version:
            return _named(plan, version)
        if not (plan.layers or plan.overrides or plan.explore_share):
            return route("champion", plan.champion)
        found = self._assigned(plan, unit)
        if plan.explore_share and found.arm in EXPLORING and self._coins.random() * WEIGHT_STEPS < plan.explore_share:
            return route(found.arm, found.version, found.experiment, found.assigned, explored=True)
        return found

    def of_tensors(self, plan: TrafficPlan, unit: str) -> Route:
        """The way of a query whose answer is tensors: there is no list to draft, the champion answers."""
        found = self._assigned(plan, unit)
        return route("outside", plan.champion, assigned="outside") if found.drafted else found

    def _assigned(self, plan: TrafficPlan, unit: str) -> Route:
        if not plan.layers and not plan.overrides:
            return route("champion", plan.champion)
        assigned = plan.assign(unit)
        experiment = assigned.experiment
        if experiment is None:
            return route(assigned.arm, assigned.version, assigned=assigned.arm)
        drafted = experiment.version if assigned.arm == "interleaved" else 0
        found = route(assigned.arm, assigned.version, experiment.name, assigned.arm, drafted)
        return found if self._can_serve(plan.model, experiment.version) else found.away(plan.champion)

    def served(self, model: str, version: int, failed: bool) -> None:
        """What came of a query that the version took part in. failed: it could not, by its own fault."""
        breaker = self.failed.get((model, version))
        if breaker is None:
            if not failed:
                return
            breaker = self.failed[model, version] = Breaker()
        was_open = breaker.is_open
        breaker.count(failed, self._clock())
        if breaker.is_open != was_open:
            self._show_open(model)
            if breaker.is_open:
                log.warning("over half of the queries fail on %s@%d: they are answered by less", model, version)
            else:
                log.info("%s@%d answers again", model, version)

    def lets_through(self, model: str, version: int) -> bool:
        """Whether the version's breaker lets a query pass; if it is open, this one may be the probe."""
        breaker = self.failed.get((model, version))
        return breaker is None or breaker.lets_through(self._clock())

    def breakers(self) -> dict[tuple[str, int], State]:
        """The state of every version that has failed, by model and version."""
        return {key: breaker.state for key, breaker in sorted(self.failed.items())}

    def forget(self, plan: TrafficPlan) -> None:
        """Of its model's versions, those that the plan does not name: nobody asks them, so that an open breaker
        would stay open, and be alarmed on, for ever. One that comes back begins anew."""
        named = plan.versions()
        gone = [key for key in self.failed if key[0] == plan.model and key[1] not in named]
        for key in gone:
            del self.failed[key]
        if gone:
            self._show_open(plan.model)

    def _show_open(self, model: str) -> None:
        metrics.BREAKERS_OPEN.labels(model).set(sum(b.is_open for (m, _), b in self.failed.items() if m == model))

    def _can_serve(self, model: str, version: int) -> bool:
        breaker = self.failed.get((model, version)) if self.failed else None
        return self._holds(model, version) and (breaker is None or breaker.lets_through(self._clock()))


def _named(plan: TrafficPlan, version: int) -> Route:
    known = plan.versions()
    if version not in known:
        listed = ", ".join(map(str, sorted(known)))
        raise QueryRefused(
            f"x-sluice-version={version}: the plan of {plan.model} (revision {plan.revision}) names {listed}"
        )
    return route("outside", version, assigned="outside")
