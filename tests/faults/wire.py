"""A wire between this machine's network and a network namespace of its own, which loses packets or goes dead.

Two TUN devices, one in each network, and a thread that carries IP packets between their files: what it does not carry
is lost without a word, as on a bad line. (`tc netem` is not in every kernel, and cannot repeat a loss by seed.)
"""

import fcntl
import os
import random
import select
import struct
import subprocess
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

import pytest

_TUNSETIFF = 0x400454CA
_IFF_TUN, _IFF_NO_PI = 0x0001, 0x1000
_PACKET_BYTES = 65536


@dataclass
class Wire:
    """here, there: IPv4 addresses of its ends. namespace: of the far one. loss: share of packets that do not
    arrive. dead: nothing arrives."""

    here: str
    there: str
    namespace: str
    seed: int
    loss: float = 0.0
    dead: bool = False
    carried: int = 0
    lost: int = 0
    _ended: threading.Event = field(default_factory=threading.Event)

    @staticmethod
    @contextmanager
    def laid(seed: int) -> Iterator["Wire"]:
        """Skips the test where namespaces and devices may not be made."""
        name, net = f"sluice{os.getpid()}", f"10.{os.getpid() >> 8 & 255}.{os.getpid() & 255}"
        wire = Wire(f"{net}.1", f"{net}.2", name, seed)
        with ExitStack() as undone:
            try:
                _ip("netns", "add", name)
                undone.callback(_ip, "netns", "del", name)
                near, far = (undone.enter_context(_tun(f"sl{side}{os.getpid()}")) for side in "ab")
                _ip("link", "set", far.name, "netns", name)
                _ip("addr", "add", wire.here, "peer", wire.there, "dev", near.name)
                _ip("link", "set", near.name, "up")
                _ip("-n", name, "addr", "add", wire.there, "peer", wire.here, "dev", far.name)
                _ip("-n", name, "link", "set", far.name, "up")
                _ip("-n", name, "link", "set", "lo", "up")
            except (OSError, subprocess.CalledProcessError) as error:
                pytest.skip(f"network namespaces and TUN devices need root and iproute2: {error}")
            thread = threading.Thread(target=wire._carry, args=(near.file, far.file))
            thread.start()
            try:
                yield wire
            finally:
                wire._ended.set()
                thread.join()

    def _carry(self, near: int, far: int) -> None:
        coins = random.Random(self.seed)
        other = {near: far, far: near}
        while not self._ended.is_set():
            for side in select.select([near, far], [], [], 0.05)[0]:
                packet = os.read(side, _PACKET_BYTES)
                if self.dead or coins.random() < self.loss:
                    self.lost += 1
                    continue
                os.write(other[side], packet)
                self.carried += 1


@dataclass(frozen=True)
class _Tun:
    name: str
    file: int


@contextmanager
def _tun(name: str) -> Iterator[_Tun]:
    file = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.ioctl(file, _TUNSETIFF, struct.pack("16sH22x", name.encode(), _IFF_TUN | _IFF_NO_PI))
        yield _Tun(name, file)
    finally:
        os.close(file)


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)
