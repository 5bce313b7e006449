"""Ports for servers that a test starts a moment later."""

import random
import socket
from contextlib import ExitStack, suppress
from pathlib import Path

_LOWEST = 20_000
_COIN = random.SystemRandom()  # tests in other processes choose, too


def free_port(beside: int = 0) -> int:
    """A port of 127.0.0.1 that nobody has; see `free_ports`. beside: the port so much above it is free as well."""
    while True:
        port = _COIN.randrange(_LOWEST, _first_given_away() - beside)
        with suppress(OSError), ExitStack() as held:
            for one in {port, port + beside}:
                held.enter_context(socket.socket()).bind(("127.0.0.1", one))
            return port


def free_ports(count: int) -> list[int]:
    """So many distinct ports of 127.0.0.1 that nobody has at this moment.

    Below those that the kernel gives to connections that go out: of these, another test may get one before the
    server has taken it.
    """
    found: set[int] = set()
    while len(found) < count:
        found.add(free_port())
    return list(found)


def _first_given_away() -> int:
    return int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
