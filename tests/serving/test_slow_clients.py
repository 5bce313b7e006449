"""Clients that send a byte now and then, say too much, or do not read: they are cut off, and nobody else waits."""

import asyncio
import json
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import closing

import pytest

from serving.gateway.grpc.frames import CONTINUATION, DATA, END_HEADERS, END_STREAM, HEADERS, frame
from serving.gateway.grpc.messages import prefixed
from serving.gateway.patience import Patience
from tests.serving.http2_wire import Wire, wired
from tests.serving.http_gateway import RunningGateway, a_running_gateway
from tests.serving.workbench import PATIENCE_S, a_replica

IMPATIENT = Patience(head_s=0.4, body_s=0.4, bytes_a_s=1e6, read_s=0.4, head_bytes=16 << 10, headers=32)
BODY = json.dumps({"candidates": ["a", "b"]}).encode()
HEAD = b"POST /v1/models/codesearch/rank HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
RANK = HEAD + b"Content-Length: %d\r\n\r\n" % len(BODY) + BODY
STATUS = b"GET /v1/status HTTP/1.1\r\nHost: a\r\n\r\n"


@pytest.fixture(scope="module")
def gateway() -> Iterator[RunningGateway]:
    with a_replica() as replica, a_running_gateway(replica.address, patience=IMPATIENT) as gateway:
        yield gateway


def connected(gateway: RunningGateway) -> socket.socket:
    return socket.create_connection(("127.0.0.1", gateway.port), timeout=PATIENCE_S)


def heard(client: socket.socket, say: Callable[[], bytes] = lambda: b"") -> bytes:
    """All that comes until the gateway ends the connection, while the client goes on to say something."""
    until_s, found = time.monotonic() + PATIENCE_S, b""
    client.settimeout(0.02)
    while time.monotonic() < until_s:
        try:
            if more := say():
                client.sendall(more)
            part = client.recv(1 << 16)
        except TimeoutError:
            continue
        except OSError:
            return found
        if not part:
            return found
        found += part
    raise AssertionError(f"still connected after {PATIENCE_S} s, having heard {found[:200]!r}")


def is_answered(gateway: RunningGateway) -> bool:
    """Whether somebody else's query gets its answer, on a connection of its own."""
    with closing(connected(gateway)) as client:
        client.sendall(RANK)
        return client.recv(1 << 16).startswith(b"HTTP/1.1 200 ")


SLOW = {
    "a head, byte by byte": (b"", HEAD),
    "a head of another route": (b"", b"GET /v1/status HTTP/1.1\r\nHost: a\r\nX-A: " + b"a" * 5000),
    "a hot body": (HEAD + b"Content-Length: 5000\r\n\r\n", BODY + b" " * 5000),
    "a body in chunks": (HEAD + b"Transfer-Encoding: chunked\r\n\r\n1000\r\n", BODY + b" " * 5000),
    "the second of two": (RANK, HEAD),
}


@pytest.mark.parametrize("how", SLOW)
def test_who_sends_a_byte_now_and_then_is_told_and_cut(gateway: RunningGateway, how: str) -> None:
    at_once, slowly = SLOW[how]
    rest = iter(slowly)
    with closing(connected(gateway)) as client:
        client.sendall(at_once)

        answer = heard(client, lambda: bytes([next(rest)]))

    assert b"HTTP/1.1 408 " in answer
    assert b"did not arrive in time" in answer
    assert is_answered(gateway)


def test_who_says_nothing_is_let_go_without_a_word(gateway: RunningGateway) -> None:
    with closing(connected(gateway)) as client:
        assert heard(client) == b""


def test_a_crowd_of_slow_clients_keeps_nobody_waiting(gateway: RunningGateway) -> None:
    crowd = [connected(gateway) for _ in range(100)]
    for client in crowd:
        client.sendall(HEAD)

    assert all(is_answered(gateway) for _ in range(5))

    for client in crowd:
        assert b"HTTP/1.1 408 " in heard(client)
        client.close()


