"""How much each item of each query attracts: from all looks at it, and from what items like it are like.

An item that only chance brought into a list was looked at less than once, and what it attracts cannot be told from its
own clicks. But items hang together: attraction falls smoothly with the rank that either policy gives an item, what
stands at one rank in all queries is alike, and queries differ in how much of theirs is clicked. So each item's
attraction has an expectation, of these, fitted to all clicks, and what was clicked of the item moves it from there by
as much as its looks weigh against how far items are from their expectations: much of what stands in every list, little
of what was seen once. How far items are apart, and queries, the log tells as well: by pairs of clicks, on one item or
on two of a query.

Where neither policy's rank tells what chance alone brings in, two steps of their own (brought in at all, brought in
and among the challenger's first) take it to what was clicked there.

Sources: gamma-Poisson shrinkage: Clayton & Kaldor, Biometrics 43(3), 1987; Poisson regression as an estimating
equation of clicks that are none: Gourieroux, Monfort & Trognon, Econometrica 52(3), 1984; partial pooling against
estimates one by one: Efron & Morris, JASA 70, 1975.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_SLOPE = 1.0  # prior standard deviation of a slope over a logarithm
_STEP = 0.5  # and of what sets brought in items apart: 40 % to either side
_CENTRE = 1.5  # about the mean logarithm of ten ranks
_ROUNDS = 50
_HIGHEST, _LOWEST = 0.3, -8.0  # logarithm of an expectation while it is sought


@dataclass(frozen=True, slots=True)
class Kinds:
    """What items are like, before any click. query, ours, theirs: shape (pairs,), of a query and an item; ours and
    theirs the ranks that champion and challenger give it, from 1. by_chance: only chance brings it into a list.
    k: how many each policy shows."""

    query: Ints
    ours: Ints
    theirs: Ints
    by_chance: NDArray[np.bool_]
    k: int

    def design(self) -> tuple[Floats, Floats]:
        """Columns (pairs, 5), and the precision of each one's prior."""
        aside = self.by_chance & (self.theirs <= self.k)
        columns = (
            np.ones(len(self.query)),
            np.log(self.ours) - _CENTRE,
            np.log(self.theirs) - _CENTRE,
            self.by_chance.astype(np.float64),
            aside.astype(np.float64),
        )
        return np.column_stack(columns), np.array([0.0, *(_SLOPE**-2,) * 2, *(_STEP**-2,) * 2])


@dataclass(frozen=True, slots=True)
class Attraction:
    """Of every pair, shape (pairs,), in clicks a look. expected: of its kind. shape: of the gamma about it, the less
    the further apart pairs of a kind are. pooled: with what was clicked of the pair."""

    expected: Floats
    shape: float
    pooled: Floats

    @property
    def looks(self) -> Floats:
        """How many looks the expectation weighs as much as."""
        return self.shape / self.expected


def attraction(clicks: Floats, looks: Floats, squares: Floats, kinds: Kinds) -> Attraction:
    """From clicks on every pair, and from the sum of its impressions' examination and that of their squares, shape
    (pairs,) each; both may be 0.

    Raises ValueError if the shapes differ, or nothing was looked at.
    """
    if not clicks.shape == looks.shape == squares.shape == kinds.query.shape or not looks.sum() > 0:
        raise ValueError(f"{clicks.shape}, {looks.shape}: expected {kinds.query.shape}, with looks")
    columns, precision = kinds.design()
    with threadpool_limits(1, user_api="blas"):
        level = np.zeros(len(clicks))
        for group in (kinds.query, np.where(kinds.by_chance, 0, kinds.ours)):
            expected = _expectation(clicks, looks, columns, precision, level)
            level = level + _level(group, clicks, looks * expected)
        expected = _expectation(clicks, looks, columns, precision, level)
    mean = looks * expected
    shape = _shape(clicks * (clicks - 1), mean**2 - squares * expected**2, mean)
    pooled = (clicks + shape) / (looks + shape / expected)
    return Attraction(expected, shape, np.minimum(pooled, 1.0))


def _level(group: Ints, clicks: Floats, expected: Floats) -> Floats:
    """Logarithm of how much more is clicked of each pair's group than expected, as far as its items go together.
    Shape (pairs,)."""
    clicked, mean, squares, own = (
        np.bincount(group, weights=of).astype(np.float64) for of in (clicks, expected, clicks**2, expected**2)
    )
    shape = _shape(clicked**2 - squares, mean**2 - own, mean)
    return np.asarray(np.log((clicked + shape) / (mean + shape))[group], dtype=np.float64)


def _expectation(clicks: Floats, looks: Floats, columns: Floats, precision: Floats, level: Floats) -> Floats:
    """The likeliest, log-linear in the columns beside a given level, at most 1. Shape (pairs,)."""
    found = np.zeros(columns.shape[1])
    found[0] = np.log(np.maximum(clicks.sum(), 0.5) / looks.sum())
    for _ in range(_ROUNDS):
        mean = looks * np.exp(np.clip(level + columns @ found, _LOWEST, _HIGHEST))
        gradient = columns.T @ (clicks - mean) - precision * found
        curvature = (columns * mean[:, None]).T @ columns + np.diag(precision + 1e-9)
        step = np.clip(np.linalg.solve(curvature, gradient), -2.0, 2.0)
        found = found + step
        if np.abs(step).max() < 1e-8:
            break
    return np.minimum(np.exp(np.clip(level + columns @ found, _LOWEST, _HIGHEST)), 1.0)


def _shape(clicks: Floats, expected: Floats, mean: Floats) -> float:
    """Of the gamma that rates are spread by about the expected ones: two impressions are both clicked with the square
    of their rate, whatever the chance of one. clicks, expected: pairs of clicks, on two impressions (or items) each;
    mean: expected single clicks, all of one shape. At most 1e4: no spread."""
    weights = 1 / (1 + mean) ** 2
    spread = float(weights @ (clicks - expected)) / max(float(weights @ expected), 1e-300)
    return 1 / min(max(spread, 1e-4), 1e2)
