"""An open-loop HTTP load generator: queries come when they come, whether the ones before are answered or not.

Latency counts from when a query should have been sent, so a generator that falls behind does not flatter the server.
"""

import asyncio
import json
import multiprocessing
import multiprocessing.connection
import os
import random
import time
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np

from tests.bench.load import post

MOST_CLICKS = 500  # a batch
SETTLE_S = 2.0  # for answers that are still out when the last query has been sent


@dataclass(frozen=True, slots=True)
class Poured:
    """What came of the queries. at_s: when each was sent, from the beginning; took_s: until its answer, inf for none;
    status: 0 for none. generator_cpu: share of its core; near 1 the generator is the bottleneck. late_s: by how much
    the generator itself was late at most. clicks: events that were acknowledged with 202."""

    seconds: float
    at_s: list[float]
    took_s: list[float]
    status: list[int]
    generator_cpu: float
    late_s: float = 0.0
    clicks: int = 0

    def good(self, deadline_s: float) -> list[float]:
        """Latencies of those answered with 200 inside their deadline."""
        return [t for t, status in zip(self.took_s, self.status, strict=True) if status == 200 and t <= deadline_s]

    def statuses(self) -> dict[int, int]:
        """How many of each."""
        return dict(sorted(Counter(self.status).items()))

    def answered_p(self, quantile: float) -> float:
        """Of all latencies of 200s, late ones too, in seconds."""
        took = [t for t, status in zip(self.took_s, self.status, strict=True) if status == 200]
        return float(np.quantile(took, quantile)) if took else float("nan")


def pour(
    port: int,
    requests: Sequence[bytes],
    rate: float,
    seconds: float,
    core: int,
    seed: int,
    connections: int = 600,
    click_every: int = 0,
) -> Poured:
    """Sends so many queries a second to 127.0.0.1:port, at random times (Poisson), for so long.

    click_every: of so many answers one gets a click on its best item, sent in batches; 0: none.
    """
    parent, child = multiprocessing.Pipe()
    generator = multiprocessing.get_context("spawn").Process(
        target=_generate, args=(child, port, list(requests), rate, seconds, core, seed, connections, click_every)
    )
    generator.start()
    child.close()  # so that a generator that fails is noticed here
    poured: Poured = parent.recv()
    generator.join()
    return poured


class _Client(asyncio.Protocol):
    def __init__(self, flood: "_Flood") -> None:
        self._flood, self._buffer = flood, b""
        self._number = -1

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one in all but name

    def send(self, number: int) -> None:
        self._number = number
        self._transport.write(self._flood.requests[number % len(self._flood.requests)])

    def connection_lost(self, exc: Exception | None) -> None:
        self._flood.lost(self)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, separator, body = self._buffer.partition(b"\r\n\r\n")
        if not separator:
            return
        length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
        if len(body) < length:
            return
        self._buffer = b""
        number, self._number = self._number, -1
        self._flood.answered(number, int(head[9:12]), body, self)


class _Clicks:
    """Clicks on the best items of answers, sent a batch a second over one connection."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._due: list[dict[str, str]] = []
        self.acknowledged = 0

    def on(self, body: bytes) -> None:
        answer = json.loads(body)
        ranking_id, item = answer["ranking_id"], answer["items"][0]["id"]
        self._due.append({"event_id": ranking_id, "type": "click", "ranking_id": ranking_id, "item": item})

    async def run(self) -> None:
        """Until it is cancelled."""
        while True:
            await asyncio.sleep(1.0)
            await self.send()

    async def send(self) -> None:
        """What is due. What is not acknowledged is not counted, and not sent again."""
        batch, self._due = self._due[:MOST_CLICKS], self._due[MOST_CLICKS:]
        if not batch:
            return
        head = post("/v1/feedback", json.dumps({"events": batch}).encode())
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        writer.write(head)
        if (await reader.readline()).startswith(b"HTTP/1.1 202"):
            self.acknowledged += len(batch)
        writer.close()


class _Flood:
    """most: connections at once; beyond that queries wait here, which counts."""

    def __init__(self, requests: list[bytes], due_s: list[float], port: int, most: int, click_every: int = 0) -> None:
        self.requests, self.due_s = requests, due_s
        self.took_s, self.status = [float("inf")] * len(due_s), [0] * len(due_s)
        self._port, self._most, self._made = port, most, 0
        self._idle: list[_Client] = []
        self._waiting: deque[int] = deque()
        self._began_s = 0.0
        self._click_every = click_every
        self.clicks = _Clicks(port)
        self.late_s = 0.0
        self._connecting: set[asyncio.Task[None]] = set()

    def answered(self, number: int, status: int, body: bytes, client: _Client) -> None:
        self.took_s[number] = time.perf_counter() - self._began_s - self.due_s[number]
        self.status[number] = status
        if self._click_every and status == 200 and number % self._click_every == 0:
            self.clicks.on(body)
        self._next(client)

    def lost(self, client: _Client) -> None:
        """The server closes connections that were idle for a while."""
        self._made -= 1
        if client in self._idle:
            self._idle.remove(client)

    def _next(self, client: _Client) -> None:
        if self._waiting:
            client.send(self._waiting.popleft())
        else:
            self._idle.append(client)

    async def _connect(self) -> None:
        loop = asyncio.get_running_loop()
        _, client = await loop.create_connection(lambda: _Client(self), "127.0.0.1", self._port)
        self._next(client)

    def _come(self, number: int) -> None:
        if self._idle:
            self._idle.pop().send(number)
            return
        self._waiting.append(number)
        if self._made < self._most:
            self._made += 1
            task = asyncio.get_running_loop().create_task(self._connect())
            self._connecting.add(task)
            task.add_done_callback(self._connecting.discard)

    async def run(self) -> None:
        self._began_s = time.perf_counter()
        clicking = asyncio.get_running_loop().create_task(self.clicks.run())
        for number, due_s in enumerate(self.due_s):
            if (left_s := self._began_s + due_s - time.perf_counter()) > 0:
                await asyncio.sleep(left_s)
            else:
                self.late_s = max(self.late_s, -left_s)
            self._come(number)
        give_up_s = time.perf_counter() + SETTLE_S
        while 0 in self.status and time.perf_counter() < give_up_s:
            await asyncio.sleep(0.01)
        clicking.cancel()
        await self.clicks.send()


def _generate(
    channel: "multiprocessing.connection.Connection",
    port: int,
    requests: list[bytes],
    rate: float,
    seconds: float,
    core: int,
    seed: int,
    connections: int,
    click_every: int,
) -> None:
    os.sched_setaffinity(0, {core})
    import uvloop

    source, due_s, now_s = random.Random(seed), [], 0.0
    while (now_s := now_s + source.expovariate(rate)) < seconds:
        due_s.append(now_s)

    async def run() -> Poured:
        flood = _Flood(requests, due_s, port, connections, click_every)
        before = time.process_time()
        await flood.run()
        return Poured(
            seconds=seconds,
            at_s=due_s,
            took_s=flood.took_s,
            status=flood.status,
            generator_cpu=(time.process_time() - before) / seconds,
            late_s=flood.late_s,
            clicks=flood.clicks.acknowledged,
        )

    channel.send(uvloop.run(run()))
