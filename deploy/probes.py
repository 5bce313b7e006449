"""Is it ready? Each probe is asked by the supervisor's loop and answers within `TIMEOUT_S`."""

import http.client
import socket
from dataclasses import dataclass
from pathlib import Path

TIMEOUT_S = 0.5


@dataclass(frozen=True, slots=True)
class HttpAnswers:
    """GET of the path answers 200."""

    host: str
    port: int
    path: str

    def __call__(self) -> bool:
        connection = http.client.HTTPConnection(self.host, self.port, timeout=TIMEOUT_S)
        try:
            connection.request("GET", self.path)
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()


@dataclass(frozen=True, slots=True)
class SocketAccepts:
    """The Unix socket takes a connection."""

    path: Path

    def __call__(self) -> bool:
        return _exchange(self.path, b"", 0) is not None


@dataclass(frozen=True, slots=True)
class RedisAnswers:
    """Redis has loaded its data and answers PING."""

    path: Path

    def __call__(self) -> bool:
        return _exchange(self.path, b"PING\r\n", 64) == b"+PONG\r\n"


def _exchange(path: Path, request: bytes, answer_bytes: int) -> bytes | None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(TIMEOUT_S)
        try:
            connection.connect(str(path))
            connection.sendall(request)
            return connection.recv(answer_bytes)
        except OSError:
            return None
