"""From a user's numbers to gateways, workers, shards, bytes, waits and money."""

from dataclasses import dataclass, replace
from math import ceil

from deploy.capacity.demand import GPU_CANDIDATE_US, GPU_PASS_US, Demand
from deploy.capacity.queueing import BatchServer, wait_mg1_s, wait_quantile_s
from deploy.capacity.residency import hit_ratio
from deploy.capacity.stages import StageCosts
from deploy.errors import SluiceError

USE = 0.6
"""Of what a process that answers somebody can do: at 0.6 of an M/M/1 server 99 % wait less than seven service times."""
TURN_QUERIES = 16
"""That a gateway takes in one turn of its loop at most, as far as it was measured."""
USE_BEHIND = 0.7
"""Of a process that nobody waits for (archiver, drift monitor): what it falls behind in a peak it catches up with."""
NETWORK_BYTES_S = 1.25e9
"""10 Gbit/s: a node of a common kind."""
SHARD_BYTES = 25e9
ROW_OVERHEAD_BYTES = 120  # key, dictionary entry, times
ID_BYTES, ASKED_BYTES, ANSWERED_BYTES, ITEM_BYTES = 14, 260, 420, 60


@dataclass(frozen=True, slots=True)
class Part:
    """Processes of one kind. use: share of what they can do that the peak takes (with none of them gone), and of what:
    the kind's own limit. cores, gpus: of one of them."""

    name: str
    count: int
    use: float
    of: str
    cores: float = 1.0
    gpus: int = 0


@dataclass(frozen=True, slots=True)
class Fleet:
    """What the demand needs. Rates are of the peak, days of the mean.

    hit_ratio: of rows in a worker's tiers. row_reads_s: rows that Redis is asked for. memory_bytes: of rows and stream,
    once. event_bytes_s: into the stream. network_bytes_s: all that processes and clients send each other.
    connections: gateways times workers. p50_ms, p99_ms: predicted, gateway and worker with their waits; the p99s of
    both are added, which is more than the p99 of the sum. busy, batch: of a worker at the peak, queries in a batch.
    worker_rate_s: queries a second that one worker is given at most. cost_hour: of the fleet at its peak size; per
    million queries: at that size all day, and if it follows the load.
    """

    demand: Demand
    parts: tuple[Part, ...]
    hit_ratio: float
    row_reads_s: float
    memory_bytes: float
    event_bytes_s: float
    events_day: float
    event_bytes_day: float
    archive_bytes_day: float
    network_bytes_s: float
    connections: int
    p50_ms: float
    p99_ms: float
    busy: float
    batch: float
    worker_rate_s: float
    worker_capacity_s: float
    cost_hour: float
    cost_million_fixed: float
    cost_million_following: float

    @property
    def bottleneck(self) -> Part:
        """What is fullest: what more traffic would break first if nothing were added."""
        return max(self.parts, key=lambda part: part.use)

    def part(self, name: str) -> Part:
        """By its name."""
        return next(part for part in self.parts if part.name == name)


