"""A control API on loopback, over SQLite and versions in memory."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from deploy.control.app import build_control_app
from deploy.control.desk import Desk
from deploy.control.key_publisher import KeyPublisher
from deploy.control.local_key import local_key
from deploy.control.server import ControlServer
from deploy.control.sources import Sources
from deploy.drift_reports.shelf import ReportShelf
from drift.days.reports import DayReports
from drift.evidently_reports.files import EvidentlyReports
from pipelines.archive.files import Archive
from pipelines.gates.planning import GatePlanner
from pipelines.rollouts.canary import outlook
from pipelines.rollouts.engine import RolloutEngine
from registry.api_keys import SqlKeyRing
from registry.audit import SqlAuditLog
from registry.board import MemoryBoard
from registry.contracts.drift import Rebaseline
from registry.contracts.rollouts import Rollout
from registry.counters import MemoryCounterBoard
from registry.drift_board import MemoryDriftBoard, declare
from registry.errors import StoreUnavailable
from registry.key_sheet import MemoryKeyBoard
from registry.promotion import Promoter
from registry.retirement import ServableVersions
from registry.roles import Role
from registry.runs import SqlRuns
from registry.store import MemoryStore, ModelStore
from registry.traffic_control import SqlControl
from serving.addresses import TcpAddress
from serving.identity.tokens import TokenVerifier
from tests.builders import NOW_MS, a_package
from tests.free_ports import free_port

MODEL = "codesearch"
VERSIONS = 4
PATIENCE_S = 30.0


@dataclass
class ControlBench:
    """url: of the API. desk: behind it. admin: the local key. away: of what does not answer, `store` or `board`."""

    url: str
    desk: Desk
    admin: str
    control: SqlControl
    store: MemoryStore
    board: MemoryBoard
    archive: Archive
    reports: EvidentlyReports
    away: set[str] = field(default_factory=set)
    drift: MemoryDriftBoard = field(default_factory=MemoryDriftBoard)
    sources: Sources = field(default_factory=Sources)
    keys: MemoryKeyBoard = field(default_factory=MemoryKeyBoard)

    def request(self, method: str, path: str, key: str | None = None, **options: Any) -> httpx.Response:
        """key: the admin's by default, empty for none. The body is `json`."""
        given = self.admin if key is None else key
        headers = ({"authorization": f"Bearer {given}"} if given else {}) | options.pop("headers", {})
        return httpx.request(method, self.url + path, headers=headers, timeout=PATIENCE_S, **options)

    def get(self, path: str, key: str | None = None, **options: Any) -> httpx.Response:
        return self.request("GET", f"/v1/models/{MODEL}{path}", key, **options)

    def post(self, path: str, body: dict[str, Any], key: str | None = None, **headers: str) -> httpx.Response:
        """headers: `if_match` is If-Match, and so on."""
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.request("POST", f"/v1/models/{MODEL}{path}", key, json=body, headers=sent)

    def promote(self, version: int, why: str = "better", **headers: str) -> httpx.Response:
        return self.post("/promote", {"version": version, "why": why}, **headers)

    def key(self, role: Role, models: tuple[str, ...] = ()) -> str:
        """A new key of that role."""
        body = {"name": f"a-{role}", "role": role, "models": models}
        made = self.request("POST", "/v1/keys", json=body)
        assert made.status_code == 201, made.text
        return str(made.json()["key"])


@contextmanager
def a_control_bench(folder: Path, database: str = "", tokens: TokenVerifier | None = None) -> Iterator[ControlBench]:
    """Four versions registered, none promoted. database: SQLAlchemy's URL; SQLite in the folder by default. tokens:
    whose are good, by default nobody's."""
    control = SqlControl(database or f"sqlite:///{folder / 'control.db'}")
    store, board = MemoryStore(), MemoryBoard()
    for version in range(VERSIONS):
        store.register(MODEL, a_package(created_ms=NOW_MS + version))
    promoter = Promoter(store, control, board)
    ring = SqlKeyRing(control.engine)
    archive = Archive(folder / "archive")
    away: set[str] = set()
    drift = MemoryDriftBoard()
    reports, days = EvidentlyReports(folder / "drift", kept=30), DayReports(folder / "drift")
    sources = Sources(days=days)
    keys = MemoryKeyBoard()

    def there() -> ModelStore:
        if "store" in away:
            raise StoreUnavailable("MLflow is being loaded: try again in some seconds")
        while "store hangs" in away:
            time.sleep(0.01)
        return ServableVersions(store)

    def declared(change: Rebaseline) -> None:
        if "board" in away:
            raise StoreUnavailable("Redis does not answer")
        declare(drift, change)

    def publish(model: str) -> None:
        if "board" in away:
            raise StoreUnavailable("Redis does not answer")
        promoter.publish([model])

    engine = RolloutEngine(control, board, MemoryCounterBoard(), lambda _: None)

    def engine_outlook(rollout: Rollout) -> dict[str, object]:
        return outlook(engine.look(rollout, time.time_ns() // 1_000_000))

    def publish_keys() -> None:
        if "board" in away:
            raise StoreUnavailable("Redis does not answer")
        KeyPublisher(ring, keys).publish()

    runs, audit = SqlRuns(control.engine), SqlAuditLog(control.engine)
    port = free_port()
    desk = Desk(
        *(control, ring, there, publish, engine_outlook, GatePlanner(archive), runs, audit),
        closed_days=drift.latest,
        sources=sources,
        publish_keys=publish_keys,
        tokens=tokens,
        used_ms=keys.used_ms,
        declare=declared,
        reports=ReportShelf(reports, days),
    )
    admin = local_key(folder / "admin.key", ring, NOW_MS)
    url = f"http://127.0.0.1:{port}"
    bench = ControlBench(url, desk, admin, control, store, board, archive, reports, away, drift, sources, keys)
    server = ControlServer(build_control_app(desk), TcpAddress("127.0.0.1", port))
    server.start()
    try:
        yield bench
    finally:
        server.stop()
        control.close()
