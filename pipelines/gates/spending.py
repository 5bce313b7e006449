"""Group-sequential boundaries by alpha spending: looks that were planned cost what was planned for them.

Information at a look is 1 / variance of the estimate; the z statistics of successive looks are then those of a
Brownian motion seen at the information times, which holds for the estimates in `clustered` and `preference`
as units grow in number. How much of alpha a look may use is fixed by the plan (`spent`), where the boundary
lies follows from the information that was really there (`boundaries`), so that days may be of unequal size.

Source: Armitage, McPherson & Rowe, JRSS A 132(2), 1969 (the recursion); Lan & DeMets, Biometrika 70(3), 1983
(spending); Jennison & Turnbull, Group Sequential Methods, 2000, chapters 7, 9 and 19.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import ceil, e, inf, isfinite, log1p, sqrt
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import ndtr, ndtri

Spending = Literal["obrien_fleming", "pocock"]
"""obrien_fleming: hardly anything early, the last look nearly that of a single test. pocock: alike at all looks."""

Sides = Literal[1, 2]
Floats = NDArray[np.float64]

SMALLEST_STEP = 1e-2  # of the information so far; less is no look of its own
_FARTHEST = 8.5  # standard deviations; beyond lie 1e-17
_TOO_LITTLE = 1e-15  # chance that is not worth a boundary
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(6)


def spent(shape: Spending, alpha: float, fraction: float, sides: Sides = 1) -> float:
    """The part of alpha that may be used up to `fraction` of the way, in [0, alpha].

    alpha: of both sides together; with two sides each spends alpha / 2 in the same manner.
    fraction: of the planned information, or of the planned looks; over 1 counts as 1.

    Source: Lan & DeMets, Biometrika 70(3), 1983.

    >>> [round(spent("obrien_fleming", 0.05, looked / 4), 5) for looked in (1, 2, 3, 4)]
    [9e-05, 0.00557, 0.02363, 0.05]
    >>> [round(spent("pocock", 0.05, looked / 4), 5) for looked in (1, 2, 3, 4)]
    [0.01787, 0.03101, 0.0414, 0.05]
    """
    if not 0 < alpha < 1:
        raise ValueError(f"alpha={alpha:g}: expected 0 < alpha < 1")
    if not fraction >= 0:
        raise ValueError(f"fraction={fraction:g}: expected >= 0")
    if fraction == 0:
        return 0.0
    if fraction >= 1:
        return alpha
    each = alpha / sides
    if shape == "pocock":
        return float(sides * each * log1p((e - 1) * fraction))
    return float(min(alpha, sides * 2 * ndtr(ndtri(each / 2) / sqrt(fraction))))


def boundaries(information: Sequence[float], cumulated: Sequence[float], sides: Sides = 1) -> tuple[float, ...]:
    """The critical z of every look: above it (with two sides: or below its negative) the null is rejected.

    information: at each look, ascending, any unit. cumulated: alpha used up to each look, not descending, as
    `spent` gives it. Infinite at a look that has next to nothing to spend.
    Raises ValueError naming the look, if a look adds less than `SMALLEST_STEP` of the information before it.

    >>> [round(z, 3) for z in boundaries([1, 2, 3], [spent("pocock", 0.05, k / 3) for k in (1, 2, 3)])]
    [2.002, 1.994, 1.98]
    """
    times = _checked(information)
    if len(cumulated) != len(times):
        raise ValueError(f"{len(cumulated)} amounts of alpha for {len(times)} looks: expected one each")
    walk, found, used = _Walk(times), [], 0.0
    for look, total in enumerate(cumulated):
        if not used - _TOO_LITTLE <= total < 1:
            raise ValueError(f"look {look + 1}: alpha used {total:g} after {used:g}: expected not less, and under 1")
        bound = walk.bound_for((total - used) / sides, sides)
        walk.go_on(-bound if sides == 2 else -inf, bound)
        found.append(bound)
        used = total
    return tuple(found)


@dataclass(frozen=True, slots=True)
class Crossing:
    """Chances to leave at each look, above and below. Shape (looks,)."""

    above: Floats
    below: Floats

    @property
    def by_look(self) -> Floats:
        """Chance to have crossed above at or before each look: the power so far. Shape (looks,)."""
        return np.cumsum(self.above)


def crossing(
    information: Sequence[float], upper: Sequence[float], effect: float, lower: Sequence[float] | None = None
) -> Crossing:
    """Chances to cross the boundaries if the estimate's true value is `effect`.

    information: 1 / variance of the estimate at each look, so in the unit of 1 / effect**2.
    upper, lower: critical z of each look; without lower nothing ends below.

    >>> chances = crossing([1.0], [1.6448536], effect=3.0)
    >>> round(float(chances.above[0]), 4)  # 1 - Phi(1.645 - 3)
    0.9123
    """
    times = _checked(information)
    below = [-inf] * len(times) if lower is None else list(lower)
    if not len(upper) == len(below) == len(times):
        raise ValueError(f"{len(upper)} upper and {len(below)} lower bounds for {len(times)} looks: expected one each")
    scale = float(times[-1])
    walk = _Walk(times, drift=effect * sqrt(scale))
    left = [walk.go_on(low, high) for low, high in zip(below, upper, strict=True)]
    return Crossing(np.array([high for _, high in left]), np.array([low for low, _ in left]))


class _Walk:
    """The density of the Brownian motion over those paths that have not left yet, look after look.

    Held as weighted nodes: `mass` at `places`, so that an integral over the density is a sum. Time ends at 1.
    """

    def __init__(self, times: Floats, drift: float = 0.0) -> None:
        self._times = times / times[-1]
        self._drift = drift
        self._look = 0
        self._places, self._mass = np.zeros(1), np.ones(1)  # before any look: at 0, surely

    def bound_for(self, chance: float, sides: Sides) -> float:
        """The z that the next look crosses with the chance, on one side."""
        if chance <= _TOO_LITTLE:
            return inf

        def excess(z: float) -> float:
            return self._beyond(z)[1] - chance

        # with two sides paths have left on both: the boundary may be anywhere above 0
        lowest = 0.0 if sides == 2 else -_FARTHEST
        if excess(lowest) <= 0:
            raise ValueError(
                f"look {self._look + 1}: no boundary is crossed with chance {chance:g}; alpha is too large"
            )
        return float(brentq(excess, lowest, _FARTHEST + 1, xtol=1e-12)) if excess(_FARTHEST + 1) < 0 else inf

    def go_on(self, low: float, high: float) -> tuple[float, float]:
        """Takes out what leaves at the next look. Chances to leave it below and above."""
        leaves = self._beyond(low)[0], self._beyond(high)[1]
        time = self._times[self._look]
        spread, centre = sqrt(time), self._drift * time
        start = max(low * spread, centre - _FARTHEST * spread)
        end = min(high * spread, centre + _FARTHEST * spread)
        if start >= end:  # nobody is left
            self._places, self._mass = np.zeros(1), np.zeros(1)
        elif self._look + 1 < len(self._times):
            step = self._step()
            places, weights = _panels(start, end, min(sqrt(step), sqrt(self._times[self._look + 1] - time)))
            apart = (places[:, None] - self._places[None, :] - self._drift * step) / sqrt(step)
            density = np.exp(-0.5 * apart**2) @ self._mass / sqrt(2 * np.pi * step)
            self._places, self._mass = places, weights * density
        self._look += 1
        return leaves

    def _beyond(self, z: float) -> tuple[float, float]:
        """Chances to be below and above z at the next look."""
        if not isfinite(z):
            mass = float(self._mass.sum())
            return (0.0, mass) if z < 0 else (mass, 0.0)
        step = self._step()
        apart = (z * sqrt(self._times[self._look]) - self._places - self._drift * step) / sqrt(step)
        return float(self._mass @ ndtr(apart)), float(self._mass @ ndtr(-apart))

    def _step(self) -> float:
        return float(self._times[self._look] - (self._times[self._look - 1] if self._look else 0.0))


def _panels(start: float, end: float, width: float) -> tuple[Floats, Floats]:
    """Gauss-Legendre nodes and weights over panels no wider than `width`."""
    panels = max(4, ceil((end - start) / width))
    edges = np.linspace(start, end, panels + 1)
    half = np.diff(edges) / 2
    places = (edges[:-1] + half)[:, None] + half[:, None] * _NODES[None, :]
    return places.ravel(), (half[:, None] * _WEIGHTS[None, :]).ravel()


def _checked(information: Sequence[float]) -> Floats:
    times = np.asarray(information, dtype=np.float64)
    if times.ndim != 1 or not len(times):
        raise ValueError("no looks: expected the information of one at least")
    if not (np.isfinite(times).all() and times[0] > 0):
        raise ValueError("information must be finite and > 0")
    for look, (before, now) in enumerate(pairwise(times), start=2):
        if now < before * (1 + SMALLEST_STEP):
            raise ValueError(f"look {look}: information {now:g} after {before:g}: expected {SMALLEST_STEP:.0%} more")
    return times
