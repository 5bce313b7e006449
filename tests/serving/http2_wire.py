"""One end of an HTTP/2 connection for tests: frames to a real `Connection`, and what it says in return."""

import asyncio
import itertools
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import uvloop
from hpack import Decoder, Encoder

from serving.gateway.grpc.calls import Call, Conversation, Done, Method
from serving.gateway.grpc.connection import Connection
from serving.gateway.grpc.frames import (
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    HEADERS,
    PREFACE,
    Frame,
    FrameReader,
    frame,
    settings_frame,
)
from serving.gateway.grpc.messages import prefixed
from serving.gateway.grpc.server import GrpcServer
from serving.settings import GrpcSettings

T = TypeVar("T")

ECHO, BEGUN, CHAT, HANG = "/test/Echo", "/test/Begun", "/test/Chat", "/test/Hang"
ONCE, DEAF = "/test/Once", "/test/Deaf"
MAX_BYTES = 1 << 20


async def echo(call: Call, message: bytes | memoryview) -> bytes:
    """Gives back what it takes."""
    return bytes(message)


def begin(call: Call, message: bytes | memoryview, done: Done) -> Callable[[], None]:
    """The same without a coroutine."""
    return asyncio.get_running_loop().call_soon(done, bytes(message)).cancel


async def chat(call: Call, conversation: Conversation) -> None:
    """Gives back every message."""
    while (message := await conversation.receive()) is not None:
        await conversation.send(bytes(message))


async def watch(call: Call, conversation: Conversation) -> None:
    """Takes one message, and never answers."""
    await conversation.receive()
    await asyncio.get_running_loop().create_future()


async def hang(call: Call, message: bytes | memoryview) -> bytes:
    """Never answers."""
    return await asyncio.get_running_loop().create_future()


METHODS = {
    ECHO: Method(ECHO, MAX_BYTES, answer=echo),
    BEGUN: Method(BEGUN, MAX_BYTES, answer=echo, begin=begin),
    CHAT: Method(CHAT, MAX_BYTES, converse=chat),
    ONCE: Method(ONCE, MAX_BYTES, converse=watch, asked_once=True),
    DEAF: Method(DEAF, MAX_BYTES, converse=watch),
    HANG: Method(HANG, MAX_BYTES, answer=hang),
}


class Transport(asyncio.Transport):
    """Keeps what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.closed = self.reading_paused = False

    def write(self, data: Any) -> None:
        """See asyncio."""
        assert not self.closed
        self.written += data

    def is_closing(self) -> bool:
        """See asyncio."""
        return self.closed

    def close(self) -> None:
        """See asyncio."""
        self.closed = True

    abort = close

    def pause_reading(self) -> None:
        """See asyncio."""
        self.reading_paused = True

    def resume_reading(self) -> None:
        """See asyncio."""
        self.reading_paused = False


@dataclass
class Answer:
    """One stream as the client sees it. messages: with their prefixes. ended: by END_STREAM."""

    fields: dict[str, str] = field(default_factory=dict)
    messages: bytes = b""
    ended: bool = False

    @property
    def code(self) -> int | None:
        """gRPC's, None until there is one."""
        code = self.fields.get("grpc-status")
        return None if code is None else int(code)


class Wire:
    """A client over a connection without a socket."""

    def __init__(self, server: GrpcServer) -> None:
        self.connection: Connection = server._connect()
        self.transport = Transport()
        self.connection.connection_made(self.transport)
        self._encoder, self._decoder, self._reader = Encoder(), Decoder(), FrameReader(1 << 24)
        self.frames: list[Frame] = []
        self.answers: dict[int, Answer] = {}

    async def say(self, *frames: bytes) -> "Wire":
        """Sends, and reads what comes within some loop ticks."""
        if not self.transport.closed:
            self.connection.data_received(b"".join(frames))
        return await self.listen()

    async def greet(self, **settings: int) -> "Wire":
        """Begins as HTTP/2 begins."""
        return await self.say(PREFACE, settings_frame({int(name[1:]): value for name, value in settings.items()}))

    async def listen(self) -> "Wire":
        """Reads what has been written."""
        for _ in range(10):
            await asyncio.sleep(0)
        written, self.transport.written = self.transport.written, b""
        if self.transport.closed and written.startswith(b"HTTP/1.1"):
            return self
        for one in self._reader.feed(written):
            self._read(one)
        return self

    def head(self, path: str = ECHO, *more: tuple[str, str], **changes: str) -> bytes:
        """A request's header block, unindexed unless the encoder has seen it before."""
        fields = {"method": "POST", "scheme": "http", "path": path, "authority": "here"} | changes
        return self._encoder.encode(
            [
                *((f":{name}", value) for name, value in fields.items()),
                ("content-type", "application/grpc"),
                ("te", "trailers"),
                *more,
            ]
        )

    def call(self, number: int, message: bytes = b"hello", path: str = ECHO, *more: tuple[str, str]) -> bytes:
        """A unary call's frames."""
        return frame(HEADERS, END_HEADERS, number, self.head(path, *more)) + frame(
            DATA, END_STREAM, number, prefixed(message)
        )

    def kinds(self) -> list[int]:
        """Of the frames so far."""
        return [kind for kind, _, _, _ in self.frames]

    def last(self, kind: int) -> tuple[int, bytes]:
        """Stream and payload of the last frame of this kind."""
        found = [(number, bytes(payload)) for one, _, number, payload in self.frames if one == kind]
        assert found, f"no frame of kind {kind}"
        return found[-1]

    def _read(self, one: Frame) -> None:
        kind, flags, number, payload = one
        self.frames.append(one)
        assert kind != CONTINUATION
        if kind == HEADERS:
            answer = self.answers.setdefault(number, Answer())
            for name, value in self._decoder.decode(bytes(payload)):
                answer.fields[str(name)] = str(value)
            answer.ended |= bool(flags & END_STREAM)
        elif kind == DATA:
            answer = self.answers[number]
            answer.messages += payload
            answer.ended |= bool(flags & END_STREAM)


def wired(scenario: Callable[[Wire], Awaitable[T]], **limits: Any) -> T:
    """What the scenario returns of a client of METHODS. limits: of GrpcSettings."""

    async def run() -> T:
        return await scenario(Wire(GrpcServer(METHODS, GrpcSettings(**limits), random.Random(0))))

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(run())


def cut(data: bytes, places: Sequence[int]) -> list[bytes]:
    """The bytes in pieces."""
    bounds = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[start:end] for start, end in itertools.pairwise(bounds)]
