"""A real PostgreSQL on a free loopback port: the `pgserver` wheel's, or the system's where there is no wheel."""

import importlib.util
import os
import pwd
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import sqlalchemy as sql

from tests.free_ports import free_port
from tests.missing_tools import lacks

USER = "sluice"
PATIENCE_S = 60.0
_WITHOUT_ROOT = "nobody"  # PostgreSQL refuses to run as root
_OPTIONS = {
    "fsync": "off",  # a test survives no power cut
    "max_connections": "200",
    "shared_buffers": "16MB",
    "unix_socket_directories": "",
    "timezone": "UTC",
}


@dataclass
class PostgresServer:
    """One server with its data in a folder, which whoever it runs as can read. programs: where its own lie."""

    programs: Path
    folder: Path
    port: int
    process: "subprocess.Popen[bytes] | None" = field(default=None, repr=False)
    _numbers: Iterator[int] = field(default_factory=count, repr=False)

    def start(self) -> None:
        """Starts it, or starts it again on what is there; waits until it answers."""
        deadline_s = time.monotonic() + PATIENCE_S
        while not self._tried(deadline_s):  # what a killed one left running may hold the folder for a moment
            if time.monotonic() > deadline_s:
                raise TimeoutError(f"PostgreSQL does not start: {(self.folder / 'log').read_text()[-2000:]}")

    def kill(self) -> None:
        """Ends it as a power cut would, but for what the kernel has."""
        assert self.process is not None
        self.process.kill()
        self.process.wait(PATIENCE_S)
        self.process = None

    def stop(self) -> None:
        """Ends it at once and in order, whoever is connected."""
        if self.process is not None:
            self.process.send_signal(2)  # what PostgreSQL calls fast
            self.process.wait(PATIENCE_S)
            self.process = None

    def url(self, database: str = "postgres") -> str:
        """SQLAlchemy's, for any database of the server."""
        return f"postgresql+psycopg://{USER}@127.0.0.1:{self.port}/{database}"

    def fresh_database(self) -> str:
        """The URL of a new, empty database."""
        name = f"test_{next(self._numbers)}"
        self.execute(f"CREATE DATABASE {name}")
        return self.url(name)

    def execute(self, statement: str, database: str = "postgres") -> None:
        """Runs one statement by itself."""
        engine = sql.create_engine(self.url(database), isolation_level="AUTOCOMMIT", poolclass=sql.NullPool)
        with engine.connect() as connection:
            connection.execute(sql.text(statement))

    def _tried(self, deadline_s: float) -> bool:
        options = [word for name, value in _OPTIONS.items() for word in ("-c", f"{name}={value}")]
        where = ["-D", str(self.folder / "data"), "-h", "127.0.0.1", "-p", str(self.port)]
        argv = [str(self.programs / "postgres"), *where]
        with open(self.folder / "log", "ab") as log:
            self.process = subprocess.Popen(argv + options, stdout=log, stderr=log, **_somebody())
        while self.process.poll() is None and time.monotonic() < deadline_s:
            with suppress(sql.exc.OperationalError):
                self.execute("SELECT 1")
                return True
            time.sleep(0.02)
        return False


@contextmanager
def running_postgres() -> Iterator[PostgresServer]:
    """A server of one's own, for a test that kills it; gone at the end, with its data.

    Skips the test where there is no PostgreSQL.
    """
    with tempfile.TemporaryDirectory(prefix="sluice-postgres-", dir="/tmp") as name:
        folder = Path(name)
        if os.geteuid() == 0:
            shutil.chown(folder, _WITHOUT_ROOT)
        programs = _within_reach(_programs(), folder)
        argv = ["-D", str(folder / "data"), "-U", USER, "--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync"]
        subprocess.run([str(programs / "initdb"), *argv], check=True, capture_output=True, **_somebody())
        server = PostgresServer(programs, folder, free_port())
        try:
            server.start()
            yield server
        finally:
            server.stop()


def _programs() -> Path:
    """The folder of `initdb` and `postgres`."""
    wheel = importlib.util.find_spec("pgserver")
    if wheel is not None and wheel.origin is not None:
        return Path(wheel.origin).with_name("pginstall") / "bin"
    for folder in sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True):
        if (folder / "postgres").exists():
            return folder
    return lacks("there is no PostgreSQL: pip install pgserver, or apt install postgresql")


def _within_reach(programs: Path, folder: Path) -> Path:
    """The programs where somebody who is not root can start them: a copy, if root's folders are in the way."""
    if os.geteuid() != 0 or all(above.stat().st_mode & 0o001 for above in programs.parents):
        return programs
    wheel, installed = programs.parents[2], programs.parent  # libraries are found from where the programs lie
    shutil.copytree(installed, folder / installed.relative_to(wheel))
    shutil.copytree(wheel / "pgserver.libs", folder / "pgserver.libs")
    return folder / programs.relative_to(wheel)


def _somebody() -> dict[str, Any]:
    """How a process of PostgreSQL is started by somebody who may be root."""
    if os.geteuid() != 0:
        return {}
    nobody = pwd.getpwnam(_WITHOUT_ROOT)
    return {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": [], "cwd": "/"}
