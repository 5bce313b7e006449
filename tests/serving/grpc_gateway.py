"""A gateway's gRPC port over a real worker with real exported programs, for clients in the same process."""

import asyncio
import io
import random
import socket
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import grpc.aio
import httpx
import torch
import tritonclient.grpc as triton
import uvloop
from prometheus_client import REGISTRY

from registry.artefacts import strip_sample_inputs
from registry.contracts.events import Event, decode_events
from registry.contracts.ids import RankingIds
from registry.contracts.manifest import ModelPackage, TensorSpec
from registry.contracts.profile import no_profile
from registry.stream import MemoryStream
from serving.batching import BatchWindow
from serving.device.tensors import TORCH_DTYPES
from serving.event_log import EventLog
from serving.gateway.app import build_app
from serving.gateway.grpc.calls import Methods
from serving.gateway.grpc.health import Health
from serving.gateway.grpc.inference import Inference
from serving.gateway.grpc.methods import SERVICES, method_table
from serving.gateway.grpc.models import Models, SharedMemory
from serving.gateway.grpc.ranking import RankingService
from serving.gateway.grpc.server import GrpcServer
from serving.gateway.http import HotRoutes
from serving.gateway.oip import oip_routes
from serving.identity.doorkeeper import Doorkeeper
from serving.infer import InferService
from serving.journal import Journal
from serving.loaded import LoadedProgram
from serving.permits import Permits
from serving.program import Program, TorchProgram
from serving.rank import Ranker
from serving.regions import Regions
from serving.replicas import ReplicaPool
from serving.settings import GatewaySettings, GrpcSettings
from serving.tensors import DATATYPES
from tests.builders import NOW_MS, a_manifest, a_plan, a_tested_plan
from tests.serving.workbench import PATIENCE_S, Replica, a_loaded_model

T = TypeVar("T")

RANKING = a_tested_plan(weight=500)
TENSORS = a_plan("tensors")
EVERY = a_plan("every")
PLANS = {plan.model: plan for plan in (RANKING, TENSORS, EVERY)}


