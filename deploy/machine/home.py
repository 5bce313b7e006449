"""The data folder: who holds it, its sub-folders, and where and how its platform listens."""

import contextlib
import dataclasses
import fcntl
import hashlib
import os
import shutil
import socket
import stat
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec

from deploy.errors import AlreadyRunning, SettingsError, SluiceError
from deploy.features.url import without_password
from deploy.machine.identity import identify
from deploy.settings import PlatformSettings

_HIDDEN = "***"  # what `without_password` writes for one
_LOCK_PATIENCE_S = 0.5  # a command that asks for the holder has the lock for an instant: wait that out


class _Found(msgspec.Struct, frozen=True):
    """Where other commands find a platform's doors, what these ask for, and its rows: they may have been started with
    other settings. None: an older version wrote it, which did not say."""

    gateway_port: int
    mlflow_port: int
    grpc_port: int
    features_url: str = ""
    redis: str = ""
    control: str = ""  # digest of the URL of the control database, which may hold a password
    gateway_host: str | None = None
    gateway_tls: str | None = None
    auth: str | None = None
    mlflow: str | None = None  # without its password
    with_grpc: bool | None = None

    def of(self, settings: PlatformSettings) -> PlatformSettings:
        if self.control and self.control != _control(settings):
            raise _contradicts("SLUICE_CONTROL_URL", settings.control_url, "the database")
        found = msgspec.structs.asdict(self)
        del found["control"]
        if self.mlflow is not None and (settings.mlflow or _HIDDEN in self.mlflow):
            if without_password(settings.mlflow).rstrip("/") != self.mlflow.rstrip("/"):
                raise _contradicts("SLUICE_MLFLOW", settings.mlflow, f"{self.mlflow or 'the embedded one'}, the MLflow")
            del found["mlflow"]  # as told: with its password
        return dataclasses.replace(settings, **{name: value for name, value in found.items() if value is not None})


def _contradicts(key: str, told: str, what: str) -> SettingsError:
    rule = f"{what} that the platform of this data folder was started with"
    return SettingsError(key, without_password(told) or "(unset)", rule, "set it as it was for sluice up")


def _control(settings: PlatformSettings) -> str:
    return hashlib.blake2b(settings.control_database.encode(), digest_size=16).hexdigest()


def _lock_file(settings: PlatformSettings) -> Path:
    return settings.run_folder / "supervisor.lock"


def _found_file(settings: PlatformSettings) -> Path:
    return settings.run_folder / "ports.json"


@contextlib.contextmanager
def held(settings: PlatformSettings) -> Iterator[None]:
    """Hold the data folder, as its one supervisor.

    The kernel releases the lock with the process, however that ends.
    Raises AlreadyRunning with the holder's pid.
    """
    _private_folder(settings.home)
    _private_folder(settings.run_folder)
    descriptor = os.open(_lock_file(settings), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        if not _locked(descriptor, fcntl.LOCK_EX, _LOCK_PATIENCE_S):
            raise AlreadyRunning(
                f"Sluice is already running in {settings.home} (supervisor {holder(settings)})", "sluice status"
            )
        me = identify(os.getpid())
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()} {me.started_ticks if me else 0}".encode(), 0)
        yield
    finally:
        os.close(descriptor)


