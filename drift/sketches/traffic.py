"""What a stretch of traffic looked like, beside its moments and bins: quantiles, categories, freshness.

Shown, never decided on. Its size depends on the profile alone, and its cost on the logarithm of the traffic.
"""

from collections.abc import Callable, Sequence

import msgspec
import numpy as np
import xxhash

from drift.errors import UnreadableSketch
from drift.sketches.categories import CategoryCounts, Codes
from drift.sketches.heavy_hitters import HeavyHitters
from drift.sketches.quantiles import MOST_ROWS, QuantileSketch
from registry.contracts.events import Ranked

LISTS = 1024
"""Twice as many are looked at all; then of each doubling so many."""
MOST_LEVEL = 32
OF_LISTS = ("ranking:margin", "ranking:entropy", "ranking:row_age_s")
FULL = "complete"


class SketchState(msgspec.Struct, frozen=True, array_like=True):
    """A sketch as bytes."""

    seen: int
    rows: bytes
    lists: bytes
    categories: bytes
    newcomers: bytes
    degraded: bytes


class TrafficSketch:
    """rows: of the features. lists: of `OF_LISTS`, the age of rows missing where none was stored. degraded: what
    answers had to do without, `complete` if nothing. seen: lists that came, looked at or not.
    """

    def __init__(self, features: int, codes: Sequence[Codes]) -> None:
        self.seen = 0
        self.rows, self.lists = QuantileSketch(features), QuantileSketch(len(OF_LISTS))
        self.categories = CategoryCounts(codes)
        self.degraded = HeavyHitters()

    def __repr__(self) -> str:
        return f"<TrafficSketch of {self.rows.quantities} features [{self.seen} lists]>"

    def absorb(self, rankings: Sequence[Ranked], fits: Callable[[Ranked], bool] = lambda ranking: True) -> None:
        """Counts the rankings that fit the profile.

        Past twice `LISTS` a list is looked at if its id's hash says so, and stands for those that are not: after each
        doubling half as many are.
        """
        level = min(max((self.seen // LISTS).bit_length() - 1, 0), MOST_LEVEL)
        self.seen += len(rankings)
        drawn = [one for one in rankings if (not level or _is_drawn(one.ranking_id, level)) and fits(one)]
        if not drawn:
            return
        each = 1 << level
        joined = b"".join([one.features for one in drawn])
        rows = np.frombuffer(joined, dtype="<f4").reshape(-1, self.rows.quantities)
        self.rows.update(rows, level)
        ages = [np.nan if one.row_age_s is None else one.row_age_s for one in drawn]
        told = [(one.margin, one.entropy, age) for one, age in zip(drawn, ages, strict=True)]
        with np.errstate(over="ignore"):  # past float32 is not finite: missing
            self.lists.update(np.array(told, dtype=np.float64).astype(np.float32), level)
        self.categories.update(rows, each)
        self.degraded.update([_lacked(reason) for one in drawn for reason in one.degraded or (FULL,)], each)

    def merge(self, other: "TrafficSketch") -> "TrafficSketch":
        """Of both, which count by the same profile."""
        merged = TrafficSketch(self.rows.quantities, self.categories.codes)
        merged.seen = self.seen + other.seen
        merged.rows, merged.lists = self.rows.merge(other.rows), self.lists.merge(other.lists)
        merged.categories = self.categories.merge(other.categories)
        merged.degraded = self.degraded.merge(other.degraded)
        return merged

    def state(self) -> SketchState:
        """What `restore` makes this sketch of."""
        parts = (self.rows, self.lists, self.categories, self.categories.newcomers, self.degraded)
        return SketchState(self.seen, *(part.encode() for part in parts))

    @staticmethod
    def restore(state: SketchState, features: int, codes: Sequence[Codes]) -> "TrafficSketch":
        """The sketch again. Raises UnreadableSketch if it is damaged or of another profile."""
        sketch = TrafficSketch(features, codes)
        if not 0 <= state.seen <= MOST_ROWS:
            raise UnreadableSketch(f"a sketch of {state.seen} lists: expected 0 to {MOST_ROWS}")
        sketch.seen = state.seen
        for name, raw, like in (("rows", state.rows, sketch.rows), ("lists", state.lists, sketch.lists)):
            found = QuantileSketch.decode(raw)
            if (found.k, found.quantities) != (like.k, like.quantities):
                raise UnreadableSketch(f"{found!r}, k={found.k}: expected {like.quantities} quantities, k={like.k}")
            setattr(sketch, name, found)
        sketch.categories = CategoryCounts.decode(codes, state.categories, state.newcomers)
        sketch.degraded = HeavyHitters.decode(state.degraded)
        return sketch


def _is_drawn(ranking_id: str, level: int) -> bool:
    return not xxhash.xxh3_64_intdigest(ranking_id.encode()) & ((1 << level) - 1)


def _lacked(reason: str) -> str:
    """Without how many of how many: `stale_rows:3/100` is `stale_rows`."""
    return reason.partition(":")[0]
