"""`python -m tests.bench.overload`: goodput at three times the capacity, and how soon it is over when it is over.

300 candidates by id through the peers' MLP: the device (a CPU core here) is the bottleneck, as it is where there is
a GPU. All server processes on one core, the generator on the other. Capacity is what a closed loop of 8 clients gets
inside the deadline. Then, in turn, as often as asked: the capacity again, an open loop at three times that, an open
loop at half of it, in which recovery is looked for second by second. Each with the adaptive limit, and if asked
without it.
"""

import argparse
import json
import platform as machine
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tests.bench.load import cpu_s, hardware, measure, versions
from tests.bench.load import post as post_of
from tests.bench.open_loop import Poured, pour
from tests.bench.platform_under_test import COLUMNS, data_plane, ltr_package, platform_pids

SERVER_CORE, GENERATOR_CORE = 0, 1
OVERLOAD, CALM = 3.0, 0.5
CLIENTS = 8


@dataclass(frozen=True, slots=True)
class Round:
    """capacity, goodput: answers a second inside the deadline. per_cpu: goodput for each second of server CPU, over
    the same of the capacity: what overload costs, whatever else the machine does. p99_s: of all answers.
    recovered_s: until a second in which everybody was answered in time; inf if there was none."""

    capacity: float
    goodput: float
    per_cpu: float
    p99_s: float
    late: int
    statuses: dict[int, int]
    recovered_s: float
    generator_cpu: float


def recovered_s(calm: Poured, deadline_s: float) -> float:
    """How many seconds went by before everybody who came was answered inside the deadline, and stayed so."""
    bad = [
        at_s
        for at_s, took_s, status in zip(calm.at_s, calm.took_s, calm.status, strict=True)
        if status != 200 or took_s > deadline_s
    ]
    last_s = max(bad, default=0.0)
    return last_s if last_s < calm.seconds - 1 else float("inf")


def rank_requests(
    items: Sequence[str], candidates: int, deadline_ms: int, count: int, rng: np.random.Generator
) -> list[bytes]:
    """Queries for distinct items, each as likely as the others."""
    return [
        post_of(
            "/v1/models/bench/rank",
            json.dumps(
                {
                    "unit": f"u{number}",
                    "candidates": [items[i] for i in rng.choice(len(items), candidates, replace=False)],
                    "top_k": 10,
                    "deadline_ms": deadline_ms,
                }
            ).encode(),
        )
        for number in range(count)
    ]


def main() -> None:
    """Runs and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=15.0, help="of overload")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--candidates", type=int, default=300)
    parser.add_argument("--deadline-ms", type=int, default=500)
    parser.add_argument("--items", type=int, default=5_000)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--fixed", action="store_true", help="also with a limit that does not move")
    told = parser.parse_args()
    rng = np.random.default_rng(told.seed)
    items = [f"item-{i:07d}" for i in range(told.items)]
    values = rng.standard_normal((told.items, COLUMNS), dtype=np.float32)
    package = ltr_package("bench", told.seed)
    requests = rank_requests(items, told.candidates, told.deadline_ms, 200, rng)
    deadline_s = told.deadline_ms / 1000
    print(f"{hardware()}; Python {machine.python_version()}, {versions()}; seed {told.seed}")
    print(
        f"{told.candidates} candidates, MLP, deadline {told.deadline_ms} ms, {OVERLOAD:g} times the capacity for"
        f" {told.seconds:g} s, then {CALM:g} times\n"
    )
    print("| limit | capacity/s | goodput/s | of it | per CPU | p99 ms | late | statuses | recovered s | generator |")
    print("|---|---:|---:|---:|---:|---:|---:|---|---:|---:|")
    for name, flow in (("adaptive", ""), ("fixed, 512", "adaptive=0"))[: 1 + told.fixed]:
        rounds = []
        with data_plane([package], SERVER_CORE, items, values, flow=flow) as (settings, state):
            pids, port = platform_pids(state), settings.gateway_port
            for number in range(told.rounds):
                closed_s = max(3.0, told.seconds / 3)
                closed = measure(port, requests, b'"position":10', CLIENTS, closed_s, GENERATOR_CORE, pids)
                answered = 1 - closed.wrong / closed.requests
                capacity = closed.requests_s * answered
                before = cpu_s(pids)
                seed = told.seed + number
                poured = pour(port, requests, OVERLOAD * capacity, told.seconds, GENERATOR_CORE, seed)
                used_s = cpu_s(pids) - before
                calm = pour(port, requests, CALM * capacity, 12.0, GENERATOR_CORE, seed)
                good = poured.good(deadline_s)
                rounds.append(
                    Round(
                        capacity=capacity,
                        goodput=len(good) / told.seconds,
                        per_cpu=len(good) / used_s * closed.server_cpu_us / answered / 1e6,
                        p99_s=poured.answered_p(0.99),
                        late=poured.statuses().get(200, 0) - len(good),
                        statuses=poured.statuses(),
                        recovered_s=recovered_s(calm, deadline_s),
                        generator_cpu=poured.generator_cpu,
                    )
                )
                show(name, rounds[-1])
                time.sleep(1.0)
        ratio = statistics.median([one.goodput / one.capacity for one in rounds])
        print(
            f"| {name}, median | | | {ratio:.2f} | {statistics.median([one.per_cpu for one in rounds]):.2f} | | | | | |"
        )


def show(name: str, one: Round) -> None:
    """One line of the table."""
    statuses = ", ".join(f"{status or 'none'}: {count}" for status, count in one.statuses.items())
    print(
        f"| {name} | {one.capacity:.0f} | {one.goodput:.0f} | {one.goodput / one.capacity:.2f} | {one.per_cpu:.2f}"
        f" | {one.p99_s * 1000:.0f} | {one.late} | {statuses} | {one.recovered_s:.1f} | {one.generator_cpu:.2f} |",
        flush=True,
    )


if __name__ == "__main__":
    main()
