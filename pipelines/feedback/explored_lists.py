"""Logged lists with the chance that each item had to be shown, as a counterfactual estimate reads them."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
NONE = -1  # no item: a list shorter than others


@dataclass(frozen=True, slots=True)
class ClickLists:
    """Logged lists, one after the other, items in served order.

    queries, units: shape (lists,), numbers >= 0; items, clicks, shown_chance: shape (rows,), items numbers >= 0,
    shown_chance the probability that the item was shown in its list at all, see `shown_chance`.
    offsets: shape (lists + 1,). Raises ValueError if the shapes disagree or a chance is not in (0, 1].
    """

    queries: Ints
    units: Ints
    items: Ints
    clicks: NDArray[np.bool_]
    shown_chance: Floats
    offsets: Ints

    def __post_init__(self) -> None:
        lists, rows = len(self.queries), len(self.items)
        if len(self.units) != lists or self.offsets.shape != (lists + 1,) or self.offsets[-1] != rows:
            raise ValueError(f"expected a unit and an offset for each of the {lists} lists, the last offset {rows}")
        if not len(self.clicks) == len(self.shown_chance) == rows:
            raise ValueError(f"expected a click or none and a shown_chance for each of the {rows} rows")
        if not ((self.shown_chance > 0) & (self.shown_chance <= 1)).all():
            raise ValueError("shown_chance: expected 0 < probability <= 1")


def shown_chance(propensities: ArrayLike, offsets: ArrayLike, depth: int | Ints) -> Floats:
    """The probability that each shown item was shown in its list at all, over coin and swap. Shape (rows,).

    propensities: as logged, of lists of which less than half are explored; depth: `explore_depth` of their plan,
    or the candidates of each list where there were fewer, shape (lists,).
    An item from within the list leaves it if it changes places with one from beyond; one from beyond comes to any
    of the positions alike. Without a swap from beyond, whatever is shown would have been.

    >>> shown_chance([0.96, 0.96, 0.005], [0, 3], depth=7).round(4).tolist()
    [0.98, 0.98, 0.015]
    """
    chance, bounds = np.asarray(propensities, dtype=np.float64), np.asarray(offsets, dtype=np.int64)
    sizes = np.diff(bounds)
    list_of = np.repeat(np.arange(len(sizes)), sizes)
    low = chance < 0.5
    moved = np.bincount(list_of[low], minlength=len(sizes))
    if moved.max(initial=0) > 2:
        raise ValueError("over two items of a list have a propensity under 0.5: expected one swap a list at most")
    highest, lowest = np.zeros(len(sizes)), np.ones(len(sizes))
    np.maximum.at(highest, list_of[~low], chance[~low])
    np.minimum.at(lowest, list_of[low], chance[low])
    # ways to move a rank: with every rank within depth, and with every other shown one
    by_those_that_stay = (1 - highest) / np.maximum(depth - 1 + sizes - 1, 1)
    each = np.where(moved > 0, lowest / np.maximum(moved, 1), by_those_that_stay)
    beyond = np.maximum(depth - sizes, 0)
    came = low & (moved == 1)[list_of]
    found = np.where(came, chance * sizes[list_of], 1 - (each * beyond)[list_of])
    return np.clip(found, 1e-12, 1.0)


def explored_depth(propensities: ArrayLike, offsets: ArrayLike) -> int | None:
    """How many ranks could come to be shown, as explored lists tell; None where no item came from beyond.

    propensities, offsets: as for `shown_chance`. An item that came from beyond has the chance of one swap, and one that
    stayed lacks that of every swap that would have moved it: with each rank within depth, and each other shown one.

    >>> explored_depth([0.96, 0.96, 0.005], [0, 3])
    7
    """
    chance, bounds = np.asarray(propensities, dtype=np.float64), np.asarray(offsets, dtype=np.int64)
    sizes = np.diff(bounds)
    list_of = np.repeat(np.arange(len(sizes)), sizes)
    low = chance < 0.5
    came = (np.bincount(list_of[low], minlength=len(sizes)) == 1) & (sizes > 1)
    if not came.any():
        return None
    each, stays = np.ones(len(sizes)), np.zeros(len(sizes))
    np.minimum.at(each, list_of[low], chance[low])
    np.maximum.at(stays, list_of[~low], chance[~low])
    return int(np.rint((1 - stays[came]) / each[came] - sizes[came] + 2).max())
