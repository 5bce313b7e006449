"""The hot routes as plain ASGI: a query costs no framework, no validation model, no extra task.

    POST /v1/models/{model}/rank
    POST /v1/feedback
    POST /v1/prefetch
    POST /v2/models/{model}[/versions/{version}]/infer

Everything else goes to the FastAPI application behind.
"""

import asyncio
import contextlib
import functools
import logging
import math
import random
import re
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray
from starlette.types import ASGIApp, Receive, Scope, Send

from registry.contracts.ids import RankingIds, model_tag
from registry.contracts.traces import Trace, new_trace, parse_traceparent
from serving import metrics
from serving.errors import (
    BodyTooLarge,
    DeadlineExceeded,
    NotAuthenticated,
    QueryRefused,
    RankingError,
    ReplicaUnhealthy,
    WrongContentType,
    WrongMethod,
)
from serving.event_log import EventLog
from serving.flow.deadlines import DEADLINE_HEADER, within
from serving.gateway.schema import (
    RANKING_HEADER,
    VERSION_HEADER,
    asked_version,
    read_feedback,
    read_prefetch,
    read_rank,
    write_ranking,
)
from serving.identity.doorkeeper import Doorkeeper, Visit
from serving.rank import Ranker
from serving.ranking import Ranking, RankQuery
from serving.settings import GatewaySettings

log = logging.getLogger(__name__)


MODELS_PREFIX, RANK_SUFFIX = "/v1/models/", "/rank"
FEEDBACK_PATH, PREFETCH_PATH = "/v1/feedback", "/v1/prefetch"
_INFER_PATH = re.compile(r"/v2/models/(?P<model>[^/]+)(?:/versions/(?P<version>[^/]+))?/infer")
_VERSION_HEADER, _DEADLINE_HEADER = VERSION_HEADER.encode(), DEADLINE_HEADER.encode()


BUG = b'{"error":"internal error, see the gateway\'s log"}'
Headers = Mapping[bytes, bytes]
Body = bytes | memoryview


class Answer(msgspec.Struct):
    """hints: headers beside type and length."""

    status: int
    body: bytes
    hints: tuple[tuple[bytes, bytes], ...] = ()
    content_type: bytes = b"application/json"


Begin = Callable[[Body, Headers, Callable[[Answer], None]], Callable[[], None] | None]
"""Begins a request without a coroutine: the last argument is called with the answer, once, later. Returns
how to take the request back, None if it must go the long way, through `handle`."""


Prefetch = Callable[[str, NDArray[np.uint64], bytes], int]
"""See `ReplicaPool.prefetch`."""


class InferRoute(Protocol):
    """The Open Inference Protocol's inference, see `oip_infer`."""

    def begin(
        self, model: str, body: Body, headers: Headers, answered: Callable[[Answer], None]
    ) -> Callable[[], None] | None:
        """See `Begin`."""
        ...

    def __call__(self, model: str, version: str, body: Body, headers: Headers, trace: Trace) -> Awaitable[Answer]: ...


@dataclass(frozen=True, slots=True)
class HotRoute:
    """handle: from body, headers and trace to an answer; raises RankingError. json_only: other
    content types are refused. max_bytes: of a body as it comes over the wire. begin: a shorter way,
    if there is one. model: of the path, None if there is none."""

    handle: Callable[[Body, Headers, Trace], Awaitable[Answer]]
    json_only: bool
    max_bytes: int
    begin: Begin | None = None
    model: str | None = None


class ClientLeft(Exception):
    """The connection closed before the body was complete: there is nobody to answer."""


