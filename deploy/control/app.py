"""The control API as a FastAPI application: HTTP in, a handler, HTTP out."""

import functools
import logging
import random
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import fastapi
import msgspec
from fastapi.responses import JSONResponse, Response
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

from deploy.control.access import BASIC, BEARER, Caller, as_bearer, authenticate, authorize
from deploy.control.asks import Ask, Reply
from deploy.control.conditions import IfMatch, digest_of, idempotency_key
from deploy.control.desk import Desk
from deploy.control.drift import declare_decided
from deploy.control.errors import Contradiction, ControlRefused, NoKey, NotNow, as_refusal
from deploy.control.handlers import HANDLERS
from deploy.control.metrics import CONTROL_REQUESTS
from deploy.control.spans import control_span
from deploy.control.trail import Trail
from registry.contracts.errors import ContractError, InvalidName
from registry.contracts.ids import model_name
from registry.contracts.traces import Span
from registry.errors import RegistryError
from registry.receipts import Receipt
from serving.gateway.control.drift import RebaselineAnswer
from serving.gateway.control.routes import CONTROL_ROUTES, ControlRoute

log = logging.getLogger(__name__)

MAX_BODY_BYTES = 1 << 20
# refusals that a repeated request gets again; 412 comes again by itself, and on the new revision may pass
_KEPT = (404, 409, 422)


Tell = Callable[[Sequence[Span]], None]


def build_control_app(desk: Desk, tell: Tell | None = None) -> fastapi.FastAPI:
    """Answers every route of the table, on threads: databases and MLflow take their time. tell: of each request, as a
    span; None: nobody follows them."""
    source = random.Random(secrets.randbits(256))
    app = fastapi.FastAPI(title="Sluice control", docs_url=None, redoc_url=None, openapi_url=None)

    @app.exception_handler(HTTPException)
    async def http_error(request: fastapi.Request, error: HTTPException) -> JSONResponse:
        return JSONResponse({"error": f"{request.method} {request.url.path}: {error.detail}"}, error.status_code)

    @app.get("/health")
    async def live() -> dict[str, bool]:
        return {"live": True}

    for route in CONTROL_ROUTES:
        app.add_api_route(route.path, _endpoint(desk, route, tell, source), methods=[route.method], name=route.name)
    return app


def _endpoint(
    desk: Desk, route: ControlRoute, tell: Tell | None, source: random.Random
) -> Callable[[fastapi.Request], Awaitable[Response]]:
    async def endpoint(request: fastapi.Request) -> Response:
        began_ns, raw = time.time_ns(), bytearray()
        async for part in request.stream():
            raw += part
            if len(raw) > MAX_BODY_BYTES:
                return _response(_refused(413, f"body: more than {MAX_BODY_BYTES} bytes"))
        headers = dict(request.headers)
        asked = functools.partial(
            answer, desk, route, request.path_params, dict(request.query_params), headers, bytes(raw)
        )
        reply = await run_in_threadpool(asked)
        CONTROL_REQUESTS.labels(route.name, reply.status).inc()
        if tell is not None:
            span = control_span(route, headers, request.path_params, reply, began_ns, time.time_ns(), source)
            tell([span] if span else [])
        return _response(reply)

    return endpoint


def answer(
    desk: Desk,
    route: ControlRoute,
    path: Mapping[str, str],
    query: Mapping[str, str],
    headers: Mapping[str, str],
    raw: bytes,
) -> Reply:
    """What the request gets, whatever happens. path: its parameters; headers: lower case.

    A change is written to the audit log before it is done, and what came of it before it is answered.
    """
    trail = Trail(desk.audit, desk.strangers, desk.wall_ms, route, path, headers)
    told = {"x-request-id": trail.request_id}
    caller, ask = None, None
    try:
        caller = _caller(desk, route, headers)
        ask = _ask(desk, caller, route, path, query, headers, raw)
        if route.method != "GET":
            trail.asked(ask)
    except Exception as error:
        reply = _of_error(route, error, "nothing was done" if ask is not None else "")
        if isinstance(error, NoKey) and route.page and "text/html" in headers.get("accept", ""):
            told["www-authenticate"] = BASIC
        if ask is None and (route.method != "GET" or reply.status in (401, 403)):
            trail.refused(caller, reply, _words(reply))
        return replace(reply, headers={**reply.headers, **told})
    try:
        reply = _once(desk, ask)
    except Exception as error:
        reply = _of_error(route, error)
    if route.method != "GET":
        try:
            trail.answered(reply, _words(reply))
        except RegistryError as error:
            done = "it was done" if reply.status < 400 else f"it was answered with {reply.status}"
            reply = _of_error(route, error, f"{done}; repeat the request with the same Idempotency-Key for its answer")
    return replace(reply, headers={**reply.headers, **told})


