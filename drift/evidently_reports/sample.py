"""Some lists of an archive, chosen by hash: as many as there is room for, and the same ones however they come."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from drift.moments import FloatArray


@dataclass(frozen=True, slots=True)
class Lists:
    """Logged lists beside each other.

    hashes: (lists,) uint64 of their ranking ids. answered_ms: (lists,). shown: (lists,), rows of each. values: float32
    (rows, features), row after row. margin, entropy: (lists,), of all candidates.
    """

    hashes: NDArray[np.uint64]
    answered_ms: NDArray[np.int64]
    shown: NDArray[np.int64]
    values: NDArray[np.float32]
    margin: FloatArray
    entropy: FloatArray

    def __len__(self) -> int:
        return len(self.hashes)

    @staticmethod
    def none(features: int) -> "Lists":
        """Of so many features, no list."""
        whole, real = np.zeros(0, dtype=np.int64), np.zeros(0)
        values = np.zeros((0, features), dtype=np.float32)
        return Lists(np.zeros(0, dtype=np.uint64), whole, whole, values, real, real)

    def take(self, places: NDArray[np.int64]) -> "Lists":
        """Those at these places, in that order."""
        starts, shown = (np.cumsum(self.shown) - self.shown)[places], self.shown[places]
        within = np.arange(int(shown.sum())) - np.repeat(np.cumsum(shown) - shown, shown)
        rows = np.repeat(starts, shown) + within
        return Lists(
            *(self.hashes[places], self.answered_ms[places], shown, self.values[rows]),
            *(self.margin[places], self.entropy[places]),
        )

    def beside(self, others: "Lists") -> "Lists":
        """These, then the others."""
        pairs = zip(self._columns(), others._columns(), strict=True)
        return Lists(*(np.concatenate(pair) for pair in pairs))

    def _columns(self) -> tuple[NDArray[np.generic], ...]:
        return self.hashes, self.answered_ms, self.shown, self.values, self.margin, self.entropy


class ListSample:
    """Keeps the `most` lists whose ranking ids have the smallest hashes; a list that comes twice counts once there.

    offered: how many came, those twice too.

    Source: bottom-k sampling, Cohen & Kaplan, PODC 2007.
    """

    def __init__(self, most: int, features: int) -> None:
        if most < 1:
            raise ValueError(f"most={most}: expected at least 1")
        self._most, self._kept, self.offered = most, Lists.none(features), 0

    def __repr__(self) -> str:
        return f"<ListSample [{len(self._kept)} of {self.offered} lists, {self._most} at most]>"

    def add(self, lists: Lists) -> None:
        """Offers them."""
        self.offered += len(lists)
        if len(self._kept) == self._most:
            lists = lists.take(np.flatnonzero(lists.hashes < self._kept.hashes.max()))
        if len(lists):
            together = self._kept.beside(lists)
            _, first = np.unique(together.hashes, return_index=True)  # in order of the hashes
            self._kept = together.take(first[: self._most])

    def taken(self) -> Lists:
        """In order of time."""
        return self._kept.take(np.lexsort((self._kept.hashes, self._kept.answered_ms)))
