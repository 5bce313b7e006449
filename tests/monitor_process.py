"""The drift monitor as the platform runs it: a Redis server and the process, both of our own, to feed and to kill."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import redis
from redis.backoff import ConstantBackoff
from redis.retry import Retry

from deploy.machine.home import prepare
from deploy.machine.processes import redis_executable, write_redis_configuration
from deploy.settings import PlatformSettings
from drift.mirrors.monitor import GROUP as MIRRORS
from registry.artefacts import write
from registry.contracts.manifest import ModelPackage
from registry.contracts.profile import ReferenceProfile
from registry.stream import EVENT_STREAM
from tests.builders import a_manifest
from tests.deploy.platforms import until

GROUPS = ("monitor", MIRRORS)


@dataclass
class MonitorProcess:
    """settings: of a platform of which only Redis runs by itself. cores: where the process may run, None for all."""

    settings: PlatformSettings
    client: redis.Redis
    cores: set[int] | None = None
    process: subprocess.Popen[bytes] | None = field(default=None)

    @property
    def pid(self) -> int:
        """Of the process that was started last."""
        assert self.process is not None, "start it first"
        return self.process.pid

    def add_version(self, model: str, version: int, profile: ReferenceProfile) -> None:
        """A version that the monitor finds the profile of; nothing that could be served."""
        manifest = a_manifest(model=model, fingerprint=profile.fingerprint)
        write(ModelPackage.of(b"", manifest, profile), self.settings.versions_folder / model / str(version))

    def start(self) -> None:
        """Starts it and waits until it reads."""
        environment = os.environ | self.settings.to_environment()
        environment |= {"PROMETHEUS_MULTIPROC_DIR": str(self.settings.metrics_folder)}
        argv = [sys.executable, "-m", "deploy.process", "monitor"]
        self.process = subprocess.Popen(argv, env=environment)
        if self.cores:
            os.sched_setaffinity(self.process.pid, self.cores)
        until(lambda: set(GROUPS) <= self.delivered().keys() or self._died(), "the monitor reads")

    def stop(self) -> None:
        """As `sluice down` does."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """As the kernel does when memory is short."""
        self._end(signal.SIGKILL)

    def delivered(self) -> dict[str, bytes]:
        """The last entry that each group was given."""
        try:
            groups = self.client.xinfo_groups(EVENT_STREAM)
        except redis.ResponseError:  # no stream yet
            return {}
        return {group["name"].decode(): group["last-delivered-id"] for group in groups}

    def has_read_all(self) -> bool:
        """Whether every group was given the newest entry."""
        newest = self.client.xinfo_stream(EVENT_STREAM)["last-generated-id"]
        return set(self.delivered().values()) == {newest} or self._died()

    def waiting(self) -> int:
        """Entries that some group did not acknowledge, delivered or not."""
        groups = self.client.xinfo_groups(EVENT_STREAM)
        newest = self.client.xinfo_stream(EVENT_STREAM)["last-generated-id"]
        behind = [group for group in groups if group["last-delivered-id"] != newest]
        return sum(group["pending"] for group in groups) + len(behind)

    def _died(self) -> bool:
        if self.process is not None and self.process.poll() is not None:
            raise RuntimeError(f"the monitor ended with {self.process.returncode}: read what it printed")
        return False

    def _end(self, number: signal.Signals) -> None:
        if self.process is not None:
            self.process.send_signal(number)
            self.process.wait(30)
            self.process = None


@contextlib.contextmanager
def monitor_process(
    home: Path, redis_cores: set[int] | None = None, cores: set[int] | None = None, **told: str
) -> Iterator[MonitorProcess]:
    """Redis with its log on disk, as a platform has it, and the monitor, not started yet. told: settings."""
    settings = PlatformSettings(home=home, **told)  # type: ignore[arg-type]
    prepare(settings)
    argv = [str(redis_executable()), str(write_redis_configuration(settings))]
    server = subprocess.Popen(argv, stdout=subprocess.DEVNULL)
    try:
        if redis_cores:
            os.sched_setaffinity(server.pid, redis_cores)
        patient = Retry(ConstantBackoff(0.05), 200)  # while the server starts
        with redis.Redis(unix_socket_path=str(settings.redis_socket), retry=patient) as client:
            client.ping()
            monitor = MonitorProcess(settings, client, cores)
            try:
                yield monitor
            finally:
                monitor.kill()
    finally:
        server.terminate()
        server.wait(30)
