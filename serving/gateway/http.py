"""The hot routes as plain ASGI: a query costs no framework, no validation model, no extra task.

    POST /v1/models/{model}/rank
    POST /v1/feedback

Everything else goes to the FastAPI application behind.
"""

import logging
import random
import re
import time
from collections.abc import Awaitable, Callable

import msgspec
from starlette.types import ASGIApp, Receive, Scope, Send

from registry.contracts.ids import RankingIds, model_tag
from serving import metrics
from serving.errors import BodyTooLarge, QueryRefused, RankingError, WrongContentType, WrongMethod
from serving.event_log import EventLog
from serving.gateway.schema import read_feedback, read_rank, write_ranking
from serving.rank import Ranker
from serving.settings import GatewaySettings

log = logging.getLogger(__name__)


RANK_PATH = re.compile(r"/v1/models/([^/]+)/rank")
FEEDBACK_PATH = "/v1/feedback"
_TRACEPARENT = re.compile(rb"00-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}")
_JSON = (b"content-type", b"application/json")


class ClientLeft(Exception):
    """The connection closed before the body was complete: there is nobody to answer."""


class HotRoutes:
    """Ranks and takes feedback; hands every other request to `rest`."""

    def __init__(
        self,
        rest: ASGIApp,
        ranker: Ranker,
        event_log: EventLog,
        ids: RankingIds,
        settings: GatewaySettings,
        random: random.Random,
        wall_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        self._rest, self._ranker, self._event_log, self._ids = rest, ranker, event_log, ids
        self._settings, self._random, self._wall_ms = settings, random, wall_ms

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            path = scope["path"]
            if path == FEEDBACK_PATH:
                await self._answer(self._feedback, "", scope, receive, send)
                return
            if found := RANK_PATH.fullmatch(path):
                await self._answer(self._rank, found[1], scope, receive, send)
                return
        await self._rest(scope, receive, send)

    async def _answer(
        self,
        route: Callable[[str, bytes, str], Awaitable[tuple[int, bytes]]],
        model: str,
        scope: Scope,
        receive: Receive,
        send: Send,
    ) -> None:
        headers = dict(scope["headers"])
        trace_id = self._trace_id(headers.get(b"traceparent", b""))
        hints: list[tuple[bytes, bytes]] = []
        try:
            if scope["method"] != "POST":
                raise WrongMethod(f"{scope['method']} {scope['path']}: expected POST")
            status, body = await route(model, await self._body(headers, receive), trace_id)
        except ClientLeft:
            return
        except RankingError as error:
            status, body = error.status, msgspec.json.encode({"error": str(error)})
            if error.retry_after_s is not None:
                hints = [(b"retry-after", b"%d" % max(1, round(error.retry_after_s)))]
            elif isinstance(error, WrongMethod):
                hints = [(b"allow", b"POST")]
            if status >= 500:
                log.warning("%d: %s", status, error, extra={"trace_id": trace_id, "path": scope["path"]})
        except Exception:
            log.exception("a bug answered with 500", extra={"trace_id": trace_id, "path": scope["path"]})
            status, body = 500, b'{"error":"internal error, see the gateway\'s log"}'
        length = (b"content-length", b"%d" % len(body))
        await send({"type": "http.response.start", "status": status, "headers": [_JSON, length, *hints]})
        await send({"type": "http.response.body", "body": body})

    async def _rank(self, model: str, body: bytes, trace_id: str) -> tuple[int, bytes]:
        try:
            query = read_rank(model, body, self._settings, trace_id)
        except QueryRefused:
            metrics.ANSWERS.labels(model if model in self._ranker.plans else "", "", 400).inc()
            raise
        return 200, write_ranking(await self._ranker.rank(query))

    async def _feedback(self, _: str, body: bytes, trace_id: str) -> tuple[int, bytes]:
        models = {model_tag(model): model for model in self._ranker.plans}
        try:
            events = read_feedback(body, self._settings, self._ids, models, self._wall_ms())
        except QueryRefused:
            metrics.FEEDBACK.labels("", "refused").inc()
            raise
        self._event_log.feedback(events)
        for event in events:
            metrics.FEEDBACK.labels(type(event).__name__.lower(), "accepted").inc()
        return 202, msgspec.json.encode({"accepted": len(events)})

    async def _body(self, headers: dict[bytes, bytes], receive: Receive) -> bytes:
        """The request's body. Raises WrongContentType, BodyTooLarge or ClientLeft."""
        content_type = headers.get(b"content-type", b"").split(b";")[0].strip().lower()
        if content_type != b"application/json":
            given = content_type.decode(errors="replace")[:64] or "none"
            raise WrongContentType(f"content-type={given}: expected application/json")
        limit = self._settings.max_body_bytes
        declared = headers.get(b"content-length", b"0")
        if not declared.isdigit() or int(declared) > limit:
            raise BodyTooLarge(f"body: {declared.decode(errors='replace')[:32]} bytes, expected at most {limit}")
        parts: list[bytes] = []
        size, more = 0, True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise ClientLeft
            part = message.get("body", b"")
            size += len(part)
            if size > limit:
                raise BodyTooLarge(f"body: more than {limit} bytes")
            parts.append(part)
            more = message.get("more_body", False)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _trace_id(self, traceparent: bytes) -> str:
        """The caller's trace id (W3C traceparent), or a new one."""
        if found := _TRACEPARENT.fullmatch(traceparent):
            return found[1].decode()
        return f"{self._random.getrandbits(128):032x}"
