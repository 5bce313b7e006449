"""What is served and what it is: health, metadata, configuration, statistics, repository, regions.

Bodies come from `model_documents`, as over REST.
"""

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from google.protobuf.message import Message

from registry.roles import Role
from serving.errors import NotServed, UnknownModel
from serving.gateway import model_documents
from serving.gateway.access import Needs, check
from serving.gateway.grpc.calls import Answer, Call
from serving.gateway.grpc.inference import decode
from serving.gateway.grpc.tensors import version_of
from serving.gateway.oip import CUDA, LOGGING, OVERRIDES, TRACING
from serving.gateway.protos import open_inference_pb2 as pb
from serving.identity.doorkeeper import Doorkeeper
from serving.infer import InferService
from serving.regions import REGIONS_OFF, Regions, UnknownRegion

Request = TypeVar("Request", bound=Message)

NOT_SERVED = {"TraceSetting": TRACING, "LogSettings": LOGGING}
"""What to do instead, by method of the service."""


Check = Callable[[Call, Any], Awaitable[None]]
"""Raises RankingError if the call may not ask for what the request says."""


def unary(kind: type[Request], answer: Callable[[Request], Awaitable[Message]], check: Check | None = None) -> Answer:
    """A method of messages from a function of messages."""

    async def run(call: Call, message: bytes | memoryview) -> bytes:
        request = decode(kind, message)
        if check is not None:
            await check(call, request)
        return (await answer(request)).SerializeToString()

    return run


def refuse(why: str) -> Answer:
    """A method that is not served."""

    async def run(call: Call, message: bytes | memoryview) -> bytes:
        raise NotServed(why)

    return run


class Models:
    """ready: whether the server as a whole can answer. version: the platform's. doorkeeper: None where queries are
    open to everybody."""

    def __init__(
        self, service: InferService, ready: Callable[[], bool], version: str, doorkeeper: Doorkeeper | None = None
    ) -> None:
        self._service, self._ready, self._version, self._doorkeeper = service, ready, version, doorkeeper

    def methods(self) -> dict[str, Answer]:
        """By name in the service."""
        return {
            "ServerLive": unary(pb.ServerLiveRequest, self._live),
            "ServerReady": unary(pb.ServerReadyRequest, self._server_ready),
            "ModelReady": unary(pb.ModelReadyRequest, self._model_ready, self._check_named),
            "ServerMetadata": unary(pb.ServerMetadataRequest, self._server),
            "ModelMetadata": unary(pb.ModelMetadataRequest, self._metadata, self._check_named),
            "ModelConfig": unary(pb.ModelConfigRequest, self._config, self._check_named),
            "ModelStatistics": unary(pb.ModelStatisticsRequest, self._statistics, self._check_named),
            "RepositoryIndex": unary(pb.RepositoryIndexRequest, self._index, self._check_all),
            "RepositoryModelLoad": unary(pb.RepositoryModelLoadRequest, self._load, self._check_loading),
            "RepositoryModelUnload": unary(pb.RepositoryModelUnloadRequest, self._unload, self._check_loading),
        }

    async def _check_named(self, call: Call, request: Any) -> None:
        await self._check(call, request.name, "caller")

    async def _check_all(self, call: Call, request: Any) -> None:
        await self._check(call, "", "caller")

    async def _check_loading(self, call: Call, request: Any) -> None:
        await self._check(call, request.model_name, "operator")

    async def _check(self, call: Call, model: str, role: Role) -> None:
        """model: empty: all of them."""
        if self._doorkeeper is not None and self._doorkeeper.closed:
            await check(self._doorkeeper, Needs(role, model or None, every_model=not model), call.fields)

    async def _live(self, request: pb.ServerLiveRequest) -> Message:
        return pb.ServerLiveResponse(live=True)

    async def _server_ready(self, request: pb.ServerReadyRequest) -> Message:
        return pb.ServerReadyResponse(ready=self._ready())

    async def _model_ready(self, request: pb.ModelReadyRequest) -> Message:
        try:
            ready = self._service.ready(request.name, version_of(request.version))
        except UnknownModel:  # the question is answered: it is not
            ready = False
        return pb.ModelReadyResponse(ready=ready)

    async def _server(self, request: pb.ServerMetadataRequest) -> Message:
        extensions = [name for name in model_documents.EXTENSIONS if name != "binary_tensor_data"]  # REST's
        return pb.ServerMetadataResponse(name="sluice", version=self._version, extensions=extensions)

    async def _metadata(self, request: pb.ModelMetadataRequest) -> Message:
        info = self._service.describe(request.name, version_of(request.version))
        return pb.ModelMetadataResponse(**model_documents.metadata(info))

    async def _config(self, request: pb.ModelConfigRequest) -> Message:
        info = self._service.describe(request.name, version_of(request.version))
        return pb.ModelConfigResponse(config=pb.ModelConfig(**model_documents.config(info)))

    async def _statistics(self, request: pb.ModelStatisticsRequest) -> Message:
        counted = self._service.statistics(request.name or None, version_of(request.version))
        return pb.ModelStatisticsResponse(**model_documents.statistics(counted))

    async def _index(self, request: pb.RepositoryIndexRequest) -> Message:
        return pb.RepositoryIndexResponse(models=model_documents.index(self._service.index(request.ready)))

    async def _load(self, request: pb.RepositoryModelLoadRequest) -> Message:
        if request.parameters:
            raise NotServed(OVERRIDES)
        await self._service.load(request.model_name)
        return pb.RepositoryModelLoadResponse()

    async def _unload(self, request: pb.RepositoryModelUnloadRequest) -> Message:
        await self._service.unload(request.model_name)
        return pb.RepositoryModelUnloadResponse()


