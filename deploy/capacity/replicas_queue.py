"""Queries before replicas, tick by tick: gateways that each send to whom they have least outstanding, batches by
candidates.

All replicas and gateways are arrays; a tick costs the same however many queries it brings. Within a tick a query
comes at
its beginning, and gateways know of an answer by the next tick: waits are too long by a tick at most. A batch starts
at the very moment the one before ends.

Beside what `serving` does this leaves out: priorities, hedges and retries (no replica dies here), and the time between
gateway and worker, which the caller adds.
"""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from deploy.capacity.queueing import BatchServer
from serving.flow.admission import AdmissionRule

Floats = NDArray[np.float64]

BINS_MS = np.concatenate([np.arange(0, 200, 0.5), np.geomspace(200, 60_000, 200)])
"""Edges of the bins that latencies are counted in."""
_ADMISSION_S = 0.1  # how often the bound on queries in flight is looked at


@dataclass(frozen=True, slots=True)
class Served:
    """What a stretch of time came to. latencies: counts by bin of `BINS_MS`, of answered queries; waits: of the same
    before their batch. arrived, refused (429), late (answered after the deadline: 504). busy_s: of all replicas."""

    seconds: float
    arrived: int
    refused: int
    late: int
    busy_s: float
    batches: int
    latencies: NDArray[np.int64]
    waits: NDArray[np.int64]

    def __add__(self, other: "Served") -> "Served":
        return Served(
            self.seconds + other.seconds,
            self.arrived + other.arrived,
            self.refused + other.refused,
            self.late + other.late,
            self.busy_s + other.busy_s,
            self.batches + other.batches,
            self.latencies + other.latencies,
            self.waits + other.waits,
        )


def quantile_ms(counts: NDArray[np.int64], share: float) -> float:
    """Upper edge of the bin in which it lies; 0 if nothing was counted."""
    if not counts.sum():
        return 0.0
    place = int(np.searchsorted(np.cumsum(counts), share * counts.sum()))
    return float(BINS_MS[min(place, len(BINS_MS) - 1)])


