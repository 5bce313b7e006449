"""Logged lists of simulated users with everything known: attraction, examination, chance."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipelines.feedback.clicks import ClickModel


@dataclass(frozen=True)
class ClickLog:
    """Lists of equal length. query_of: (lists,). shown, clicks, propensities: (lists, shown); shown are candidates.
    labels: (queries, candidates). base: (queries, candidates), the logging ranker's order, best first."""

    query_of: NDArray[np.int64]
    shown: NDArray[np.int64]
    clicks: NDArray[np.bool_]
    propensities: NDArray[np.float64]
    explored: NDArray[np.bool_]
    labels: NDArray[np.float64]
    base: NDArray[np.int64]
    model: ClickModel

    @property
    def positions(self) -> NDArray[np.int64]:
        """Shape (lists, shown)."""
        return np.broadcast_to(np.arange(1, self.shown.shape[1] + 1), self.shown.shape)

    @property
    def pairs(self) -> NDArray[np.int64]:
        """A number for query and item. Shape (lists, shown)."""
        return self.query_of[:, None] * self.labels.shape[1] + self.shown


def orders(labels: NDArray[np.float64], noise: float, seed: int) -> NDArray[np.int64]:
    """The order of a ranker that sees the labels with noise. Same shape."""
    rng = np.random.default_rng(seed)
    return np.argsort(-(labels + rng.normal(0, noise, labels.shape)), axis=1, kind="stable")


def click_log(
    lists: int,
    seed: int,
    *,
    queries: int = 248,
    candidates: int = 20,
    shown: int = 10,
    reach: int = 20,
    share: float = 0.05,
    noise: float = 1.5,
    eta: float = 1.0,
    unequal: float = 0.0,
) -> ClickLog:
    """Lists of one ranker, explored as `serving.exploration` does: a swap of a shown rank and one within reach,
    each pair as likely as any other; propensities over coin and swap. unequal: variance of the users' keenness, each
    of whom asks three times."""
    rng = np.random.default_rng(seed)
    labels = rng.choice(5, size=(queries, candidates), p=[0.5, 0.2, 0.15, 0.1, 0.05]).astype(float)
    base = orders(labels, noise, seed + 1)
    query_of = rng.integers(0, queries, lists)
    explored = rng.random(lists) < share
    left = rng.integers(0, shown, lists)
    right = rng.integers(0, reach - 1, lists)
    right = right + (right >= left)  # another one
    order = np.broadcast_to(np.arange(max(shown, reach)), (lists, max(shown, reach))).copy()
    moved = np.flatnonzero(explored)
    order[moved, left[moved]], order[moved, right[moved]] = right[moved], left[moved]
    ranks = order[:, :shown]
    # ordered draws (left, right) count each unordered shown pair twice
    each = share / (shown * (reach - 1))
    stays = np.where(np.arange(shown) < reach, 1 - each * (reach - 1 + shown - 1), 1 - each * reach)
    propensities = np.broadcast_to(stays, (lists, shown)).copy()
    inside = right < shown
    propensities[moved, left[moved]] = each * np.where(inside[moved], 2, 1)
    both = moved[inside[moved]]
    propensities[both, right[both]] = each * 2
    items = base[query_of[:, None], ranks]
    model = ClickModel(eta=eta)
    chance = model.examination(shown) * model.attraction(labels[query_of[:, None], items])
    if unequal:
        keen = np.random.default_rng(seed + 2).gamma(1 / unequal, unequal, lists // 3 + 1)
        chance = chance * keen[np.arange(lists) // 3, None]
    clicks = rng.random((lists, shown)) < chance
    return ClickLog(query_of, items, clicks, propensities, explored, labels, base, model)
