"""Builds each process from its settings: the one place that knows every room.

A builder takes the settings and a stop event, and runs until the event is set. What a process
does not need is not imported: the gateway sees neither torch nor mlflow.
"""

import functools
import hashlib
import logging
import os
import secrets
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

from deploy.database_url import require_driver
from deploy.features.url import without_password
from deploy.machine import collector, heap
from deploy.settings import PlatformSettings
from deploy.telemetry.probe_port import probe_port

if TYPE_CHECKING:
    import redis

    from deploy.drift_reports.links import ReportLinks
    from deploy.drift_reports.make import ReportSources
    from deploy.drift_reports.turns import ReportTurns
    from drift.evidently_reports.files import EvidentlyReports
    from pipelines.gates.judge import GateJudge
    from pipelines.training.run_log import RunLog
    from registry.cache import VersionCache
    from registry.contracts.drift import ShiftRecord
    from registry.contracts.features import FeatureView
    from registry.contracts.manifest import ModelPackage
    from registry.contracts.runs import Run
    from registry.mlflow_store import MlflowStore
    from registry.promotion import Promoter
    from registry.store import ModelStore
    from registry.traffic_control import SqlControl
    from serving.device.streams import Lane
    from serving.features.host import HostTier
    from serving.features.tier import RowTier
    from serving.features.tiers import Tiers
    from serving.loaded import LoadedProgram
    from serving.settings import WorkerSettings

log = logging.getLogger(__name__)

Builder = Callable[[PlatformSettings, threading.Event], None]
REDIS_TIMEOUT_S = 5.0
FETCH_TIMEOUT_S = 120.0
SLAB_ROW_BYTES = 84  # of a row in the host slab, beside its values: key, age, count, its share of the sketch at most


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
    import torch

    from deploy.features.store import feature_store
    from registry.board import RedisBoard
    from registry.contracts.replicas import ReplicaRecord
    from registry.replica_board import RedisReplicaBoard
    from serving.batching import BatchWindow
    from serving.budget import MemoryBudget, parse_budgets, parse_bytes
    from serving.device.nvml import DeviceSampler, cuda_uuids
    from serving.device.streams import Lane, open_device
    from serving.features.prefetch import Prefetcher
    from serving.features.tiers import Tiers
    from serving.plans import PlanWatcher
    from serving.registration import Registration
    from serving.scoring import LoadedModel
    from serving.settings import WorkerSettings
    from serving.shares import Shares, parse_weights
    from serving.shelf import Shelf
    from serving.tls.channel import WorkerTls
    from serving.tls.settings import parse_fleet_tls
    from serving.worker import Worker

    mine = WorkerSettings(
        address=settings.worker_addresses[settings.replica],
        plan_copy=settings.versions_folder / f"plans-worker-{settings.replica}.json",
        threads=settings.torch_threads,
        model_bytes=parse_budgets(settings.model_budgets),
        device_bytes=parse_bytes(settings.device_memory) if settings.device_memory else None,
        model_weights=parse_weights(settings.model_weights),
        triton_servers=settings.triton_addresses,
        device=_device(settings),
        precision=settings.precision,
        compile=settings.compile,
    )
    heap.keep()
    torch.set_num_threads(mine.threads)
    prefetcher = Prefetcher(mine.prefetches, fetched=lambda: worker.wake())
    tiers = Tiers(prefetcher)
    lane = None if mine.device == "cpu" else Lane.of(open_device(mine.device))
    cache = version_cache(settings)
    rows = feature_store(settings, mine.redis_timeout_s)
    shelf = Shelf(
        load=lambda model, version, digest: open_version(cache, tiers, rows.tier, mine, lane, model, version, digest),
        changed=lambda: worker.wake(),
        unload_after_s=mine.unload_after_s,
        budget=MemoryBudget(mine.model_bytes, mine.device_bytes),
        kept=lambda held: tiers.keep({loaded.view.fingerprint for loaded in held if isinstance(loaded, LoadedModel)}),
    )
    name = f"worker-{settings.replica}"
    if mine.address.startswith("tcp:") and settings.redis:  # one of many machines, each of which has such a one
        name = f"{name}@{socket.gethostname()}"
    board = RedisBoard(redis_client(settings, 1.0))
    watcher = PlanWatcher(board, mine.plan_copy, shelf.follow, hold_back=shelf.hold_back)
    record = ReplicaRecord(
        mine.address, name, mine.device, os.getpid(), time.time_ns() // 1_000_000, mine.batch_candidates
    )
    registration = Registration(
        RedisReplicaBoard(redis_client(settings, 1.0)), record, mine.heartbeat_s, mine.heartbeat_ttl_s
    )
    worker = Worker(
        name,
        mine.address,
        shelf,
        tiers,
        BatchWindow(mine.batch_candidates),
        shares=Shares(mine.model_weights),
        draining=registration.drain,
        tls=WorkerTls(parse_fleet_tls(settings.fleet_tls)) if settings.fleet_tls else None,
    )
    listener = rows.listener(tiers.changed, tiers.resync)
    sampler = DeviceSampler(cuda_uuids() if lane else {})
    for thread in (watcher, shelf, listener, prefetcher, registration, sampler):
        thread.start()
    collector.calm()
    with probe_port(settings, ready=lambda: shelf.stock.ready or watcher.idle):
        worker.run(stop)
    for thread in (watcher, shelf, listener, prefetcher, registration, sampler):
        thread.stop()