def batch_server(demand: Demand, costs: StageCosts) -> BatchServer:
    """One worker: on a CPU the pass and all else of a batch take turns on one core; a GPU's passes overlap with it."""
    most = max(1, demand.batch_candidates // demand.candidates)
    if demand.device == "cpu":
        fixed_us = costs.forward.fixed if demand.pass_us is None else demand.pass_us
        candidate_us = costs.forward.per_candidate if demand.candidate_us is None else demand.candidate_us
        return BatchServer(
            (fixed_us + costs.worker_batch) / 1e6,
            (candidate_us * demand.candidates + costs.worker.of(demand.candidates)) / 1e6,
            most,
        )
    fixed_us = GPU_PASS_US if demand.pass_us is None else demand.pass_us
    candidate_us = GPU_CANDIDATE_US if demand.candidate_us is None else demand.candidate_us
    return BatchServer(fixed_us / 1e6, max(candidate_us * demand.candidates, 1e-3) / 1e6, most)


def gateway_server(candidates: int, costs: StageCosts) -> BatchServer:
    """One gateway: a turn of its loop takes all that waits, as a worker's batch does."""
    return BatchServer(costs.gateway_turn / 1e6, costs.gateway.of(candidates) / 1e6, TURN_QUERIES)


def plan(demand: Demand, costs: StageCosts) -> Fleet:
    """The fleet. Raises SluiceError if no number of workers answers within the p99 that is asked for."""
    fleet = _sized(demand, costs)
    usual = _sized(demand.at(demand.usual_s), costs) if demand.usual_s < demand.peak_s else fleet
    million_hours = 1e6 / (demand.usual_s * 3600)
    return replace(
        fleet,
        cost_million_fixed=fleet.cost_hour * million_hours,
        cost_million_following=usual.cost_hour * million_hours,
    )


def _sized(demand: Demand, costs: StageCosts) -> Fleet:
    peak_s, n = demand.peak_s, demand.candidates
    gateway = gateway_server(n, costs)
    gateways = ceil(peak_s / gateway.capacity_s / USE) + demand.spare
    at_gateway = gateway.at(peak_s / gateways)
    gateway_p99_s = at_gateway.quantile_s(0.99)

    server = batch_server(demand, costs)
    worker_rate_s, host_s = _worker_rate_s(demand, costs, server, gateway_p99_s)
    workers = ceil(peak_s / worker_rate_s) + demand.spare
    load = server.at(peak_s / workers)
    host_use = peak_s / workers * host_s
    host_wait_s = wait_mg1_s(peak_s / workers, host_s, 1.0)
    changes = demand.updates_s * costs.invalidation / 1e6  # of a worker's core, whatever its queries
    worker_use = max(peak_s / workers / server.capacity_s, host_use) + changes
    gpus = int(demand.device == "gpu")

    hits = hit_ratio(demand.catalogue, demand.skew, demand.tier_rows, demand.candidates)
    reads_s = peak_s * n * (1 - hits)
    row_bytes = demand.columns * 4 + ROW_OVERHEAD_BYTES
    # an event has the rows of what was shown
    event_bytes = costs.event.of(demand.shown) * (demand.columns / costs.columns)
    archive_bytes = costs.archive.of(demand.shown) * (demand.columns / costs.columns)
    rows_bytes = demand.catalogue * float(row_bytes)
    stream_bytes = demand.usual_s * 3600 * demand.stream_hours * event_bytes
    row_us = costs.redis_row * (demand.columns / costs.columns)
    told_us = demand.updates_s * (1.0 + workers)  # each change is told to every worker that may hold the row
    row_use = (reads_s * row_us + told_us) / 1e6
    row_shards = max(
        ceil(row_use / USE), ceil(rows_bytes / SHARD_BYTES), ceil(reads_s * row_bytes / NETWORK_BYTES_S / USE)
    )
    stream_use = max(
        peak_s * costs.redis.of(n) / 1e6,
        3 * peak_s * event_bytes / NETWORK_BYTES_S,  # in, to the archiver, to the monitor
        stream_bytes / SHARD_BYTES,
    )
    stream_shards = max(1, ceil(stream_use / USE))
    behind = {
        "archiver": peak_s * costs.archiver.of(n) / 1e6,
        "drift monitor": peak_s * costs.monitor.of(demand.shown) / 1e6,
    }
    shards = row_shards + stream_shards
    parts = (
        Part("gateway", gateways, peak_s / gateways / gateway.capacity_s, "a core"),
        Part("worker", workers, worker_use, "a GPU" if gpus else "a core", gpus=gpus),
        Part("Redis: rows", row_shards, max(row_use / row_shards, rows_bytes / SHARD_BYTES / row_shards), "a shard"),
        Part("Redis: events", stream_shards, stream_use / stream_shards, "a shard"),
        *(
            Part(name, max(1, ceil(use / USE_BEHIND)), use / max(1, ceil(use / USE_BEHIND)), "a core")
            for name, use in behind.items()
        ),
    )
    copies = 1 + demand.replicas_of_shard
    memory = rows_bytes + stream_bytes
    prices = demand.prices
    cost_hour = (
        sum(part.count * (part.gpus * prices.gpu_hour or part.cores * prices.core_hour) for part in parts)
        + shards * demand.replicas_of_shard * prices.core_hour
        + memory / 1e9 * copies * prices.memory_gb_hour
    )
    asked = ASKED_BYTES + n * ID_BYTES
    answered = ANSWERED_BYTES + demand.shown * ITEM_BYTES
    archive_day = demand.usual_s * 86_400 * archive_bytes
    return Fleet(
        demand=demand,
        parts=parts,
        hit_ratio=hits,
        row_reads_s=reads_s,
        memory_bytes=memory,
        event_bytes_s=peak_s * event_bytes,
        events_day=demand.usual_s * 86_400,
        event_bytes_day=demand.usual_s * 86_400 * event_bytes,
        archive_bytes_day=archive_day,
        network_bytes_s=2 * peak_s * (asked + answered) + reads_s * row_bytes + 3 * peak_s * event_bytes,
        connections=gateways * workers,
        p50_ms=1e3 * (at_gateway.quantile_s(0.5) + host_s + host_wait_s + load.quantile_s(0.5)),
        p99_ms=1e3 * (gateway_p99_s + host_s + wait_quantile_s(host_wait_s, host_use, 0.99) + load.quantile_s(0.99)),
        busy=load.busy,
        batch=load.batch,
        worker_rate_s=worker_rate_s,
        worker_capacity_s=min(server.capacity_s, 1 / host_s if host_s else server.capacity_s),
        cost_hour=cost_hour + archive_day / 1e9 * prices.archive_gb_month * 12 / 8760,
        cost_million_fixed=0.0,
        cost_million_following=0.0,
    )


def _worker_rate_s(demand: Demand, costs: StageCosts, server: BatchServer, gateway_p99_s: float) -> tuple[float, float]:
    """The most queries a second for one worker, and seconds of its host's core for a query that the device does not
    wait for."""
    on_host = demand.device == "gpu"
    host_us = costs.worker.of(demand.candidates) + costs.worker_batch
    alone_s = gateway_p99_s + (host_us / 1e6 if on_host else 0.0)
    most_s = server.most_rate_s(0.99, demand.p99_ms / 1e3 - alone_s)
    if most_s <= 0:
        raise SluiceError(
            f"a query alone takes {1e3 * (alone_s + server.batch_s(1)):.1f} ms: no number of workers answers within "
            f"{demand.p99_ms:g} ms",
            "a smaller --candidates, --candidate-us or --pass-us, --device gpu, or a larger --p99-ms",
        )
    rate_s = min(most_s, 0.85 * server.capacity_s)
    if not on_host:
        return rate_s, 0.0
    for _ in range(8):  # fewer queries are smaller batches, and those are dearer for the host
        host_us = costs.worker.of(demand.candidates) + costs.worker_batch / server.at(rate_s).batch
        rate_s = min(rate_s, USE * 1e6 / host_us)
    return rate_s, host_us / 1e6