@pytest.mark.parametrize(
    "head",
    [
        b"GET /v1/status HTTP/1.1\r\nX-A: " + b"a" * (20 << 10),
        b"GET /" + b"a" * (20 << 10),
        b"GET /v1/status HTTP/1.1\r\n" + b"".join(b"X-%d: a\r\n" % at for at in range(40)) + b"\r\n",
        HEAD + b"".join(b"X-%d: a\r\n" % at for at in range(40)) + b"Connection: close\r\n\r\n",
    ],
    ids=["a long line", "a long path", "many lines", "many lines of a hot route"],
)
def test_a_head_that_is_too_large_is_refused(gateway: RunningGateway, head: bytes) -> None:
    with closing(connected(gateway)) as client:
        client.sendall(head)

        answer = heard(client)

    assert answer.startswith(b"HTTP/1.1 431 ")
    assert b'{"error":"the head has more than ' in answer
    assert is_answered(gateway)


def test_who_does_not_read_is_cut_and_not_asked_for_more(gateway: RunningGateway) -> None:
    """It asks and asks; what it does not read waits in buffers of bounded size."""
    with closing(connected(gateway)) as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.settimeout(0.1)
        until_s, cut = time.monotonic() + PATIENCE_S, False
        while not cut:
            assert time.monotonic() < until_s, "still connected"
            try:
                client.sendall(b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n" * 50)
            except TimeoutError:
                continue
            except OSError:
                cut = True

    assert is_answered(gateway)


def test_a_client_that_takes_its_time_between_requests_is_served(
    gateway: RunningGateway,
) -> None:
    """Patience is with a request, not with the pause before the next: that is the keep-alive's."""
    with closing(connected(gateway)) as client:
        for _ in range(3):
            client.sendall(STATUS)
            assert client.recv(1 << 16).startswith(b"HTTP/1.1 200 ")
            until_s = time.monotonic() + 2 * IMPATIENT.head_s
            while time.monotonic() < until_s:
                is_answered(gateway)


# gRPC


async def until_closed(wire: Wire) -> None:
    """Returns when the gateway has ended the connection."""
    async with asyncio.timeout(PATIENCE_S):
        while not wire.transport.closed:
            await wire.listen()


def test_a_grpc_client_that_says_nothing_or_half_a_head_is_cut() -> None:
    async def silent(wire: Wire) -> None:
        await until_closed(wire)

    async def half(wire: Wire) -> None:
        await wire.greet()
        await wire.say(frame(HEADERS, 0, 1, wire.head()[:5]))
        await until_closed(wire)

    wired(silent, head_s=0.05)
    wired(half, head_s=0.05)


def test_a_grpc_client_that_does_not_read_is_cut_and_one_that_reads_in_time_is_not() -> None:
    async def unread(wire: Wire) -> None:
        await wire.greet()
        wire.connection.pause_writing()
        await until_closed(wire)

    async def read(wire: Wire) -> int | None:
        await wire.greet()
        wire.connection.pause_writing()
        wire.connection.resume_writing()
        async with asyncio.timeout(PATIENCE_S):
            until_s = asyncio.get_running_loop().time() + 0.15
            while asyncio.get_running_loop().time() < until_s:
                await wire.listen()
        return (await wire.say(wire.call(1))).answers[1].code

    wired(unread, read_s=0.05)
    assert wired(read, read_s=0.05) == 0


def test_a_head_that_came_in_parts_is_forgotten_by_its_timer() -> None:
    async def scenario(wire: Wire) -> int | None:
        await wire.greet()
        block = wire.head()
        await wire.say(frame(HEADERS, 0, 1, block[:5]), frame(CONTINUATION, END_HEADERS, 1, block[5:]))
        until_s = asyncio.get_running_loop().time() + 0.15
        while asyncio.get_running_loop().time() < until_s:
            await wire.listen()
        return (await wire.say(frame(DATA, END_STREAM, 1, prefixed(b"x")))).answers[1].code

    assert wired(scenario, head_s=0.05) == 0
