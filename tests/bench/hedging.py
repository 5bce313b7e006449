"""`python -m tests.bench.hedging`: what a second replica is worth while the first one pauses, as a garbage collector,
a page fault or a neighbour makes it pause.

Two workers on one core with everything else, the generator on the other. In turn one of them is stopped (SIGSTOP) for
200 ms each second: too short for it to count as silent. An open loop of queries, with hedging and without it.
"""

import argparse
import os
import platform as machine
import random
import signal
import threading
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np

from tests.bench.load import hardware, versions
from tests.bench.open_loop import pour
from tests.bench.platform_under_test import COLUMNS, data_plane, ltr_package
from tests.bench.rank_by_id import zipf_requests

SERVER_CORE, GENERATOR_CORE = 0, 1
PAUSE_S, EVERY_S, WARM_S = 0.2, 1.0, 8.0


@contextmanager
def pausing(pids: Sequence[int], seed: int) -> Iterator[None]:
    """Stops one of the processes at a time, for a while; all of them go on in the end."""
    over, source = threading.Event(), random.Random(seed)

    def run() -> None:
        while not over.wait(EVERY_S - PAUSE_S):
            pid = source.choice(pids)
            os.kill(pid, signal.SIGSTOP)
            try:
                over.wait(PAUSE_S)
            finally:
                os.kill(pid, signal.SIGCONT)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def hedged(url: str) -> dict[str, float]:
    """Queries by what became of their hedges."""
    with urllib.request.urlopen(f"{url}/metrics") as answer:
        lines = answer.read().decode().splitlines()
    counted = [line for line in lines if line.startswith("serving_hedged_queries_total")]
    return {line.split('"')[1]: float(line.split()[-1]) for line in counted}


def main() -> None:
    """Runs and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--rate", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=7)
    told = parser.parse_args()
    items = [f"item-{i:07d}" for i in range(5_000)]
    values = np.random.default_rng(told.seed).standard_normal((len(items), COLUMNS), dtype=np.float32)
    package = ltr_package("bench", told.seed)
    requests = zipf_requests(items, 100, 500, told.seed)
    print(f"{hardware()}; Python {machine.python_version()}, {versions()}; seed {told.seed}")
    print(
        f"100 candidates, MLP, {told.rate:g} queries/s; one of two workers stopped for {PAUSE_S * 1000:g} ms every"
        f" {EVERY_S:g} s\n"
    )
    print("| hedging | pauses | p50 ms | p95 ms | p99 ms | failed | hedges sent, won |")
    print("|---|---|---:|---:|---:|---:|---|")
    for name, flow in (("off", "hedge=0"), ("on", "")):
        with data_plane([package], SERVER_CORE, items, values, workers=2, flow=flow) as (settings, state):
            pids = [process.pid for process in state.processes if process.name.startswith("worker") and process.pid]
            time.sleep(1.0)  # until the second worker holds the model too
            pour(settings.gateway_port, requests, told.rate, WARM_S, GENERATOR_CORE, told.seed)
            for pauses in (False, True):
                before = hedged(settings.gateway_url)
                if pauses:
                    with pausing(pids, told.seed):
                        poured = pour(settings.gateway_port, requests, told.rate, told.seconds, GENERATOR_CORE, 1)
                else:
                    poured = pour(settings.gateway_port, requests, told.rate, told.seconds, GENERATOR_CORE, 1)
                after = hedged(settings.gateway_url)
                sent, won = (after.get(one, 0) - before.get(one, 0) for one in ("sent", "won"))
                p50, p95, p99 = (poured.answered_p(quantile) * 1000 for quantile in (0.5, 0.95, 0.99))
                failed = len(poured.status) - poured.statuses().get(200, 0)
                print(
                    f"| {name} | {'yes' if pauses else 'no'} | {p50:.1f} | {p95:.1f} | {p99:.1f} | {failed}"
                    f" | {sent:.0f}, {won:.0f} of {len(poured.status)} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
