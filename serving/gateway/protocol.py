"""The hot routes below ASGI: uvicorn's HTTP/1.1 protocol with a shorter way for a few paths.

uvicorn makes a scope, an event, a task and two writes for every request; a ranking needs a known
head, the body's bytes and one write. Whatever is not plainly hot (another path, a chunked or
oversized body, a pipelined request, a head in pieces) takes uvicorn's way and meets the same
routes there.
"""

import asyncio
import functools
import math
from collections.abc import Callable
from http import HTTPStatus
from typing import Any

import msgspec
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from serving.errors import RankingError
from serving.gateway.heads import MAX_HEAD_BYTES, Head, Heads
from serving.gateway.http import Answer, HotRoute, HotRoutes
from serving.gateway.patience import Patience

_STATUS_LINES = {status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in HTTPStatus}


class _NoEvent:
    """uvicorn sets an event that wakes an ASGI application; here is none."""

    def set(self) -> None:
        pass


class _HotCycle:
    """One hot request. What uvicorn's protocol looks at on its current cycle has uvicorn's names.

    missing_bytes: of the body, not yet received; negative once a pipelined request follows it.
    """

    __slots__ = (
        "disconnected",
        "head",
        "keep_alive",
        "missing_bytes",
        "parts",
        "response_complete",
        "take_back",
        "task",
    )
    message_event = _NoEvent()

    def __init__(self, head: Head[HotRoute], first: memoryview) -> None:
        self.head = head
        self.parts: list[bytes | memoryview] = [first]
        self.missing_bytes = head.length - len(first)
        self.keep_alive = True
        self.disconnected = False
        self.response_complete = False
        self.task: asyncio.Task[None] | None = None
        self.take_back: Callable[[], None] | None = None

    def body(self) -> bytes | memoryview:
        """All of it has arrived."""
        return self.parts[0] if len(self.parts) == 1 else b"".join(self.parts)


