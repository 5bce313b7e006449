"""The gateway process: the hot routes and the FastAPI application in one uvicorn server."""

import asyncio
import contextlib
import os
import random
import socket
import ssl
import threading
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import uvicorn
import uvloop
from fastapi import FastAPI
from prometheus_client import REGISTRY, CollectorRegistry
from prometheus_client.multiprocess import MultiProcessCollector

from deploy.errors import SluiceError
from deploy.events.stream import event_writer
from deploy.gateway.doorkeeper import Stoppable, gateway_doorkeeper
from deploy.gateway.left_journals import LeftJournals, left_journals
from deploy.machine import collector, heap
from deploy.machine.metrics import ProcessCollector
from deploy.machine.probes import PROCESS_HEADER
from deploy.machine.state import read_state
from deploy.settings import PlatformSettings
from deploy.telemetry.open import exporter_of
from deploy.telemetry.probe_port import probe_port
from deploy.telemetry.settings import parse_traces
from deploy.wiring import ranking_secret, redis_client
from registry.board import RedisBoard
from registry.contracts.counters import process_name
from registry.contracts.ids import RankingIds
from registry.counters import RedisCounterBoard
from registry.errors import RegistryError
from registry.glimpse_board import RedisGlimpseBoard
from registry.replica_board import RedisReplicaBoard
from serving import metrics, tally
from serving.arm_counts import ArmCounts, CounterPublisher
from serving.discovery import ReplicaWatcher
from serving.errors import ReplicaUnhealthy
from serving.event_log import EventLog
from serving.flow.settings import parse_flow
from serving.gateway.access import GuardedApp
from serving.gateway.app import build_app
from serving.gateway.console.files import console_router
from serving.gateway.control.controller import Controller
from serving.gateway.control.routes import control_router
from serving.gateway.http import HotRoutes
from serving.gateway.oip import oip_routes
from serving.gateway.oip_infer import OipInfer
from serving.gateway.protocol import protocol_with
from serving.glimpses import GlimpsePublisher
from serving.infer import InferService
from serving.journal import Journal, JournalInUse
from serving.mirror import Mirror
from serving.permits import Permits
from serving.plans import Plans, PlanWatcher
from serving.rank import Ranker
from serving.regions import Regions
from serving.replicas import ReplicaPool
from serving.settings import ControlSettings, GatewaySettings
from serving.tls.contexts import Certificates
from serving.tls.settings import parse_fleet_tls, parse_gateway_tls
from serving.tracing.tracer import Tracer

if TYPE_CHECKING:
    from serving.gateway.grpc.server import GrpcServer

DRAIN_S = 10
FIRST_LOOK_S = 10.0  # longer than a board that hangs keeps the watcher waiting


def metrics_registry(settings: PlatformSettings) -> CollectorRegistry:
    """All processes' metrics where the platform runs them together, else this one's."""
    folder = os.environ.get("PROMETHEUS_MULTIPROC_DIR")
    if not folder:
        return REGISTRY
    registry = CollectorRegistry()
    MultiProcessCollector(registry, path=folder)  # type: ignore[no-untyped-call]
    registry.register(ProcessCollector(lambda: read_state(settings)))
    return registry


def serve_gateway(settings: PlatformSettings, stop: threading.Event) -> None:
    """Runs until `stop` is set and the requests under way are answered."""
    heap.keep()
    metrics.begin_at_zero()
    mine = GatewaySettings(
        journal=settings.journal_folder / f"gateway-{settings.replica}.journal",
        plan_copy=settings.versions_folder / f"plans-gateway-{settings.replica}.json",
        workers=settings.worker_addresses,
        version_header=settings.version_header,
        flow=parse_flow(settings.flow),
    )
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(settings, mine, stop))


def open_journal(path: Path, capacity_bytes: int) -> Journal:
    """See `Journal`. Raises SluiceError."""
    try:
        return Journal(path, capacity_bytes)
    except JournalInUse as error:
        raise SluiceError(str(error), "stop that process, or another SLUICE_HOME") from error
    except OSError as error:
        needs = f"the journal of events, {path}, needs {capacity_bytes / 2**20:.0f} MB: {error.strerror}"
        raise SluiceError(needs, "free some space, or another SLUICE_HOME") from error


