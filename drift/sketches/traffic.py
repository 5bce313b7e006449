"""What a stretch of traffic looked like, beside its moments and bins: quantiles, categories, freshness.

Shown, never decided on. Its size depends on the profile alone, and its cost on the logarithm of the traffic.
"""

from collections.abc import Sequence

import msgspec
import numpy as np
import xxhash

from drift.errors import UnreadableSketch
from drift.sketches.categories import CategoryCounts, Codes
from drift.sketches.heavy_hitters import HeavyHitters
from drift.sketches.quantiles import QuantileSketch
from registry.contracts.events import RankingEvent

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
    items: bytes


class TrafficSketch:
    """rows: of the features. lists: of `OF_LISTS`, the age of rows missing where none was stored. degraded: what
    answers had to do without, `complete` if nothing. items: that were shown. seen: lists that came, looked at or not.
    """

    def __init__(self, features: int, codes: Sequence[Codes]) -> None:
        self.seen = 0
        self.rows, self.lists = QuantileSketch(features), QuantileSketch(len(OF_LISTS))
        self.categories = CategoryCounts(codes)
        self.degraded, self.items = HeavyHitters(), HeavyHitters()

    def __repr__(self) -> str:
        return f"<TrafficSketch of {self.rows.quantities} features [{self.seen} lists]>"

    def absorb(self, events: Sequence[RankingEvent]) -> None:
        """Counts rankings, which fit the profile.

        Past twice `LISTS` a list is looked at if its id's hash says so, and stands for those that are not: after each
        doubling half as many are.
        """
        level = min(max((self.seen // LISTS).bit_length() - 1, 0), MOST_LEVEL)
        self.seen += len(events)
        drawn = [event for event in events if _is_drawn(event.ranking_id, level)] if level else events
        if not drawn:
            return
        each = 1 << level
        joined = b"".join([event.features for event in drawn])
        rows = np.frombuffer(joined, dtype="<f4").reshape(-1, self.rows.quantities)
        self.rows.update(rows, level)
        ages = [np.nan if event.row_age_s is None else event.row_age_s for event in drawn]
        told = [(event.margin, event.entropy, age) for event, age in zip(drawn, ages, strict=True)]
        self.lists.update(np.array(told, dtype=np.float32), level)
        self.categories.update(rows, each)
        self.degraded.update([_lacked(reason) for event in drawn for reason in event.degraded or (FULL,)], each)
        self.items.update([item for event in drawn for item in event.items], each)

    def merge(self, other: "TrafficSketch") -> "TrafficSketch":
        """Of both, which count by the same profile."""
        merged = TrafficSketch(self.rows.quantities, self.categories.codes)
        merged.seen = self.seen + other.seen
        merged.rows, merged.lists = self.rows.merge(other.rows), self.lists.merge(other.lists)
        merged.categories = self.categories.merge(other.categories)
        merged.degraded, merged.items = self.degraded.merge(other.degraded), self.items.merge(other.items)
        return merged

    def state(self) -> SketchState:
        """What `restore` makes this sketch of."""
        parts = (self.rows, self.lists, self.categories, self.categories.newcomers, self.degraded, self.items)
        return SketchState(self.seen, *(part.encode() for part in parts))

    @staticmethod
    def restore(state: SketchState, features: int, codes: Sequence[Codes]) -> "TrafficSketch":
        """The sketch again. Raises UnreadableSketch if it is damaged or of another profile."""
        sketch = TrafficSketch(features, codes)
        sketch.seen = max(state.seen, 0)
        for name, raw, like in (("rows", state.rows, sketch.rows), ("lists", state.lists, sketch.lists)):
            found = QuantileSketch.decode(raw)
            if (found.k, found.quantities) != (like.k, like.quantities):
                raise UnreadableSketch(f"{found!r}, k={found.k}: expected {like.quantities} quantities, k={like.k}")
            setattr(sketch, name, found)
        sketch.categories = CategoryCounts.decode(codes, state.categories, state.newcomers)
        sketch.degraded, sketch.items = HeavyHitters.decode(state.degraded), HeavyHitters.decode(state.items)
        return sketch


def _is_drawn(ranking_id: str, level: int) -> bool:
    return not xxhash.xxh3_64_intdigest(ranking_id.encode()) & ((1 << level) - 1)


def _lacked(reason: str) -> str:
    """Without how many of how many: `stale_rows:3/100` is `stale_rows`."""
    return reason.partition(":")[0]
