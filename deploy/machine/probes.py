"""Is it ready? Each probe is asked by the supervisor's loop and answers within `TIMEOUT_S`."""

import http.client
import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from deploy.errors import SluiceError
from serving.addresses import check_peer, parse_address

TIMEOUT_S = 0.5
PROCESS_HEADER = "x-sluice-process"


@dataclass(frozen=True, slots=True)
class HttpAnswers:
    """GET of the path answers 200.

    connect: a connection that is not connected yet, which gives up after as long as it is told. process: where several
    share the port, whose answer it must be (`PROCESS_HEADER`); empty: anybody's.
    """

    connect: Callable[[float], http.client.HTTPConnection]
    path: str
    process: str = ""

    def __call__(self) -> bool:
        try:
            connection = self.connect(TIMEOUT_S)
        except SluiceError:
            return False
        try:
            connection.request("GET", self.path)
            response = connection.getresponse()
            return response.status == 200 and self.process in ("", response.headers[PROCESS_HEADER])
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()


@dataclass(frozen=True, slots=True)
class Accepts:
    """Who listens at the address (`serving.addresses`) takes a connection."""

    address: str

    def __call__(self) -> bool:
        address = parse_address(self.address)
        with address.socket() as connection:
            connection.settimeout(TIMEOUT_S)
            try:
                connection.connect(address.target)
                check_peer(connection)
            except OSError:
                return False
            return True


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
