"""The table of everything served over gRPC: full method name to what answers it."""

from serving.gateway.grpc.calls import Answer, Method
from serving.gateway.grpc.health import Health
from serving.gateway.grpc.inference import Inference
from serving.gateway.grpc.models import NOT_SERVED, Models, SharedMemory, refuse
from serving.gateway.grpc.ranking import RankingService
from serving.settings import GatewaySettings

INFERENCE = "inference.GRPCInferenceService"
RANKING = "sluice.ranking.v1.Ranking"
HEALTH = "grpc.health.v1.Health"
SERVICES = (INFERENCE, RANKING)
OPEN = ("ServerLive", "ServerReady")
"""Asked by probes, who have no key."""


def method_table(
    inference: Inference,
    models: Models,
    regions: SharedMemory,
    ranking: RankingService,
    health: Health,
    settings: GatewaySettings,
) -> dict[str, Method]:
    """By path, as a call names it. A message may have as many bytes as over HTTP."""
    tensors, small = settings.max_infer_bytes, settings.max_body_bytes
    methods = [
        Method(f"/{INFERENCE}/ModelInfer", tensors, answer=inference.infer, begin=inference.begin),
        Method(f"/{INFERENCE}/ModelStreamInfer", tensors, converse=inference.stream),
        Method(f"/{HEALTH}/Check", small, answer=health.check, open=True),
        Method(f"/{HEALTH}/Watch", small, converse=health.watch, open=True, asked_once=True),
    ]
    answers: dict[str, dict[str, Answer]] = {
        INFERENCE: {
            **models.methods(),
            **regions.methods(),
            **{name: refuse(why) for name, why in NOT_SERVED.items()},
        },
        RANKING: ranking.methods(),
    }
    methods += (
        Method(f"/{service}/{name}", small, answer=answer, open=name in OPEN)
        for service, named in answers.items()
        for name, answer in named.items()
    )
    return {method.path: method for method in methods}