async def _serve(settings: PlatformSettings, mine: GatewaySettings, stop: threading.Event) -> None:
    loop = asyncio.get_running_loop()
    source = random.SystemRandom()
    ids = RankingIds(ranking_secret(settings), random.Random(source.getrandbits(256)))
    event_log = EventLog(open_journal(mine.journal, mine.journal_bytes), event_writer(settings))
    flow = mine.flow
    permits = Permits(mine.max_in_flight, rule=flow.admission)
    pool = ReplicaPool(
        mine.workers,
        arena_bytes=mine.arena_bytes,
        retry=flow.retry,
        hedge=flow.hedge,
        calm=lambda model: not permits.busy(model),
        coins=random.Random(source.getrandbits(256)),
        tls=parse_fleet_tls(settings.fleet_tls) if settings.fleet_tls else None,
    )
    doors = _Doors.of(settings)
    mirror = Mirror(
        pool, event_log, permits, random.Random(source.getrandbits(256)), mine.max_mirrored, mine.mirror_deadline_ms
    )
    exporter, tracer = exporter_of(settings), None
    if exporter is not None:
        rules = parse_traces(settings.traces).rules
        tracer = Tracer(rules, exporter.tell, random.Random(source.getrandbits(256)))
    counts, coins = ArmCounts(), random.Random(source.getrandbits(256))
    ranker = Ranker(
        pool,
        event_log,
        ids,
        permits,
        mine.log_every,
        counts=counts,
        coins=coins,
        mirror=mirror.offer,
        ladder=flow.ladder,
        tracer=tracer,
    )
    name = f"gateway-{settings.replica}"
    # of several machines, each with a first gateway of its own: in containers even their pids are the same
    alone = f"{name}@{socket.gethostname()}" if settings.redis else name
    process = process_name(alone, os.getpid(), time.time_ns() // 1_000_000)

    def follow(plans: Plans) -> None:
        loop.call_soon_threadsafe(ranker.follow, plans)

    def hold_back(models: frozenset[str]) -> None:
        loop.call_soon_threadsafe(setattr, ranker, "held_back", models)

    def follow_replicas(addresses: tuple[str, ...]) -> None:
        loop.call_soon_threadsafe(pool.fleet.set_addresses, addresses)

    board = RedisBoard(redis_client(settings, 1.0))
    plans = PlanWatcher(board, mine.plan_copy, follow, hold_back=hold_back)
    watchers = (
        plans,
        ReplicaWatcher(
            RedisReplicaBoard(redis_client(settings, 1.0)),
            mine.workers,
            pool.fleet.connected,
            follow_replicas,
        ),
        CounterPublisher(counts, RedisCounterBoard(redis_client(settings, 1.0)), process),
        GlimpsePublisher(ranker.glimpses, RedisGlimpseBoard(redis_client(settings, 1.0))),
    )

    async def hold(model: str, wanted: bool) -> None:
        try:
            await asyncio.to_thread(board.hold, model, wanted)
        except RegistryError as error:
            raise ReplicaUnhealthy(f"the plan board is away, try again: {error}") from error

    service = InferService(
        ranker,
        pool,
        permits,
        mine.max_candidates,
        control=hold if settings.repository_control else None,
        tracer=tracer,
    )
    guard = gateway_doorkeeper(settings, process)
    doorkeeper = guard.doorkeeper if guard is not None else None
    threads: list[Stoppable] = [*watchers, *(guard.threads if guard is not None else ())]
    if settings.replica == 0 and left_journals(settings.journal_folder, settings.gateways):
        threads.append(LeftJournals(settings.journal_folder, settings.gateways, event_writer(settings)))
    control = ControlSettings(address=settings.controller_address)
    regions = Regions(settings.run_folder / "regions") if settings.shared_memory_regions else None
    app = build_app(
        ranker,
        pool.fleet,
        permits,
        event_log,
        lambda: metrics_registry(settings),
        version("sluice"),
        routers=[oip_routes(service, regions, version("sluice")), console_router()],
        control=control_router(Controller(control).ask, control),
        process={PROCESS_HEADER: name},
    )

    async def grpc_server() -> "GrpcServer | None":
        if not settings.with_grpc:
            return None
        from deploy.gateway.grpc_server import start_grpc  # protobuf and HPACK: only where they are wanted

        listener = _listen(settings.gateway_host, settings.grpc_port)
        trace_ids = random.Random(source.getrandbits(256))
        return await start_grpc(
            *(listener, ranker, service, event_log, ids, mine, regions, trace_ids),
            doorkeeper=doorkeeper,
            tls=doors.grpc.context if doors.grpc is not None else None,
        )

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await pool.start()
        event_log.start()
        if exporter is not None:
            exporter.start()
        for thread in threads:
            thread.start()
        # nobody is let in before: who shares a port with others would answer 404 for a model that they serve
        await asyncio.to_thread(plans.looked.wait, FIRST_LOOK_S)
        if guard is not None:
            await asyncio.to_thread(guard.looked.wait, FIRST_LOOK_S)
        grpc = await grpc_server()
        collector.calm()
        yield
        if grpc is not None:
            await grpc.stop(DRAIN_S)
        for thread in threads:
            thread.stop()
        await pool.stop()
        await asyncio.to_thread(event_log.stop)
        if exporter is not None:
            await asyncio.to_thread(exporter.stop)

    app.router.lifespan_context = lifespan
    routes = HotRoutes(
        app if doorkeeper is None else GuardedApp(app, doorkeeper),
        ranker,
        event_log,
        ids,
        mine,
        random.Random(source.getrandbits(256)),
        infer=OipInfer(
            *(service, mine, regions, doorkeeper), traces=random.Random(source.getrandbits(256)) if tracer else None
        ),
        prefetch=pool.prefetch,
        doorkeeper=doorkeeper,
    )
    server = uvicorn.Server(
        uvicorn.Config(
            routes,
            loop="uvloop",
            http=protocol_with(routes),
            proxy_headers=False,
            ws="none",
            lifespan="on",
            access_log=False,
            log_config=None,
            server_header=False,
            timeout_graceful_shutdown=DRAIN_S,
            ssl_context_factory=doors.http_context,
        )
    )
    ender = loop.create_task(_end_when(stop, server, permits, doors.look))
    with probe_port(settings, ready=lambda: ranker.ready):
        await server.serve(sockets=[_listen(settings.gateway_host, settings.gateway_port)])
    ender.cancel()


def _listen(host: str, port: int) -> socket.socket:
    """A socket that all gateways of this machine share; the kernel deals connections out."""
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    listener.bind((host, port))
    listener.setblocking(False)
    return listener


@dataclass(frozen=True, slots=True)
class _Doors:
    """Certificates of the gateway's own ports; None where there is no TLS."""

    http: Certificates | None = None
    grpc: Certificates | None = None

    @staticmethod
    def of(settings: PlatformSettings) -> "_Doors":
        if not settings.gateway_tls:
            return _Doors()
        files = parse_gateway_tls(settings.gateway_tls)
        return _Doors(Certificates(files, True, ("http/1.1",)), Certificates(files, True, ("h2",)))

    @property
    def http_context(self) -> "Callable[[uvicorn.Config, Callable[[], ssl.SSLContext]], ssl.SSLContext] | None":
        """For uvicorn, which asks for no context where this is None."""
        certificates = self.http
        return None if certificates is None else lambda config, usual: certificates.context

    def look(self) -> None:
        """Reads again what has changed."""
        for certificates in (self.http, self.grpc):
            if certificates is not None:
                certificates.fresh()


async def _end_when(stop: threading.Event, server: uvicorn.Server, permits: Permits, look: Callable[[], None]) -> None:
    while not stop.is_set():
        look()
        permits.publish()
        tally.flush()
        await asyncio.sleep(tally.FLUSH_EVERY_S)
    server.should_exit = True
