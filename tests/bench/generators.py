"""Load from `wrk` (HTTP/1.1) and `h2load` (gRPC), closed loop, one fixed request, on a core of their own.

Both come from Debian (wrk, nghttp2-client). They cost a tenth of what a server does, so one core of
load fills one core of server.
"""

import os
import re
import resource
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tests.bench.load import Measured, cpu_s

WRK_SCRIPT = """
local file = assert(io.open(os.getenv("BODY"), "rb"))
wrk.method, wrk.body = "POST", file:read("*a")
file:close()
for name, value in string.gmatch(os.getenv("HEADERS"), "([^\\n]-): ([^\\n]+)") do
  wrk.headers[name] = value
end
function done(summary, latency, requests)
  local e = summary.errors
  io.write(string.format("MEASURED %d %d %d %d %d\\n", summary.requests, summary.duration,
    e.connect + e.read + e.write + e.timeout + e.status, latency:percentile(50), latency:percentile(99)))
end
"""
WARM_UP_S, WARM_UP_REQUESTS = 1, 1000


@dataclass(frozen=True, slots=True)
class Request:
    """A POST of one body. grpc: over HTTP/2, the body with gRPC's five bytes in front.

    answer_bytes: of a right answer's body, which h2load's answers are held against: gRPC says 200
    to everything. 0: not held.
    """

    url: str
    body: bytes
    headers: Mapping[str, str]
    grpc: bool = False
    answer_bytes: int = 0


def require_generators() -> None:
    """Ends the bench, naming the packages, if a generator is missing."""
    if missing := [tool for tool in ("wrk", "h2load") if shutil.which(tool) is None]:
        raise SystemExit(f"{' and '.join(missing)} not found: apt-get install wrk nghttp2-client")


def generate(
    request: Request, concurrency: int, seconds: int, core: int, server: Callable[[], Sequence[int]]
) -> Measured:
    """Loads for so long, after a short warm-up. server: pids whose CPU time is divided by the requests."""
    if request.grpc:
        count, took_s, *_ = _h2load(request, concurrency, WARM_UP_REQUESTS, core)
        run, amount = _h2load, max(concurrency, int(count / took_s * seconds))
    else:
        _wrk(request, concurrency, WARM_UP_S, core)
        run, amount = _wrk, seconds
    pids = list(server())
    used_s, own_s = cpu_s(pids), _children_s()
    requests, elapsed_s, wrong, p50_ms, p99_ms = run(request, concurrency, amount, core)
    used_s, own_s = cpu_s(pids) - used_s, _children_s() - own_s
    return Measured(
        concurrency=concurrency,
        requests=requests,
        requests_s=requests / elapsed_s,
        p50_ms=p50_ms,
        p99_ms=p99_ms,
        wrong=wrong,
        server_cpu_us=used_s / max(1, requests) * 1e6,
        generator_cpu=own_s / elapsed_s,
    )


def _wrk(request: Request, concurrency: int, seconds: int, core: int) -> tuple[int, float, int, float, float]:
    with tempfile.TemporaryDirectory() as folder:
        script, body = Path(folder) / "post.lua", Path(folder) / "body"
        script.write_text(WRK_SCRIPT)
        body.write_bytes(request.body)
        command = ["wrk", "-t1", f"-c{concurrency}", f"-d{seconds}s", "--timeout", "20s", "-s", str(script)]
        headers = "\n".join(f"{name}: {value}" for name, value in request.headers.items())
        said = _run([*command, request.url], core, BODY=str(body), HEADERS=headers)
    found = re.search(r"MEASURED (\d+) (\d+) (\d+) (\d+) (\d+)", said)
    if not found:
        raise RuntimeError(said)
    requests, duration_us, wrong, p50_us, p99_us = map(int, found.groups())
    return requests, duration_us / 1e6, wrong, p50_us / 1e3, p99_us / 1e3


def _h2load(request: Request, concurrency: int, count: int, core: int) -> tuple[int, float, int, float, float]:
    """A number of requests, not of seconds: h2load breaks off what is under way when its time is
    over, and of that Triton 2.51 now and then ends with a segmentation fault."""
    with tempfile.TemporaryDirectory() as folder:
        body, log = Path(folder) / "body", Path(folder) / "log"
        body.write_bytes(request.body)
        command = ["h2load", "-t1", f"-c{concurrency}", "-m1", "-w24", "-W24", f"-n{count}", f"--log-file={log}"]
        headers = [word for name, value in request.headers.items() for word in ("-H", f"{name}: {value}")]
        said = _run([*command, *headers, "-d", str(body), request.url], core)
        if not log.exists():
            raise RuntimeError(said)
        rows = [line.split("\t") for line in log.read_text().splitlines()]
    if not rows:
        raise RuntimeError(said)
    wrong = sum(row[1] != "200" for row in rows)
    data = re.search(r"\((\d+)\) data", said)
    if request.answer_bytes and (not data or abs(int(data[1]) / len(rows) / request.answer_bytes - 1) > 0.02):
        wrong = len(rows)  # answers of another size: errors, most likely
    began_us, took_us = (np.array([int(row[place]) for row in rows]) for place in (0, 2))
    p50, p99 = np.percentile(took_us, [50, 99]) / 1e3
    return len(rows), float((began_us + took_us).max() - began_us.min()) / 1e6, wrong, float(p50), float(p99)


def _run(command: Sequence[str], core: int, **environment: str) -> str:
    pinned = ["taskset", "-c", str(core), *command]
    ended = subprocess.run(pinned, env=os.environ | environment, capture_output=True, text=True, timeout=120)
    return ended.stdout + ended.stderr


def _children_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
