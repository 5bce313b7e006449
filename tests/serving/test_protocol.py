"""The short way below ASGI, over real sockets: the same answers however the bytes arrive."""

import json
import socket
import time
from collections.abc import Iterator

import pytest

from tests.serving.http_gateway import RunningGateway, a_running_gateway
from tests.serving.workbench import PATIENCE_S, Held, SumOfFeatures, a_replica

BODY = json.dumps({"candidates": ["item-1", "item-2", "item-3"]}).encode()


@pytest.fixture(scope="module")
def gateway() -> Iterator[RunningGateway]:
    with a_replica() as replica, a_running_gateway(replica.address) as gateway:
        yield gateway


def a_request(*more: bytes, body: bytes = BODY, length: bool = True) -> bytes:
    lines = [b"POST /v1/models/codesearch/rank HTTP/1.1", b"host: a", b"content-type: application/json", *more]
    if length:
        lines.append(b"content-length: %d" % len(body))
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


def answers(channel: socket.socket, count: int) -> list[tuple[int, bytes]]:
    """So many responses: status and body."""
    file = channel.makefile("rb")
    found = []
    for _ in range(count):
        status = int(file.readline().split()[1])
        length = 0
        while (line := file.readline().strip()) != b"":
            name, _, value = line.partition(b":")
            if name.lower() == b"content-length":
                length = int(value)
        found.append((status, file.read(length)))
    return found


def items(body: bytes) -> list[str]:
    return [item["id"] for item in json.loads(body)["items"]]


def connect(gateway: RunningGateway) -> socket.socket:
    return socket.create_connection(("127.0.0.1", gateway.port), timeout=PATIENCE_S)


@pytest.mark.parametrize("size", [1, 7, 50, 150, 1000])
def test_pieces_of_any_size_give_the_same_answer(gateway: RunningGateway, size: int) -> None:
    raw = a_request()
    with connect(gateway) as channel:
        channel.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for start in range(0, len(raw), size):
            channel.sendall(raw[start : start + size])

        [(status, body)] = answers(channel, 1)

    assert status == 200
    assert items(body) == ["item-3", "item-2", "item-1"]


def test_hot_and_other_requests_take_turns_on_one_connection(gateway: RunningGateway) -> None:
    other = b"GET /health HTTP/1.1\r\nhost: a\r\n\r\n"
    chunked = a_request(b"transfer-encoding: chunked", body=b"%x\r\n%b\r\n0\r\n\r\n" % (len(BODY), BODY), length=False)
    with connect(gateway) as channel:
        for raw in (a_request(), other, a_request(), chunked, a_request()):
            channel.sendall(raw)
            [(status, _)] = answers(channel, 1)
            assert status == 200


def test_a_connection_in_use_is_kept_beyond_the_keep_alive_and_an_idle_one_is_not() -> None:
    """Whatever kind of request armed the timer; uvicorn's own would end the connection in mid-use."""
    other = b"GET /health HTTP/1.1\r\nhost: a\r\n\r\n"
    with (
        a_replica() as replica,
        a_running_gateway(replica.address, keep_alive_s=1) as gateway,
        connect(gateway) as channel,
    ):
        channel.sendall(other)
        assert answers(channel, 1)[0][0] == 200
        until_s = time.monotonic() + 2.5
        while time.monotonic() < until_s:
            channel.sendall(a_request())
            assert answers(channel, 1)[0][0] == 200
        channel.settimeout(PATIENCE_S)
        assert channel.recv(1) == b""


def test_pipelined_requests_are_answered_in_order(gateway: RunningGateway) -> None:
    bodies = [json.dumps({"candidates": [f"item-{i}"]}).encode() for i in range(5)]
    with connect(gateway) as channel:
        channel.sendall(b"".join(a_request(body=body) for body in bodies))

        found = answers(channel, 5)

    assert [(status, items(body)) for status, body in found] == [(200, [f"item-{i}"]) for i in range(5)]


def test_a_connection_that_asks_to_be_closed_is(gateway: RunningGateway) -> None:
    with connect(gateway) as channel:
        channel.sendall(a_request(b"connection: close"))

        [(status, _)] = answers(channel, 1)

        assert status == 200
        assert channel.recv(1) == b""


def test_two_lengths_are_refused(gateway: RunningGateway) -> None:
    with connect(gateway) as channel:
        channel.sendall(a_request(b"content-length: 3"))

        [(status, _)] = answers(channel, 1)

    assert status == 400


def test_a_body_that_is_too_large_is_refused_without_reading_it(gateway: RunningGateway) -> None:
    with connect(gateway) as channel:
        channel.sendall(a_request(b"content-length: 999999999", length=False))

        [(status, body)] = answers(channel, 1)

    assert status == 413
    assert b"expected at most" in body


def test_a_client_who_leaves_is_not_ranked() -> None:
    program = Held(SumOfFeatures())
    with a_replica(program) as replica, a_running_gateway(replica.address) as gateway:
        with connect(gateway) as staying, connect(gateway) as leaving:
            staying.sendall(a_request())
            assert program.working.wait(PATIENCE_S)
            leaving.sendall(a_request())
            gateway.until(lambda: gateway.permits.taken == 2)
            leaving.close()
            gateway.until(lambda: gateway.permits.taken == 1)
            program.let_go.set()
            assert answers(staying, 1)[0][0] == 200
        assert gateway.rankings_logged() == 1
