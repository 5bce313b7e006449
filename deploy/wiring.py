"""Builds each process from its settings, and what several share: the one place that knows every room.

A builder takes the settings and a stop event, and runs until the event is set. What a process
does not need is not imported: the gateway sees neither torch nor mlflow.
"""

import functools
import hashlib
import logging
import os
import secrets
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from deploy.database_url import require_driver
from deploy.machine import collector, heap
from deploy.settings import PlatformSettings
from deploy.telemetry.probe_port import probe_port

if TYPE_CHECKING:
    import redis

    from pipelines.gates.judge import GateJudge
    from pipelines.training.run_log import RunLog
    from registry.mlflow_store import MlflowStore
    from registry.promotion import Promoter
    from registry.store import ModelStore
    from registry.traffic_control import SqlControl

log = logging.getLogger(__name__)

Builder = Callable[[PlatformSettings, threading.Event], None]
REDIS_TIMEOUT_S = 5.0


def redis_client(settings: PlatformSettings, timeout_s: float = REDIS_TIMEOUT_S) -> "redis.Redis":
    """A client of the platform's Redis; bytes in, bytes out."""
    from deploy.redis_clients import platform_client

    return platform_client(settings, timeout_s)


def ranking_secret(settings: PlatformSettings) -> bytes:
    """The installation's key for ranking ids: the one told to all gateways of several machines, else one in the data
    folder, made on first use and shared by the gateways of this one."""
    if settings.ranking_key:
        return hashlib.blake2b(settings.ranking_key.encode(), digest_size=32, person=b"sluice-rankings").digest()
    path = settings.home / "ranking-id.key"
    try:
        return path.read_bytes()
    except FileNotFoundError:
        fresh = path.with_name(f"{path.name}.{os.getpid()}")
        fresh.touch(0o600)
        fresh.write_bytes(secrets.token_bytes(32))
        try:
            os.link(fresh, path)  # fails if another process was first: its key counts
        except FileExistsError:
            log.info("another gateway made the key")
        finally:
            fresh.unlink()
        return path.read_bytes()


def run_gateway(settings: PlatformSettings, stop: threading.Event) -> None:
    """HTTP in front; ends when `stop` is set and the requests under way are answered."""
    from deploy.gateway.process import serve_gateway

    serve_gateway(settings, stop)


def run_worker(settings: PlatformSettings, stop: threading.Event) -> None:
    """One replica: watches plans, loads versions, scores."""
    from deploy.worker.process import work

    work(settings, stop)


def run_archiver(settings: PlatformSettings, stop: threading.Event) -> None:
    """Events from the stream into Parquet."""
    from deploy.events.stream import event_reader
    from pipelines.archive.archiver import Archiver
    from pipelines.archive.files import Archive
    from pipelines.settings import ArchiverSettings

    heap.keep()
    with event_reader(settings, "archiver", "archiver-0") as reader, probe_port(settings):
        collector.calm()
        Archiver(reader, Archive(settings.archive_folder), ArchiverSettings()).run(stop)


def run_monitor(settings: PlatformSettings, stop: threading.Event) -> None:
    """Events from the stream into drift verdicts and rank-diffs."""
    from deploy.verdicts.monitor import monitor

    monitor(settings, stop)


def run_controller(settings: PlatformSettings, stop: threading.Event) -> None:
    """Rollouts, step by step, and what is decided shown to gateways and MLflow."""
    from deploy.control.controller import control

    control(settings, stop)


def model_store(settings: PlatformSettings) -> "MlflowStore":
    """The registry of versions. Slow to import: never in the gateway or a worker."""
    from registry.mlflow_store import MlflowStore
    from registry.signatures import Signer, TrustedKeys

    signer = Signer.from_pem(settings.signing_key) if settings.signing_key else None
    return MlflowStore(settings.mlflow_url, signer=signer, trusted=TrustedKeys.parse(settings.trusted_keys))


def run_log(store: "MlflowStore", model: str, key: str, name: str) -> "RunLog":
    """The run of this key in MLflow, the same one when a pipeline's run goes on after a kill."""
    from deploy.training.run_log import MlflowRunLog

    return MlflowRunLog(store, model, key, name)


def traffic_control(settings: PlatformSettings) -> "SqlControl":
    """The tables of traffic plans, rollouts and their histories, migrated if need be."""
    require_driver("SLUICE_CONTROL_URL", settings.control_database)
    return _control(settings.control_database)


@functools.cache  # a process shares one pool of connections: tasks ask again and again
def _control(url: str) -> "SqlControl":
    from registry.traffic_control import SqlControl

    return SqlControl(url)


@functools.cache  # it knows which gauges it has shown
def gate_judge(settings: PlatformSettings) -> "GateJudge":
    """Of all online gates, from archive to evidence. Raises StoreUnavailable."""
    from deploy.verdicts.drift_alarms import open_alarms
    from pipelines.archive.files import Archive
    from pipelines.gates.data import GateData
    from pipelines.gates.judge import GateJudge
    from pipelines.settings import parse_gates
    from registry.drift_board import RedisDriftBoard

    data = GateData(Archive(settings.archive_folder), settings.gates_folder)
    alarms = open_alarms(RedisDriftBoard(redis_client(settings)))
    return GateJudge(traffic_control(settings), data, alarms, parse_gates(settings.gates))


def promoter(settings: PlatformSettings, store: "ModelStore") -> "Promoter":
    """Store, tables and board, moved together."""
    from registry.board import RedisBoard
    from registry.promotion import Promoter

    return Promoter(store, traffic_control(settings), RedisBoard(redis_client(settings)))


BUILDERS: dict[str, Builder] = {
    "gateway": run_gateway,
    "worker": run_worker,
    "controller": run_controller,
    "archiver": run_archiver,
    "monitor": run_monitor,
}
