"""What the simulator measures of a procedure: runs that each leave some numbers, and figures made of all of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite, sqrt
from typing import Literal, Protocol

import numpy as np

from deploy.simulation.challengers import Kind, Metric, with_lift
from deploy.simulation.measurements import Drafts
from deploy.simulation.world import Floats, Ranking, World

Outcome = Mapping[str, float]
"""What one run left; every run of a characteristic leaves the same names."""

Sense = Literal["at most", "at least", "shown"]
Shown = Literal["share", "points", "count", "days", "ratio"]


Standing = Literal["held", "within error", "missed", "shown"]


@dataclass(frozen=True, slots=True)
class Figure:
    """One line of the table.

    value, error: what was measured and its standard error over runs, None where it has none. limit: what it is held
    against; None if it is only shown. reference: what a reference implementation reached, in its words.
    """

    what: str
    value: float
    error: float | None
    sense: Sense = "shown"
    limit: float | None = None
    shown: Shown = "share"
    reference: str = ""

    @property
    def standing(self) -> Standing:
        """held: on the right side of the limit. within error: on the wrong one, by three standard errors at most.
        missed: beyond that, or nothing that could be measured."""
        if self.limit is None:
            return "shown"
        beyond = (self.value - self.limit) * (1 if self.sense == "at most" else -1)
        if not isfinite(beyond):
            return "missed"
        if beyond <= 0:
            return "held"
        return "within error" if beyond <= 3 * (self.error or 0.0) else "missed"

    def words(self, value: float | None) -> str:
        """A value as this figure is written."""
        if value is None:
            return ""
        if self.shown in ("share", "points"):
            return f"{100 * value:.2f}{'%' if self.shown == 'share' else ' pt'}"
        return f"{value:,.0f}" if self.shown == "count" else f"{value:.2f}"


@dataclass
class Stage:
    """A world with its champion, and challengers and drafts as they are asked for, made once."""

    world: World
    champion: Ranking
    _challengers: dict[tuple[float, Kind, Metric], Ranking] = field(default_factory=dict)
    _drafts: dict[tuple[float, Kind], Drafts] = field(default_factory=dict)

    def challenger(self, lift: float, kind: Kind = "low_noise", metric: Metric = "clicks") -> Ranking:
        """Of this true lift. Raises SluiceError as `with_lift`."""
        key = (lift, kind, metric)
        if key not in self._challengers:
            self._challengers[key] = with_lift(self.champion, lift, kind, 1, metric)
        return self._challengers[key]

    def drafts(self, lift: float, kind: Kind = "low_noise") -> Drafts:
        """Of the champion with that challenger."""
        if (lift, kind) not in self._drafts:
            self._drafts[lift, kind] = Drafts.of(self.champion, self.challenger(lift, kind))
        return self._drafts[lift, kind]


class Characteristic(Protocol):
    """One of the table. Runs are independent and each has a seed of its own, so they may be made anywhere.

    id: as in DECISIONS.md. title: what is looked at. runs: by default; quick: where a minute must do.
    """

    @property
    def id(self) -> str: ...
    @property
    def title(self) -> str: ...
    @property
    def runs(self) -> int: ...
    @property
    def quick(self) -> int: ...

    def run(self, stage: Stage, rng: np.random.Generator) -> Outcome:
        """One run."""

    def figures(self, outcomes: Sequence[Outcome]) -> tuple[Figure, ...]:
        """Of all of them, in the order of their numbers."""


def column(outcomes: Sequence[Outcome], name: str) -> Floats:
    """One number of each run. Shape (runs,)."""
    return np.array([outcome[name] for outcome in outcomes], dtype=np.float64)


def share(outcomes: Sequence[Outcome], name: str) -> tuple[float, float]:
    """How often it was 1, and the standard error of that. With none or all, that of half a run more or less."""
    values = column(outcomes, name)
    found = float(values.mean())
    shrunk = (values.sum() + 0.5) / (len(values) + 1)
    return found, sqrt(shrunk * (1 - shrunk) / len(values))


def quantile(outcomes: Sequence[Outcome], name: str, at: float) -> tuple[float, float]:
    """A quantile over runs and its standard error, from the order statistics one standard error of rank away."""
    values = np.sort(column(outcomes, name))
    aside = sqrt(at * (1 - at) / len(values))
    low, high = (float(np.quantile(values, np.clip(at + side * aside, 0, 1), method="nearest")) for side in (-1, 1))
    return float(np.quantile(values, at, method="nearest")), (high - low) / 2


def mean(values: Floats) -> tuple[float, float]:
    """And its standard error."""
    error = float(values.std(ddof=1) / sqrt(len(values))) if len(values) > 1 else float("nan")
    return float(values.mean()), error
