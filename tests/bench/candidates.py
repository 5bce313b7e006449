"""`python -m tests.bench.candidates`: what ten times the candidates cost, beside the forward pass.

100 and 1,000 candidates by id of 20,000 (Zipf 1.0), 136 stored columns, top_k 10, everything on. The
null model has no arithmetic, so all of its cost is ours; with the MLP, ours is what is left of the
server's CPU time after the bare forward pass, which is measured in the same round.
"""

import argparse
import platform as machine
import statistics

import numpy as np

from tests.bench.load import Measured, hardware, measure, versions
from tests.bench.platform_under_test import COLUMNS, data_plane, ltr_package, platform_pids
from tests.bench.rank_by_id import GENERATOR_CORE, SERVER_CORE, floor_us, zipf_requests

CANDIDATES = (100, 1000)
CONCURRENCIES = (1, 8, 32)


def compare(model: str, seed: int, seconds: float, rounds: int, items: list[str]) -> None:
    """Loads both sizes in turns and prints a table."""
    values = np.random.default_rng(seed).standard_normal((len(items), COLUMNS), dtype=np.float32)
    package = ltr_package("bench", seed, null=model == "null")
    requests = {size: zipf_requests(items, size, 300, seed) for size in CANDIDATES}
    cells: dict[tuple[int, int], list[Measured]] = {}
    floors: dict[int, list[float]] = {size: [] for size in CANDIDATES}
    with data_plane([package], SERVER_CORE, items, values) as (settings, state):
        for _ in range(rounds):
            for size in CANDIDATES:
                floors[size].append(floor_us(package, size, seed, 0.3))
            for concurrency in CONCURRENCIES:
                for size in CANDIDATES:
                    measured = measure(
                        settings.gateway_port,
                        requests[size],
                        b'"position":10',
                        concurrency,
                        seconds,
                        GENERATOR_CORE,
                        platform_pids(state),
                    )
                    cells.setdefault((size, concurrency), []).append(measured)
    print(f"\nmodel {model}\n")
    print(
        "| c | candidates | queries/s | p50 ms | p99 ms | server CPU us/query | forward pass | beyond it | of 100's |"
    )
    print("|---:|---:|---:|---:|---:|---:|---:|---:|---:|")
    for concurrency in CONCURRENCIES:
        least = 0.0
        for size in CANDIDATES:
            took, floor = cells[size, concurrency], statistics.median(floors[size])
            if wrong := sum(one.wrong for one in took):
                raise RuntimeError(f"{wrong} wrong answers at {size} candidates, c={concurrency}")
            rate, p50, p99, cpu = (
                statistics.median(getattr(one, what) for one in took)
                for what in ("requests_s", "p50_ms", "p99_ms", "server_cpu_us")
            )
            beyond = cpu - floor
            least = least or beyond
            print(
                f"| {concurrency} | {size} | {rate:.0f} | {p50:.2f} | {p99:.2f} | {cpu:.0f} | {floor:.0f} "
                f"| {beyond:.0f} | {beyond / least:.2f} |"
            )


def main() -> None:
    """Runs and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=3.0, help="a cell")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--items", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=7)
    told = parser.parse_args()
    items = [f"item-{i:07d}" for i in range(told.items)]
    print(f"{hardware()}; Python {machine.python_version()}, {versions()}; seed {told.seed}")
    print(f"by id of {told.items} (Zipf 1.0), {COLUMNS} columns, top_k 10, {told.rounds} rounds, medians")
    print("bar: beyond the forward pass, 1,000 candidates cost less than 3 x what 100 cost")
    for model in ("null", "mlp"):
        compare(model, told.seed, told.seconds, told.rounds, items)


if __name__ == "__main__":
    main()
