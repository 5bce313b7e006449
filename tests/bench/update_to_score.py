"""`python -m tests.bench.update_to_score`: how long after an update in Redis the scores follow, under load.

A real platform on one core, a generator ranking warm candidates on another. For each update the
first column of one item is written to Redis as the materialiser does, and that item is ranked
until its score is the new one: the model's score is the first column, so the answer itself says
which value it saw. The delay is from before the write to the answer: one /rank included, which
stands beside it as the floor.
"""

import argparse
import platform as machine
import threading
import time

import numpy as np
import redis
from prometheus_client.parser import text_string_to_metric_families

from deploy import wiring
from deploy.client import GatewayClient
from registry.contracts.features import FeatureView
from serving.features.materialiser import write_rows
from tests.bench.load import Measured, hardware, measure, versions
from tests.bench.platform_under_test import COLUMNS, data_plane, ltr_package, platform_pids
from tests.bench.rank_by_id import zipf_requests

SERVER_CORE, GENERATOR_CORE = 0, 1
GIVE_UP_S = 10.0
ANSWERS = "serving_answers_total"


def score_of(gateway: GatewayClient, item: str) -> float:
    """The item's score, ranked alone."""
    answer = gateway.post("/v1/models/bench/rank", {"candidates": [item], "query": {"id": "probe"}})
    return float(answer["items"][0]["score"])


def answers(gateway: GatewayClient) -> float:
    """How many queries the platform answered so far."""
    families = text_string_to_metric_families(gateway.text("/metrics"))
    return sum(sample.value for family in families for sample in family.samples if sample.name == ANSWERS)


def delay_s(client: redis.Redis, view: FeatureView, gateway: GatewayClient, item: str, value: float) -> float:
    """From before the write until an answer shows it. Raises TimeoutError after ten seconds."""
    row = np.zeros((1, COLUMNS), dtype=np.float32)
    row[0, 0] = value
    score_of(gateway, item)  # warm: the tiers hold the old row
    began_s = time.perf_counter()
    write_rows(client, view, [item], row, time.time_ns() // 1_000_000, lambda _: None)
    while score_of(gateway, item) != value:
        if time.perf_counter() - began_s > GIVE_UP_S:
            raise TimeoutError(f"{item} still has its old score after {GIVE_UP_S:g} s")
    return time.perf_counter() - began_s


def main() -> None:
    """Runs and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--updates", type=int, default=200)
    parser.add_argument("--pause-ms", type=float, default=50.0, help="at most, between updates; drawn")
    parser.add_argument("--seconds", type=float, default=30.0, help="of load; longer than the updates take")
    parser.add_argument("--concurrency", type=int, default=8)
    parser.add_argument("--items", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=7)
    told = parser.parse_args()
    rng = np.random.default_rng(told.seed)
    items = [f"item-{i:07d}" for i in range(told.items)]
    values = rng.standard_normal((told.items, COLUMNS), dtype=np.float32)
    package = ltr_package("bench", told.seed, null=True)
    view = package.manifest.feature_view()
    requests = zipf_requests(items, 100, 500, told.seed)
    print(f"{hardware()}; Python {machine.python_version()}, {versions()}; seed {told.seed}")
    print(f"{told.updates} updates of one of {told.items} items, beside {told.concurrency} clients ranking 100 each\n")
    loads: list[Measured] = []
    with data_plane([package], SERVER_CORE, items, values) as (settings, state):
        client = wiring.redis_client(settings)
        pids = platform_pids(state)

        def load() -> None:
            loads.append(
                measure(
                    settings.gateway_port,
                    requests,
                    b'"position":10',
                    told.concurrency,
                    told.seconds,
                    GENERATOR_CORE,
                    pids,
                )
            )

        generator = threading.Thread(target=load)
        with GatewayClient(settings.gateway_url) as gateway:
            idle = [delay_s(client, view, gateway, items[i], 100.0 + i) for i in range(20)]
            before = answers(gateway)
            generator.start()
            while answers(gateway) < before + 2000:
                time.sleep(0.1)
            busy, floors = [], []
            for number in range(told.updates):
                time.sleep(rng.uniform(0, told.pause_ms) / 1000)
                item = items[int(rng.integers(told.items))]
                began_s = time.perf_counter()
                score_of(gateway, item)
                floors.append(time.perf_counter() - began_s)
                busy.append(delay_s(client, view, gateway, item, 1000.0 + number))
            if not generator.is_alive():
                raise RuntimeError("the load ended before the updates: raise --seconds")
            generator.join()
    print("| | p50 ms | p99 ms | longest ms |")
    print("|---|---:|---:|---:|")
    for title, took in (("no load", idle), ("under load", busy), ("one /rank under load, the floor", floors)):
        p50, p99, longest = np.percentile(took, [50, 99, 100]) * 1000
        print(f"| {title} | {p50:.2f} | {p99:.2f} | {longest:.2f} |")
    rates = ", ".join(f"{load.requests_s:.0f}/s" for load in loads)
    print(f"\nthe load meanwhile: {rates}; wrong answers: {sum(load.wrong for load in loads)}")
    print("bar: p99 under 1000 ms under load")


if __name__ == "__main__":
    main()