class HotProtocol(HttpToolsProtocol):
    """routes: where hot requests go; heads: which those are; patience: with slow clients. The rest is uvicorn's."""

    def __init__(
        self, *args: Any, routes: HotRoutes, heads: Heads[HotRoute], patience: Patience, **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        self._routes, self._heads, self._patience = routes, heads, patience
        self._due_s = math.inf  # when what is on its way has to be here
        self._watch: asyncio.TimerHandle | None = None
        self._unread: asyncio.TimerHandle | None = None  # while the client does not read
        self._head_bytes = -1  # of the head under way, -1 between heads
        self._why_refused: tuple[int, str] | None = None
        self._hot: _HotCycle | None = None  # the newest
        self._receiving: _HotCycle | None = None  # the one whose body is on its way
        self._rest_until_s = 0.0
        self._between_messages = True  # as far as uvicorn's parser is concerned

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._expect(self._patience.head_s)

    def data_received(self, data: bytes) -> None:
        cycle = self._receiving
        if cycle is not None:
            cycle.parts.append(data)
            cycle.missing_bytes -= len(data)
            self._due_s += len(data) / self._patience.bytes_a_s
            if cycle.missing_bytes <= 0:
                self._received(cycle)
        elif not (self._between_messages and self._hot_begins(data)):
            super().data_received(data)
            if self._head_bytes >= 0:
                self._head_bytes += len(data)
                if self._head_bytes > self._patience.head_bytes:
                    self._end(431, f"the head has more than {self._patience.head_bytes} bytes")

    def on_message_begin(self) -> None:
        self._between_messages = False
        self._head_bytes = 0
        self._expect(self._patience.head_s)
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        super().on_header(name, value)
        if len(self.headers) > self._patience.headers:
            self._why_refused = (431, f"the head has more than {self._patience.headers} lines")
            raise ValueError(self._why_refused[1])  # ends httptools' work; uvicorn then calls send_400_response

    def on_headers_complete(self) -> None:
        self._head_bytes = -1
        self._expect(self._patience.body_s)
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._due_s += len(body) / self._patience.bytes_a_s
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._due_s = math.inf
        super().on_message_complete()
        self._between_messages = True

    def send_400_response(self, msg: str) -> None:
        self._end(*(self._why_refused or (400, "no HTTP request")))

    def pause_writing(self) -> None:
        super().pause_writing()
        self.flow.pause_reading()  # who does not read answers may not ask for more of them
        if self._unread is None:
            self._unread = self.loop.call_later(self._patience.read_s, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        self.flow.resume_reading()
        if self._unread is not None:
            self._unread.cancel()
            self._unread = None

    def connection_lost(self, exc: Exception | None) -> None:
        hot = self._hot
        if hot is not None and not hot.response_complete:  # nobody waits for the answer: drop it
            if hot.task is not None:
                hot.task.cancel()
            elif hot.take_back is not None:
                hot.take_back()
        for timer in (self._watch, self._unread):
            if timer is not None:
                timer.cancel()
        super().connection_lost(exc)

    def _expect(self, within_s: float) -> None:
        """What is on its way has to be here by then."""
        self._due_s = self.loop.time() + within_s
        if self._watch is None:
            self._watch = self.loop.call_later(within_s, self._look)

    def _look(self) -> None:
        """One timer for many requests: it looks again when the newest is due."""
        self._watch = None
        if self.transport.is_closing() or self._due_s == math.inf:
            return
        if (left_s := self._due_s - self.loop.time()) > 0:
            self._watch = self.loop.call_later(left_s, self._look)
        elif self._between_messages and self._receiving is None:
            self.transport.close()  # it never said a word
        else:
            self._end(408, "the request did not arrive in time")

    def _end(self, status: int, why: str) -> None:
        """The last answer on this connection; nobody waits for the client to read it."""
        if self.transport.is_closing():
            return
        answer = Answer(status, msgspec.json.encode({"error": f"{why}: the connection is closed"}))
        self.transport.write(_response(answer, keep_alive=False))
        self.transport.close()
        self.loop.call_later(self._patience.head_s, self.transport.abort)

    def _hot_begins(self, data: bytes) -> bool:
        """Whether a hot request begins here, and this protocol has taken it."""
        if self.cycle is not None and not self.cycle.response_complete:
            return False
        end = data.find(b"\r\n\r\n", 0, MAX_HEAD_BYTES)
        head = self._heads.read(data[:end]) if end > 0 else None
        if head is None:
            return False
        cycle = _HotCycle(head, memoryview(data)[end + 4 :])
        if cycle.missing_bytes > 0 and not self._routes.lets_in(head.place, head.headers):
            return False
        self._hot = cycle
        self.cycle = cycle  # type: ignore[assignment]
        if cycle.missing_bytes > 0:
            self._receiving = cycle
            self._expect(self._patience.body_s)
        else:
            self._received(cycle)
        return True

    def _received(self, cycle: _HotCycle) -> None:
        self._receiving, self._due_s = None, math.inf
        rest: bytes | memoryview = b""
        if cycle.missing_bytes < 0:
            last = cycle.parts[-1]
            cycle.parts[-1], rest = last[: cycle.missing_bytes], last[cycle.missing_bytes :]
        head = cycle.head
        if head.place.begin is not None:
            answered = functools.partial(self._answered, cycle)
            cycle.take_back = head.place.begin(cycle.body(), head.headers, answered)
        if cycle.take_back is None:
            cycle.task = self.loop.create_task(self._answer(cycle))
            self.tasks.add(cycle.task)
        if rest:
            super().data_received(bytes(rest))

    async def _answer(self, cycle: _HotCycle) -> None:
        head = cycle.head
        try:
            answer = await self._routes.answer(head.place, "POST", head.path, head.headers, cycle.body())
        finally:
            self.tasks.discard(cycle.task)
        self._answered(cycle, answer)

    def _answered(self, cycle: _HotCycle, answer: Answer) -> None:
        cycle.response_complete = True
        cycle.take_back = None  # it leads back to this cycle: without it the body is freed now, not by the collector
        cycle.parts.clear()
        if cycle.disconnected:
            return
        self.transport.write(_response(answer, cycle.keep_alive))
        if not cycle.keep_alive:
            self.transport.close()
        elif self.pipeline:
            self.on_response_complete()
        else:
            self.server_state.total_requests += 1
            self._rest()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._rest_until_s = self.loop.time() + self.timeout_keep_alive

    def timeout_keep_alive_handler(self) -> None:
        """uvicorn's timer, one for many requests: it looks again when the newest may be over."""
        self.timeout_keep_alive_task = None
        if self.transport.is_closing():
            return
        if self.cycle is not None and not self.cycle.response_complete:
            self._rest()
        elif (left_s := self._rest_until_s - self.loop.time()) > 0:
            self.timeout_keep_alive_task = self.loop.call_later(left_s, self.timeout_keep_alive_handler)
        else:
            self.transport.close()

    def _rest(self) -> None:
        """The connection may be kept for so long from now."""
        self._rest_until_s = self.loop.time() + self.timeout_keep_alive
        if self.timeout_keep_alive_task is None:
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )


def _response(answer: Answer, keep_alive: bool) -> bytes:
    """Head and body in one piece."""
    hints = b"".join([b"%b: %b\r\n" % hint for hint in answer.hints]) if answer.hints else b""
    return b"%bcontent-type: %b\r\n%b%bcontent-length: %d\r\n\r\n%b" % (
        _STATUS_LINES[answer.status],
        answer.content_type,
        hints,
        b"" if keep_alive else b"connection: close\r\n",
        len(answer.body),
        answer.body,
    )


def protocol_with(routes: HotRoutes, patience: Patience | None = None) -> "type[asyncio.Protocol]":
    """The class for uvicorn's `http` setting."""
    limits = patience or Patience()

    def admits(route: HotRoute, headers: dict[bytes, bytes]) -> bool:
        try:
            routes.check_head(route, headers)
        except RankingError:
            return False  # the long way says why
        return True

    heads = Heads(routes.route_of, admits)

    class Bound(HotProtocol):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, routes=routes, heads=heads, patience=limits, **kwargs)

    return Bound
