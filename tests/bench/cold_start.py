"""`python -m tests.bench.cold_start`: from a killed process to its successor's first right answer.

The platform runs on one core with the peers' MLP as a champion. Gateway and worker are killed in
turn; the supervisor starts another, and the time counts from that process's own start (exec) to
the first answer to `/rank` that names this champion.
"""

import json
import os
import platform as machine
import signal
import statistics
import time
import urllib.request
from pathlib import Path

import numpy as np

from deploy.machine.state import read_state
from tests.bench.load import hardware, versions
from tests.bench.platform_under_test import COLUMNS, data_plane, ltr_package

ROUNDS = 3
PATIENCE_S = 60.0
ITEMS = [f"item-{i}" for i in range(1000)]
BARS_S = {"gateway-0": 2.0, "worker-0": 6.0}


def started_s(pid: int) -> float:
    """When the process began, in seconds since boot."""
    ticks = int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[19])
    return ticks / os.sysconf("SC_CLK_TCK")


def answers(url: str) -> bool:
    """Whether a ranking comes back, whole."""
    body = json.dumps({"candidates": ITEMS[:10], "top_k": 10, "deadline_ms": 200}).encode()
    request = urllib.request.Request(url, body, {"content-type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=2.0) as answer:
            return len(json.loads(answer.read())["items"]) == 10
    except OSError:
        return False


def main() -> None:
    """Runs and prints."""
    values = np.random.default_rng(7).standard_normal((len(ITEMS), COLUMNS), dtype=np.float32)
    print(f"{hardware()}; Python {machine.python_version()}, {versions()}")
    took: dict[str, list[float]] = {name: [] for name in BARS_S}
    with data_plane([ltr_package("bench", 7)], 0, ITEMS, values) as (settings, _):
        url = f"{settings.gateway_url}/v1/models/bench/rank"
        for _ in range(ROUNDS):
            for name in took:
                until_s = time.monotonic() + PATIENCE_S
                while not answers(url):
                    assert time.monotonic() < until_s
                before = _pid(settings, name)
                os.kill(before, signal.SIGKILL)
                while (pid := _pid(settings, name)) in (0, before) or not answers(url):
                    assert time.monotonic() < until_s
                took[name].append(time.clock_gettime(time.CLOCK_BOOTTIME) - started_s(pid))
    print("| process | s from exec to the first right answer, median (lowest to highest) | bar |\n|---|---:|---:|")
    for name, seconds in took.items():
        median = statistics.median(seconds)
        print(f"| {name} | {median:.2f} ({min(seconds):.2f} to {max(seconds):.2f}) | {BARS_S[name]:.0f} |")


def _pid(settings: object, name: str) -> int:
    state = read_state(settings)  # type: ignore[arg-type]
    return next((one.pid or 0 for one in state.processes if one.name == name), 0) if state else 0


if __name__ == "__main__":
    main()
