"""`python -m tests.bench.tls`: what TLS costs a query, at the gateway's port and between gateway and worker.

100 candidates by id, a model that does nothing, one worker, c=8 and 32; connections are kept. Four platforms beside
one another, on one core, measured in turns: plain with a Unix socket to the worker, HTTPS, plain with TCP to the
worker, and that with certificates on both sides.
"""

import argparse
import contextlib
import platform as machine
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np

from deploy.machine.certificates import make_certificates
from tests.bench.load import Measured, hardware, measure, versions
from tests.bench.platform_under_test import COLUMNS, data_plane, ltr_package, platform_pids
from tests.bench.rank_by_id import zipf_requests
from tests.free_ports import free_port

SERVER_CORE, GENERATOR_CORE = 0, 1
CONCURRENCIES = (8, 32)
ITEMS = 20_000


def kinds(certificates: Path) -> dict[str, dict[str, str]]:
    """Settings of each platform by what it is called."""
    pair = f"certificate={certificates}/gateway.pem,key={certificates}/gateway.key"
    over_tcp = {"worker_host": "127.0.0.1"}
    fleet = f"ca={certificates}/ca.pem,{pair},worker=sluice-gateway"  # processes of one machine share a pair
    return {
        "plain": {},
        "HTTPS": {"gateway_tls": pair},
        "worker over TCP": over_tcp,
        "worker over mTLS": over_tcp | {"fleet_tls": fleet},
    }


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=3.0, help="a cell")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seed", type=int, default=7)
    told = parser.parse_args()
    items = [f"item-{place:07d}" for place in range(ITEMS)]
    values = np.random.default_rng(told.seed).standard_normal((ITEMS, COLUMNS), dtype=np.float32)
    package = ltr_package("bench", told.seed, null=True)
    requests = zipf_requests(items, 100, 500, told.seed)
    when = time.strftime("%Y-%m-%d %H:%M")
    print(f"{hardware()}; Python {machine.python_version()}, {versions('cryptography')}; {when}; seed {told.seed}\n")
    cells: dict[tuple[str, int], list[Measured]] = {}
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="sluice-tls-")))
        make_certificates(folder, 1)
        running = {}
        for name, settings in kinds(folder).items():
            ports = {"worker_port": free_port()} if "worker_host" in settings else {}
            running[name] = stack.enter_context(data_plane([package], SERVER_CORE, items, values, **settings, **ports))
        for _ in range(told.rounds):
            for concurrency in CONCURRENCIES:
                for name, (settings_now, state) in running.items():
                    took = measure(
                        settings_now.gateway_port,
                        requests,
                        b'"position":10',
                        concurrency,
                        told.seconds,
                        GENERATOR_CORE,
                        platform_pids(state),
                        authority=folder / "ca.pem" if settings_now.gateway_tls else None,
                    )
                    cells.setdefault((name, concurrency), []).append(took)
    print("| c | | queries/s | p99 ms | server CPU us/query | wrong |")
    print("|---:|---|---:|---:|---:|---:|")
    for concurrency in CONCURRENCIES:
        for name in running:
            took_all = cells[name, concurrency]
            rate, p99, cpu = (
                statistics.median(getattr(one, what) for one in took_all)
                for what in ("requests_s", "p99_ms", "server_cpu_us")
            )
            wrong = sum(one.wrong for one in took_all)
            print(f"| {concurrency} | {name} | {rate:.0f} | {p99:.1f} | {cpu:.0f} | {wrong} |")


if __name__ == "__main__":
    main()
