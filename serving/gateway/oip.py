"""The Open Inference Protocol's other routes: metadata, readiness, repository, statistics, regions.

Source: Open Inference Protocol v2, with the model configuration, repository, statistics, and system
shared memory extensions, as tritonclient.http asks for them.
"""

from typing import Any, TypeVar

import fastapi
import msgspec
from fastapi.responses import JSONResponse

from serving.errors import BodyTooLarge, NotServed, QueryRefused
from serving.gateway import model_documents
from serving.gateway.oip_infer import version_of
from serving.infer import InferService
from serving.regions import REGIONS_OFF, Regions, UnknownRegion

MAX_BODY_BYTES = 1 << 16
CUDA = "CUDA shared memory is not served: send tensors in the body, or in a system shared memory region"
TRACING = "trace settings are not served: send a traceparent header, and its id is in the log"
LOGGING = "log settings are not served: start the platform with SLUICE_LOG_LEVEL"
OVERRIDES = "a model's configuration and files come from the registry: register a version and load the model by name"


class IndexBody(msgspec.Struct):
    """ready: only what can answer."""

    ready: bool = False


class LoadBody(msgspec.Struct):
    """parameters: Triton's overrides, `config` and `file:`; none are taken."""

    parameters: dict[str, Any] = {}


class RegionBody(msgspec.Struct):
    """byte_size bytes at offset of the object that shm_open(key) gives."""

    key: str
    byte_size: int
    offset: int = 0


Body = TypeVar("Body", IndexBody, LoadBody, RegionBody)


def oip_routes(service: InferService, regions: Regions | None, version: str) -> fastapi.APIRouter:
    """All routes but inference itself, see `OipInfer`. regions: None where shared memory is off.

    version: the platform's.
    """
    router = fastapi.APIRouter(tags=["Open Inference Protocol"])
    _model_routes(router, service, version)
    _repository_routes(router, service)
    _region_routes(router, regions)
    _cuda_routes(router)
    _left_out(router)
    return router


def _model_routes(router: fastapi.APIRouter, service: InferService, version: str) -> None:
    @router.get("/v2", summary="What this server is and which extensions it serves")
    async def server() -> dict[str, Any]:
        return {"name": "sluice", "version": version, "extensions": list(model_documents.EXTENSIONS)}

    @router.get("/v2/models/stats", summary="Statistics of all models")
    async def all_statistics() -> dict[str, Any]:
        return model_documents.statistics(service.statistics())

    @router.get("/v2/models/{model}", summary="Inputs, outputs and versions")
    async def metadata(model: str) -> dict[str, Any]:
        return model_documents.metadata(service.describe(model))

    @router.get("/v2/models/{model}/ready", summary="Some replica holds the champion, warm")
    async def ready(model: str) -> JSONResponse:
        return _readiness(model, service.ready(model))

    @router.get("/v2/models/{model}/config", summary="The model in Triton's configuration format")
    async def config(model: str) -> dict[str, Any]:
        return model_documents.config(service.describe(model))

    @router.get("/v2/models/{model}/stats", summary="Statistics of the model's versions")
    async def statistics(model: str) -> dict[str, Any]:
        return model_documents.statistics(service.statistics(model))

    at_version = "/v2/models/{model}/versions/{version}"

    @router.get(at_version, summary="Inputs and outputs of one version")
    async def metadata_of(model: str, version: str) -> dict[str, Any]:
        return model_documents.metadata(service.describe(model, version_of(version)))

    @router.get(f"{at_version}/ready", summary="Some replica holds the version, warm")
    async def ready_of(model: str, version: str) -> JSONResponse:
        return _readiness(model, service.ready(model, version_of(version)))

    @router.get(f"{at_version}/config", summary="The version in Triton's configuration format")
    async def config_of(model: str, version: str) -> dict[str, Any]:
        return model_documents.config(service.describe(model, version_of(version)))

    @router.get(f"{at_version}/stats", summary="Statistics of one version")
    async def statistics_of(model: str, version: str) -> dict[str, Any]:
        return model_documents.statistics(service.statistics(model, version_of(version)))


def _readiness(model: str, ready: bool) -> JSONResponse:
    return JSONResponse({"name": model, "ready": ready}, 200 if ready else 503)


