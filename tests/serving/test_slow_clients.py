"""Clients that send a byte now and then, say too much, or do not read: they are cut off, and nobody else waits."""

import asyncio
import json
import random
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress

import pytest
import uvloop
from hpack import Encoder

from serving.gateway.grpc.calls import Code
from serving.gateway.grpc.frames import (
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HEADERS,
    PREFACE,
    frame,
    settings_frame,
    window_update,
)
from serving.gateway.grpc.messages import prefixed
from serving.gateway.grpc.server import GrpcServer
from serving.gateway.patience import Patience
from serving.settings import GrpcSettings
from tests.serving.http2_wire import CHAT, ECHO, METHODS, Wire, wired
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


def test_a_grpc_client_that_grants_no_window_for_its_answers_is_told_and_cut() -> None:
    """Also one that grants a byte now and then, or took many before."""

    def last_words(step_bytes: int = 0, head_start_bytes: int = 0, bytes_a_s: float = 1e9) -> bytes:
        async def scenario(wire: Wire) -> bytes:
            await wire.greet(_4=0)
            await wire.say(wire.call(1, b"x" * 500_000), wire.call(3))
            if head_start_bytes:
                await wire.say(window_update(0, head_start_bytes), window_update(1, head_start_bytes))
            async with asyncio.timeout(PATIENCE_S):
                while not wire.transport.closed:
                    await wire.say(*([window_update(1, step_bytes)] if step_bytes else []))
            return wire.last(GOAWAY)[1]

        return wired(scenario, read_s=0.05, bytes_a_s=bytes_a_s)

    for said in (last_words(), last_words(step_bytes=1), last_words(head_start_bytes=400_000, bytes_a_s=1000.0)):
        assert said.endswith(b"answers were not taken in time: read them, and widen the windows")


def test_a_grpc_client_that_takes_its_answers_at_a_fair_pace_may_take_longer() -> None:
    message = b"x" * 3000

    async def scenario(wire: Wire) -> bytes:
        await wire.greet(_4=0)
        await wire.say(wire.call(1, message))
        began_s = asyncio.get_running_loop().time()
        async with asyncio.timeout(PATIENCE_S):
            for part in range(1, 11):  # they take twice read_s together
                while asyncio.get_running_loop().time() < began_s + part * 0.06:
                    await wire.listen()
                await wire.say(window_update(1, 300))
            await wire.say(window_update(1, 300))
            while not wire.answers[1].ended:
                await wire.listen()
            until_s = asyncio.get_running_loop().time() + 0.4
            while asyncio.get_running_loop().time() < until_s:  # nothing waits: no time runs
                await wire.listen()
        assert not wire.transport.closed
        return wire.answers[1].messages

    assert wired(scenario, read_s=0.3, bytes_a_s=100.0) == prefixed(message)


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


def test_a_grpc_message_that_trickles_in_is_refused_and_other_calls_of_its_connection_are_answered() -> None:
    async def scenario(wire: Wire) -> tuple[int | None, str, int | None]:
        await wire.greet()
        await wire.say(frame(HEADERS, END_HEADERS, 1, wire.head()))
        slowly = iter(prefixed(b"x" * 100_000))
        async with asyncio.timeout(PATIENCE_S):
            while 1 not in wire.answers:
                await wire.say(frame(DATA, 0, 1, bytes([next(slowly)])))
        refused = wire.answers[1]
        other = (await wire.say(wire.call(3))).answers[3]
        return refused.code, refused.fields["grpc-message"], other.code

    code, message, other = wired(scenario, body_s=0.05, bytes_a_s=1e9)

    assert code == Code.DEADLINE_EXCEEDED
    assert "did not arrive in time" in message
    assert other == Code.OK


def test_a_grpc_call_whose_message_never_begins_or_never_ends_is_refused() -> None:
    def after(*begun: bytes) -> int | None:
        async def scenario(wire: Wire) -> int | None:
            await wire.greet()
            await wire.say(frame(HEADERS, END_HEADERS, 1, wire.head()), *begun)
            async with asyncio.timeout(PATIENCE_S):
                while 1 not in wire.answers:
                    await wire.listen()
            return wire.answers[1].code

        return wired(scenario, body_s=0.05)

    whole = frame(DATA, 0, 1, prefixed(b"whole, but there may be more"))
    assert [after(), after(whole), after(whole[:20])] == [Code.DEADLINE_EXCEEDED] * 3


