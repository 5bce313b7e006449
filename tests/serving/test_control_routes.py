"""The gateway's way to the controller: requests and answers pass as they are, and nothing of it reaches ranking."""

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import fastapi
import httpx
import msgspec
import pytest
from fastapi.responses import Response

from serving.errors import RankingError
from serving.gateway.control.controller import Controller
from serving.gateway.control.routes import CONTROL_ROUTES, control_router, with_control_routes
from serving.gateway.http import answer_of
from serving.settings import ControlSettings

PROMOTE = "/v1/models/codesearch/promote"
Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
Client = httpx.AsyncClient


async def request_of(reader: asyncio.StreamReader) -> tuple[bytes, bytes]:
    """Head and body of one request."""
    head = await reader.readuntil(b"\r\n\r\n")
    length = next(int(line[16:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length: "))
    return head, await reader.readexactly(length)


@asynccontextmanager
async def a_controller(path: Path, talk: Talk) -> AsyncIterator[None]:
    """Something that listens where the controller should, and talks as it likes."""
    server = await asyncio.start_unix_server(talk, path)
    async with server:
        yield


@asynccontextmanager
async def a_gateway(path: Path | None, **changes: Any) -> AsyncIterator[Client]:
    """The control routes alone, in front of what listens at the path."""
    settings = ControlSettings(address=f"unix:{path}" if path else "", **changes)
    app = fastapi.FastAPI()
    app.include_router(control_router(Controller(settings).ask, settings))

    @app.exception_handler(RankingError)
    async def refused(_: fastapi.Request, error: RankingError) -> Response:
        answer = answer_of(error)
        return Response(answer.body, answer.status, {name.decode(): value.decode() for name, value in answer.hints})

    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://sluice") as client:
        yield client


async def answers(writer: asyncio.StreamWriter, *parts: bytes) -> None:
    writer.write(b"\r\n".join(parts))
    await writer.drain()
    writer.close()


def test_a_request_and_its_answer_pass_as_they_are(tmp_path: Path) -> None:
    seen: list[tuple[bytes, bytes]] = []

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(await request_of(reader))
        head = (b"HTTP/1.1 412 Precondition Failed", b'ETag: "8"', b"Content-Type: application/json")
        await answers(writer, *head, b"Server: its own", b"Content-Length: 13", b"", b'{"error":"x"}')

    async def scenario() -> httpx.Response:
        async with a_controller(tmp_path / "c", talk), a_gateway(tmp_path / "c") as client:
            headers = {"authorization": "Bearer k", "idempotency-key": "i", "if-match": '"7"', "cookie": "no"}
            return await client.post(f"{PROMOTE}?q=a%20b", content=b"\x00any\xff", headers=headers)

    answer = asyncio.run(scenario())

    head, body = seen[0]
    assert head.startswith(b"POST /v1/models/codesearch/promote?q=a%20b HTTP/1.1\r\n")
    sent = {line.partition(b": ")[0]: line.partition(b": ")[2] for line in head.split(b"\r\n")[1:]}
    assert (sent[b"authorization"], sent[b"idempotency-key"], sent[b"if-match"]) == (b"Bearer k", b"i", b'"7"')
    assert b"cookie" not in sent
    assert body == b"\x00any\xff"
    assert (answer.status_code, answer.headers["etag"], answer.json()) == (412, '"8"', {"error": "x"})
    assert "server" not in answer.headers


def test_an_answer_in_chunks_is_whole(tmp_path: Path) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request_of(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nwhol")
        await writer.drain()
        await answers(writer, b"", b"1", b"e", b"0", b"", b"")

    async def scenario() -> httpx.Response:
        async with a_controller(tmp_path / "c", talk), a_gateway(tmp_path / "c") as client:
            return await client.get("/v1/models/codesearch/history")

    assert asyncio.run(scenario()).content == b"whole"


def test_a_platform_without_a_controller_says_what_starts_one() -> None:
    async def scenario() -> httpx.Response:
        async with a_gateway(None) as client:
            return await client.post(PROMOTE)

    answer = asyncio.run(scenario())

    assert (answer.status_code, "retry-after" in answer.headers) == (501, False)
    assert "SLUICE_WITH_CONTROLLER=1" in answer.json()["error"]


def test_a_controller_that_is_away_is_told_with_when_to_come_back(tmp_path: Path) -> None:
    async def scenario() -> httpx.Response:
        async with a_gateway(tmp_path / "nobody") as client:
            return await client.post(PROMOTE)

    answer = asyncio.run(scenario())

    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    assert "controller" in answer.json()["error"]


@pytest.mark.parametrize("said", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhal", b"not HTTP\r\n\r\n"])
def test_a_controller_that_dies_during_the_request_may_have_done_it(tmp_path: Path, said: bytes) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request_of(reader)
        await answers(writer, said)

    async def scenario() -> httpx.Response:
        async with a_controller(tmp_path / "c", talk), a_gateway(tmp_path / "c") as client:
            return await client.post(PROMOTE)

    answer = asyncio.run(scenario())

    assert answer.status_code == 503
    assert "same Idempotency-Key" in answer.json()["error"]


def test_a_hanging_controller_costs_its_callers_a_bounded_time_and_others_nothing(tmp_path: Path) -> None:
    asked = asyncio.Semaphore(0)

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.release()
        await reader.read()  # until the other side has had enough
        writer.close()

    async def scenario() -> tuple[list[int], list[int], str]:
        async with (
            a_controller(tmp_path / "c", talk),
            a_gateway(tmp_path / "c", timeout_s=0.5, max_in_flight=3) as client,
        ):
            hanging = [asyncio.create_task(client.post(PROMOTE)) for _ in range(3)]
            for _ in hanging:
                await asked.acquire()
            late = await client.post(PROMOTE)
            ended = await asyncio.gather(*hanging)
            after = await client.post(PROMOTE)
            return [answer.status_code for answer in ended], [late.status_code, after.status_code], ended[0].text

    ended, others, words = asyncio.run(scenario())

    assert ended == [504, 504, 504]
    assert others == [429, 504]  # full, and room again
    assert "same Idempotency-Key" in words


def test_a_body_and_an_answer_have_a_limit(tmp_path: Path) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request_of(reader)
        await answers(writer, b"HTTP/1.1 200 OK", b"Content-Length: 2000", b"", b"x" * 2000)

    async def scenario() -> list[httpx.Response]:
        limits = {"max_body_bytes": 1024, "max_answer_bytes": 1024}
        async with a_controller(tmp_path / "c", talk), a_gateway(tmp_path / "c", **limits) as client:
            return [await client.post(PROMOTE, content=bytes(1025)), await client.post(PROMOTE, content=bytes(1024))]

    large_body, large_answer = asyncio.run(scenario())

    assert (large_body.status_code, large_answer.status_code) == (413, 503)
    assert "more than 1024 bytes" in large_answer.json()["error"]


def test_the_openapi_document_has_every_control_route_and_no_dangling_reference() -> None:
    document = with_control_routes({"paths": {}, "components": {"schemas": {"ErrorAnswer": {}}}})

    for route in CONTROL_ROUTES:
        operation = document["paths"][route.path][route.method.lower()]
        assert operation["security"] == [{"key": []}]
        assert str(route.success) in operation["responses"]
    text = msgspec.json.encode(document).decode()
    named = {part.partition('"')[0] for part in text.split('"#/components/schemas/')[1:]}
    assert named <= document["components"]["schemas"].keys()


def test_no_two_control_routes_are_alike() -> None:
    assert len({(route.method, route.path) for route in CONTROL_ROUTES}) == len(CONTROL_ROUTES)
    assert len({route.name for route in CONTROL_ROUTES}) == len(CONTROL_ROUTES)


def test_the_gateway_imports_nothing_of_the_control_plane() -> None:
    program = "import sys, deploy.gateway.process; print(*sorted(sys.modules))"
    shown = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    loaded = shown.stdout.split()
    assert "serving.gateway.control.routes" in loaded
    heavy = ("sqlalchemy", "alembic", "pipelines", "deploy.control", "deploy.control.controller", "registry.rollouts")
    assert [name for name in loaded if name.startswith(heavy)] == []