def holder(settings: PlatformSettings) -> int | None:
    """The pid of the supervisor that holds the data folder; None if nobody does."""
    try:
        descriptor = os.open(_lock_file(settings), os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        while not _locked(descriptor, fcntl.LOCK_SH, patience_s=0):
            pid, _, started_ticks = os.pread(descriptor, 64, 0).decode().partition(" ")
            if pid and (found := identify(int(pid))) and found.started_ticks == int(started_ticks):
                return found.pid
            time.sleep(0.01)  # it holds the lock, but has not written yet who it is
        return None
    finally:
        os.close(descriptor)


def prepare(settings: PlatformSettings) -> None:
    """Make the folders, readable by their owner only; empty what an earlier run left for itself.

    Raises SluiceError if the folder for sockets is somebody else's.
    """
    shutil.rmtree(settings.metrics_folder, ignore_errors=True)
    make_folders(settings, with_sockets=True)


def make_folders(settings: PlatformSettings, *, with_sockets: bool) -> None:
    """Those that processes write into; others may use them already.

    with_sockets: processes find each other on Unix sockets in there, so that nobody else may put one; without, the
    folder may lie on a volume that shows other owners, as those do that several nodes write to.
    Raises SluiceError as `prepare` does.
    """
    for folder in (
        settings.redis_folder,
        settings.artefacts_folder,
        settings.versions_folder,
        settings.archive_folder,
        settings.datasets_folder,
        settings.journal_folder,
        settings.reports_folder,
        settings.logs_folder,
        settings.metrics_folder,
        settings.sockets_folder,
    ):
        _private_folder(folder)
    if not with_sockets:
        return
    found = settings.sockets_folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o022:
        raise SluiceError(f"{settings.sockets_folder} is not this user's own folder", "a shorter SLUICE_HOME")


def holds_sockets(settings: PlatformSettings) -> bool:
    """Whether processes with these settings listen, or look for each other, in the folder for sockets."""
    addresses = (settings.redis_url, settings.controller_address, *settings.worker_addresses)
    return any(one.startswith("unix:") and str(settings.sockets_folder) in one for one in addresses)


def claim_ports(settings: PlatformSettings) -> PlatformSettings:
    """The settings with a free port for each 0, written down for other commands to find.

    Raises SettingsError if a port that was asked for is taken.
    """
    with contextlib.ExitStack() as claimed:  # all are held until all are chosen: no port twice
        found = _Found(
            gateway_port=_free_port(claimed, "gateway_port", settings.gateway_host, settings.gateway_port),
            mlflow_port=_free_port(claimed, "mlflow_port", "127.0.0.1", settings.mlflow_port)
            if settings.with_mlflow
            else settings.mlflow_port,
            grpc_port=_free_port(claimed, "grpc_port", settings.gateway_host, settings.grpc_port)
            if settings.with_grpc
            else settings.grpc_port,
            features_url=settings.features_url,
            redis=settings.redis,
            control=_control(settings),
            gateway_host=settings.gateway_host,
            gateway_tls=settings.gateway_tls,
            auth=settings.auth,
            mlflow=without_password(settings.mlflow),
            with_grpc=settings.with_grpc,
        )
    write_atomically(_found_file(settings), msgspec.json.encode(found))
    return found.of(settings)


def as_running(settings: PlatformSettings) -> PlatformSettings:
    """The settings with what the platform of this data folder really does: where its gateway listens, with TLS or
    without, who needs keys there, the ports, and the stores that its rows and versions are in.

    Raises SettingsError if they name another control database or MLflow: a change there would not be the platform's.
    An MLflow that asks for a password has to be named.
    """
    try:
        return msgspec.json.decode(_found_file(settings).read_bytes(), type=_Found).of(settings)
    except FileNotFoundError:
        return settings


def write_atomically(path: Path, content: bytes) -> None:
    """A reader sees the old content or the new, never a part."""
    beside = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    beside.write_bytes(content)
    beside.replace(path)


def _locked(descriptor: int, mode: int, patience_s: float) -> bool:
    until_s = time.monotonic() + patience_s
    while True:
        try:
            fcntl.flock(descriptor, mode | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() > until_s:
                return False
            time.sleep(0.02)


def _private_folder(folder: Path) -> None:
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise SluiceError(f"{folder} cannot be made: {error.strerror}", "another SLUICE_HOME") from error


def _free_port(claimed: contextlib.ExitStack, key: str, host: str, port: int) -> int:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = claimed.enter_context(socket.socket(family, socket.SOCK_STREAM))
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # not hindered by closed connections
    try:
        listener.bind((host, port))
    except OSError as error:
        name = f"SLUICE_{key.upper()}"
        raise SettingsError(name, port, f"a free port of {host} ({error.strerror})", f"{name}=0 sluice up") from error
    return int(listener.getsockname()[1])
