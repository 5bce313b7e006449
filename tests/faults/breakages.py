"""Ways to break a running platform, each undone when its block ends."""

import os
import resource
import select
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from tests.e2e.platforms_under_fire import Platform, until

_CHUNK = 1 << 16


@contextmanager
def stopped(platform: Platform, name: str) -> Iterator[int]:
    """A process that holds still, and goes on in the end."""
    pid = until(lambda: platform.pid(name), f"{name} to run")
    os.kill(pid, signal.SIGSTOP)
    try:
        yield pid
    finally:
        os.kill(pid, signal.SIGCONT)


def small_disk(folder: Path, size_bytes: int) -> bool:
    """Mounts a file system of so many bytes there. Returns False where nobody may."""
    folder.mkdir(parents=True, exist_ok=True)
    argv = ["mount", "-t", "tmpfs", "-o", f"size={size_bytes},mode=700", "sluice-faults", str(folder)]
    try:
        return subprocess.run(argv, capture_output=True).returncode == 0
    except FileNotFoundError:
        return False


def unmount(folder: Path) -> None:
    """Takes a small disk away."""
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


@contextmanager
def full(disk: Path) -> Iterator[None]:
    """No byte is left on a small disk; whoever writes there gets ENOSPC."""
    ballast = disk / "ballast"
    try:
        with open(ballast, "wb", buffering=0) as file, suppress(OSError):
            while True:
                file.write(bytes(_CHUNK))
        with open(ballast, "ab", buffering=0) as file, suppress(OSError):
            while True:  # the last page, too
                file.write(b"\0")
        yield
    finally:
        ballast.unlink()


@contextmanager
def no_larger_files(pid: int) -> Iterator[None]:
    """No file of this process may have a byte: the kernel refuses its writes (EFBIG), to root as to anybody."""
    soft, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (0, hard))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (soft, hard))


class Proxy:
    """Between a server and its clients: hands on what either says, later (`delay_s`) or not at all (`silent`).

    While it is silent connections stay open and take bytes, as when a cable is cut: nobody is told.
    """

    def __init__(self, listener: socket.socket, family: int, server: str | tuple[str, int]) -> None:
        self.delay_s, self.silent = 0.0, False
        self._listener, self._family, self._server = listener, family, server
        self._ended = threading.Event()
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()
        self.carried = 0

    @staticmethod
    @contextmanager
    def before_socket(path: Path) -> Iterator["Proxy"]:
        """In the place of a server's Unix socket: whoever connects from now on meets the proxy."""
        moved = path.with_suffix(".real")  # no longer than the path itself, which may be as long as it can
        path.rename(moved)
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(path))
            path.chmod(0o600)
            listener.listen(64)
            proxy = Proxy(listener, socket.AF_UNIX, str(moved))
            try:
                yield proxy
            finally:
                moved.rename(path)
                proxy.close()

    @staticmethod
    @contextmanager
    def before_port(host: str, port: int) -> Iterator[tuple["Proxy", int]]:
        """On a port of its own, which it gives beside itself."""
        with socket.create_server(("127.0.0.1", 0)) as listener:
            proxy = Proxy(listener, socket.AF_INET, (host, port))
            try:
                yield proxy, listener.getsockname()[1]
            finally:
                proxy.close()

    def close(self) -> None:
        """Closes every connection."""
        self._ended.set()
        for thread in list(self._threads):
            thread.join()

    def _accept(self) -> None:
        while not self._ended.is_set():
            if select.select([self._listener], [], [], 0.05)[0]:
                client, _ = self._listener.accept()
                self._threads.append(threading.Thread(target=self._carry, args=(client,), daemon=True))
                self._threads[-1].start()

    def _carry(self, client: socket.socket) -> None:
        with ExitStack() as open_ones, suppress(OSError):
            open_ones.enter_context(client)
            server = open_ones.enter_context(socket.socket(self._family))
            server.connect(self._server)
            other = {client: server, server: client}
            while not self._ended.is_set():
                if self.silent:
                    self._ended.wait(0.02)
                    continue
                for side in select.select([client, server], [], [], 0.05)[0]:
                    said = side.recv(_CHUNK)
                    if not said:
                        return
                    self._ended.wait(self.delay_s)
                    while self.silent and not self._ended.is_set():  # it fell silent meanwhile: nothing is dropped
                        self._ended.wait(0.02)
                    other[side].sendall(said)
                    self.carried += len(said)
