"""D6, D7 and D11: the drift and confidence watches of `drift`, on its made-up days.

A run of the table is a season of days for each question; `drift.days.characteristics` plays it, on the watch that runs.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from deploy.simulation.characteristic import Figure, Outcome, Stage, column, mean, share
from drift.days.characteristics import confidence_alarms, false_alarms, time_to_find
from drift.days.simulated import DayWorld
from drift.days.simulated_lists import ListWorld
from drift.settings import ShiftSettings

WEEK = 7
FOUND_BY = 14


@dataclass(frozen=True, slots=True)
class FeatureDrift:
    """D6 and D7: sixty quiet days, and a ramp to 35 % that begins on each day of the week."""

    id: str
    title: str
    days: DayWorld
    reference: tuple[str, str, str]
    runs: int = 30
    quick: int = 2

    def run(self, stage: Stage, rng: np.random.Generator) -> Outcome:
        settings = ShiftSettings()
        quiet = false_alarms(self.days, settings, 1, int(rng.integers(1 << 31)))
        found = time_to_find(self.days, settings, WEEK, int(rng.integers(1 << 31)))
        return {"quiet": quiet.value, **{f"day {day}": float(took) for day, took in enumerate(found.days)}}

    def figures(self, outcomes: Sequence[Outcome]) -> tuple[Figure, ...]:
        took = np.concatenate([column(outcomes, f"day {day}") for day in range(WEEK)])
        found = [{"found": float(one <= FOUND_BY)} for one in took]
        quiet, in_time, median = self.reference
        day = float(np.median(took))
        return (
            Figure("false alarms a month", *mean(column(outcomes, "quiet")), "at most", 1.0, "ratio", quiet),
            Figure("35 % over 14 days found by day 14", *share(found, "found"), "at least", 0.95, reference=in_time),
            Figure("median day of that", day, None, "at most", 6.0, "days", median),
        )


@dataclass(frozen=True, slots=True)
class Confidence:
    """D11: a month in which a version takes over that scores on another scale, and one of strong daily cycles."""

    id: str = "D11"
    title: str = "confidence: scores times 1.5 half-way, a daily cycle of 40 %"
    runs: int = 200
    quick: int = 4
    cycle: ListWorld = field(default_factory=lambda: ListWorld(daily_cycle=0.4))

    def run(self, stage: Stage, rng: np.random.Generator) -> Outcome:
        settings, seed = ShiftSettings(), int(rng.integers(1 << 31))
        return {
            "rescaled": confidence_alarms(ListWorld(), settings, 1, seed, rescaled=True).value,
            "cycle": confidence_alarms(self.cycle, settings, 1, seed).value,
        }

    def figures(self, outcomes: Sequence[Outcome]) -> tuple[Figure, ...]:
        return (
            Figure("alarmed on rescaled scores", *share(outcomes, "rescaled"), "at most", 0.0, reference="0"),
            Figure("alarmed on a daily cycle", *share(outcomes, "cycle"), "at most", 0.01, reference="0"),
        )