def _nothing() -> None:
    """There is nothing to let go of."""


def _device(settings: PlatformSettings) -> str:
    """This worker's device: plain `cuda` gives the workers of a machine its GPUs in turn."""
    if settings.device != "cuda":
        return settings.device
    import torch

    return f"cuda:{settings.replica % max(1, torch.cuda.device_count())}"


def open_version(
    cache: "VersionCache",
    tiers: "Tiers",
    rows: "Callable[[FeatureView], RowTier]",
    mine: "WorkerSettings",
    lane: "Lane | None",
    model: str,
    version: int,
    digest: str,
) -> "LoadedProgram":
    """A version, verified, loaded and warm; one that runs elsewhere, found fit over there.

    rows: the store of a view's rows. lane: of the worker's GPU, None on a CPU.
    """
    from registry.artefacts import read
    from serving.device.opening import device_ranker, open_program
    from serving.features.device import DeviceTier
    from serving.features.freshness import ValueCounts
    from serving.features.host import HostTier
    from serving.features.suspects import CheckRule
    from serving.footprint import Footprint, PeakMemory
    from serving.loaded import LoadedProgram
    from serving.passes import learn_score_pass, learn_tensor_pass
    from serving.program import Program, TorchProgram, warm_up
    from serving.scoring import LoadedModel

    package = read(cache.get(model, version, digest))
    manifest = package.manifest
    on_cpu = manifest.remote is None and lane is None
    calls, release = None, _nothing
    if manifest.remote is None:
        program: Program = open_program(package, mine.device, mine.precision, mine.compile)
        platform = "pytorch_export"
    else:
        from serving.triton import open_remote  # 0.4 s and 20 MB: for those who have such a version

        program = remote = open_remote(manifest, mine.triton_servers)
        platform, calls, release = remote.platform, remote.calls, remote.close
    if not manifest.ranks:
        return LoadedProgram(
            model=model,
            version=version,
            digest=digest,
            program=program,
            inputs=manifest.inputs,
            outputs=manifest.outputs,
            batchable=manifest.batchable,
            platform=platform,
            footprint=Footprint(len(package.program)),
            calls=calls,
            release=release,
            pass_rows=learn_tensor_pass(program, manifest) if on_cpu and manifest.batchable else 0,
        )
    view = manifest.feature_view()

    columns = len(view.positions("row"))

    def tier() -> "HostTier":
        rule = CheckRule(mine.check_rows_per_s, mine.check_within_s)
        defaults = view.defaults[view.positions("row")]
        # the second store is for the thread that fetches ahead: its client's pool gives it connections of its own
        counts = ValueCounts(view)
        told = counts if lane is None else None
        host = HostTier(view.name, rows(view), mine.slab_rows, defaults, told, rule, rows(view))
        if lane is None:
            return host
        above = DeviceTier(view.name, host, mine.device_rows, columns, lane.device, rule, counts=counts)
        # forgets what changed as a host tier does, which is what a worker's tiers are asked for
        return cast("HostTier", above)

    with PeakMemory(mine.device) as memory:
        warm_up(program, len(view.columns))
        pass_rows = learn_score_pass(program, len(view.columns)) if on_cpu else 0
    host_row_bytes = 4 * columns + view.missing_bytes + SLAB_ROW_BYTES
    slab_bytes = mine.device_rows * 4 * columns if lane else mine.slab_rows * host_row_bytes
    loaded = LoadedModel(
        model=model,
        version=version,
        digest=digest,
        program=program,
        inputs=manifest.inputs,
        outputs=manifest.outputs,
        batchable=manifest.batchable,
        platform=platform,
        footprint=Footprint(
            len(package.program), memory.bytes if manifest.remote is None else 0, {view.fingerprint: slab_bytes}
        ),
        view=view,
        tier=tiers.of(view.name, view.fingerprint, tier),
        reference_std=package.profile.scores.std,
        calls=calls,
        release=release,
        pass_rows=pass_rows,
    )
    if lane is not None and isinstance(program, TorchProgram):
        loaded.ranker = device_ranker(loaded, program, lane, mine.batch_candidates, mine.graphs)
    return loaded


