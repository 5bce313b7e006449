"""Where a worker listens: `unix:/path` on one machine (a bare path is the same), `tcp:host:port` in a fleet.

A worker does not ask who connects. A Unix socket belongs to one user; a TCP port must be reachable
by gateways alone (a private network or a NetworkPolicy).
"""

import os
import socket
from dataclasses import dataclass
from pathlib import Path

SOCKET_PATH_BYTES = 107  # sun_path is 108 bytes and ends with a zero
BACKLOG = 128


class BadAddress(ValueError):
    """Not an address; the message says what one looks like."""


@dataclass(frozen=True, slots=True)
class UnixAddress:
    """A socket in the file system; descriptors can be passed over it."""

    path: str
    passes_descriptors = True

    def __str__(self) -> str:
        return f"unix:{self.path}"

    @property
    def target(self) -> str:
        """What `socket.connect` takes."""
        return self.path

    def listen(self) -> socket.socket:
        """A listening socket that only this user may open; takes the place of a dead worker's."""
        Path(self.path).unlink(missing_ok=True)
        listener = self.socket()
        before = os.umask(0o177)
        try:
            listener.bind(self.path)
        finally:
            os.umask(before)
        listener.listen(BACKLOG)
        return listener

    def socket(self) -> socket.socket:
        """A socket that does not block, not connected yet."""
        fresh = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        fresh.setblocking(False)
        return fresh


@dataclass(frozen=True, slots=True)
class TcpAddress:
    """A port on an interface; frames leave at once (no Nagle)."""

    host: str
    port: int
    passes_descriptors = False

    def __str__(self) -> str:
        return f"tcp:[{self.host}]:{self.port}" if ":" in self.host else f"tcp:{self.host}:{self.port}"

    @property
    def target(self) -> tuple[str, int]:
        """What `socket.connect` takes."""
        return self.host, self.port

    def listen(self) -> socket.socket:
        """A listening socket. Raises OSError if the port is taken."""
        listener = self.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(self.target)
        listener.listen(BACKLOG)
        return listener

    def socket(self) -> socket.socket:
        """A socket that does not block, not connected yet. What a listener accepts inherits its options."""
        fresh = socket.socket(socket.AF_INET6 if ":" in self.host else socket.AF_INET, socket.SOCK_STREAM)
        fresh.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        fresh.setblocking(False)
        return fresh


Address = UnixAddress | TcpAddress


def check_peer(channel: socket.socket) -> None:
    """Raises ConnectionRefusedError if the socket has connected to itself.

    TCP does that (a simultaneous open) where nobody listens yet and the kernel picks the wanted port
    as the source: the connection would then keep the worker from its own port.
    """
    if channel.family != socket.AF_UNIX and channel.getsockname() == channel.getpeername():
        raise ConnectionRefusedError("connected to itself: nobody listens there yet")


def parse_address(text: str) -> Address:
    """The address that the text names. Raises BadAddress.

    >>> parse_address("unix:/run/w.sock"), parse_address("/run/w.sock")
    (UnixAddress(path='/run/w.sock'), UnixAddress(path='/run/w.sock'))
    >>> parse_address("tcp:10.0.0.1:9000"), str(parse_address("tcp:[::1]:9000"))
    (TcpAddress(host='10.0.0.1', port=9000), 'tcp:[::1]:9000')
    """
    kind, _, rest = text.partition(":")
    if kind == "tcp":
        host, _, port = rest.rpartition(":")
        host = host.removeprefix("[").removesuffix("]")
        if host and port.isascii() and port.isdigit() and int(port) <= 65535:
            return TcpAddress(host, int(port))
        raise BadAddress(f"{text!r}: expected tcp:host:port")
    path = rest if kind == "unix" else text
    if not path.startswith("/") or len(os.fsencode(path)) > SOCKET_PATH_BYTES:
        raise BadAddress(
            f"{text!r}: expected unix:/path of at most {SOCKET_PATH_BYTES} bytes, an absolute path, or tcp:host:port"
        )
    return UnixAddress(path)
