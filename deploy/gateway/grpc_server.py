"""The gateway's gRPC port: built from what its HTTP is built from. Imported only if there is to be one."""

import random
import socket
import ssl
from importlib.metadata import version

from registry.contracts.ids import RankingIds
from serving.event_log import EventLog
from serving.gateway.grpc.health import Health
from serving.gateway.grpc.inference import Inference
from serving.gateway.grpc.methods import SERVICES, method_table
from serving.gateway.grpc.models import Models, SharedMemory
from serving.gateway.grpc.ranking import RankingService
from serving.gateway.grpc.server import GrpcServer
from serving.identity.doorkeeper import Doorkeeper
from serving.infer import InferService
from serving.rank import Ranker
from serving.regions import Regions
from serving.settings import GatewaySettings, GrpcSettings


async def start_grpc(
    listener: socket.socket,
    ranker: Ranker,
    service: InferService,
    event_log: EventLog,
    ids: RankingIds,
    settings: GatewaySettings,
    regions: Regions | None,
    random: random.Random,
    limits: GrpcSettings | None = None,
    doorkeeper: Doorkeeper | None = None,
    tls: ssl.SSLContext | None = None,
) -> GrpcServer:
    """A server on the running loop that accepts calls; the caller stops it, before the pool.

    listener: bound, with SO_REUSEPORT where several gateways share the port; becomes the server's.
    regions: None where shared memory is off. random: makes trace ids. doorkeeper: None where queries are open to
    everybody. tls: with ALPN for `h2`; None: plain.
    """

    def ready() -> bool:
        return ranker.ready

    methods = method_table(
        Inference(service, settings, regions, doorkeeper),
        Models(service, ready, version("sluice"), doorkeeper),
        SharedMemory(regions),
        RankingService(ranker, event_log, ids, settings, doorkeeper=doorkeeper),
        Health(SERVICES, ready),
        settings,
    )
    server = GrpcServer(methods, limits or GrpcSettings(), random, doorkeeper)
    await server.start(listener, tls)
    return server