def test_a_grpc_message_that_comes_at_a_fair_pace_may_take_longer() -> None:
    message = b"x" * 3000

    async def scenario(wire: Wire) -> bytes:
        await wire.greet()
        await wire.say(frame(HEADERS, END_HEADERS, 1, wire.head()))
        began_s = asyncio.get_running_loop().time()
        left = prefixed(message)
        async with asyncio.timeout(PATIENCE_S):
            while left:  # each piece of 300 bytes earns 3 s, and they take twice body_s together
                while asyncio.get_running_loop().time() < began_s + 0.6 * (1 - len(left) / len(message)):
                    await wire.listen()
                part, left = left[:300], left[300:]
                await wire.say(frame(DATA, 0 if left else END_STREAM, 1, part))
            while 1 not in wire.answers or not wire.answers[1].ended:
                await wire.listen()
        return wire.answers[1].messages

    assert wired(scenario, body_s=0.3, bytes_a_s=100.0) == prefixed(message)


def test_a_grpc_stream_may_be_silent_between_messages_but_not_within_one() -> None:
    async def scenario(wire: Wire) -> tuple[bytes, int | None]:
        await wire.greet()
        await wire.say(frame(HEADERS, END_HEADERS, 1, wire.head(CHAT)), frame(DATA, 0, 1, prefixed(b"one")))
        until_s = asyncio.get_running_loop().time() + 0.2
        while asyncio.get_running_loop().time() < until_s:
            await wire.listen()
        await wire.say(frame(DATA, 0, 1, prefixed(b"two")))
        said = wire.answers[1].messages
        await wire.say(frame(DATA, 0, 1, prefixed(b"three")[:-1]))
        async with asyncio.timeout(PATIENCE_S):
            while not wire.answers[1].ended:
                await wire.listen()
        return said, wire.answers[1].code

    said, code = wired(scenario, body_s=0.05)

    assert said == prefixed(b"one") + prefixed(b"two")
    assert code == Code.DEADLINE_EXCEEDED


def test_an_http2_frame_that_trickles_in_ends_its_connection() -> None:
    async def scenario(wire: Wire) -> bytes:
        await wire.greet()
        slowly = iter(frame(HEADERS, END_HEADERS, 1, wire.head() + b"x" * 10_000))
        async with asyncio.timeout(PATIENCE_S):
            while not wire.transport.closed:
                await wire.say(bytes([next(slowly)]))
        return wire.last(GOAWAY)[1]

    assert wired(scenario, head_s=0.05, bytes_a_s=1e9).endswith(b"a frame did not arrive in time")


def test_who_was_not_read_from_has_all_of_its_time_again() -> None:
    async def scenario(wire: Wire) -> int | None:
        await wire.greet()
        await wire.say(frame(HEADERS, END_HEADERS, 1, wire.head()))
        wire.connection.pause_writing()
        until_s = asyncio.get_running_loop().time() + 0.2
        while asyncio.get_running_loop().time() < until_s:
            await wire.listen()
        wire.connection.resume_writing()
        return (await wire.say(frame(DATA, END_STREAM, 1, prefixed(b"x")))).answers[1].code

    assert wired(scenario, body_s=0.05) == Code.OK


def test_over_sockets_a_crowd_of_dribbling_grpc_clients_is_cut_and_nobody_else_waits() -> None:
    head = Encoder().encode(
        [
            *((":method", "POST"), (":scheme", "http"), (":authority", "a"), (":path", ECHO)),
            *(("content-type", "application/grpc"), ("te", "trailers")),
        ]
    )
    begun = PREFACE + settings_frame({}) + frame(HEADERS, END_HEADERS, 1, head)

    async def heard(address: tuple[str, int], rest: list[bytes], last_words: bytes) -> bytes:
        """All until these words, of a client that sends the next piece of the rest now and then."""
        reader, writer = await asyncio.open_connection(*address)
        writer.write(begun)
        found = b""
        while last_words not in found:
            if rest:
                writer.write(frame(DATA, 0 if len(rest) > 1 else END_STREAM, 1, rest.pop(0)))
            with suppress(TimeoutError):
                async with asyncio.timeout(0.02):
                    part = await reader.read(1 << 16)
                    assert part, f"cut without a word after {found!r}"
                    found += part
        writer.close()
        return found

    async def scenario() -> tuple[list[bytes], bytes]:
        settings = GrpcSettings(body_s=0.3, bytes_a_s=1e9)
        server, listener = GrpcServer(METHODS, settings, random.Random(0)), socket.create_server(("127.0.0.1", 0))
        await server.start(listener)
        address = listener.getsockname()
        try:
            async with asyncio.timeout(PATIENCE_S):
                pieces = [bytes([one]) for one in prefixed(b"x" * 10_000)]
                slow = [asyncio.create_task(heard(address, list(pieces), b"arrive in time")) for _ in range(50)]
                quick = await heard(address, [prefixed(b"somebody else")], b"somebody else")
                return await asyncio.gather(*slow), quick
        finally:
            await server.stop(0.0)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        slow, quick = runner.run(scenario())

    assert len(slow) == 50
    assert b"arrive in time" not in quick
