"""The controller process: the rollout engine each second, MLflow's aliases behind it, the control API.

It needs the control database and Redis, and waits for them when they are away; MLflow it only needs for
aliases and for versions that are new. Several controllers may run: each change is a compare-and-set.
"""

import functools
import logging
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from deploy import wiring
from deploy.control.alias_keeper import AliasKeeper
from deploy.control.app import Tell, build_control_app
from deploy.control.desk import Desk
from deploy.control.key_publisher import KeyPublisher
from deploy.control.local_key import local_key
from deploy.control.meter import MeterThread, TrafficMeter
from deploy.control.server import ControlServer
from deploy.control.sources import Sources
from deploy.control.stream_watch import StreamWatch
from deploy.drift_reports.parts import evidently_reports
from deploy.drift_reports.shelf import ReportShelf
from deploy.gateway.doorkeeper import token_key_set, token_verifier
from deploy.settings import PlatformSettings
from deploy.telemetry.open import exporter_of
from deploy.telemetry.probe_port import probe_port
from drift.days.reports import DayReports
from drift.settings import parse_monitor
from pipelines.archive.files import Archive
from pipelines.gates.planning import GatePlanner
from pipelines.rollouts.canary import outlook
from pipelines.rollouts.engine import RolloutEngine
from pipelines.settings import RolloutSettings, parse_gates, parse_retraining
from registry.api_keys import SqlKeyRing
from registry.audit import SqlAuditLog
from registry.board import PlanBoard, RedisBoard
from registry.contracts.errors import ContractError
from registry.contracts.rollouts import Rollout
from registry.counters import RedisCounterBoard
from registry.drift_board import RedisDriftBoard, declare
from registry.errors import RegistryError, StoreUnavailable
from registry.glimpse_board import RedisGlimpseBoard
from registry.key_sheet import RedisKeyBoard
from registry.promotion import Promoter
from registry.receipts import KEPT_MS
from registry.retirement import ServableVersions
from registry.rollouts import RolloutControl
from registry.runs import SqlRuns
from registry.store import ModelStore
from registry.traffic_control import SqlControl
from serving.addresses import parse_address
from serving.identity.key_sets import KeySetWatcher

log = logging.getLogger(__name__)

REDIS_TIMEOUT_S = 1.0
FORGET_EVERY_MS = 3_600_000
DAY_MS = 86_400_000
AUDIT_DAYS = 400


@dataclass
class Controller:
    """The parts of the process, for the engine's loop and whoever else works on rollouts in here.

    aliases: None where MLflow is left out. keys: shown to gateways, None: to nobody. audit_days: how long rows of the
    audit log are kept.
    """

    control: SqlControl
    board: PlanBoard
    engine: RolloutEngine
    aliases: AliasKeeper | None
    settings: RolloutSettings
    keys: KeyPublisher | None = None
    audit_days: int = AUDIT_DAYS
    _failures: int = field(default=0, init=False)
    _forgot_ms: int = field(default=0, init=False)
    _keys_unpublished: bool = field(default=False, init=False)

    def store(self) -> ModelStore:
        """The registry of versions that may have traffic. Raises StoreUnavailable while it is not open."""
        if self.aliases is None:
            raise StoreUnavailable("this platform runs without a model registry: SLUICE_WITH_MLFLOW=1 starts it")
        return ServableVersions(self.aliases.store())

    def publish(self, model: str) -> None:
        """Shows the model's plan, and has its aliases follow. Raises StoreUnavailable if the board is away."""
        if plan := self.control.plan(model):
            self.board.publish(plan)
        if self.aliases is not None:
            self.aliases.decided(model)

    def outlook(self, rollout: Rollout) -> Mapping[str, object]:
        """What the engine thinks of an active rollout right now. Raises StoreUnavailable."""
        return outlook(self.engine.look(rollout, now_ms()))

    def run(self, stop: threading.Event) -> None:
        """The engine's turns, until told to stop; what does not answer is asked again in the next."""
        due_s = time.monotonic()
        while not stop.wait(max(0.0, due_s - time.monotonic())):
            due_s = max(due_s, time.monotonic() - self.settings.period_s) + self.settings.period_s
            self._publish_keys()
            try:
                self.engine.turn(now_ms())
                self._forget(now_ms())
            except (RegistryError, ContractError) as error:
                self._failures += 1
                if self._failures == 1:  # each second: say it once
                    log.warning("rollouts stand still until this is over: %s", error)
                continue
            if self._failures:
                log.info("rollouts go on after %d turns that failed", self._failures)
                self._failures = 0

    def _publish_keys(self) -> None:
        """By itself: a rollout that fails must not keep a revoked key good."""
        if self.keys is None:
            return
        try:
            self.keys.publish()
        except RegistryError as error:
            if not self._keys_unpublished:
                log.warning("gateways are not told of changed keys until this is over: %s", error)
            self._keys_unpublished = True
        else:
            self._keys_unpublished = False

    def _forget(self, at_ms: int) -> None:
        if not 0 <= at_ms - self._forgot_ms < FORGET_EVERY_MS:
            self.control.forget_receipts(at_ms - KEPT_MS)
            SqlAuditLog(self.control.engine).forget(at_ms - self.audit_days * DAY_MS)
            self._forgot_ms = at_ms


