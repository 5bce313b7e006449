"""Sketches of the windows that are open, of each the whole: segments are too many to have one each."""

from collections.abc import Iterable, Sequence

import msgspec

from drift.sketches.traffic import SketchState, TrafficSketch
from drift.windows.reference import Reference
from drift.windows.window import WindowKey, restored
from registry.contracts.events import Ranked

MOST = 64
"""Windows with a sketch at once, of some 0.5 MB each with 200 features; those that open later go without."""


class KeptSketch(msgspec.Struct, frozen=True):
    """For a snapshot. digest: of the profile it counts by."""

    key: WindowKey
    digest: str
    sketch: SketchState


class OpenSketches:
    """By window; which segment a ranking is of does not matter here."""

    def __init__(self, most: int = MOST) -> None:
        self._most = most
        self._open: dict[WindowKey, tuple[TrafficSketch, Reference]] = {}

    def __len__(self) -> int:
        return len(self._open)

    def absorb(self, key: WindowKey, rankings: Sequence[Ranked], reference: Reference | None) -> None:
        """Counts rankings that the window of that key took in."""
        if reference is None or (key not in self._open and len(self._open) >= self._most):
            return
        if key not in self._open:
            self._open[key] = TrafficSketch(reference.features, reference.codes), reference
        self._open[key][0].absorb(rankings, reference.fits)

    def take(self, key: WindowKey) -> TrafficSketch | None:
        """The sketch of a window that is over, if it has one."""
        sketch, _ = self._open.pop(key, (None, None))
        return sketch

    def states(self) -> tuple[KeptSketch, ...]:
        """For a snapshot."""
        return tuple(KeptSketch(key, of.digest, sketch.state()) for key, (sketch, of) in self._open.items())

    def restore(self, kept: Iterable[KeptSketch], references: dict[WindowKey, Reference | None]) -> None:
        """Opens the sketches of a snapshot, but for those of another profile. references: by window."""
        for one in kept:
            reference = references.get(one.key)
            if reference is not None and reference.digest == one.digest:
                sketch = restored(one.sketch, reference)
                if sketch is not None:
                    self._open[one.key] = sketch, reference
