"""Waits before servers: closed forms, and the server that takes all who wait at once.

Seconds and rates per second. A load of one or more has no steady state: waits are infinite then.
"""

from dataclasses import dataclass
from functools import lru_cache
from math import exp, inf, log

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

_MOST_BATCHES = 6  # of waiting ahead that the chain is solved for, in batches
_LEAST_STATES = 120
_MOMENTS = 8  # of a batch at which a query may come
_NODES = ((-(3**0.5), 1 / 6), (0.0, 2 / 3), (3**0.5, 1 / 6))  # a bell in three points (Gauss-Hermite)


def wait_mg1_s(rate_s: float, service_s: float, variation: float) -> float:
    """Mean wait before one server: Poisson arrivals, any service time.

    variation: squared coefficient of variation of the service time: 0 constant (M/D/1), 1 exponential (M/M/1).
    Source: Pollaczek-Khinchine, L. Kleinrock, Queueing Systems I, 1975, 5.6.

    >>> round(wait_mg1_s(0.5, 1.0, 1.0), 6), round(wait_mg1_s(0.5, 1.0, 0.0), 6)
    (1.0, 0.5)
    """
    load = rate_s * service_s
    return inf if load >= 1 else load * service_s * (1 + variation) / (2 * (1 - load))


def wait_quantile_s(mean_wait_s: float, waits: float, share: float) -> float:
    """Of the wait, if those who wait do so exponentially: exact for M/M/c. waits: chance of having to.

    >>> round(wait_quantile_s(1.0, 0.5, 0.99), 3), wait_quantile_s(1.0, 0.5, 0.4)
    (7.824, 0.0)
    """
    if waits <= 1 - share:
        return 0.0
    return mean_wait_s / waits * log(waits / (1 - share))


@dataclass(frozen=True, slots=True)
class BatchServer:
    """One server that, whenever it is free, takes all who wait, up to `most`, at once. Poisson arrivals.

    fixed_s, per_query_s: a batch of b takes fixed_s + b * per_query_s.

    The chain of how many wait when a batch ends is solved: of n, b = min(n, most) are taken, and those who come while
    they
    are served are Poisson; with none waiting the next one who comes is served alone. Where the chain is cut off (six
    batches, 120 queries at least), those above count as there.
    Source: N. T. J. Bailey, On queueing processes with bulk service, J. Royal Stat. Soc. B 16, 1954; for inference with
    batch times along a line, Y. Inoue, Queueing analysis of GPU-based inference servers with dynamic batching,
    Performance Evaluation 147, 2021.
    """

    fixed_s: float
    per_query_s: float
    most: int

    def batch_s(self, queries: int) -> float:
        """Of a batch."""
        return self.fixed_s + self.per_query_s * queries

    @property
    def capacity_s(self) -> float:
        """Queries a second of full batches: the most there is."""
        return self.most / self.batch_s(self.most)

    def at(self, rate_s: float) -> "BatchLoad":
        """In equilibrium at this rate."""
        return _solved(self, rate_s)

    def solve(self, rate_s: float) -> "BatchLoad":
        """`at`, worked out anew."""
        if rate_s >= self.capacity_s:
            return BatchLoad(1.0, float(self.most), np.array([inf]), np.array([1.0]), inf)
        size = max(_MOST_BATCHES * self.most, _LEAST_STATES) + 1
        waiting = np.arange(size)
        taken = np.minimum(np.maximum(waiting, 1), self.most)
        left = np.maximum(waiting - taken, 0)
        took_s = self.fixed_s + self.per_query_s * taken
        chances = _poisson(rate_s * took_s, size)
        chain = np.zeros((size, size))
        for state in range(size):
            room = size - left[state]
            chain[state, left[state] :] = chances[state, :room]
            chain[state, -1] += chances[state, room:].sum() + max(0.0, 1 - chances[state].sum())
        equations = chain.T - np.eye(size)
        equations[-1] = 1.0
        here = np.maximum(np.linalg.solve(equations, np.eye(size)[-1]), 0.0)
        here /= here.sum()
        busy_s = float(here @ took_s)
        idle_s = float(here[0]) / rate_s
        return self._latencies(rate_s, here, taken, left, took_s, idle_s / (busy_s + idle_s), busy_s)

    def most_rate_s(self, share: float, within_s: float) -> float:
        """The most queries a second of which this share is answered within so long; 0 if none are."""
        low, high = 0.0, 0.97 * self.capacity_s
        if self.batch_s(1) > within_s:
            return 0.0
        if self.at(high).quantile_s(share) <= within_s:
            return high
        for _ in range(12):
            middle = (low + high) / 2
            low, high = (middle, high) if self.at(middle).quantile_s(share) <= within_s else (low, middle)
        return low

    def _latencies(
        self,
        rate_s: float,
        here: Floats,
        taken: NDArray[np.int64],
        left: NDArray[np.int64],
        took_s: Floats,
        idle: float,
        busy_s: float,
    ) -> "BatchLoad":
        """Of one who finds the server at work: the rest of that batch, full ones before its own, and its own."""
        size = len(here)
        moments = (np.arange(_MOMENTS) + 0.5) / _MOMENTS
        seen = here * took_s / busy_s  # what one who comes finds at work
        keep = seen > 1e-9
        seen, took_s, left = seen[keep], took_s[keep], left[keep]
        earlier = np.arange(size)
        seconds, weights = [np.array([self.batch_s(1)])], [np.array([idle])]
        for passed in moments:
            came = _poisson(rate_s * took_s * passed, size)  # before this one, into the same wait
            before = left[:, None] + earlier
            ahead = before // self.most
            later = rate_s * took_s[:, None] * (1 - passed)  # come after it, and may share its batch
            for aside, share in _NODES:
                mates = before + 1 - ahead * self.most + np.maximum(later + aside * np.sqrt(later), 0)
                own_s = self.fixed_s + self.per_query_s * np.minimum(mates, self.most)
                seconds.append((took_s[:, None] * (1 - passed) + ahead * self.batch_s(self.most) + own_s).ravel())
                weights.append(((1 - idle) * share / _MOMENTS * seen[:, None] * came).ravel())
        found_s, chance = np.concatenate(seconds), np.concatenate(weights)
        order = np.argsort(found_s)
        mean = float(here @ taken)
        return BatchLoad(1 - idle, mean, found_s[order], np.cumsum(chance[order]) / chance.sum(), rate_s)


@dataclass(frozen=True, slots=True)
class BatchLoad:
    """busy: share of time at work. That is not how full it is: a small batch keeps it as busy as a full one.
    batch: mean queries in one. latencies_s, shares: distribution of wait and service, ascending."""

    busy: float
    batch: float
    latencies_s: Floats
    shares: Floats
    rate_s: float

    def quantile_s(self, share: float) -> float:
        """Of wait and service together."""
        return float(self.latencies_s[min(int(np.searchsorted(self.shares, share)), len(self.latencies_s) - 1)])

    @property
    def mean_s(self) -> float:
        """Of wait and service together."""
        return float(self.latencies_s @ np.diff(self.shares, prepend=0.0))


@lru_cache(maxsize=256)
def _solved(server: BatchServer, rate_s: float) -> BatchLoad:
    return server.solve(rate_s)


def _poisson(means: Floats, size: int) -> Floats:
    """Chances of 0, 1, ... size - 1. Shape (means, size)."""
    counts = np.arange(size)
    logs = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, size)))]) if size > 1 else np.zeros(1)
    found: Floats = np.exp(counts * np.log(np.maximum(means, exp(-700)))[:, None] - means[:, None] - logs)
    return found
