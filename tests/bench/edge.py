"""What nginx in front costs: CPU a ranking of nginx and of the gateway, direct and over the edge, in turns.

    python -m tests.bench.edge [--rounds 5] [--queries 1500]

CPU times by /proc, so that a busy machine disturbs little; the client's are not counted.
"""

import argparse
import json
import platform as machine
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from http.client import HTTPConnection
from pathlib import Path

from deploy.edges.edge import GatewayPlace
from tests.e2e.platforms_under_fire import ITEMS, MODEL, Platform
from tests.edge_server import Nginx, cpu_s_of, nginx_before, nginx_executable

BODY = json.dumps({"candidates": ITEMS[:100], "unit": "u", "top_k": 10}).encode()
HEADERS = {"content-type": "application/json", "authorization": "Bearer sluice_not_looked_at"}


def asked(port: int, queries: int) -> list[float]:
    """Latencies in seconds, one after another over one connection."""
    connection = HTTPConnection("127.0.0.1", port, timeout=60)
    taken = []
    for _ in range(queries):
        began_s = time.perf_counter()
        connection.request("POST", f"/v1/models/{MODEL}/rank", BODY, HEADERS)
        answer = connection.getresponse()
        answer.read()
        taken.append(time.perf_counter() - began_s)
        assert answer.status == 200, answer.status
    connection.close()
    return taken


def measured(queries: int, port: int, clocks: dict[str, Callable[[], float]]) -> dict[str, float]:
    """CPU in us a query by process, and the median latency in ms."""
    before = {name: clock() for name, clock in clocks.items()}
    taken = asked(port, queries)
    spent = {name: (clock() - before[name]) / queries * 1e6 for name, clock in clocks.items()}
    return spent | {"p50_ms": statistics.median(taken) * 1e3}


def compare(platform: Platform, nginx: Nginx, rounds: int, queries: int) -> None:
    """Prints both ways, round by round and their medians."""
    gateway = platform.pid("gateway-0")
    assert gateway is not None
    clocks: dict[str, Callable[[], float]] = {"gateway": lambda: cpu_s_of(gateway), "nginx": nginx.cpu_s}
    ways = {"direct": platform.settings.gateway_port, "edge": nginx.edge.listen}
    for port in ways.values():
        asked(port, 300)
    found: dict[str, list[dict[str, float]]] = {way: [] for way in ways}
    for _ in range(rounds):
        for way, port in ways.items():
            found[way].append(measured(queries, port, clocks))
    for way, results in found.items():
        middle = {name: statistics.median(one[name] for one in results) for name in results[0]}
        print(f"{way:7}" + "".join(f"{name} {value:8.2f}  " for name, value in middle.items()))


def main() -> None:
    """See the module."""
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--rounds", type=int, default=5)
    arguments.add_argument("--queries", type=int, default=1500)
    told = arguments.parse_args()
    version = subprocess.run([nginx_executable(), "-v"], capture_output=True, text=True).stderr.strip()
    where = f"{machine.machine()}, Python {machine.python_version()}"
    print(f"{version}, one worker; {where}; us of CPU a ranking of 100 candidates")
    with tempfile.TemporaryDirectory(prefix="sluice-edge-") as folder:
        platform = Platform.start(Path(folder) / "home", with_archiver=False)
        try:
            platform.serve()
            settings = platform.settings
            place = GatewayPlace("127.0.0.1", settings.gateway_port, settings.grpc_port)
            rates = {"key_rate": 100_000, "address_rate": 100_000}
            with nginx_before(Path(folder) / "nginx", place, workers="1", **rates) as nginx:
                compare(platform, nginx, told.rounds, told.queries)
        finally:
            platform.stop()


if __name__ == "__main__":
    main()
