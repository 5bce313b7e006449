"""How often each category of a feature came, and what came that is none of them: exact, mergeable, bounded."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from drift.errors import UnreadableSketch
from drift.sketches.heavy_hitters import MOST_TOTAL, HeavyHitters
from registry.contracts.profile import MOST_CATEGORIES

CountArray = NDArray[np.int64]
NEWCOMERS = 64
"""New values that are kept by name, of all features together."""


@dataclass(frozen=True, slots=True)
class Codes:
    """A feature whose values are codes of categories. at: its column. values, counts: (categories,), the values
    ascending, as the version was made on."""

    at: int
    name: str
    values: NDArray[np.float32]
    counts: CountArray

    @staticmethod
    def of(at: int, name: str, categories: Sequence[tuple[float, int]]) -> "Codes":
        """categories: see `Distribution`; equal values in float32 are one."""
        given = np.array([value for value, _ in categories], dtype=np.float32)
        values, where = np.unique(given, return_inverse=True)
        counts = np.bincount(where, weights=[count for _, count in categories]).astype(np.int64)
        return Codes(at, name, values, counts)


class CategoryCounts:
    """counts: (codes, MOST_CATEGORIES + 1), the last of each row being values that are no category of it.
    newcomers: which those are, as `feature=value`."""

    def __init__(self, codes: Sequence[Codes]) -> None:
        self.codes = tuple(codes)
        self.counts: CountArray = np.zeros((len(self.codes), MOST_CATEGORIES + 1), dtype=np.int64)
        self.newcomers = HeavyHitters(NEWCOMERS)

    def update(self, rows: NDArray[np.float32], each: int = 1) -> None:
        """rows: (rows, features), nan where a value is missing. each: how many rows one stands for."""
        for place, codes in enumerate(self.codes):
            column = rows[:, codes.at]
            column = column[np.isfinite(column)]
            found = np.minimum(np.searchsorted(codes.values, column), len(codes.values) - 1)
            known = codes.values[found] == column
            self.counts[place] += each * np.bincount(found[known], minlength=MOST_CATEGORIES + 1)
            if strange := len(known) - int(known.sum()):
                self.counts[place, -1] += each * strange
                values, times = np.unique(column[~known], return_counts=True)
                told = zip(values.tolist(), (each * times).tolist(), strict=True)
                self.newcomers.add({f"{codes.name}={value:g}": count for value, count in told})

    def merge(self, other: "CategoryCounts") -> "CategoryCounts":
        """Of both, which count by the same profile."""
        merged = CategoryCounts(self.codes)
        merged.counts = self.counts + other.counts
        merged.newcomers = self.newcomers.merge(other.newcomers)
        return merged

    def encode(self) -> bytes:
        """The counts' bytes; `newcomers` has its own."""
        return self.counts.astype("<i8", copy=False).tobytes()

    @staticmethod
    def decode(codes: Sequence[Codes], counts: bytes, newcomers: bytes) -> "CategoryCounts":
        """The counts again. Raises UnreadableSketch if these are not the bytes of as many codes."""
        found = CategoryCounts(codes)
        if len(counts) != found.counts.nbytes:
            raise UnreadableSketch(f"{len(counts)} bytes: expected {found.counts.nbytes} of {len(found.codes)} codes")
        found.counts = np.frombuffer(counts, dtype="<i8").reshape(found.counts.shape).astype(np.int64)
        if (found.counts < 0).any() or (found.counts > MOST_TOTAL).any():
            raise UnreadableSketch("a category came less than no time, or more often than anything ever did")
        found.newcomers = HeavyHitters.decode(newcomers)
        return found
