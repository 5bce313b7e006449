"""The doors that queries come through, as root spans name them: OpenTelemetry's conventions for HTTP and RPC."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from registry.contracts.traces import Value


@dataclass(frozen=True, slots=True)
class Door:
    """name: of the root span, of few values. attributes: what is the same for all who come through it."""

    name: str
    attributes: Mapping[str, Value] = field(default_factory=dict)


def _http(route: str) -> Door:
    return Door(f"POST {route}", {"http.request.method": "POST", "http.route": route, "url.scheme": "http"})


def _grpc(service: str, method: str) -> Door:
    return Door(f"{service}/{method}", {"rpc.system": "grpc", "rpc.service": service, "rpc.method": method})


HTTP_RANK = _http("/v1/models/{model}/rank")
HTTP_INFER = _http("/v2/models/{model}/infer")
GRPC_RANK = _grpc("sluice.ranking.v1.Ranking", "Rank")
GRPC_INFER = _grpc("inference.GRPCInferenceService", "ModelInfer")
