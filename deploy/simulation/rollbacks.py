"""D8: how soon a worse challenger is rolled back at 10 % of the traffic, and how often an equal one is."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from deploy.simulation.challengers import random_order
from deploy.simulation.characteristic import Figure, Outcome, Stage, quantile, share
from deploy.simulation.crowd import People, Visits
from deploy.simulation.measurements import AbSeen
from deploy.simulation.world import Ranking, World
from pipelines.gates.gate_plan import GatePlan
from pipelines.gates.online import first_failure
from registry.contracts.manifest import CLICK_NDCG

SESSIONS_A_LOOK = 200  # of the challenger
SESSIONS_A_LOOK_EQUAL = 100  # where it is looked at a thousand times
SHARE = 0.1
LOOKS = 1000
SESSIONS_A_UNIT = 4.0
RETURNING_LOOKS = 14  # within which a unit's sessions fall

CASES: tuple[tuple[str, float | None, int, int, str], ...] = (
    ("random order", None, 40, 2_000, "1,600 / 1,800"),
    ("-10 %", -0.10, 150, 12_000, "8,000 / 10,400"),
    ("-5 %", -0.05, 300, 30_000, "18,000 / 26,000"),
)
"""Name, lift, looks at most, candidate sessions that 9 of 10 may take, and what a reference reached."""


def plan(looks: int) -> GatePlan:
    """The gate's default rollback, looked at so many times."""
    return GatePlan(kind="ab", metric=CLICK_NDCG.digest, looks=looks, weights=(1 - SHARE, SHARE))


def stream(world: World, looks: int, sessions_a_look: int, rng: np.random.Generator) -> Visits:
    """Sessions of units that come new at any time and are back within some looks; as many at every look."""
    wanted = looks * sessions_a_look / SHARE
    units = round(wanted / SESSIONS_A_UNIT)
    activity = rng.gamma(2.0, size=units)
    rate = wanted * activity / activity.sum()
    unit = np.repeat(np.arange(units), rng.poisson(rate))
    came = rng.random(units) * (looks + RETURNING_LOOKS) - RETURNING_LOOKS
    at = came[unit] + rng.random(len(unit)) * RETURNING_LOOKS
    people = People(rng.integers(world.levels, size=units), rate)
    inside = (at >= 0) & (at < looks)
    look = np.floor(at[inside]).astype(np.int64) + 1
    return Visits(world, people, unit[inside], look, rng.integers(world.queries, size=int(inside.sum())))


@dataclass(frozen=True, slots=True)
class RolledBack:
    """Each run: three worse challengers until they are rolled back, and an equal one over a thousand looks."""

    id: str = "D8"
    title: str = "rollback at 10 % of the traffic, a look every 200 candidate sessions (of an equal one: 100)"
    runs: int = 200
    quick: int = 8

    def run(self, stage: Stage, rng: np.random.Generator) -> Outcome:
        found: dict[str, float] = {}
        for name, lift, looks, _, _ in CASES:
            challenger = random_order(stage.world, 1) if lift is None else stage.challenger(lift, "noisy")
            found[name] = float("inf")
            for upto in (looks // 4, looks):  # most need few, so that the long stream is seldom made
                look = rolled_back_at(stage.champion, challenger, upto, SESSIONS_A_LOOK, rng)
                if look is not None:
                    found[name] = float(look * SESSIONS_A_LOOK)
                    break
        equal = rolled_back_at(stage.champion, stage.champion, LOOKS, SESSIONS_A_LOOK_EQUAL, rng)
        found["equal"] = float(equal is not None)
        return found

    def figures(self, outcomes: Sequence[Outcome]) -> tuple[Figure, ...]:
        lines = []
        for name, _, _, limit, reference in CASES:
            for at, what in ((0.5, "median"), (0.9, "p90")):
                value, error = quantile(outcomes, name, at)
                title = f"{name}: candidate sessions, {what}"
                lines.append(Figure(title, value, error, "at most", limit, "count", reference))
        equal = share(outcomes, "equal")
        return (*lines, Figure("equal, rolled back in 1,000 looks", *equal, "at most", 0.05, reference="3.2%"))


def rolled_back_at(
    champion: Ranking, challenger: Ranking, looks: int, sessions_a_look: int, rng: np.random.Generator
) -> int | None:
    """The look at which the gate fails the challenger, None if it never does. sessions_a_look: of the challenger."""
    visits = stream(champion.world, looks, sessions_a_look, rng)
    arms = rng.random(len(visits.people)) < SHARE
    rules = plan(looks)
    return first_failure(rules, AbSeen.of(champion, challenger, visits, arms, rng).sums(rules, closed=0))