def _of_error(route: ControlRoute, error: Exception, also: str = "") -> Reply:
    """What the caller is told. also: what is to be said beside the error's words."""
    if isinstance(error, RegistryError | ContractError | ControlRefused):
        if (refusal := as_refusal(error)) is not None:
            words = f"{refusal} ({also})" if also else str(refusal)
            return _refused(refusal.status, words, BEARER if isinstance(refusal, NoKey) else "")
        log.error("%s failed", route.name, exc_info=error)
    else:
        log.error("a bug answered %s with 500", route.name, exc_info=error)
    return _refused(500, "internal error, see the controller's log (`sluice logs controller`)")


def _words(reply: Reply) -> str:
    """Of a refusal; empty of an answer."""
    return str(msgspec.json.decode(reply.body)["error"]) if reply.status >= 400 else ""


def _caller(desk: Desk, route: ControlRoute, headers: Mapping[str, str]) -> Caller:
    """First of all, so that a stranger learns nothing, not even what a body should look like."""
    authorization = headers.get("authorization", "")
    told = (as_bearer(authorization) if route.page else authorization, headers.get("x-on-behalf-of", ""))
    return authenticate(desk.ring, desk.tokens, *told, desk.wall_ms())


def _ask(
    desk: Desk,
    caller: Caller,
    route: ControlRoute,
    path: Mapping[str, str],
    query: Mapping[str, str],
    headers: Mapping[str, str],
    raw: bytes,
) -> Ask:
    """Who may not gets no further than that."""
    try:
        model = model_name(path["model"]) if "model" in path else None
    except InvalidName as error:
        raise ControlRefused(f"model: {error}") from error
    authorize(caller, route, model)
    return Ask(
        route,
        caller,
        desk.wall_ms(),
        model or "",
        path.get("id", ""),
        query,
        body := _body(route, headers, raw),
        IfMatch.parse(headers.get("if-match", "")) if route.conditional else IfMatch(),
        idempotency_key(headers.get("idempotency-key", "")) if route.method != "GET" else "",
        digest_of(route.name, "/".join(path.values()), body),
        accept=headers.get("accept", ""),
        gzip="gzip" in headers.get("accept-encoding", ""),
    )


def _body(route: ControlRoute, headers: Mapping[str, str], raw: bytes) -> Any:
    if route.body is None:
        return None
    content_type = headers.get("content-type", "").partition(";")[0].strip().lower()
    if content_type != "application/json":
        raise ControlRefused(f"content-type={content_type[:64] or 'none'}: expected application/json")
    try:
        return msgspec.json.decode(raw, type=route.body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, ContractError) as error:
        raise ControlRefused(f"body: {error}") from error


def _once(desk: Desk, ask: Ask) -> Reply:
    """The reply, made once for an idempotency key: repeated from its receipt ever after."""
    if not ask.key:
        return _reply(desk, ask)
    if (receipt := desk.control.receipt(ask.caller.key.id, ask.key)) is not None:
        return _repeated(desk, ask, receipt)
    try:
        reply = _reply(desk, ask)
    except (RegistryError, ContractError, ControlRefused) as error:
        refusal = as_refusal(error)
        if refusal is None or refusal.status not in _KEPT:
            raise
        refused = _refused(refusal.status, str(refusal))
        receipt = ask.receipt(refused)
        assert receipt is not None
        # another request with this key may have been quicker: then its answer stands
        kept = desk.control.keep_receipt(receipt)
        return refused if kept == receipt else _repeated(desk, ask, kept)
    receipt = ask.receipt(reply)
    if ask.route.name == "revoke_key" and receipt is not None:
        desk.control.keep_receipt(receipt)
    return reply


def _repeated(desk: Desk, ask: Ask, receipt: Receipt) -> Reply:
    if (receipt.route, receipt.digest) != (ask.route.name, ask.digest):
        raise Contradiction(
            f"Idempotency-Key {ask.key!r} was used for another request ({receipt.route}): take a new one for each"
        )
    if ask.model and receipt.status < 400:
        desk.publish_decided(ask.model)  # whoever answered first may have died before this
    if ask.route.name == "rebaseline" and receipt.status < 400:
        declare_decided(desk, msgspec.json.decode(receipt.response, type=RebaselineAnswer))
    found = msgspec.json.decode(receipt.response)
    return Reply(receipt.status, receipt.response.encode(), found.get("plan_revision"), replayed=True)


def _reply(desk: Desk, ask: Ask) -> Reply:
    return HANDLERS[ask.route.name](desk, ask)


def _refused(status: int, message: str, challenge: str = "") -> Reply:
    headers = {"www-authenticate": challenge} if challenge else {}
    if status == NotNow.status:
        headers["retry-after"] = "1"
    return Reply(status, msgspec.json.encode({"error": message}), headers=headers)


def _response(reply: Reply) -> Response:
    headers = dict(reply.headers) | {"cache-control": "no-store"}
    if reply.plan_revision is not None:
        headers["etag"] = f'"{reply.plan_revision}"'
    if reply.replayed:
        headers["idempotency-replayed"] = "true"
    return Response(reply.body, reply.status, headers, media_type=reply.media_type)
