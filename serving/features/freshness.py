"""Which feature values are stale, and which are missing, counted per feature.

A row is written whole and carries one time, `updated_ms`; limits belong to columns. So the value
of a column is stale when the row is older than that column's `freshness_s`, whatever the limits of
its neighbours; a column without a limit is never stale. A row counts as stale, and marks the
answer degraded, when at least one of its values is: when it is past the strictest limit. Where
there is no row at all every stored column is missing, and none is stale; a row may also lack single
values.
"""

import time
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from registry.contracts.features import FeatureView, missing_columns
from serving import metrics
from serving.tally import CounterRowTally


class ValueCounts:
    """Counts what a tier hands out of one view. One thread uses it.

    now_ms: the clock that rows are stamped by, milliseconds since the epoch.
    """

    def __init__(self, view: FeatureView, now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000) -> None:
        columns = view.of_source("row")
        self._columns = len(columns)
        names = [column.name for column in columns]
        limits = np.array([np.inf if c.freshness_s is None else c.freshness_s * 1000 for c in columns])
        self._limits_ms, self._limit_of = np.unique(limits, return_inverse=True)
        self._strictest_ms = float(self._limits_ms[0]) if len(columns) else float("inf")
        self._now_ms = now_ms
        self._stale = CounterRowTally([metrics.STALE_VALUES.labels(view.name, name) for name in names])
        self._missing = CounterRowTally([metrics.MISSING_VALUES.labels(view.name, name) for name in names])

    def count(self, updated_ms: NDArray[np.uint64], missing: NDArray[np.uint8] | None = None) -> None:
        """updated_ms: uint64 (rows,), 0 where there is no row. missing: values that rows lack, see `tier.Rows`."""
        if missing is not None:
            self._missing.inc(missing_columns(missing, self._columns).sum(axis=0))
        if not len(updated_ms):
            return
        oldest_ms = int(updated_ms.min())
        if oldest_ms == 0:
            present = updated_ms[updated_ms != 0]
            self._missing.inc(len(updated_ms) - len(present))
            if not len(present):
                return
            updated_ms, oldest_ms = present, int(present.min())
        now_ms = self._now_ms()
        if now_ms - oldest_ms > self._strictest_ms:
            ages_ms = np.sort(now_ms - updated_ms.astype(np.float64))
            past = len(ages_ms) - np.searchsorted(ages_ms, self._limits_ms, side="right")
            self._stale.inc(past[self._limit_of])
