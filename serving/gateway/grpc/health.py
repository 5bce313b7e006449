"""grpc.health.v1: what load balancers and Kubernetes probes ask."""

import asyncio
from collections.abc import Callable, Collection

from serving.errors import UnknownModel
from serving.gateway.grpc.calls import Call, Conversation
from serving.gateway.grpc.inference import decode
from serving.gateway.protos.health_pb2 import HealthCheckRequest, HealthCheckResponse

WATCHED_EVERY_S = 0.5


class Health:
    """services: full names of those served, which are ready together. ready: whether they are."""

    def __init__(self, services: Collection[str], ready: Callable[[], bool]) -> None:
        self._services, self._ready = services, ready

    async def check(self, call: Call, message: bytes | memoryview) -> bytes:
        """The status now. Raises UnknownModel for a service that is not served."""
        service = decode(HealthCheckRequest, message).service
        status = self._status(service)
        if status == HealthCheckResponse.SERVICE_UNKNOWN:
            raise UnknownModel(f"service={service[:200]!r}: no such service (served: {', '.join(self._services)})")
        return HealthCheckResponse(status=status).SerializeToString()

    async def watch(self, call: Call, conversation: Conversation) -> None:
        """The status now, and again on every change, until the client has enough."""
        message = await conversation.receive()
        service = decode(HealthCheckRequest, message or b"").service
        told = None
        while True:
            status = self._status(service)
            if status != told:
                told = status
                await conversation.send(HealthCheckResponse(status=status).SerializeToString())
            await asyncio.sleep(WATCHED_EVERY_S)

    def _status(self, service: str) -> HealthCheckResponse.ServingStatus:
        if service and service not in self._services:
            return HealthCheckResponse.SERVICE_UNKNOWN
        return HealthCheckResponse.SERVING if self._ready() else HealthCheckResponse.NOT_SERVING