class TwoInputs(torch.nn.Module):
    """Two inputs, two outputs of different datatypes."""

    def forward(self, left: torch.Tensor, right: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return left + right, (left > right).to(torch.int32)


class Echo(torch.nn.Module):
    """Gives back what it takes."""

    def forward(self, *given: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(value.clone() for value in given)


def name_of(datatype: str) -> str:
    """Of the input and the output of this datatype."""
    return f"a_{datatype.lower()}"


SPECS = {
    "tensors": (
        (TensorSpec("left", "FP32", (-1, 3)), TensorSpec("right", "FP32", (-1, 3))),
        (TensorSpec("sum", "FP32", (-1, 3)), TensorSpec("larger", "INT32", (-1, 3))),
    ),
    "every": (tuple(TensorSpec(name_of(datatype), datatype, (-1, 2)) for datatype in DATATYPES),) * 2,
}


@cache
def exported(model: str) -> bytes:
    """The program of a model that takes tensors, all of whose inputs have their rows in dimension 0."""
    rows, longest = torch.export.Dim("rows", min=1), torch.export.Dim("longest", min=1)
    arguments, dynamic = [], []
    for spec in SPECS[model][0]:
        if spec.datatype == "BYTES":
            arguments += [torch.zeros(4, 2, 5, dtype=torch.uint8), torch.zeros(4, 2, dtype=torch.int64)]
            dynamic += [{0: rows, 2: longest}, {0: rows}]
        else:
            arguments.append(torch.zeros(4, *spec.shape[1:], dtype=TORCH_DTYPES[spec.datatype]))
            dynamic.append({0: rows})
    module, shapes = (Echo(), (tuple(dynamic),)) if model == "every" else (TwoInputs(), tuple(dynamic))
    archive = io.BytesIO()
    torch.export.save(torch.export.export(module, tuple(arguments), dynamic_shapes=shapes), archive)
    return strip_sample_inputs(archive.getvalue())


def a_version(model: str, version: int, digest: str, around: Callable[[Program], Program]) -> LoadedProgram:
    """What a worker loads. around: what is put around the programs that take tensors."""
    if model not in SPECS:
        return a_loaded_model(model=model, version=version, digest=digest)
    inputs, outputs = SPECS[model]
    manifest = a_manifest(model=model, inputs=inputs, outputs=outputs, view={}, fingerprint="")
    program = around(TorchProgram(ModelPackage.of(exported(model), manifest, no_profile()), "cpu"))
    return LoadedProgram(model=model, version=version, digest=digest, program=program, inputs=inputs, outputs=outputs)


@contextmanager
def a_worker(around: Callable[[Program], Program] = lambda program: program) -> Iterator[Replica]:
    """A worker that holds all versions of PLANS."""
    # not tmp_path: the path of a Unix socket may have 107 bytes at most
    with tempfile.TemporaryDirectory(prefix="sluice-", dir="/tmp") as folder:
        replica = Replica(
            str(Path(folder) / "worker.sock"),
            lambda model, version, digest: a_version(model, version, digest, around),
            RANKING,
            BatchWindow(4096),
            time.monotonic,
        )
        try:
            replica.follow(*PLANS.values())
            yield replica
        finally:
            replica.stop()


@dataclass
class Gateway:
    """A gateway's gRPC port, and the HTTP beside it; what is behind them."""

    address: str
    http: httpx.AsyncClient
    server: GrpcServer
    methods: Methods
    service: InferService
    permits: Permits
    event_log: EventLog
    stream: MemoryStream
    ids: RankingIds

    def channel(self, **options: Any) -> grpc.aio.Channel:
        """A new channel to the port; options are gRPC's, `grpc.` and dots left out."""
        return grpc.aio.insecure_channel(
            self.address, options=[(f"grpc.{name}", value) for name, value in options.items()]
        )

    async def client(self, use: Callable[[triton.InferenceServerClient], T]) -> T:
        """What an unmodified tritonclient gets; it blocks, so on a thread of its own."""

        def run() -> T:
            with triton.InferenceServerClient(self.address) as client:
                return use(client)

        return await asyncio.to_thread(run)

    def logged(self) -> list[Event]:
        """Every event logged so far."""
        assert self.event_log.ship()
        return [event for entry in self.stream.entries.values() for event in decode_events(entry.payload)]


@asynccontextmanager
async def a_gateway(
    worker: Replica,
    regions: Regions | None = None,
    limits: GrpcSettings | None = None,
    doorkeeper: Callable[[], Doorkeeper] | None = None,
    **changes: Any,
) -> AsyncIterator[Gateway]:
    """A gateway in front of the worker; changes are the gateway settings'. doorkeeper: makes one."""
    guard = doorkeeper() if doorkeeper is not None else None
    with tempfile.TemporaryDirectory() as folder, Journal(Path(folder) / "events", 1 << 20) as journal:
        settings = GatewaySettings(Path(folder) / "events", Path(folder) / "plans.json", (worker.address,), **changes)
        stream = MemoryStream()
        event_log = EventLog(journal, stream)
        ids = RankingIds(b"a secret of 24 bytes....", random.Random(1))
        flow = settings.flow
        permits = Permits(settings.max_in_flight, rule=flow.admission)
        pool = ReplicaPool(settings.workers, retry=flow.retry, hedge=flow.hedge)
        clock = asyncio.get_running_loop().time
        ranker = Ranker(pool, event_log, ids, permits, log_every=100, clock=clock, wall_ms=lambda: NOW_MS)
        ranker.follow(PLANS)
        service = InferService(ranker, pool, permits, max_rows=1000)
        app = build_app(
            ranker, pool.fleet, permits, event_log, lambda: REGISTRY, "0.0", [oip_routes(service, regions, "0.0")]
        )
        routes = HotRoutes(app, ranker, event_log, ids, settings, random.Random(2), wall_ms=lambda: NOW_MS)
        table = method_table(
            Inference(service, settings, regions, guard),
            Models(service, lambda: ranker.ready, "0.0", guard),
            SharedMemory(regions),
            RankingService(ranker, event_log, ids, settings, wall_ms=lambda: NOW_MS, doorkeeper=guard),
            Health(SERVICES, lambda: ranker.ready),
            settings,
        )
        server = GrpcServer(table, limits or GrpcSettings(), random.Random(3), guard)
        listener = socket.create_server(("127.0.0.1", 0))
        await pool.start()
        await server.start(listener)
        for plan in PLANS.values():
            await pool.fleet.wait_for_holder(plan.model, plan.champion, clock() + PATIENCE_S)
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        transport = httpx.ASGITransport(app=routes)
        headers = {"content-type": "application/json"}
        try:
            async with httpx.AsyncClient(transport=transport, base_url="http://sluice", headers=headers) as http:
                yield Gateway(address, http, server, table, service, permits, event_log, stream, ids)
        finally:
            await server.stop(PATIENCE_S)
            await pool.stop()


def served(scenario: Callable[[Gateway], Awaitable[T]], worker: Replica, **changes: Any) -> T:
    """What the scenario returns of a gateway on the loop that gateways run on."""

    async def run() -> T:
        async with a_gateway(worker, **changes) as gateway:
            return await scenario(gateway)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(run())