def version_cache(settings: PlatformSettings) -> "VersionCache":
    """Verified copies of versions; what is missing is fetched by a process of its own, so that
    MLflow's five seconds and hundred megabytes never enter a worker."""
    from registry.artefacts import read
    from registry.cache import VersionCache
    from registry.contracts.manifest import ModelPackage
    from registry.signatures import TrustedKeys

    def fetch(model: str, version: int) -> ModelPackage:
        with tempfile.TemporaryDirectory(prefix="sluice-fetch-") as scratch:
            fetch_copy(settings, model, version, Path(scratch) / "package")
            return read(Path(scratch) / "package")

    return VersionCache(settings.versions_folder, fetch, TrustedKeys.parse(settings.trusted_keys))


def fetch_copy(settings: PlatformSettings, model: str, version: int, folder: Path) -> None:
    """A version out of the registry into a folder of this machine, by a process of its own.

    Raises StoreUnavailable with its last words."""
    from registry.errors import StoreUnavailable

    argv = [sys.executable, "-m", "deploy.models.fetch", model, str(version), str(folder)]
    try:
        done = subprocess.run(
            argv, timeout=FETCH_TIMEOUT_S, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        sys.stderr.write(done.stderr)  # into the log, as it was said
        why = (done.stderr.strip().splitlines() or [f"exit {done.returncode}"])[-1] if done.returncode else ""
    except (subprocess.SubprocessError, OSError) as error:
        why = str(error)
    if why:
        where = without_password(settings.mlflow_url)
        raise StoreUnavailable(f"{model}@{version} could not be fetched from {where}: {why}")


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
    """Events from the stream into windows and days, these into drift verdicts; mirrored lists into rank-diffs.

    Both read the same stream and know the versions' profiles, and neither has to be quick, which the
    controller has to be: hence in one process, and not in that.
    """
    from deploy.events.stream import event_reader
    from deploy.verdicts.drift_evidence import DriftEvidence
    from deploy.verdicts.rank_evidence import RankEvidence
    from drift.calibration import show
    from drift.days.reports import DayReports
    from drift.days.watch import DayWatches
    from drift.mirrors.monitor import GROUP, MirrorMonitor
    from drift.monitor import Monitor
    from drift.settings import parse_monitor, parse_rank_diff
    from drift.windows.hours import Hours
    from drift.windows.reports import VerdictReports
    from drift.windows.segments import parse_segments
    from registry.artefacts import read
    from registry.contracts.errors import ContractError
    from registry.contracts.profile import ReferenceProfile
    from registry.drift_board import RedisDriftBoard
    from registry.errors import RegistryError

    def profile_of(model: str, version: int) -> ReferenceProfile | None:
        folder = settings.versions_folder / model / str(version)
        if not folder.exists() and settings.mlflow:  # workers of other machines have their copies there
            fetch_copy(settings, model, version, folder)
        return read(folder).profile if folder.exists() else None

    def standard_of(model: str, version: int) -> tuple[float, float] | None:
        try:
            profile = profile_of(model, version)
        except (RegistryError, ContractError, OSError) as error:
            log.warning("no score shift of %s@%d: %s", model, version, error)
            return None
        return (profile.scores.mean, profile.scores.std) if profile else None

    heap.keep()
    watched = replace(parse_monitor(settings.drift), segments=parse_segments(settings.drift_segments))
    board = RedisDriftBoard(redis_client(settings))
    evidence = DriftEvidence(lambda: traffic_control(settings), board)
    reports_folder = settings.reports_folder / "drift"
    kept_in = settings.journal_folder / "days.watches"
    watches = DayWatches(kept_in, board, watched.shift, evidence.keep, DayReports(reports_folder), watched.segments)
    reports = VerdictReports(reports_folder)
    with (
        event_reader(settings, GROUP, "monitor-0") as of_mirrors,
        event_reader(settings, "monitor", "monitor-0") as of_rankings,
        probe_port(settings),
    ):
        mirrors = MirrorMonitor(
            of_mirrors,
            standard_of,
            RankEvidence(lambda: traffic_control(settings)).keep,
            parse_rank_diff(settings.rank_diff),
            settings.journal_folder / "mirrors.windows",
            watches=watches,
            shift=watched.shift,
        )
        kept_in = settings.journal_folder / "monitor.windows"
        hours = Hours(reports_folder, watched.shift.day_ms, round(watched.window_s * 1000))
        monitor = Monitor(of_rankings, profile_of, reports.write, watched, kept_in, watches=watches, hours=hours)
        try:
            for calibration in board.calibrations().values():  # who found it told its gauges, and may be long gone
                show(calibration)
        except RegistryError as error:
            log.warning("calibrations are shown with the next collected window: %s", error)
        collector.calm()
        run_together(stop, monitor.run, mirrors.run)


def run_together(stop: threading.Event, *loops: Callable[[threading.Event], None]) -> None:
    """Runs them in threads until the event is set; when one fails, all are stopped and its error is raised."""
    with ThreadPoolExecutor(len(loops)) as pool:
        running = [pool.submit(loop, stop) for loop in loops]
        for one in running:
            one.add_done_callback(lambda _: stop.set())
    for one in running:
        one.result()


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


def evidently_reports(settings: PlatformSettings) -> "EvidentlyReports":
    """Where Evidently's reports of closed days are kept."""
    from drift.evidently_reports.files import EvidentlyReports
    from drift.settings import parse_reports

    return EvidentlyReports(settings.reports_folder / "drift", parse_reports(settings.drift_reports).kept)


def report_sources(settings: PlatformSettings) -> "ReportSources":
    """What they are made of. A version's profile is asked of the copies on this machine first, then of MLflow."""
    from deploy.drift_reports.make import ReportSources
    from drift.days.reports import DayReports
    from drift.settings import parse_reports
    from pipelines.archive.files import Archive
    from registry.artefacts import read
    from registry.contracts.profile import ReferenceProfile
    from registry.drift_board import RedisDriftBoard
    from registry.errors import StoreUnavailable

    def profile(model: str, version: int) -> ReferenceProfile | None:
        folder = settings.versions_folder / model / str(version)
        if folder.exists():
            return read(folder).profile
        return model_store(settings).package(model, version).profile if settings.with_mlflow else None

    def shown(model: str) -> "tuple[ShiftRecord, ...]":
        try:
            return board.latest(model)
        except StoreUnavailable as error:
            log.warning("a report without what the drift board shows: %s", error)
            return ()

    board = RedisDriftBoard(redis_client(settings))
    return ReportSources(
        archive=Archive(settings.archive_folder),
        days=DayReports(settings.reports_folder / "drift"),
        profile=profile,
        shown=shown,
        settings=parse_reports(settings.drift_reports),
    )


def report_links(settings: PlatformSettings) -> "ReportLinks":
    """Between those reports and MLflow's runs."""
    from deploy.drift_reports.links import ReportLinks
    from registry.runs import SqlRuns

    def runs(model: str) -> list["Run"]:
        return SqlRuns(traffic_control(settings).engine).runs(model, kind="retrain", newest=20)

    store = functools.cache(lambda: model_store(settings))
    return ReportLinks(evidently_reports(settings), runs, store)


@functools.cache  # with one client of Redis
def report_turns(settings: PlatformSettings) -> "ReportTurns":
    """Which report is made next, and that it is made."""
    from deploy.drift_reports.turns import ReportTurns, in_a_process

    return ReportTurns(
        sources=report_sources(settings),
        reports=evidently_reports(settings),
        models=lambda: traffic_control(settings).models(),
        process=in_a_process,
        links=report_links(settings) if settings.with_mlflow else None,
    )


def promoter(settings: PlatformSettings, store: "ModelStore") -> "Promoter":
    """Store, tables and board, moved together."""
    from registry.board import RedisBoard
    from registry.promotion import Promoter
    from registry.retirement import ServableVersions

    return Promoter(ServableVersions(store), traffic_control(settings), RedisBoard(redis_client(settings)))


def local_version(settings: PlatformSettings, model: str, version: int, digest: str) -> "ModelPackage":
    """A version's package from the copies on this machine, fetched if it is not there."""
    from registry.artefacts import read

    return read(version_cache(settings).get(model, version, digest))


BUILDERS: dict[str, Builder] = {
    "gateway": run_gateway,
    "worker": run_worker,
    "controller": run_controller,
    "archiver": run_archiver,
    "monitor": run_monitor,
}
