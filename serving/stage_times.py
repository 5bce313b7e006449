"""Where the time of answered queries went, by model and stage: for the counter board, from which the console reads it.

The hot path appends one tuple a query; the buckets are found for a whole flush at once.
"""

from itertools import chain

import numpy as np
from numpy.typing import NDArray

from registry.contracts.counters import STAGE_BOUNDS_MS, STAGE_BUCKETS, STAGES, StageCounters

_BOUNDS_S = np.array(STAGE_BOUNDS_MS) / 1000
_FIRST_PLACES = np.arange(len(STAGES)) * STAGE_BUCKETS

Seconds = tuple[float, float, float, float, float]
"""Of one query, by stage, in the order of STAGES."""


class StageTimes:
    """One thread notes and flushes, another may read what was flushed."""

    def __init__(self) -> None:
        self._pending: dict[str, list[Seconds]] = {}
        self._counts: dict[str, NDArray[np.int64]] = {}

    def note(self, model: str, seconds: Seconds) -> None:
        """One more answered query."""
        try:
            self._pending[model].append(seconds)
        except KeyError:
            self._pending[model] = [seconds]

    def flush(self) -> None:
        """Counts what was noted since the last time."""
        for model, pending in self._pending.items():
            if not pending:
                continue
            self._pending[model] = []
            seconds = np.fromiter(chain.from_iterable(pending), np.float64, len(pending) * len(STAGES))
            places = np.searchsorted(_BOUNDS_S, seconds).reshape(-1, len(STAGES)) + _FIRST_PLACES
            counted = np.bincount(places.ravel(), minlength=len(STAGES) * STAGE_BUCKETS)
            fresh = counted.reshape(len(STAGES), STAGE_BUCKETS)
            known = self._counts.get(model)
            # not changed in place: another thread may be reading
            self._counts = self._counts | {model: fresh if known is None else known + fresh}

    def counters(self) -> tuple[StageCounters, ...]:
        """As they stand, by model; for any thread."""
        return tuple(
            StageCounters(model, tuple(tuple(stage) for stage in counts.tolist()))
            for model, counts in sorted(self._counts.items())
        )
