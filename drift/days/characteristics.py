"""What a watch over days reaches: false alarms a month, and days until a shift is found, over many runs."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from math import sqrt
from typing import Protocol

import numpy as np

from drift.days.confidence import TOGETHER
from drift.days.cusum import MONTH_DAYS
from drift.days.means import DayMeans, Level
from drift.days.shift_watch import ShiftWatch, Watched
from drift.days.simulated import ramp
from drift.days.simulated_lists import ListWorld
from drift.moments import FloatArray
from drift.settings import ShiftSettings
from registry.contracts.drift import ShiftKind


class World(Protocol):
    """Days in which nothing shifts but what is told to: `simulated`, `resampled`."""

    @property
    def watched(self) -> Watched:
        """Means of the features first."""
        ...

    @property
    def level(self) -> Level:
        """What the version was made on."""
        ...

    def days(
        self, count: int, rng: np.random.Generator, moved: FloatArray | None = None
    ) -> Iterator[tuple[DayMeans, Level]]:
        """So many days; moved: (days, features), what to add to the means."""
        ...

    def shifts(self, share: float) -> FloatArray:
        """(features,): what a shift of a mean by that share of itself adds to it."""
        ...


@dataclass(frozen=True, slots=True)
class Rate:
    """A figure with its standard error over the runs."""

    value: float
    error: float

    @staticmethod
    def of(values: "list[float] | FloatArray") -> "Rate":
        """Mean of a figure of each run."""
        each = np.asarray(values, dtype=np.float64)
        return Rate(float(each.mean()), float(each.std() / sqrt(max(len(each) - 1, 1))))

    def __str__(self) -> str:
        return f"{self.value:.3f} +- {self.error:.3f}"


@dataclass(frozen=True, slots=True)
class Found:
    """How long a shift took to find. days: of each run, the first moved day being 1; inf if never. false:
    alarms a month on anything else meanwhile."""

    days: FloatArray
    false: Rate

    def by(self, day: int) -> Rate:
        """Share of runs that found it by then."""
        share = float((self.days <= day).mean())
        return Rate(share, sqrt(share * (1 - share) / len(self.days)))

    @property
    def median(self) -> float:
        """Days; inf if most runs did not find it."""
        return float(np.median(self.days))


Raised = tuple[int, str, ShiftKind]


def raised(days: Iterable[tuple[DayMeans, Level]], watched: Watched, settings: ShiftSettings) -> list[Raised]:
    """What was raised, in order: number of the day, quantity, kind; once, whichever chart it was.

    days: each with what its version was made on.
    """
    watch = ShiftWatch(watched, settings)
    opened: set[tuple[str, ShiftKind]] = set()
    told: list[Raised] = []
    for number, (day, made_on) in enumerate(days):
        now = {(alarm.quantity, alarm.kind) for alarm in watch.day(day, made_on)}
        told += [(number, *each) for each in sorted(now - opened)]
        opened = now
    return told


def false_alarms(world: World, settings: ShiftSettings, runs: int, seed: int, days: int = 60) -> Rate:
    """Alarms a month on traffic in which nothing shifts, counted over `days` after the anchor is laid."""
    counts = []
    for run in range(runs):
        rng = np.random.default_rng([seed, run])
        told = raised(world.days(settings.anchor_days + days, rng), world.watched, settings)
        counts.append(sum(day >= settings.anchor_days for day, _, _ in told) * MONTH_DAYS / days)
    return Rate.of(counts)


def time_to_find(
    world: World, settings: ShiftSettings, runs: int, seed: int, by_share: float = 0.35, over: int = 14
) -> Found:
    """One feature's mean moves by a share of itself over so many days, beginning after the anchor is laid, each run
    on another day of the week.

    Another feature each run, of those for which that is twice the floor at least: 35 % of a mean that lies close to
    zero are nothing.
    """
    shifts, std = world.shifts(by_share), world.level.std
    in_deviations = np.abs(shifts) / np.where(std[: len(shifts)] > 0, std[: len(shifts)], np.inf)
    movable = np.flatnonzero(in_deviations >= 2 * settings.effect_floor_sd)
    found, false = [], []
    for run in range(runs):
        rng = np.random.default_rng([seed, run])
        feature, begins = int(movable[run % len(movable)]), settings.anchor_days + run % 7
        count = begins + 2 * over
        moved = ramp(count, len(shifts), feature, begins, over, float(shifts[feature]))
        moving = (world.watched.names[feature], "mean")
        told = [each for each in raised(world.days(count, rng, moved), world.watched, settings) if each[0] >= begins]
        found.append(min((day - begins + 1 for day, *what in told if tuple(what) == moving), default=np.inf))
        others = sum(tuple(what) != moving for _, *what in told)
        false.append(others * MONTH_DAYS / (count - begins))
    return Found(np.array(found, dtype=np.float64), Rate.of(false))


def confidence_alarms(
    world: ListWorld, settings: ShiftSettings, runs: int, seed: int, days: int = 30, rescaled: bool = False
) -> Rate:
    """Share of runs in which confidence was alarmed on in `days` after the anchor, though nothing shifted; with
    `rescaled`, a version that scores on another scale takes over in the middle of them."""
    count = settings.anchor_days + days
    alarmed = []
    for run in range(runs):
        rng = np.random.default_rng([seed, run])
        from_day = settings.anchor_days + days // 2 if rescaled else None
        told = raised(world.days(count, rng, rescaled_from=from_day), TOGETHER, settings)
        alarmed.append(float(bool(told)))
    return Rate.of(alarmed)


def time_to_find_decay(world: ListWorld, settings: ShiftSettings, runs: int, seed: int, days: int = 14) -> Found:
    """The feature that weighs most breaks after the anchor is laid: days until confidence is alarmed on."""
    found, false = [], []
    for run in range(runs):
        rng = np.random.default_rng([seed, run])
        begins = settings.anchor_days + run % 7
        told = raised(world.days(begins + days, rng, broken_from=begins), TOGETHER, settings)
        hits = [day - begins + 1 for day, _, _ in told if day >= begins]
        found.append(min(hits, default=np.inf))
        false.append(float(len(told) - len(hits)))
    return Found(np.array(found, dtype=np.float64), Rate.of(false))
