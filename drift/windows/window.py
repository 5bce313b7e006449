"""A window: what is known of one version's rankings over a stretch of time, without keeping them.

The list is the unit. Each list gives, for every quantity of `Reference`, its mean, the number of
values behind it and the variance among them. Two sums are kept of that: `pooled`, weighted by the
number of values, is what all rows together look like; `blocks`, weighted by its square, is what
the error of the pooled mean is made of when the rows of a list are alike (`judge`).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
import numpy as np
from numpy.typing import NDArray

from drift.moments import FloatArray, Moments
from drift.windows.reference import Reference
from registry.contracts.events import RankingEvent


class WindowKey(msgspec.Struct, frozen=True, order=True):
    """Times in ms since the epoch, by the gateways' clocks; the end is not part of the window."""

    start_ms: int
    end_ms: int
    model: str
    version: int
    arm: str


class WindowState(msgspec.Struct, frozen=True):
    """A window as bytes. moments: six float64 arrays, bins: int64; both empty without a reference."""

    key: WindowKey
    digest: str
    seen: int
    lists: int
    moments: bytes
    bins: bytes


class Window:
    """Takes rankings in; its size depends on the profile alone.

    seen: rankings that came; lists: those that were counted. They differ if there is no
    reference, or if rankings do not fit it.
    """

    def __init__(self, key: WindowKey, reference: Reference | None) -> None:
        self.key, self.reference = key, reference
        self.seen = self.lists = 0
        quantities = len(reference.names) if reference else 0
        self.pooled, self.blocks = Moments.empty(quantities), Moments.empty(quantities)
        self.bins: NDArray[np.int64] = np.zeros(reference.counts.shape if reference else (0, 0), dtype=np.int64)

    def __repr__(self) -> str:
        key = self.key
        return f"<Window {key.model}@{key.version} {key.arm} from {key.start_ms} [{self.lists} of {self.seen} lists]>"

    def absorb(self, events: Sequence[RankingEvent]) -> None:
        """Counts the rankings, which belong here."""
        self.seen += len(events)
        if self.reference is None:
            return
        fitting = [event for event in events if self.reference.fits(event)]
        if not fitting:
            return
        batch = _Batch.of(fitting, self.reference)
        self.lists += len(fitting)
        self.pooled = self.pooled.merge(Moments.of(batch.means, batch.sizes, batch.inside))
        self.blocks = self.blocks.merge(Moments.of(batch.means, batch.sizes**2))
        self.bins += batch.bins

    def merge(self, other: "Window") -> "Window":
        """Both as one, over this one's time: what it would be had it taken all rankings in itself.

        Counted by another profile, or by none, the other adds only how many rankings it saw.
        """
        merged = Window(self.key, self.reference or other.reference)
        merged.seen = self.seen + other.seen
        for part in (self, other):
            if part.lists and part.reference is not None and merged.reference is not None:
                if part.reference.digest != merged.reference.digest:
                    continue
                merged.lists += part.lists
                merged.pooled = merged.pooled.merge(part.pooled)
                merged.blocks = merged.blocks.merge(part.blocks)
                merged.bins += part.bins
        return merged

    def state(self) -> WindowState:
        """What `restore` makes this window of."""
        moments = [self.pooled.weight, self.pooled.mean, self.pooled.spread]
        moments += [self.blocks.weight, self.blocks.mean, self.blocks.spread]
        return WindowState(
            key=self.key,
            digest=self.reference.digest if self.reference else "",
            seen=self.seen,
            lists=self.lists,
            moments=np.stack(moments).tobytes(),
            bins=self.bins.tobytes(),
        )

    @staticmethod
    def restore(state: WindowState, reference: Reference | None) -> "Window":
        """The window again. Counted by another profile, or with none to be found now, it keeps
        only how many rankings it saw, and will be judged `errored`."""
        window = Window(state.key, reference)
        window.seen = state.seen
        if reference is not None and reference.digest == state.digest:
            sums = np.frombuffer(state.moments).reshape(6, -1).copy()
            window.lists = state.lists
            window.pooled, window.blocks = Moments(*sums[:3]), Moments(*sums[3:])
            window.bins = np.frombuffer(state.bins, dtype=np.int64).reshape(window.bins.shape).copy()
        return window


@dataclass(frozen=True, slots=True)
class _Batch:
    """means, sizes, inside: (lists, quantities), sizes being the values behind each mean."""

    means: FloatArray
    sizes: FloatArray
    inside: FloatArray
    bins: NDArray[np.int64]

    @staticmethod
    def of(events: Sequence[RankingEvent], reference: Reference) -> "_Batch":
        joined = b"".join(event.features for event in events)
        rows = np.frombuffer(joined, dtype="<f4").reshape(-1, reference.features).astype(np.float64)
        shown = np.array([len(event.items) for event in events])
        starts = np.concatenate([[0], np.cumsum(shown)[:-1]])

        present = np.isfinite(rows)
        sizes = np.add.reduceat(present, starts, axis=0, dtype=np.float64)
        divisors = np.maximum(sizes, 1.0)
        means = np.add.reduceat(np.where(present, rows, 0.0), starts, axis=0) / divisors
        deviations = np.where(present, rows - np.repeat(means, shown, axis=0), 0.0)
        inside = np.add.reduceat(deviations**2, starts, axis=0) / divisors

        length = shown[:, None].astype(np.float64)
        missing = 1.0 - sizes / length
        zero = np.add.reduceat(rows == 0, starts, axis=0, dtype=np.float64) / length

        told = np.array([(e.margin, e.entropy, e.score_mean, e.score_std**2, e.candidates) for e in events])
        sound = np.isfinite(told).all(axis=1, keepdims=True)  # one list's nan would spoil the window
        told = np.where(sound, told, 0.0)
        of_lists, score_variance, candidates = told[:, :3], told[:, 3], told[:, 4]
        list_sizes = np.column_stack([sound, sound, candidates])
        list_inside = np.column_stack([np.zeros((len(events), 2)), score_variance])

        lengths = np.broadcast_to(length, missing.shape)
        feature_bins = _bin_counts(rows, present, reference.edges[: reference.features])
        list_bins = _bin_counts(of_lists[:, :2], np.repeat(sound, 2, axis=1), reference.edges[reference.features :])
        return _Batch(
            means=np.hstack([means, of_lists, missing, zero]),
            sizes=np.hstack([sizes, list_sizes, lengths, lengths]),
            inside=np.hstack([inside, list_inside, missing * (1.0 - missing), zero * (1.0 - zero)]),
            bins=np.vstack([feature_bins, list_bins]),
        )


def _bin_counts(values: FloatArray, present: NDArray[np.bool_], edges: FloatArray) -> NDArray[np.int64]:
    """values, present: (n, quantities); edges: (quantities, bins - 1). Returns (quantities, bins)."""
    quantities, bins = len(edges), edges.shape[1] + 1
    places = np.zeros(values.shape, dtype=np.int64)
    for edge in edges.T:
        places += values >= edge
    flat = places + np.arange(quantities) * bins
    return np.bincount(flat[present], minlength=quantities * bins).reshape(quantities, bins)
