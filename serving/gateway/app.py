"""The rest of the gateway's HTTP: health, metrics, status, documentation."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import fastapi
import msgspec
from fastapi.responses import JSONResponse, Response
from fastapi_offline import FastAPIOffline
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from starlette.exceptions import HTTPException

from serving import tally
from serving.errors import RankingError
from serving.event_log import EventLog
from serving.fleet import Fleet
from serving.gateway.access import DOCS_FILES
from serving.gateway.control.routes import with_control_routes
from serving.gateway.http import answer_of
from serving.gateway.openapi import with_hot_routes, with_rest
from serving.permits import Permits
from serving.rank import Ranker

DESCRIPTION = "Ranks candidates, takes clicks, and says which version answered and why."


def build_app(
    ranker: Ranker,
    fleet: Fleet,
    permits: Permits,
    event_log: EventLog,
    metrics_registry: Callable[[], CollectorRegistry],
    version: str,
    routers: Sequence[fastapi.APIRouter] = (),
    control: fastapi.APIRouter | None = None,
    process: Mapping[str, str] | None = None,
) -> fastapi.FastAPI:
    """The FastAPI application behind the hot routes.

    metrics_registry: where /metrics reads from; over all processes of the platform.
    routers: what other protocols bring, see `oip_routes`. What they raise of `serving.errors` is answered
    with its status. control: the way to the control plane, see `control_router`.
    process: headers by which a health answer says which of several gateways gave it; none by default.
    """
    app = FastAPIOffline(  # FastAPI's own pages of documentation load their scripts from somebody else's server
        title="Sluice",
        version=version,
        description=DESCRIPTION,
        redoc_url=None,  # its logo comes from elsewhere
        static_url=DOCS_FILES,
        swagger_ui_parameters={"validatorUrl": None},
    )

    @app.exception_handler(HTTPException)
    async def http_error(request: fastapi.Request, error: HTTPException) -> JSONResponse:
        message = error.detail
        if error.status_code == 404:
            message = f"{request.url.path}: no such route, see /docs"
        elif error.status_code == 405:
            message = f"{request.method} {request.url.path}: this route takes another method, see /docs"
        return JSONResponse({"error": message}, error.status_code, headers=error.headers)

    @app.exception_handler(RankingError)
    async def refused(_: fastapi.Request, error: RankingError) -> Response:
        answer = answer_of(error)
        hints = {name.decode(): value.decode() for name, value in answer.hints}
        return Response(answer.body, answer.status, hints, media_type="application/json")

    for router in (*routers, *([control] if control else ())):
        app.include_router(router)

    @app.get("/health", summary="The process lives")
    @app.get("/v2/health/live", summary="The process lives (Open Inference Protocol)")
    async def live() -> JSONResponse:
        return JSONResponse({"live": True}, headers=process)

    @app.get("/v2/health/ready", summary="The plans are known, and replicas hold every champion, warm")
    async def ready() -> JSONResponse:
        return JSONResponse({"ready": ranker.ready}, 200 if ranker.ready else 503)

    @app.get("/metrics", summary="Prometheus metrics of all processes", response_class=Response)
    async def metrics() -> Response:
        tally.flush()
        return Response(generate_latest(metrics_registry()), media_type=CONTENT_TYPE_LATEST)

    @app.get("/v1/status", summary="Plans, replicas, permits and the event log, as this gateway sees them")
    async def status() -> dict[str, Any]:
        return {
            "ready": ranker.ready,
            "plans": {model: msgspec.to_builtins(plan) for model, plan in sorted(ranker.plans.items())},
            "replicas": [
                {
                    "replica": replica.state.replica or replica.address,
                    "connected": replica.transport is not None,
                    "ready": replica.state.ready,
                    "pid": replica.state.pid,
                    "in_flight": len(replica.outstanding),
                    "breaker": fleet.breaker(replica).value,
                    "versions": [f"{model}@{version}" for model, version in sorted(replica.held)],
                    "failures": {f"{one.model}@{one.version}": one.reason for one in replica.state.failures},
                }
                for replica in fleet.replicas
            ],
            "breakers": {
                f"{model}@{version}": state.value for (model, version), state in ranker.router.breakers().items()
            },
            "permits_in_use": permits.taken,
            "permits_by_model": permits.limits,
            "events_waiting": event_log.backlog,
        }

    @app.get("/v1/models", summary="The models served, and their traffic plans")
    async def models() -> dict[str, Any]:
        return {model: msgspec.to_builtins(plan) for model, plan in sorted(ranker.plans.items())}

    @app.get("/v1/models/{model}", summary="One model's traffic plan")
    async def model(model: str) -> JSONResponse:
        ranker.check_informed()
        if model not in ranker.plans:
            return JSONResponse({"error": f"model={model[:64]!r}: no such model is served"}, 404)
        return JSONResponse(msgspec.to_builtins(ranker.plans[model]))

    from_routes = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            document = with_hot_routes(with_rest(from_routes()))
            app.openapi_schema = with_control_routes(document) if control else document
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]
    return app
