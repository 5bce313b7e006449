"""`python -m tests.bench.scaling`: the capacity model against real processes, at 1, 2, 4 and 8 workers.

First the stage costs of this machine are measured, with one worker and a model that does nothing
(`deploy.capacity.measuring`). Then the MLP of the benches is served by more and more workers, all server processes on
one core and the generator on the other, and what the model says before is printed beside what is measured: CPU of a
query by kind of process, and queries a second. With one core for all, more workers are no more capacity: the model must
say that too, and that batches get smaller, so that the fixed part of a pass is paid by fewer.

What is told to the model: costs, candidates, workers, the generator's connections. No throughput.

    predicted CPU of a query  = gateway + worker + archiver + redis at so many candidates + a pass's candidates
                                + what is fixed of a batch and its pass / queries in a batch
                                + what is fixed of a gateway's turn / queries in a turn
    predicted queries/s       = the share of the core that the servers got / that (1 on a machine of one's own: a
                                closed loop keeps the core busy)
    queries in a batch        = those of the connections' queries that are at the workers (their share of the CPU),
                                half of them in the batch, half waiting, over the workers that are there
    queries in a turn         = those at the gateway likewise, or the batch that comes back at once if that is more
"""

import argparse
import platform as machine
import statistics
from dataclasses import dataclass

import numpy as np

from deploy.capacity.measuring import measure as measured_costs
from deploy.capacity.stages import StageCosts
from tests.bench.load import cpu_s, hardware, measure, versions
from tests.bench.platform_under_test import COLUMNS, data_plane, ltr_package, platform_pids
from tests.bench.rank_by_id import GENERATOR_CORE, SERVER_CORE, zipf_requests

KINDS = ("gateway", "worker", "archiver", "redis")


@dataclass(frozen=True, slots=True)
class Foretold:
    """us: CPU of a query by kind; the worker's with its forward passes. batch: queries in one."""

    us: dict[str, float]
    batch: float

    @property
    def whole_us(self) -> float:
        """Of a query."""
        return sum(self.us.values())


def foretell(costs: StageCosts, candidates: int, workers: int, connections: int) -> Foretold:
    """What the model says of so many workers on one core."""
    us = {kind: getattr(costs, kind).of(candidates) for kind in KINDS}
    us["worker"] += costs.forward.per_candidate * candidates
    batch = turn = 1.0
    for _ in range(20):  # batches depend on shares of the CPU, which depend on the batches
        all_us = us | {
            "worker": us["worker"] + (costs.forward.fixed + costs.worker_batch) / batch,
            "gateway": us["gateway"] + costs.gateway_turn / turn,
        }
        share = {kind: spent / sum(all_us.values()) for kind, spent in all_us.items()}
        batch = max(1.0, connections * share["worker"] / 2 / workers)
        turn = max(batch, connections * share["gateway"] / 2)
    return Foretold(all_us, batch)


def main() -> None:
    """Measures, foretells, measures, prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--candidates", type=int, default=100)
    parser.add_argument("--connections", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=4.0, help="a cell")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--items", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=7)
    told = parser.parse_args()
    print(f"{hardware()}; Python {machine.python_version()}, {versions()}; seed {told.seed}")
    print(f"one core for all servers, {told.candidates} candidates, {told.connections} connections")
    costs = measured_costs(COLUMNS, told.seconds, told.seed, lambda _: None)
    rng = np.random.default_rng(told.seed)
    items = [f"item-{place:07d}" for place in range(told.items)]
    values = rng.standard_normal((told.items, COLUMNS), dtype=np.float32)
    package = ltr_package("bench", told.seed)
    requests = zipf_requests(items, told.candidates, 500, told.seed)
    print(
        "\n| workers | core, got | queries/s, foretold | measured | error | CPU us, foretold | measured | error "
        "| gateway | worker | batch, foretold | p99 ms | wrong |\n"
        "|---:|---:|---:|---:|---:|---:|---:|---:|---|---|---:|---:|---:|"
    )
    for workers in told.workers:
        said = foretell(costs, told.candidates, workers, told.connections)
        rates, p99s, wrong = [], [], 0
        used: dict[str, list[float]] = {kind: [] for kind in KINDS}
        with data_plane([package], SERVER_CORE, items, values, workers=workers) as (settings, state):
            pids = {
                kind: [one.pid for one in state.processes if one.pid and one.name.startswith(kind)] for kind in KINDS
            }
            # each worker has tiers of its own, and sees one of so many queries: they are warm after so many rounds
            for number in range(-workers, told.rounds):
                before = {kind: cpu_s(pids[kind]) for kind in KINDS}
                took = measure(
                    settings.gateway_port,
                    requests,
                    b'"position":10',
                    told.connections,
                    told.seconds,
                    GENERATOR_CORE,
                    platform_pids(state),
                )
                spent = {kind: cpu_s(pids[kind]) - before[kind] for kind in KINDS}
                if number < 0:
                    continue
                rates.append(took.requests_s)
                p99s.append(took.p99_ms)
                wrong += took.wrong
                for kind in KINDS:  # of the same queries and those that warmed the generator up: shares are what counts
                    used[kind].append(took.server_cpu_us * spent[kind] / sum(spent.values()))
        rate, whole = statistics.median(rates), sum(statistics.median(used[kind]) for kind in KINDS)
        got = whole * rate / 1e6  # what other work on the machine left
        foretold = got * 1e6 / said.whole_us
        gateway, worker = (
            f"{said.us[kind]:.0f} / {statistics.median(used[kind]):.0f}" for kind in ("gateway", "worker")
        )
        print(
            f"| {workers} | {got:.0%} | {foretold:.0f} | {rate:.0f} | {foretold / rate - 1:+.0%} "
            f"| {said.whole_us:.0f} | {whole:.0f} | {said.whole_us / whole - 1:+.0%} | {gateway} | {worker} "
            f"| {said.batch:.1f} | {statistics.median(p99s):.1f} | {wrong} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
