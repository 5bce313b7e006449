"""What breaks first from ten to a million queries a second, each limit computed from the same costs."""

from collections.abc import Sequence
from dataclasses import dataclass

from deploy.capacity.demand import Demand
from deploy.capacity.fleet import NETWORK_BYTES_S, SHARD_BYTES, USE, USE_BEHIND, Fleet, gateway_server, plan
from deploy.capacity.stages import StageCosts

ORDERS = tuple(10.0**power for power in range(1, 7))
DESCRIPTORS = 1024
"""Open files of a process, as most systems allow: a gateway has a connection to each worker."""
NODES = 5000
"""Of one Kubernetes cluster. Source: Kubernetes documentation, Considerations for large clusters (v1.35)."""
ARCHIVE_DAY_BYTES = 10e12


@dataclass(frozen=True, slots=True)
class Limit:
    """what: fills up at this rate (queries a second at the peak). do: what takes the limit away, or to the next
    order."""

    what: str
    rate_s: float
    do: str


@dataclass(frozen=True, slots=True)
class Order:
    """One line of the table. breaks: limits between the rate before and this one, the first of them first. next: the
    first beyond."""

    rate_s: float
    fleet: Fleet
    breaks: tuple[Limit, ...]
    next: Limit


def limits(demand: Demand, costs: StageCosts) -> list[Limit]:
    """All of them, the lowest rate first. Those that the demand never meets are left out."""
    n = demand.candidates
    one = plan(demand, costs)
    width = demand.columns / costs.columns
    event_bytes = costs.event.of(demand.shown) * width
    miss = n * (1 - one.hit_ratio) * costs.redis_row * width
    cpu_us = sum(cost.of(n) for cost in (costs.worker, costs.archiver, costs.redis))
    gateway = gateway_server(n, costs)
    cpu_us += 1e6 / gateway.capacity_s + costs.worker_batch / one.batch
    cpu_us += costs.monitor.of(demand.shown) + (costs.forward.of(n) if demand.device == "cpu" else 0)
    per_node = demand.machine_cores if demand.device == "cpu" else 8
    archive_query = one.archive_bytes_day / (demand.peak_s * 86_400)  # at the mean, by the peak
    workers_rate_s = one.worker_rate_s
    found = [
        Limit(
            "one worker", workers_rate_s, "add workers (SLUICE_WORKERS, the autoscaler): gateways balance by themselves"
        ),
        Limit(
            "one gateway process",
            USE * gateway.capacity_s,
            "add gateways: they share the port, or stand behind nginx",
        ),
        Limit(
            f"one machine of {demand.machine_cores} cores",
            USE * demand.machine_cores * 1e6 / cpu_us,
            "go to Kubernetes: the same processes, Redis Cluster, PostgreSQL",
        ),
        Limit(
            "one archiver",
            USE_BEHIND * 1e6 / costs.archiver.of(n),
            "several consumers of the group; Kafka with as many partitions",
        ),
        Limit(
            "one drift monitor",
            USE_BEHIND * 1e6 / costs.monitor.of(demand.shown),
            "count a sample: windows need thousands of lists, not millions",
        ),
        Limit(
            "one event stream: Redis' core",
            USE * 1e6 / costs.redis.of(n),
            "the Kafka transport: a stream is one key, on one shard",
        ),
        Limit(
            "one event stream: 10 Gbit/s, written once, read twice",
            USE * NETWORK_BYTES_S / (3 * event_bytes),
            "the Kafka transport; fewer columns in events",
        ),
        Limit("the autoscaler's 32 workers", 32 * workers_rate_s, "raise maxReplicas, and quota and nodes with it"),
        Limit(
            f"{DESCRIPTORS} workers a gateway: its descriptors, and a choice among all of them for each query",
            DESCRIPTORS * workers_rate_s,
            "cells: several fleets of at most some hundred workers, a unit's hash in front",
        ),
        Limit(
            f"{NODES} nodes of a cluster ({per_node} {'GPUs' if demand.device == 'gpu' else 'cores'} each)",
            NODES * per_node * workers_rate_s,
            "several clusters, by region",
        ),
    ]
    stream_query = 3600 * demand.stream_hours * event_bytes * demand.usual_s / demand.peak_s
    found.append(
        Limit(
            f"one event stream: memory for {demand.stream_hours:g} h without a reader",
            USE * SHARD_BYTES / stream_query,
            "a shorter --stream-hours, or the Kafka transport, which keeps events on disk",
        )
    )
    if miss > 0:
        found.append(
            Limit("one Redis shard for rows", USE * 1e6 / miss, "more shards; more --tier-rows, which misses less")
        )
    if archive_query > 0:
        found.append(
            Limit(
                "10 TB of archive a day",
                ARCHIVE_DAY_BYTES / 86_400 / archive_query,
                "keep features of a sample; the gates need ids",
            )
        )
    if demand.updates_s > 0:
        room = (USE * 1e6 / demand.updates_s - 1) * workers_rate_s
        if room > 0:
            found.append(
                Limit(
                    "changed rows told to every worker",
                    room,
                    "cells that hold a part of the catalogue each; batch the updates",
                )
            )
    return sorted(found, key=lambda limit: limit.rate_s)


def orders(demand: Demand, costs: StageCosts, rates: Sequence[float] = ORDERS) -> list[Order]:
    """A line for each rate, ascending; mean, catalogue and all else as in the demand."""
    all_limits = limits(demand, costs)
    lines, before = [], 0.0
    for rate_s in rates:
        breaks = tuple(limit for limit in all_limits if before < limit.rate_s <= rate_s)
        beyond = next((limit for limit in all_limits if limit.rate_s > rate_s), all_limits[-1])
        lines.append(Order(rate_s, plan(demand.at(rate_s), costs), breaks, beyond))
        before = rate_s
    return lines