@dataclass
class ReplicasQueue:
    """Replicas (as many as `most`, of which some are open at a time) and what waits before them.

    server: of one. gateways: each knows only its own outstanding queries. deadline_s: by which an answer must be there;
    admission: of a model, as gateways have it; None: everybody is let in. tick_s: below the shortest batch.
    """

    server: BatchServer
    most: int
    gateways: int
    deadline_s: float
    tick_s: float
    rng: np.random.Generator
    admission: AdmissionRule | None = field(default_factory=AdmissionRule)

    def __post_init__(self) -> None:
        if self.server.batch_s(1) < self.tick_s:
            raise ValueError(f"tick_s={self.tick_s}: expected at most the shortest batch, {self.server.batch_s(1)} s")
        shape = (self.gateways, self.most)
        self._waiting = np.zeros(shape, np.int64)
        self._working = np.zeros(shape, np.int64)
        self._free_s = np.zeros(self.most)
        self._since: list[Floats] = [np.empty(0) for _ in range(self.most)]  # when those who wait came
        self._limit = float("inf")
        self._hidden = np.where(np.arange(self.most) < 0, 0, 1 << 40)  # of replicas that are not open

    @property
    def outstanding(self) -> int:
        """Queries that wait or are at work."""
        return int(self._waiting.sum() + self._working.sum())

    def run(self, from_s: float, rates: Floats, opened: NDArray[np.bool_]) -> Served:
        """Ticks from from_s on. rates: queries a second in each; opened: which replicas take new queries. A replica
        that is closed serves those it has."""
        ticks = len(rates)
        most, server, dt = self.server.most, self.server, self.tick_s
        counts = self.rng.poisson(rates * dt)
        came = np.zeros((ticks, self.most), np.int64)
        hidden = np.where(opened, 0, 1 << 40)
        places = np.arange(self.most)
        starts: list[tuple[float, int, int]] = []
        refused = 0
        busy_s = 0.0
        queue = self._waiting.sum(axis=0)
        working = np.nonzero(self._working.sum(axis=0))[0].tolist()
        inside = self.outstanding
        free = self._free_s.tolist()
        every = max(1, round(_ADMISSION_S / dt))
        turned_away = False
        noise = self.rng.random((64, self.most)) * 0.5
        for tick in range(ticks):
            now_s = from_s + tick * dt
            if working:
                ended = [replica for replica in working if free[replica] <= now_s]
                if ended:
                    inside -= int(self._working[:, ended].sum())
                    self._working[:, ended] = 0
                    working = [replica for replica in working if free[replica] > now_s]
            count = int(counts[tick])
            if self.admission is not None and tick % every == 0:
                self._admit(int(opened.sum()), int(queue[opened].sum()), turned_away)
                turned_away = False
            if inside + count > self._limit:
                kept = max(0, int(self._limit) - inside)
                refused += count - kept
                count, turned_away = kept, True
            if count:
                inside += count
                self._send(count, hidden, noise[tick % 64], came[tick])
                queue += came[tick]
            for replica in places[queue > 0].tolist():
                if free[replica] >= now_s + dt:
                    continue
                start_s = max(free[replica], now_s)
                waits = int(queue[replica])
                taken = min(waits, most)
                took_s = server.batch_s(taken)
                if working and replica in working:  # ends within this tick, and the next begins
                    inside -= int(self._working[:, replica].sum())
                    self._working[:, replica] = 0
                else:
                    working.append(replica)
                self._take(replica, taken, waits)
                queue[replica] = waits - taken
                free[replica] = start_s + took_s
                busy_s += took_s
                starts.append((start_s, replica, taken))
        self._free_s = np.array(free)
        latencies, waits_s = self._times(from_s, came, starts)
        late = int((latencies > self.deadline_s).sum())
        return Served(
            seconds=ticks * dt,
            arrived=int(counts.sum()),
            refused=refused,
            late=late,
            busy_s=busy_s,
            batches=len(starts),
            latencies=_binned(latencies[latencies <= self.deadline_s]),
            waits=_binned(waits_s),
        )

    def _send(self, count: int, hidden: NDArray[np.int64], noise: Floats, came: NDArray[np.int64]) -> None:
        """Each query by a gateway of its own choice, to the replica of which that one has least outstanding."""
        which = self.rng.integers(0, self.gateways, count)
        while len(which):
            now, first = np.unique(which, return_index=True)  # one of each gateway at a time
            loads = self._waiting[now] + self._working[now] + hidden + self.rng.permutation(noise)
            chosen = loads.argmin(axis=1)
            self._waiting[now, chosen] += 1
            np.add.at(came, chosen, 1)
            if len(now) == len(which):
                return
            which = np.delete(which, first)

    def _take(self, replica: int, taken: int, waits: int) -> None:
        column = self._waiting[:, replica]
        if taken == waits:
            self._working[:, replica] = column
            self._waiting[:, replica] = 0
            return
        part = self.rng.multivariate_hypergeometric(column, taken)  # whose they are does not matter to their order
        self._working[:, replica] = part
        self._waiting[:, replica] = column - part

    def _admit(self, opened: int, waiting: int, reached: bool) -> None:
        """As gateways do, by the share of the deadline that one who comes now would wait (Little's law)."""
        assert self.admission is not None
        if not opened:
            return
        used = waiting / opened / self.server.capacity_s / self.deadline_s
        inside = self.outstanding
        limit = inside if self._limit == float("inf") else self._limit
        late = 1.0 if used > self.admission.aim else 0.0
        if self._limit == float("inf") and not late:
            return
        self._limit = max(float(opened), self.admission.next_limit(limit, inside, used, late, reached))

    def _times(
        self, from_s: float, came: NDArray[np.int64], starts: list[tuple[float, int, int]]
    ) -> tuple[Floats, Floats]:
        """Latency and wait of everybody who was taken into a batch; replicas serve in order of arrival."""
        latencies, waits = [np.empty(0)], [np.empty(0)]
        begun = np.array([start for start, _, _ in starts])
        whose = np.array([replica for _, replica, _ in starts], np.int64)
        sizes = np.array([taken for _, _, taken in starts], np.int64)
        ticks = from_s + np.arange(len(came)) * self.tick_s
        for replica in range(self.most):
            since = np.concatenate([self._since[replica], np.repeat(ticks, came[:, replica])])
            mine = whose == replica
            taken = int(sizes[mine].sum())
            self._since[replica] = since[taken:]
            if taken:
                start = np.repeat(begun[mine], sizes[mine])
                took = np.repeat(self.server.fixed_s + self.server.per_query_s * sizes[mine], sizes[mine])
                waits.append(start - since[:taken])
                latencies.append(start + took - since[:taken])
        return np.concatenate(latencies), np.concatenate(waits)


def _binned(seconds: Floats) -> NDArray[np.int64]:
    places = np.searchsorted(BINS_MS, seconds * 1e3)
    return np.bincount(np.minimum(places, len(BINS_MS) - 1), minlength=len(BINS_MS)).astype(np.int64)
