"""Exploration: in a small share of lists one item of the head changes places with one that is shown.

Without it a log knows nothing of what the ranker would not show, and a counterfactual estimate has no
support. The propensity of an item at a position is taken over everything that was left to chance: the
coin that decides whether the list is explored, and the swap. So the lists that were left alone carry
propensities below 1 too, and together they sum to 1 at every position.

Source: randomised swaps as in Joachims, Swaminathan & Schnabel, "Unbiased learning-to-rank with biased
feedback", WSDM 2017, drawn over the head of the list.
"""

import functools
import random
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from registry.contracts.traffic import WEIGHT_STEPS


@dataclass(frozen=True, slots=True)
class Exploration:
    """What may happen to one list.

    share: of lists that are explored, in steps of 0.1 %. shown: items that the user sees, >= 1.
    reach: the first so many of the ranking may come to be shown, >= 1.

    A swap is a pair of a shown rank and a rank within reach that are not the same, each pair as
    likely as any other. With one item there is none.
    """

    share: int
    shown: int
    reach: int

    @property
    def rows(self) -> int:
        """How many items of the ranking an explored list needs."""
        return max(self.shown, self.reach)

    @property
    def swaps(self) -> int:
        """How many pairs there are."""
        return self.shown * self.reach - min(self.shown, self.reach)

    def draw(self, source: random.Random) -> tuple[int, int]:
        """One of the swaps, as ranks from 0: the shown one and the one that comes there.

        Raises ValueError if there is none.
        """
        if not self.swaps:
            raise ValueError(f"{self.shown} of {self.reach} items: nothing to swap")
        while True:
            left, right = source.randrange(self.shown), source.randrange(self.reach)
            if left != right:
                return left, right

    def order(self, swap: tuple[int, int]) -> list[int]:
        """The ranks shown after the swap. Shape (shown,)."""
        ranks = list(range(self.rows))
        left, right = swap
        ranks[left], ranks[right] = ranks[right], ranks[left]
        return ranks[: self.shown]

    def propensities(self, swap: tuple[int, int] | None = None) -> NDArray[np.float64]:
        """With which probability each shown item stands where it does, in a list that this swap changed, or
        none. Shape (shown,), over the coin and all swaps."""
        shown, reach = self.shown, self.reach
        if not self.swaps:
            return np.ones(shown)
        each = self.share / WEIGHT_STEPS / self.swaps
        position = np.arange(shown)
        within = position < reach
        # pairs that move the rank of this number: as the shown one, and as the one that comes
        touching = (reach - within) + within * (shown - 1)
        found: NDArray[np.float64] = 1.0 - each * touching
        if swap is not None:
            left, right = swap
            pairs = (right < reach) + (
                right < shown and left < reach
            )  # (left, right), and the same two as (right, left)
            found[left] = each * pairs
            if right < shown:
                found[right] = each * pairs
        return found


@functools.lru_cache(maxsize=4096)
def unexplored(exploration: Exploration) -> bytes:
    """Propensities of a list that was left alone, float32 little-endian: most lists are alike in them."""
    return exploration.propensities().astype("<f4").tobytes()
