"""Units and their visits: of unequal activity, back again and again, fewer at weekends."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from deploy.simulation.world import Chances, Floats, Ints, World, clicked
from registry.contracts.traffic import Experiment, Kind, Layer

WEEK = (1.1, 1.1, 1.05, 1.05, 1.0, 0.85, 0.85)
"""Visits of each weekday, in means of the week."""

Mask = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Crowd:
    """sessions_a_day: on average, of all units. sessions_a_unit: on average over all days, of all units, some of
    whom never come. activity: shape of the gamma that a unit's share of visits is drawn from; less is less equal.

    The defaults give two arms of 28,000 sessions and, in the world of the judged lists of `DECISIONS.md`, its design
    effect (1.63), its share of sessions without a click (46 %) and what CUPED leaves of the variance (66 %).
    """

    sessions_a_day: int = 4000
    days: int = 14
    sessions_a_unit: float = 4.0
    activity: float = 2.0

    @property
    def units(self) -> int:
        """How many might come."""
        return round(self.sessions_a_day * self.days / self.sessions_a_unit)

    def visits(self, world: World, rng: np.random.Generator) -> "Visits":
        """All sessions of all days, by unit."""
        activity = rng.gamma(self.activity, size=self.units)
        season = np.array([WEEK[day % 7] for day in range(self.days)])
        rate = self.sessions_a_day * season.sum() * activity / activity.sum()
        # a Poisson number of visits falls on days independently, as if each day had a Poisson number of its own
        unit = np.repeat(np.arange(self.units), rng.poisson(rate))
        day = np.searchsorted(np.cumsum(season / season.sum())[:-1], rng.random(len(unit)), side="right") + 1
        people = People(rng.integers(world.levels, size=self.units), rate)
        return Visits(world, people, unit, day, rng.integers(world.queries, size=len(unit)))


@dataclass(frozen=True, slots=True)
class People:
    """Units by number. level: of keenness. rate: sessions expected over all days. Shape (units,) each."""

    level: Ints
    rate: Floats

    def __len__(self) -> int:
        return len(self.level)


@dataclass(frozen=True, slots=True)
class Visits:
    """Sessions, by unit. unit: its number. look: day or other time of looking, from 1. Shape (sessions,) each."""

    world: World
    people: People
    unit: Ints
    look: Ints
    query: Ints

    def __len__(self) -> int:
        return len(self.unit)

    def take(self, which: Mask) -> "Visits":
        """Those of them."""
        return Visits(self.world, self.people, self.unit[which], self.look[which], self.query[which])

    @property
    def level(self) -> Ints:
        """Keenness of each session's unit."""
        return self.people.level[self.unit]

    def clicks(self, chances: Chances, rng: np.random.Generator) -> Ints:
        """What each clicked, as `world.clicked` numbers it. chances: (queries, levels, SHOWN)."""
        return clicked(chances[self.query, self.level], rng)


def in_arm(units: int, weight: int, salt: str, kind: Kind = "ab") -> Mask:
    """Which of the units the traffic plan's layer sends to the challenger's arm. weight: in steps of 0.1 %."""
    experiment = Experiment("challenger", 2, "0" * 64, weight, kind=kind)
    layer = Layer("simulation", salt, (experiment,))
    return np.array([layer.bucket_of(name) in experiment.buckets for name in unit_names(units)])


@lru_cache(maxsize=8)
def unit_names(units: int) -> tuple[str, ...]:
    """In the order of their numbers, also when sorted as words."""
    return tuple(f"unit-{unit:07d}" for unit in range(units))