def control(settings: PlatformSettings, stop: threading.Event) -> None:
    """The whole process. What else is to run in it is a thread started here."""
    answers = threading.Event()
    with probe_port(settings, ready=answers.is_set):
        database = _open_control(settings, stop)
        if database is not None:
            _control(settings, stop, database, answers)


def _control(settings: PlatformSettings, stop: threading.Event, database: SqlControl, answers: threading.Event) -> None:
    """answers: set as soon as the control API does."""
    controller = make_controller(settings, database)
    if controller.aliases is not None:
        controller.aliases.start()
    meter = MeterThread(TrafficMeter(), RedisCounterBoard(wiring.redis_client(settings, REDIS_TIMEOUT_S)))
    # Kafka forgets by time, whoever has read: there nobody holds a stream back
    watch = None if settings.events_url else StreamWatch(wiring.redis_client(settings, REDIS_TIMEOUT_S))
    token_keys, exporter = token_key_set(settings, "controller"), exporter_of(settings)
    threads = [thread for thread in (meter, watch, token_keys, exporter) if thread is not None]
    for thread in threads:
        thread.start()
    api = control_api(settings, controller, meter.meter, token_keys, exporter.tell if exporter else None)
    api.start()
    answers.set()
    try:
        controller.run(stop)
    finally:
        answers.clear()
        api.stop()
        for thread in threads:
            thread.stop()
        if controller.aliases is not None:
            controller.aliases.stop()
        database.close()


def make_controller(settings: PlatformSettings, database: SqlControl) -> Controller:
    """Over the platform's Redis; nothing runs yet."""
    mine = RolloutSettings()
    redis = wiring.redis_client(settings, REDIS_TIMEOUT_S)
    board = RedisBoard(redis)
    aliases = None
    if settings.with_mlflow:
        aliases = AliasKeeper(
            lambda: wiring.model_store(settings), lambda store: Promoter(store, database, board), mine
        )
    decided = _nobody if aliases is None else aliases.decided
    tables: RolloutControl = database
    engine = RolloutEngine(tables, board, RedisCounterBoard(redis), decided)
    keys = KeyPublisher(SqlKeyRing(database.engine), RedisKeyBoard(redis))
    return Controller(database, board, engine, aliases, mine, keys, settings.audit_days)


def control_api(
    settings: PlatformSettings,
    controller: Controller,
    meter: TrafficMeter,
    token_keys: KeySetWatcher | None = None,
    tell: Tell | None = None,
) -> ControlServer:
    """The API over the controller's parts, and the key of commands on this machine. token_keys: of the issuer whose
    tokens are good. tell: see `build_control_app`.

    Raises StoreUnavailable.
    """
    engine = controller.control.engine
    ring, publisher = SqlKeyRing(engine), controller.keys
    local_key(settings.admin_key_file, ring, now_ms())
    planner = GatePlanner(Archive(settings.archive_folder), parse_gates(settings.gates))
    board = RedisDriftBoard(wiring.redis_client(settings, REDIS_TIMEOUT_S))
    shift = parse_monitor(settings.drift).shift
    days = DayReports(settings.reports_folder / "drift")
    sources = Sources(
        meter,
        glimpses=RedisGlimpseBoard(wiring.redis_client(settings, REDIS_TIMEOUT_S)),
        days=days,
        floors={"mean": shift.effect_floor_sd, "missing_share": shift.share_floor, "zero_share": shift.share_floor},
    )
    desk = Desk(
        *(controller.control, ring, controller.store, controller.publish, controller.outlook, planner),
        *(SqlRuns(engine), SqlAuditLog(engine), now_ms),
        retrain_ms=parse_retraining(settings.retraining, settings.retrain_anchor).window_ms,
        closed_days=board.latest,
        calibration=lambda model: board.calibrations().get(model),
        sources=sources,
        publish_keys=publisher.publish if publisher is not None else lambda: None,
        tokens=token_verifier(settings, token_keys),
        used_ms=RedisKeyBoard(wiring.redis_client(settings, REDIS_TIMEOUT_S)).used_ms,
        declare=functools.partial(declare, board),
        reports=ReportShelf(evidently_reports(settings), days),
    )
    return ControlServer(build_control_app(desk, tell), parse_address(settings.controller_address))


def now_ms() -> int:
    """Since the epoch."""
    return time.time_ns() // 1_000_000


def _open_control(settings: PlatformSettings, stop: threading.Event) -> SqlControl | None:
    """The tables, as soon as the database answers; None if told to stop before."""
    said = False
    while not stop.is_set():
        try:
            return wiring.traffic_control(settings)
        except StoreUnavailable as error:
            if not said:
                log.warning("waiting for the control database: %s", error)
            said = True
            stop.wait(1.0)
    return None


def _nobody(_model: str) -> None:
    """No aliases are kept."""