def _repository_routes(router: fastapi.APIRouter, service: InferService) -> None:
    @router.post("/v2/repository/index", summary="Every version, and whether it can answer")
    async def index(request: fastapi.Request) -> list[dict[str, str]]:
        return model_documents.index(service.index((await _body(request, IndexBody)).ready))

    @router.post("/v2/repository/models/{model}/load", summary="Have the platform hold a model again")
    async def load(model: str, request: fastapi.Request) -> dict[str, Any]:
        if (await _body(request, LoadBody)).parameters:
            raise NotServed(OVERRIDES)
        await service.load(model)
        return {}

    @router.post("/v2/repository/models/{model}/unload", summary="Have the platform let go of a model")
    async def unload(model: str) -> dict[str, Any]:
        await service.unload(model)
        return {}


def _region_routes(router: fastapi.APIRouter, regions: Regions | None) -> None:
    shared = "/v2/systemsharedmemory"

    @router.get(f"{shared}/status", summary="The registered shared memory regions")
    async def status() -> list[dict[str, Any]]:
        return _regions_of(regions, None)

    @router.get(shared + "/region/{region}/status", summary="One shared memory region")
    async def status_of(region: str) -> list[dict[str, Any]]:
        return _regions_of(regions, region)

    @router.post(shared + "/region/{region}/register", summary="Register a shared memory region")
    async def register(region: str, request: fastapi.Request) -> dict[str, Any]:
        if regions is None:
            raise NotServed(REGIONS_OFF)
        given = await _body(request, RegionBody)
        regions.register(region, given.key, given.offset, given.byte_size)
        return {}

    @router.post(shared + "/region/{region}/unregister", summary="Forget a shared memory region")
    async def unregister_one(region: str) -> dict[str, Any]:
        if regions is not None:
            regions.unregister(region)
        return {}

    @router.post(f"{shared}/unregister", summary="Forget all shared memory regions")
    async def unregister() -> dict[str, Any]:
        if regions is not None:
            regions.unregister()
        return {}


def _regions_of(regions: Regions | None, name: str | None) -> list[dict[str, Any]]:
    if regions is None:
        if name is not None:
            raise UnknownRegion(f"region {name[:64]!r}: {REGIONS_OFF}")
        return []
    return [
        {"name": one.name, "key": one.key, "offset": one.offset, "byte_size": one.byte_size}
        for one in regions.status(name)
    ]


def _cuda_routes(router: fastapi.APIRouter) -> None:
    """There are none: clients that tidy up before they begin are told so, those that register are refused."""
    shared = "/v2/cudasharedmemory"

    @router.get(f"{shared}/status", summary="CUDA shared memory regions: none")
    async def status() -> list[dict[str, Any]]:
        return []

    @router.get(shared + "/region/{region}/status", summary="Not served")
    async def status_of(region: str) -> None:
        raise UnknownRegion(f"region {region[:64]!r}: {CUDA}")

    @router.post(shared + "/region/{region}/register", summary="Not served")
    async def register(region: str) -> None:
        raise NotServed(CUDA)

    @router.post(shared + "/region/{region}/unregister", summary="Nothing to forget")
    @router.post(f"{shared}/unregister", summary="Nothing to forget")
    async def unregister() -> dict[str, Any]:
        return {}


def _left_out(router: fastapi.APIRouter) -> None:
    methods = ["GET", "POST"]

    @router.api_route("/v2/trace/setting", methods=methods, include_in_schema=False)
    @router.api_route("/v2/models/{model}/trace/setting", methods=methods, include_in_schema=False)
    async def trace() -> None:
        raise NotServed(TRACING)

    @router.api_route("/v2/logging", methods=methods, include_in_schema=False)
    async def logging() -> None:
        raise NotServed(LOGGING)


async def _body(request: fastapi.Request, kind: type[Body]) -> Body:
    """The body's record; an empty body says nothing in particular. Raises QueryRefused."""
    raw = b""
    async for part in request.stream():
        raw += part
        if len(raw) > MAX_BODY_BYTES:
            raise BodyTooLarge(f"body: more than {MAX_BODY_BYTES} bytes")
    try:
        return msgspec.json.decode(raw or b"{}", type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise QueryRefused(f"body: {error}") from error
