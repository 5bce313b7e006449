"""A window: what is known of one version's rankings over a stretch of time, without keeping them.

The list is the unit. Each list gives, for every quantity of `Reference`, its mean, the number of
values behind it and the variance among them. Two sums are kept of that: `pooled`, weighted by the
number of values, is what all rows together look like; `blocks`, weighted by its square, is what
the error of the pooled mean is made of when the rows of a list are alike (`judge`).
"""

import logging
from collections.abc import Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from drift.errors import UnreadableSketch
from drift.moments import FloatArray, Moments
from drift.sketches.traffic import SketchState, TrafficSketch
from drift.windows.batch import Batch
from drift.windows.reference import Reference
from registry.contracts.events import Ranked

log = logging.getLogger(__name__)


class WindowKey(msgspec.Struct, frozen=True, order=True):
    """Times in ms since the epoch, by the gateways' clocks; the end is not part of the window. segment: see
    `segments`, empty for the whole."""

    start_ms: int
    end_ms: int
    model: str
    version: int
    arm: str
    segment: str = ""


class WindowState(msgspec.Struct, frozen=True):
    """A window as bytes. moments: six float64 arrays, bins: int64; both empty without a reference."""

    key: WindowKey
    digest: str
    seen: int
    lists: int
    moments: bytes
    bins: bytes
    sketch: SketchState | None = None


def restored(state: SketchState | None, reference: Reference) -> TrafficSketch | None:
    """The sketch again, None if there was none, or if it is damaged: then the figures are of what comes after."""
    try:
        return None if state is None else TrafficSketch.restore(state, reference.features, reference.codes)
    except UnreadableSketch as error:
        log.warning("a window goes on without its sketch: %s", error)
        return None


class Window:
    """Takes rankings in; its size depends on the profile alone.

    seen: rankings that came; lists: those that were counted. They differ if there is no
    reference, or if rankings do not fit it. sketch: of a window that is over (`sketched`); None of a segment's.
    """

    def __init__(self, key: WindowKey, reference: Reference | None) -> None:
        self.key, self.reference = key, reference
        self.seen = self.lists = 0
        self.sketch: TrafficSketch | None = None
        quantities = len(reference.names) if reference else 0
        self.pooled, self.blocks = Moments.empty(quantities), Moments.empty(quantities)
        self.bins: NDArray[np.int64] = np.zeros(reference.counts.shape if reference else (0, 0), dtype=np.int64)

    def __repr__(self) -> str:
        key = self.key
        of = " ".join(filter(None, (key.arm, key.segment)))
        return f"<Window {key.model}@{key.version} {of} from {key.start_ms} [{self.lists} of {self.seen} lists]>"

    def absorb(self, rankings: Sequence[Ranked]) -> None:
        """Counts the rankings, which belong here."""
        self.seen += len(rankings)
        if self.reference is None:
            return
        fitting = [ranking for ranking in rankings if self.reference.fits(ranking)]
        if not fitting:
            return
        batch = Batch.of(fitting, self.reference)
        self.lists += len(fitting)
        self.pooled = self.pooled.merge(batch.pooled)
        self.blocks = self.blocks.merge(batch.blocks)
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
                if part.sketch is not None:
                    merged.sketch = part.sketch if merged.sketch is None else merged.sketch.merge(part.sketch)
        return merged

    def design_effect(self) -> FloatArray:
        """(quantities,): how many times larger the variance of a mean is for rows coming in lists.

        Measured as the ratio-estimate variance over the one that independent rows would have. A window in which a
        quantity never varies (a rare value that did not come up) tells nothing of it: then the rows of a list are taken
        as all alike.

        Source: Kish, Survey Sampling, 1965, chapters 5 and 6.
        """
        rows, lists = self.pooled, self.blocks
        correction = self.lists / max(self.lists - 1, 1)
        alike = lists.weight / np.where(rows.weight > 0, rows.weight, 1.0)
        measured = correction * lists.spread_about(rows.mean) / np.where(rows.spread > 0, rows.spread, 1.0)
        return np.where(rows.spread > 0, measured, alike)

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
            sketch=self.sketch.state() if self.sketch else None,
        )

    @staticmethod
    def restore(state: WindowState, reference: Reference | None) -> "Window":
        """The window again. Counted by another profile, or with none to be found now, or damaged, it keeps
        only how many rankings it saw, and will be judged `errored`."""
        window = Window(state.key, reference)
        window.seen = state.seen
        if reference is not None and reference.digest == state.digest:
            try:
                sums = np.frombuffer(state.moments).reshape(6, len(reference.names)).copy()
                bins = np.frombuffer(state.bins, dtype=np.int64).reshape(window.bins.shape).copy()
            except ValueError:
                return window
            window.lists, window.bins = state.lists, bins
            window.pooled, window.blocks = Moments(*sums[:3]), Moments(*sums[3:])
            window.sketch = restored(state.sketch, reference)
        return window