class HotRoutes:
    """Ranks, takes feedback and infers; hands every other request to `rest`."""

    def __init__(
        self,
        rest: ASGIApp,
        ranker: Ranker,
        event_log: EventLog,
        ids: RankingIds,
        settings: GatewaySettings,
        random: random.Random,
        wall_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
        infer: InferRoute | None = None,
        prefetch: Prefetch | None = None,
        doorkeeper: Doorkeeper | None = None,
    ) -> None:
        """doorkeeper: None where queries are open to everybody, and have no quotas."""
        self._infer, self._prefetch, self._doorkeeper = infer, prefetch, doorkeeper
        self._rest, self._ranker, self._event_log, self._ids = rest, ranker, event_log, ids
        self._settings, self._random, self._wall_ms = settings, random, wall_ms

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            path = scope["path"]
            if (route := self.route_of(path)) is not None:
                headers = dict(scope["headers"])
                with contextlib.suppress(ClientLeft):
                    answer = await self.answer(
                        route, scope["method"], path, headers, lambda: self._body(route, headers, receive)
                    )
                    await send_answer(answer, send)
                return
        await self._rest(scope, receive, send)

    def route_of(self, path: str) -> HotRoute | None:
        """The hot route with this path, if there is one."""
        limit = self._settings.max_body_bytes
        if path == FEEDBACK_PATH:
            return HotRoute(self._feedback, True, limit)
        if path == PREFETCH_PATH and self._prefetch is not None:
            return HotRoute(functools.partial(self._warm, self._prefetch), True, limit)
        if path.startswith(MODELS_PREFIX) and path.endswith(RANK_SUFFIX):
            model = path[len(MODELS_PREFIX) : -len(RANK_SUFFIX)]
            if model and "/" not in model:
                long_way, begin = functools.partial(self._rank, model), functools.partial(self._begin_rank, model)
                return HotRoute(long_way, True, limit, begin, model)
        if self._infer is not None and (found := _INFER_PATH.fullmatch(path)):
            answer = functools.partial(self._infer, found["model"], found["version"] or "")
            begun = None if found["version"] else functools.partial(self._infer.begin, found["model"])
            return HotRoute(answer, False, self._settings.max_infer_bytes, begun, found["model"])
        return None

    async def answer(
        self, route: HotRoute, method: str, path: str, headers: Headers, body: Body | Callable[[], Awaitable[bytes]]
    ) -> Answer:
        """What a request gets; whatever happens it gets something. body: or how to get it.

        Raises ClientLeft if nobody waits.
        """
        trace = trace_of(headers, self._random)
        try:
            if method != "POST":
                raise WrongMethod(f"{method} {path}: expected POST")
            if isinstance(body, bytes | memoryview):
                given = body
            else:
                if self._doorkeeper is not None:  # before a byte of the body is read
                    (await self._doorkeeper.welcome(headers, route.model)).check()
                given = await body()
            return await route.handle(given, headers, trace)
        except RankingError as error:
            if error.status >= 500:
                log.warning("%d: %s", error.status, error, extra={"trace_id": trace.trace_id, "path": path})
            return answer_of(error)
        except (ClientLeft, asyncio.CancelledError):
            raise
        except Exception:
            log.exception("a bug answered with 500", extra={"trace_id": trace.trace_id, "path": path})
            return Answer(500, BUG)

    def lets_in(self, route: HotRoute, headers: Headers) -> bool:
        """Whether the body of a request with these headers is worth waiting for; the long way says why not."""
        if self._doorkeeper is None:
            return True
        try:
            self._doorkeeper.enter(headers, route.model)
        except RankingError:
            return False
        return True

    async def _rank(self, model: str, body: Body, headers: Headers, trace: Trace) -> Answer:
        visit = await self._visit(headers, model)
        try:
            query = self._read_rank(model, body, headers, trace)
        except (QueryRefused, DeadlineExceeded) as error:
            metrics.ANSWERS.labels(model if model in self._ranker.plans else "", "", error.status).inc()
            if isinstance(error, DeadlineExceeded):
                metrics.DEADLINES.labels("gateway").inc()
            raise
        if visit is not None:
            await visit.admitted(len(query.item_ids))
        return ranked(await self._ranker.rank(query))

    async def _visit(self, headers: Headers, model: str | None) -> Visit | None:
        """Raises NotAuthenticated, NotAllowed, or QuotaExceeded if that is known already."""
        if self._doorkeeper is None:
            return None
        visit = await self._doorkeeper.welcome(headers, model)
        visit.check()
        return visit

    def _read_rank(self, model: str, body: Body, headers: Headers, trace: Trace) -> RankQuery:
        query = read_rank(model, body, self._settings, trace)
        query.version = asked_version(headers.get(_VERSION_HEADER), self._settings)
        query.deadline_ms = within(headers.get(_DEADLINE_HEADER), query.deadline_ms)
        return query

    def _begin_rank(
        self, model: str, body: Body, headers: Headers, answered: Callable[[Answer], None]
    ) -> Callable[[], None] | None:
        """See `Begin`."""
        visit = None
        try:
            if self._doorkeeper is not None:
                visit = self._doorkeeper.enter(headers, model)
            if (refused := self._ranker.refused_now(model)) is not None:
                answered(answer_of(refused))
                return told_already
            query = self._read_rank(model, body, headers, trace_of(headers, self._random))
        except RankingError:
            return None  # read once more on the long way, which says why

        def done(result: Ranking | RankingError) -> None:
            answered(answer_of(result) if isinstance(result, RankingError) else ranked(result))

        if visit is None:
            return self._ranker.begin(query, done)
        return visit.begin(len(query.item_ids), lambda: self._ranker.begin(query, done))

    async def _feedback(self, body: Body, headers: Headers, trace: Trace) -> Answer:
        visit = await self._visit(headers, None)
        self._ranker.check_informed()
        models = {model_tag(model): model for model in self._ranker.plans}
        try:
            events = read_feedback(body, self._settings, self._ids, models, self._wall_ms())
        except QueryRefused:
            metrics.FEEDBACK.labels("", "refused").inc()
            raise
        if visit is not None:
            for model in {event.model for event in events}:
                visit.check_model(model)
            await visit.admitted(0)
        self._event_log.feedback(events)
        for event in events:
            metrics.FEEDBACK.labels(type(event).__name__.lower(), "accepted").inc()
        return Answer(202, msgspec.json.encode({"accepted": len(events)}))

    async def _warm(self, prefetch: Prefetch, body: Body, headers: Headers, trace: Trace) -> Answer:
        visit = await self._visit(headers, None)
        model, hashes, ids = read_prefetch(body, self._settings)
        if visit is not None:
            visit.check_model(model)
            await visit.admitted(len(hashes))
        self._ranker.plan_of(model)  # raises UnknownModel
        if not prefetch(model, hashes, ids):
            raise ReplicaUnhealthy(f"no replica ranks by {model!r} now: see `sluice status`")
        return Answer(202, msgspec.json.encode({"accepted": len(hashes)}))

    def check_head(self, route: HotRoute, headers: Headers) -> None:
        """Raises WrongContentType or BodyTooLarge before a byte of the body is read."""
        content_type = headers.get(b"content-type", b"")
        if route.json_only and content_type != b"application/json":
            bare = content_type.split(b";")[0].strip().lower()
            if bare != b"application/json":
                given = bare.decode(errors="replace")[:64] or "none"
                raise WrongContentType(f"content-type={given}: expected application/json")
        limit = route.max_bytes
        declared = headers.get(b"content-length", b"0")
        if not declared.isdigit() or int(declared) > limit:
            raise BodyTooLarge(f"body: {declared.decode(errors='replace')[:32]} bytes, expected at most {limit}")

    async def _body(self, route: HotRoute, headers: Headers, receive: Receive) -> bytes:
        """The request's body. Raises WrongContentType, BodyTooLarge or ClientLeft."""
        self.check_head(route, headers)
        limit = route.max_bytes
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


