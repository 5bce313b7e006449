"""A closed-loop HTTP load generator that costs little: raw asyncio, kept-alive connections, prebuilt requests.

Run it in a process of its own, on a core of its own: `measure` does.
"""

import asyncio
import importlib.metadata
import multiprocessing
import multiprocessing.connection
import os
import ssl
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np

TICKS_S = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Measured:
    """requests_s: throughput. p50_ms, p99_ms: of answered requests, closed loop. wrong: answers
    that were not 200 or not what `expect` says. server_cpu_us: per request, all server processes
    added up. generator_cpu: share of its core; near 1 the generator is the bottleneck."""

    concurrency: int
    requests: int
    requests_s: float
    p50_ms: float
    p99_ms: float
    wrong: int
    server_cpu_us: float
    generator_cpu: float


def post(path: str, body: bytes) -> bytes:
    """A whole HTTP/1.1 request."""
    head = (
        f"POST {path} HTTP/1.1\r\nhost: bench\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def measure(
    port: int,
    requests: Sequence[bytes],
    expect: bytes,
    concurrency: int,
    seconds: float,
    core: int,
    server: list[int],
    authority: Path | None = None,
) -> Measured:
    """Loads 127.0.0.1:port for so long; requests are taken in turn. server: pids to account for. authority: whose
    certificate it shows, over TLS then; None: it speaks plain HTTP."""
    parent, child = multiprocessing.Pipe()
    generator = multiprocessing.get_context("spawn").Process(
        target=_generate, args=(child, port, list(requests), expect, concurrency, seconds, core, authority)
    )
    generator.start()
    parent.recv()  # warmed up
    before = cpu_s(server)
    parent.send("go")
    latencies, wrong, elapsed_s, own_cpu_s = parent.recv()
    used_s = cpu_s(server) - before
    generator.join()
    p50, p99 = np.percentile(latencies, [50, 99]) * 1000
    return Measured(
        concurrency=concurrency,
        requests=len(latencies),
        requests_s=len(latencies) / elapsed_s,
        p50_ms=float(p50),
        p99_ms=float(p99),
        wrong=wrong,
        server_cpu_us=used_s / len(latencies) * 1e6,
        generator_cpu=own_cpu_s / elapsed_s,
    )


def cpu_s(pids: Sequence[int]) -> float:
    """User and system time of processes so far."""
    total = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
        total += int(fields[11]) + int(fields[12])
    return total / TICKS_S


def pss_mb(pid: int) -> float:
    """Proportional set size."""
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return int(rollup.split("Pss:")[1].split()[0]) / 1024


def hardware() -> str:
    """Which machine this is, in a line."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    name = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "unknown")
    return f"{name}, {os.cpu_count()} cores"


def versions(*more: str) -> str:
    """Of what the figures depend on."""
    names = ("torch", "numpy", "uvicorn", "uvloop", "redis", "grpcio", *more)
    return ", ".join(f"{name} {importlib.metadata.version(name)}" for name in names)


class _Client(asyncio.Protocol):
    def __init__(self, load: "_Load", first: int) -> None:
        self._load, self._next, self._buffer = load, first, b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one in all but name
        self._send()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, separator, body = self._buffer.partition(b"\r\n\r\n")
        if not separator:
            return
        length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
        if len(body) < length:
            return
        self._buffer = b""
        self._load.took(time.perf_counter() - self._began_s, head.startswith(b"HTTP/1.1 200"), body)
        if not self._load.over:
            self._send()

    def _send(self) -> None:
        requests = self._load.requests
        self._next = (self._next + 1) % len(requests)
        self._began_s = time.perf_counter()
        self._transport.write(requests[self._next])


class _Load:
    def __init__(self, requests: list[bytes], expect: bytes) -> None:
        self.requests, self._expect = requests, expect
        self.latencies: list[float] = []
        self.wrong = 0
        self.over = False

    def took(self, seconds: float, ok: bool, body: bytes) -> None:
        self.latencies.append(seconds)
        self.wrong += not (ok and self._expect in body)


def _generate(
    channel: "multiprocessing.connection.Connection",
    port: int,
    requests: list[bytes],
    expect: bytes,
    concurrency: int,
    seconds: float,
    core: int,
    authority: Path | None,
) -> None:
    os.sched_setaffinity(0, {core})
    import uvloop

    tls = None if authority is None else ssl.create_default_context(cafile=str(authority))

    async def run(for_s: float) -> tuple[_Load, float]:
        load = _Load(requests, expect)
        loop = asyncio.get_running_loop()
        began_s = time.perf_counter()
        clients = [
            await loop.create_connection(lambda first=i: _Client(load, first * 7919), "127.0.0.1", port, ssl=tls)
            for i in range(concurrency)
        ]
        await asyncio.sleep(for_s)
        load.over = True
        elapsed_s = time.perf_counter() - began_s
        for transport, _ in clients:
            transport.close()
        return load, elapsed_s

    uvloop.run(run(0.5))
    channel.send("warm")
    channel.recv()
    before = time.process_time()
    load, elapsed_s = uvloop.run(run(seconds))
    channel.send((load.latencies, load.wrong, elapsed_s, time.process_time() - before))
