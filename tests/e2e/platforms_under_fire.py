"""A real data plane that serves a real model, for tests that kill parts of it."""

import functools
import os
import signal
import subprocess
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self, TypeVar

import numpy as np

from deploy import wiring
from deploy.client import GatewayClient
from deploy.errors import SluiceError
from deploy.features.store import feature_client
from deploy.machine import lifecycle
from deploy.machine.state import read_state
from deploy.settings import PlatformSettings
from pipelines.archive.files import Archive
from registry.artefacts import write
from registry.board import RedisBoard
from registry.contracts.traffic import TrafficPlan
from serving.features.materialiser import write_rows
from tests.builders import a_package
from tests.processes import is_gone

PATIENCE_S = 180.0  # a first start of MLflow beside a busy test suite takes over a minute
DEADLINE_MS = 30_000
ITEMS = [f"item-{i}" for i in range(200)]
MODEL = "codesearch"

Found = TypeVar("Found")


def until(condition: Callable[[], Found | None], what: str) -> Found:
    """What the condition gives as soon as it is true; fails the test if it never is."""
    give_up_s = time.monotonic() + PATIENCE_S
    while not (found := condition()):
        assert time.monotonic() < give_up_s, f"not within {PATIENCE_S:g} s: {what}"
        time.sleep(0.02)
    return found


@dataclass
class Platform:
    """A running data plane: Redis, archiver, worker, gateway."""

    settings: PlatformSettings
    supervisor: "subprocess.Popen[bytes]"

    @staticmethod
    def start(home: Path, **flags: Any) -> "Platform":
        """Starts on free ports and waits until every process is ready."""
        ports = {"gateway_port": 0, "grpc_port": 0, "mlflow_port": 0}
        told = {"with_mlflow": False, "with_celery": False, "with_monitor": False} | ports | flags
        settings = PlatformSettings(home=home, **told)
        supervisor = lifecycle.launch(settings, attached=True)
        lifecycle.wait_until_ready(settings, supervisor, PATIENCE_S, lambda _: None)
        return Platform(lifecycle.running(settings)[0], supervisor)

    def serve(self) -> None:
        """Publishes a version and its rows, and waits until it is warm."""
        package = a_package()
        view = package.manifest.feature_view()
        client = wiring.redis_client(self.settings)
        values = np.arange(len(ITEMS), dtype=np.float32).reshape(-1, 1)
        rows = feature_client(self.settings, wiring.REDIS_TIMEOUT_S)
        write_rows(rows, view, ITEMS, values, updated_ms=1, on_rows=lambda _: None)
        write(package, self.settings.versions_folder / MODEL / "1")
        RedisBoard(client).publish(TrafficPlan(MODEL, 1, champion=1, champion_digest=package.digest))
        self.wait_until_warm()

    def wait_until_held(self, version: str, replicas: int) -> None:
        """Until the gateway sees so many replicas hold the version (`model@1`)."""

        def holders() -> int:
            return sum(version in replica["versions"] for replica in self.status().get("replicas", ()))

        until(lambda: holders() == replicas, f"{replicas} replicas with {version}")

    def wait_until_warm(self) -> None:
        """Until the gateway follows a plan of the model and sees a worker hold its version.

        Its own `ready` says nothing of a plan just published: a gateway that follows none yet is ready too.
        """

        def warm() -> bool:
            status = self.status()
            held = any(f"{MODEL}@1" in replica["versions"] for replica in status.get("replicas", ()))
            return held and MODEL in status["plans"]

        until(warm, "the model to be warm")

    def kill(self, name: str, how: signal.Signals = signal.SIGKILL) -> int:
        """kill -9 of a process, once it is there, by its own pid; waits until it is gone. Returns the pid."""
        pid = until(lambda: self.pid(name), f"{name} to run")
        os.kill(pid, how)
        until(lambda: is_gone(pid), f"{name} to be gone")
        return pid

    def rank(self, gateway: GatewayClient, place: int) -> Any:
        """One query; its answer."""
        rng = np.random.default_rng(place)
        candidates = [ITEMS[i] for i in rng.choice(len(ITEMS), 20, replace=False)]
        return gateway.post(
            f"/v1/models/{MODEL}/rank",
            {"candidates": candidates, "unit": f"u{place}", "top_k": 5, "deadline_ms": DEADLINE_MS},
        )

    def archived(self) -> list[str]:
        """Ranking ids in the archive, each once."""
        now_ms = time.time_ns() // 1_000_000
        table = Archive(self.settings.archive_folder).rankings(MODEL, now_ms - 3_600_000, now_ms + 60_000)
        return [str(ranking_id) for ranking_id in table.column("ranking_id").to_pylist()]

    def archived_feedback(self) -> list[str]:
        """Event ids of feedback in the archive, each once."""
        now_ms = time.time_ns() // 1_000_000
        table = Archive(self.settings.archive_folder).feedback(MODEL, now_ms - 3_600_000, now_ms + 60_000)
        return [str(event_id) for event_id in table.column("event_id").to_pylist()]

    def stop(self) -> None:
        """Orderly."""
        if self.supervisor.poll() is None:
            self.supervisor.terminate()
        self.supervisor.wait(PATIENCE_S)

    def pid(self, name: str) -> int | None:
        state = read_state(self.settings)
        return next((p.pid for p in state.processes if p.name == name and p.ready), None) if state else None

    def status(self) -> Any:
        """What the gateway says of itself, nothing while it is not there."""
        try:
            with GatewayClient.of(self.settings) as gateway:
                return gateway.get("/v1/status")
        except SluiceError:
            return {}


class Clients(ABC):
    """Clients, each on a thread, that do their work again and again until the block ends."""

    def __enter__(self) -> Self:
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=run) for run in self._runs()]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    @property
    def _stopped(self) -> bool:
        return self._stop.is_set()

    @abstractmethod
    def _runs(self) -> Sequence[Callable[[], None]]:
        """What each client does until it is `_stopped`."""


@dataclass
class Load(Clients):
    """Clients that rank without pause."""

    platform: Platform
    clients: int = 3
    patience_s: float = 0.0
    answered: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)

    def _runs(self) -> Sequence[Callable[[], None]]:
        return [functools.partial(self._run, number) for number in range(self.clients)]

    def wait_for(self, more: int) -> None:
        """Until so many more queries were answered."""
        wanted = len(self.answered) + more
        until(lambda: len(self.answered) >= wanted, f"{more} more answers, failed: {self.failed[:3]}")

    def _run(self, number: int) -> None:
        place = number * 1_000_000
        with GatewayClient.of(self.platform.settings, patience_s=self.patience_s) as gateway:
            while not self._stopped:
                place += 1
                try:
                    self.answered.append(self.platform.rank(gateway, place)["ranking_id"])
                except SluiceError as error:
                    self.failed.append(str(error))
