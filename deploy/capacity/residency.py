"""Which share of rows the tiers hold, from catalogue, skew and room: no trace, no simulation."""

import numpy as np
from numpy.typing import NDArray

_CELLS = 4096
KEEPS = 0.9
"""How far the slab's policy comes from LRU to the best there is; measured 0.91 (`tests.bench.tier_policies`)."""


def hit_ratio(catalogue: int, skew: float, room: int, candidates: int = 1) -> float:
    """Share of asked-for rows that a tier with this room holds, popularity being rank**-skew.

    candidates: of a query, which asks for no row twice, so that popular ones are asked for less often than they would
    be. Between LRU and the rows that are asked for most (the best under independent requests), as far as measured.
    Source of LRU's: H. Che, Y. Tung, Z. Wang, Hierarchical Web caching systems, IEEE JSAC 20(7), 2002.

    >>> hit_ratio(1000, 1.0, 1000), hit_ratio(1000, 0.0, 250)
    (1.0, 0.25)
    """
    if room >= catalogue:
        return 1.0
    ranks, many = _cells(catalogue)
    asked = ranks**-skew
    asked = _distinct(asked / (asked * many).sum(), many, candidates)
    held = np.clip(room - (np.cumsum(many) - many), 0, many)
    best = float((asked * held).sum())
    recent = _lru(asked, many, room)
    return round(recent + KEEPS * (best - recent), 6)


def _distinct(asked: NDArray[np.float64], many: NDArray[np.float64], candidates: int) -> NDArray[np.float64]:
    """Shares of the rows of queries whose rows are distinct: a row is in one with chance 1 - exp(-draws * its
    share)."""
    if candidates <= 1:
        return asked
    candidates = min(candidates, int(many.sum()) // 2)
    low, high = 0.0, float(candidates)
    while float((many * -np.expm1(-asked * high)).sum()) < candidates:
        high *= 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if float((many * -np.expm1(-asked * middle)).sum()) < candidates else (low, middle)
    found = -np.expm1(-asked * low)
    distinct: NDArray[np.float64] = found / (many * found).sum()
    return distinct


def _lru(asked: NDArray[np.float64], many: NDArray[np.float64], room: int) -> float:
    """Che's: a row is held if it was asked for within the time in which `room` different ones are."""
    low, high = 0.0, 1e3 * room / asked.min() / many.sum() + room
    while float((many * -np.expm1(-asked * high)).sum()) < room:
        high *= 2
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if float((many * -np.expm1(-asked * middle)).sum()) < room else (low, middle)
    return float((many * asked * -np.expm1(-asked * low)).sum())


def _cells(catalogue: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Ranks, the first ones apart and the rest in cells that grow, and how many each stands for."""
    edges = np.unique(np.round(np.geomspace(1, catalogue + 1, _CELLS)).astype(np.int64))
    if catalogue <= _CELLS:
        edges = np.arange(1, catalogue + 2)
    many = np.diff(edges).astype(np.float64)
    return np.sqrt(edges[:-1] * (edges[1:] - 1).astype(np.float64)), many
