"""Rows that may have changed unseen: which they are, and how fast they are looked up again.

Redis does not repeat an invalidation. Once its channel was lost every row held may be wrong, and
forgetting them all would send every worker to the store that has just come back, for everything
at once. So they stay, marked, and queries are the sweep: a marked row that is asked for is looked
up again if the budget allows, and served unchecked, and counted so, if not. Popular rows come
first by themselves, rows that nobody asks for cost nothing, and no list of ids has to be kept.

The budget is a token bucket that starts empty, so that workers that reconnect in the same moment
do not arrive in the same moment. Past `within_s` it binds no more: what is still marked then has
not been asked for all the while, and comes back no faster than misses do. So a row is served
unchecked during `within_s` at most, as long as the store answers.

Source: the token bucket after Turner, "New directions in communications", IEEE Comm. Mag. 24(10), 1986.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

BURST_S = 0.05


@dataclass(frozen=True, slots=True)
class CheckRule:
    """rows_per_s: marked rows that one tier of one worker looks up again in a second.
    within_s: after this long nothing marked is served any more without a look."""

    rows_per_s: float = 20_000
    within_s: float = 30.0


class Suspects:
    """The marked cells of one slab. One thread uses it."""

    def __init__(self, capacity: int, rule: CheckRule, clock: Callable[[], float] = time.monotonic) -> None:
        self._marked = np.zeros(capacity, dtype=bool)
        self._rule, self._clock = rule, clock
        self._tokens = 0.0
        self._filled_s = self._binds_until_s = float("-inf")
        self.any = False
        """Whether some cell is marked; if not, nothing else here need be asked."""

    def mark(self, held: NDArray[np.bool_]) -> None:
        """All these cells, bool (capacity,), hold rows that may have changed."""
        self._marked[:] = held
        self.any = bool(held.any())
        self._tokens, self._filled_s = 0.0, self._clock()
        self._binds_until_s = self._filled_s + self._rule.within_s

    def unmark(self, cells: NDArray[np.int64]) -> None:
        """These cells, none of them negative, hold rows that were just looked up, or none."""
        self._marked[cells] = False
        self.any = bool(self._marked.any())

    def among(self, cells: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which of the cells are marked; -1 is none. Shape (cells,)."""
        marked: NDArray[np.bool_] = self._marked[cells] & (cells >= 0)
        return marked

    def due(self, marked: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Which of the marked are to be looked up now: the first ones, as far as the budget goes. Spends it."""
        now_s = self._clock()
        if now_s >= self._binds_until_s:
            return marked
        earned = (now_s - self._filled_s) * self._rule.rows_per_s
        self._tokens = min(self._rule.rows_per_s * BURST_S, self._tokens + earned)
        self._filled_s = now_s
        due = np.zeros(len(marked), dtype=bool)
        chosen = np.flatnonzero(marked)[: int(self._tokens)]
        due[chosen] = True
        self._tokens -= len(chosen)
        return due