class SharedMemory:
    """System shared memory regions. regions: None where they are off.

    Of CUDA's there are none: clients that tidy up before they begin are told so, those that register
    are refused.
    """

    def __init__(self, regions: Regions | None) -> None:
        self._regions = regions

    def methods(self) -> dict[str, Answer]:
        """By name in the service."""
        return {
            "SystemSharedMemoryStatus": unary(pb.SystemSharedMemoryStatusRequest, self._status),
            "SystemSharedMemoryRegister": unary(pb.SystemSharedMemoryRegisterRequest, self._register),
            "SystemSharedMemoryUnregister": unary(pb.SystemSharedMemoryUnregisterRequest, self._unregister),
            "CudaSharedMemoryStatus": unary(pb.CudaSharedMemoryStatusRequest, self._cuda_status),
            "CudaSharedMemoryRegister": refuse(CUDA),
            "CudaSharedMemoryUnregister": unary(pb.CudaSharedMemoryUnregisterRequest, self._cuda_unregister),
        }

    async def _status(self, request: pb.SystemSharedMemoryStatusRequest) -> Message:
        response = pb.SystemSharedMemoryStatusResponse()
        if self._regions is None:
            if request.name:
                raise UnknownRegion(f"region {request.name[:64]!r}: {REGIONS_OFF}")
            return response
        for region in self._regions.status(request.name or None):
            status = response.regions[region.name]
            status.name, status.key = region.name, region.key
            status.offset, status.byte_size = region.offset, region.byte_size
        return response

    async def _register(self, request: pb.SystemSharedMemoryRegisterRequest) -> Message:
        if self._regions is None:
            raise NotServed(REGIONS_OFF)
        self._regions.register(request.name, request.key, request.offset, request.byte_size)
        return pb.SystemSharedMemoryRegisterResponse()

    async def _unregister(self, request: pb.SystemSharedMemoryUnregisterRequest) -> Message:
        if self._regions is not None:
            self._regions.unregister(request.name or None)
        return pb.SystemSharedMemoryUnregisterResponse()

    async def _cuda_status(self, request: pb.CudaSharedMemoryStatusRequest) -> Message:
        if request.name:
            raise UnknownRegion(f"region {request.name[:64]!r}: {CUDA}")
        return pb.CudaSharedMemoryStatusResponse()

    async def _cuda_unregister(self, request: pb.CudaSharedMemoryUnregisterRequest) -> Message:
        return pb.CudaSharedMemoryUnregisterResponse()
