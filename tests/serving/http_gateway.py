"""A whole gateway in a thread: uvicorn with our protocol, a pool, and what is behind it."""

import asyncio
import random
import tempfile
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvicorn
import uvloop
from prometheus_client import REGISTRY

from registry.contracts.events import Event, RankingEvent, decode_events
from registry.contracts.ids import RankingIds
from registry.contracts.traffic import TrafficPlan
from registry.stream import MemoryStream
from serving.event_log import EventLog
from serving.gateway.access import GuardedApp
from serving.gateway.app import build_app
from serving.gateway.console.files import console_router
from serving.gateway.control.controller import Controller
from serving.gateway.control.routes import control_router
from serving.gateway.http import HotRoutes
from serving.gateway.oip import oip_routes
from serving.gateway.oip_infer import OipInfer
from serving.gateway.patience import Patience
from serving.gateway.protocol import protocol_with
from serving.identity.doorkeeper import Doorkeeper
from serving.infer import InferService
from serving.journal import Journal
from serving.mirror import Mirror
from serving.permits import Permits
from serving.rank import Ranker
from serving.regions import Regions
from serving.replicas import ReplicaPool
from serving.settings import ControlSettings, GatewaySettings
from tests.builders import a_plan
from tests.serving.workbench import PATIENCE_S

MAX_CANDIDATES = 2000


@dataclass
class RunningGateway:
    """port: on loopback. The rest is what the gateway is made of."""

    port: int
    permits: Permits
    ranker: Ranker
    pool: ReplicaPool
    event_log: EventLog
    stream: MemoryStream
    mirror: Mirror
    loop: asyncio.AbstractEventLoop

    @property
    def address(self) -> str:
        """Host and port, as clients are told."""
        return f"127.0.0.1:{self.port}"

    def until(self, holds: Callable[[], bool]) -> None:
        """Waits for something that another thread brings about."""
        until_s = time.monotonic() + PATIENCE_S
        while not holds():
            assert time.monotonic() < until_s, "it did not come about"
            time.sleep(0.001)

    def turn(self) -> None:
        """Returns when the loop has done what it was about to do."""
        done = threading.Event()
        self.loop.call_soon_threadsafe(done.set)
        assert done.wait(PATIENCE_S)

    def follow(self, plan: TrafficPlan) -> None:
        """Returns when queries are routed by the plan."""
        self.loop.call_soon_threadsafe(self.ranker.follow, {plan.model: plan})
        self.until(lambda: self.ranker.plans[plan.model] == plan)

    def logged(self) -> list[Event]:
        """Every event logged so far."""
        assert self.event_log.ship()
        return [event for entry in self.stream.entries.values() for event in decode_events(entry.payload)]

    def rankings_logged(self) -> int:
        """How many answers are in the event log."""
        return sum(isinstance(event, RankingEvent) for event in self.logged())


@contextmanager
def a_running_gateway(
    address: str | tuple[str, ...],
    plan: TrafficPlan | None = None,
    regions: Regions | None = None,
    control: Callable[[str, bool], Awaitable[None]] | None = None,
    keep_alive_s: int = 5,
    doorkeeper: Callable[[], Doorkeeper] | None = None,
    controller: str = "",
    patience: Patience | None = None,
    **changes: Any,
) -> Iterator[RunningGateway]:
    """A gateway in front of the workers at the addresses that hold all versions of the plan.

    regions: None for shared memory off. control: see `InferService`. doorkeeper: makes one on the gateway's loop.
    controller: its address, empty if there is none, and no control routes. patience: with slow clients. changes: of
    the settings.
    """
    followed = plan or a_plan()
    started = threading.Event()
    stop: list[Callable[[], None]] = []
    made: list[RunningGateway] = []
    failures: list[BaseException] = []

    async def serve(folder: str, journal: Journal) -> None:
        given: dict[str, Any] = {"max_candidates": MAX_CANDIDATES}
        workers = (address,) if isinstance(address, str) else address
        settings = GatewaySettings(Path(folder) / "events", Path(folder) / "plans.json", workers, **(given | changes))
        stream = MemoryStream()
        event_log = EventLog(journal, stream)
        ids = RankingIds(b"a secret of 24 bytes....", random.Random(1))
        flow = settings.flow
        permits = Permits(settings.max_in_flight, rule=flow.admission)
        pool = ReplicaPool(settings.workers, retry=flow.retry, hedge=flow.hedge)
        mirror = Mirror(pool, event_log, permits, random.Random(3), settings.max_mirrored, settings.mirror_deadline_ms)
        ranker = Ranker(
            pool, event_log, ids, permits, 100, coins=random.Random(4), mirror=mirror.offer, ladder=flow.ladder
        )
        ranker.follow({followed.model: followed})
        service = InferService(ranker, pool, permits, settings.max_candidates, control)
        routers = [oip_routes(service, regions, version="0.0"), console_router()]
        asked = ControlSettings(address=controller)
        way = control_router(Controller(asked).ask, asked) if controller else None
        app = build_app(ranker, pool.fleet, permits, event_log, lambda: REGISTRY, "0.0", routers=routers, control=way)
        guard = doorkeeper() if doorkeeper is not None else None
        infer = OipInfer(service, settings, regions, guard)
        behind = app if guard is None else GuardedApp(app, guard)
        routes = HotRoutes(
            behind,
            ranker,
            event_log,
            ids,
            settings,
            random.Random(2),
            infer=infer,
            prefetch=pool.prefetch,
            doorkeeper=guard,
        )
        await pool.start()
        for version in followed.versions():
            await pool.fleet.wait_for_holder(followed.model, version, time.monotonic() + PATIENCE_S)
        config = uvicorn.Config(
            routes,
            http=protocol_with(routes, patience),
            port=0,
            log_config=None,
            access_log=False,
            timeout_graceful_shutdown=1,
            timeout_keep_alive=keep_alive_s,
        )
        server = uvicorn.Server(config)
        server.capture_signals = contextmanager(lambda: iter([None]))  # type: ignore[assignment, method-assign]
        serving = asyncio.create_task(server.serve())
        while not server.started:
            await asyncio.sleep(0.001)
        port = server.servers[0].sockets[0].getsockname()[1]
        loop = asyncio.get_running_loop()
        made.append(RunningGateway(port, permits, ranker, pool, event_log, stream, mirror, loop))
        stop.append(lambda: loop.call_soon_threadsafe(setattr, server, "should_exit", True) and None)
        started.set()
        await serving
        await pool.stop()

    def run() -> None:
        try:
            with tempfile.TemporaryDirectory() as folder, Journal(Path(folder) / "events", 16 << 20) as journal:
                uvloop.run(serve(folder, journal))
        except BaseException as error:
            failures.append(error)
            started.set()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    assert started.wait(PATIENCE_S)
    if failures:
        raise failures[0]
    try:
        yield made[0]
    finally:
        stop[0]()
        thread.join(PATIENCE_S)
