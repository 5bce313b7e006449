"""The hot routes below ASGI: uvicorn's HTTP/1.1 protocol with a shorter way for two paths.

uvicorn makes a scope, an event, a task and two writes for every request; a ranking needs a parsed
head, the body's bytes and one write. Whatever is not plainly hot (another path, a chunked or
oversized body, a pipelined request, Expect) takes uvicorn's way and meets the same routes there.
"""

import asyncio
from http import HTTPStatus
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from serving.errors import RankingError
from serving.gateway.http import Answer, HotRoutes, Route

_HEADS = {
    status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\ncontent-type: application/json\r\n".encode()
    for status in HTTPStatus
}


class _NoEvent:
    """uvicorn sets an event that wakes an ASGI application; here is none."""

    def set(self) -> None:
        pass


class _HotCycle:
    """One hot request. What uvicorn's protocol looks at on its current cycle has uvicorn's names."""

    message_event = _NoEvent()

    def __init__(self, route: Route, path: str, headers: dict[bytes, bytes], keep_alive: bool) -> None:
        self.route, self.path, self.headers, self.keep_alive = route, path, headers, keep_alive
        self.parts: list[bytes] = []
        self.disconnected = False
        self.response_complete = False

    async def body(self) -> bytes:
        """All of it has arrived."""
        return self.parts[0] if len(self.parts) == 1 else b"".join(self.parts)


class HotProtocol(HttpToolsProtocol):
    """routes: where hot requests go. The rest is uvicorn's."""

    def __init__(self, *args: Any, routes: HotRoutes, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._routes = routes
        self._hot: _HotCycle | None = None

    def on_headers_complete(self) -> None:
        self._hot = self._hot_cycle()
        if self._hot is None:
            super().on_headers_complete()
        else:
            self.cycle = self._hot  # type: ignore[assignment]

    def on_body(self, body: bytes) -> None:
        if self._hot is None:
            super().on_body(body)
        else:
            self._hot.parts.append(body)

    def on_message_complete(self) -> None:
        if self._hot is None:
            super().on_message_complete()
            return
        cycle, self._hot = self._hot, None
        task = self.loop.create_task(self._answer(cycle))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    def _hot_cycle(self) -> _HotCycle | None:
        """The request as a hot one, if it is plainly that."""
        busy = self.cycle is not None and not self.cycle.response_complete
        if busy or self.expect_100_continue or self.parser.get_method() != b"POST":
            return None
        path = self.url.decode("latin-1")
        route = self._routes.route_of(path)
        headers = dict(self.headers)
        if route is None or "%" in path or b"content-length" not in headers or self.parser.should_upgrade():
            return None
        try:
            self._routes.check_head(headers)
        except RankingError:
            return None
        return _HotCycle(route, path, headers, self.parser.should_keep_alive())

    async def _answer(self, cycle: _HotCycle) -> None:
        answer = await self._routes.answer(cycle.route, "POST", cycle.path, cycle.headers, cycle.body)
        cycle.response_complete = True
        if cycle.disconnected:
            return
        self.transport.write(_response(answer, cycle.keep_alive))
        if not cycle.keep_alive:
            self.transport.close()
        self.on_response_complete()


def _response(answer: Answer, keep_alive: bool) -> bytes:
    """Head and body in one piece."""
    hints = b"".join(name + b": " + value + b"\r\n" for name, value in answer.hints)
    close = b"" if keep_alive else b"connection: close\r\n"
    return b"".join(
        (_HEADS[answer.status], hints, close, b"content-length: %d\r\n\r\n" % len(answer.body), answer.body)
    )


def protocol_with(routes: HotRoutes) -> "type[asyncio.Protocol]":
    """The class for uvicorn's `http` setting."""

    class Bound(HotProtocol):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, routes=routes, **kwargs)

    return Bound
