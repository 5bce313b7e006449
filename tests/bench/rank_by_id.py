"""`python -m tests.bench.rank_by_id`: what `/v1/models/{model}/rank` costs, beside the bare forward pass.

100 candidates by id, top_k 10, everything on: routing, permits, metrics, event log, archive. All
server processes on one core, the generator on another; the floor is the same exported program
called in a loop on the server's core, with no server around it.
"""

import argparse
import importlib.metadata
import json
import os
import platform as machine
import statistics
import time

import numpy as np

from registry.contracts.manifest import ModelPackage
from tests.bench.load import Measured, cpu_s, hardware, measure, post, pss_mb
from tests.bench.platform_under_test import COLUMNS, data_plane, ltr_package, platform_pids

SERVER_CORE, GENERATOR_CORE = 0, 1
VERSIONS = ("torch", "numpy", "uvicorn", "uvloop", "fastapi", "redis")


def floor_us(package: ModelPackage, rows: int, seed: int, seconds: float) -> float:
    """Median microseconds of one forward pass of the exported program on the server's core."""
    import torch

    from serving.program import TorchProgram, warm_up

    everywhere = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {SERVER_CORE})
    torch.set_num_threads(1)
    program = TorchProgram(package, "cpu")
    warm_up(program, COLUMNS)
    matrix = np.random.default_rng(seed).standard_normal((rows, COLUMNS), dtype=np.float32)
    index = np.zeros(rows, dtype=np.int64)
    took = []
    until_s = time.perf_counter() + seconds
    while time.perf_counter() < until_s:
        began_s = time.perf_counter()
        program.score(matrix, index)
        took.append(time.perf_counter() - began_s)
    os.sched_setaffinity(0, everywhere)
    return statistics.median(took) * 1e6


def zipf_requests(items: list[str], candidates: int, count: int, seed: int) -> list[bytes]:
    """Requests for distinct items, popular ones more often (Zipf 1.0)."""
    rng = np.random.default_rng(seed)
    weights = 1 / np.arange(1, len(items) + 1)
    weights /= weights.sum()
    requests = []
    for number in range(count):
        chosen = rng.choice(len(items), candidates, replace=False, p=weights)
        body = {
            "unit": f"u{number}",
            "query": {"id": f"q{number}"},
            "candidates": [items[i] for i in chosen],
            "top_k": 10,
        }
        requests.append(post("/v1/models/bench/rank", json.dumps(body).encode()))
    return requests


def main() -> None:
    """Runs and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=3.0, help="a cell")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--candidates", type=int, default=100)
    parser.add_argument("--items", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--null", action="store_true", help="a model that does nothing: what serving alone costs")
    told = parser.parse_args()
    rng = np.random.default_rng(told.seed)
    items = [f"item-{i:07d}" for i in range(told.items)]
    values = rng.standard_normal((told.items, COLUMNS), dtype=np.float32)
    package = ltr_package("bench", told.seed, told.null)
    requests = zipf_requests(items, told.candidates, 500, told.seed)
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in VERSIONS)
    print(f"{hardware()}; Python {machine.python_version()}, {versions}; seed {told.seed}")
    print(f"{told.candidates} candidates by id of {told.items} items (Zipf 1.0), {COLUMNS} stored columns, top_k 10\n")
    cells: dict[int, list[Measured]] = {1: [], 8: [], 32: []}
    floors = []
    with data_plane([package], SERVER_CORE, items, values) as (settings, state):
        pids = platform_pids(state)
        by_process: dict[str, list[float]] = {process.name: [] for process in state.processes if process.pid}
        for _ in range(told.rounds):
            for concurrency, measured in cells.items():
                floors.append(floor_us(package, told.candidates, told.seed, 0.3))
                before = {process.name: cpu_s([process.pid]) for process in state.processes if process.pid}
                measured.append(
                    measure(
                        settings.gateway_port,
                        requests,
                        b'"position":10',
                        concurrency,
                        told.seconds,
                        GENERATOR_CORE,
                        pids,
                    )
                )
                if concurrency == max(cells):  # warm-up included, whose queries are counted by the rate
                    for process in state.processes:
                        if process.pid:
                            used_s = cpu_s([process.pid]) - before[process.name]
                            by_process[process.name].append(used_s)
        memory = {process.name: pss_mb(process.pid) for process in state.processes if process.pid}
    floor = statistics.median(floors)
    print(
        "| concurrency | queries/s | of the floor | p50 ms | p99 ms "
        "| server CPU us/query | beyond the forward pass | wrong |"
    )
    print("|---:|---:|---:|---:|---:|---:|---:|---:|")
    for concurrency, measured in cells.items():
        rate = statistics.median(cell.requests_s for cell in measured)
        cpu = statistics.median(cell.server_cpu_us for cell in measured)
        print(
            f"| {concurrency} | {rate:.0f} | {rate * floor / 1e6:.2f} "
            f"| {statistics.median(cell.p50_ms for cell in measured):.2f} "
            f"| {statistics.median(cell.p99_ms for cell in measured):.2f} "
            f"| {cpu:.0f} | {cpu - floor:.0f} | {sum(cell.wrong for cell in measured)} |"
        )
    print(f"\nfloor: {floor:.0f} us a forward pass of {told.candidates} rows, {1e6 / floor:.0f}/s, no server")
    shares = {name: statistics.median(used) for name, used in by_process.items()}
    whole = sum(shares.values())
    most = statistics.median(cell.server_cpu_us for cell in cells[max(cells)])
    print(
        f"CPU us/query by process at concurrency {max(cells)}: "
        + ", ".join(f"{name} {most * used / whole:.0f}" for name, used in shares.items())
    )
    print("PSS MB: " + ", ".join(f"{name} {size:.0f}" for name, size in memory.items()))


if __name__ == "__main__":
    main()
