"""Metrics for the hot path: counted in plain Python, handed to prometheus_client now and then.

In multiprocess mode an `observe` packs three numbers into a memory-mapped file, some 3 us; five
stages of a query would cost more than routing it. A tally costs a tenth of that, and is at most
one flush behind.
"""

from bisect import bisect_left
from collections import Counter as Counts
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from prometheus_client import Counter, Histogram

FLUSH_EVERY_S = 0.5


class Flushed(Protocol):
    """What hands over its counts now and then."""

    def flush(self) -> None:
        """Hands over what was counted since the last time; on the thread that counts."""
        ...


_all: list[Flushed] = []


def flush_with_the_rest(counts: Flushed) -> None:
    """Has `flush` see to these counts, too."""
    _all.append(counts)


class CounterTally:
    """A counter's child, buffered. One thread increments it."""

    __slots__ = ("_child", "_pending")

    def __init__(self, child: Counter) -> None:
        self._child, self._pending = child, 0.0
        _all.append(self)

    def inc(self, amount: float = 1.0) -> None:
        """As `Counter.inc`."""
        self._pending += amount

    def flush(self) -> None:
        """Hands over what was counted since the last time."""
        pending, self._pending = self._pending, 0.0
        if pending:
            self._child.inc(pending)


class CounterRowTally:
    """Several of a counter's children side by side, buffered. One thread increments them."""

    __slots__ = ("_children", "_pending")

    def __init__(self, children: Sequence[Counter]) -> None:
        self._children = children
        self._pending = np.zeros(len(children), dtype=np.int64)
        _all.append(self)

    def inc(self, amounts: NDArray[np.int64] | int) -> None:
        """amounts: (children,), or one for all of them."""
        self._pending += amounts

    def flush(self) -> None:
        """Hands over what was counted since the last time."""
        pending, self._pending = self._pending, np.zeros_like(self._pending)
        for place in pending.nonzero()[0].tolist():
            self._children[place].inc(int(pending[place]))


class HistogramTally:
    """A histogram's child, buffered. One thread observes it."""

    __slots__ = ("_bounds", "_child", "_values", "observe")

    def __init__(self, child: Histogram) -> None:
        self._child = child
        self._bounds: list[float] = list(child._upper_bounds)
        self._values: list[float] = []
        self.observe: Callable[[float], None] = self._values.append
        """As `Histogram.observe`."""
        _all.append(self)

    def flush(self) -> None:
        """Hands over what was observed since the last time."""
        count = len(self._values)
        if not count:
            return
        values = self._values[:count]
        del self._values[:count]  # the list stays the one that `observe` appends to
        # prometheus_client can observe a value, but not add a histogram: hence its inner parts
        self._child._sum.inc(sum(values))
        counts = Counts(bisect_left(self._bounds, value) for value in values)
        for place, seen in counts.items():
            self._child._buckets[place].inc(seen)


def flush() -> None:
    """Hands over everything; for a timer, and for whoever is about to read the metrics."""
    for tally in _all:
        tally.flush()