def trace_of(headers: Headers, source: random.Random) -> Trace:
    """The caller's trace (W3C traceparent), or a new one."""
    header = headers.get(b"traceparent")
    return (header is not None and parse_traceparent(header)) or new_trace(source)


async def send_answer(answer: Answer, send: Send) -> None:
    """Over ASGI."""
    sent = [
        (b"content-type", answer.content_type),
        (b"content-length", b"%d" % len(answer.body)),
        *answer.hints,
    ]
    await send({"type": "http.response.start", "status": answer.status, "headers": sent})
    await send({"type": "http.response.body", "body": answer.body})


def told_already() -> None:
    """Takes back a request that was answered before it was begun."""


def ranked(ranking: Ranking) -> Answer:
    """A ranking as its caller gets it."""
    return Answer(200, write_ranking(ranking), ((RANKING_HEADER, ranking.ranking_id.encode()),))


def answer_of(error: RankingError) -> Answer:
    """What a caller is told of it."""
    return Answer(error.status, msgspec.json.encode({"error": str(error)}), _hint(error))


def _hint(error: RankingError) -> tuple[tuple[bytes, bytes], ...]:
    if error.retry_after_s is not None:
        return ((b"retry-after", b"%d" % max(1, math.ceil(error.retry_after_s))),)
    if isinstance(error, NotAuthenticated):
        return ((b"www-authenticate", b'Bearer realm="sluice"'),)
    return ((b"allow", b"POST"),) if isinstance(error, WrongMethod) else ()
