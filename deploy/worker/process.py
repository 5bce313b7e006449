"""Builds a worker from its settings, and runs it."""

import os
import socket
import threading
import time

import torch

from deploy.features.store import feature_store
from deploy.machine import collector, heap
from deploy.models.copies import version_cache
from deploy.settings import PlatformSettings
from deploy.telemetry.probe_port import probe_port
from deploy.wiring import redis_client
from deploy.worker.loading import open_version
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


def work(settings: PlatformSettings, stop: threading.Event) -> None:
    """One replica: watches plans, loads versions, scores."""
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


def _device(settings: PlatformSettings) -> str:
    """This worker's device: plain `cuda` gives the workers of a machine its GPUs in turn."""
    if settings.device != "cuda":
        return settings.device
    return f"cuda:{settings.replica % max(1, torch.cuda.device_count())}"
