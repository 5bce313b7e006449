"""Debian's nginx in front of real gateways, each on ports of its own, with one worker behind them."""

import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import msgspec

from deploy.edges.edge import Edge, GatewayPlace
from deploy.edges.nginx import nginx_conf
from deploy.settings import PlatformSettings
from tests.e2e.platforms_under_fire import Platform, until
from tests.missing_tools import lacks

ROOT = Path(__file__).resolve().parents[1]


def nginx_executable() -> str:
    """Without nginx the test is skipped, or fails where nothing may be skipped."""
    found = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if found is None:
        lacks("no nginx: deploy/scripts/nginx installs Debian's")
    return found


def free_ports(count: int) -> list[int]:
    """So many, free a moment ago, and none that the kernel gives to those who connect."""
    found: list[int] = []
    with ExitStack() as probes:
        for port in range(20_000 + os.getpid() % 8_000, 32_000):
            probe = probes.enter_context(socket.socket())
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            found.append(port)
            if len(found) == count:
                return found
    raise AssertionError(f"no {count} free ports")


@dataclass
class SecondGateway:
    """A gateway on ports of its own beside the platform's, as on another machine."""

    settings: PlatformSettings
    process: "subprocess.Popen[bytes] | None" = None

    def start(self, trust: ssl.SSLContext | None = None) -> None:
        """Starts it and waits until it is ready. trust: for a gateway that speaks TLS."""
        self.process = subprocess.Popen(
            [sys.executable, "-m", "deploy.process", "gateway-1"],
            env={
                **os.environ,
                **self.settings.to_environment(),
                "PYTHONPATH": str(ROOT),
                "PROMETHEUS_MULTIPROC_DIR": str(self.settings.metrics_folder),
            },
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        until(lambda: self._ready(trust), "the second gateway to be ready")

    def _ready(self, trust: ssl.SSLContext | None) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, f"the second gateway ended with {self.process.returncode}"
        try:
            url = f"{self.settings.gateway_url}/v2/health/ready"
            return httpx.get(url, timeout=5.0, verify=trust or True).status_code == 200
        except httpx.TransportError:
            return False

    def end(self, how: signal.Signals = signal.SIGTERM) -> None:
        """By its own pid."""
        if self.process is not None:
            self.process.send_signal(how)
            self.process.wait(60)
            self.process = None

    @property
    def place(self) -> GatewayPlace:
        return GatewayPlace("127.0.0.1", self.settings.gateway_port, self.settings.grpc_port)


@contextmanager
def second_gateway(platform: Platform) -> Iterator[SecondGateway]:
    """Beside the platform's own, until the end."""
    http_port, grpc_port = free_ports(2)
    gateway = SecondGateway(replace(platform.settings, gateway_port=http_port, grpc_port=grpc_port, replica=1))
    gateway.start()
    try:
        yield gateway
    finally:
        gateway.end()


@dataclass
class Nginx:
    """A running edge."""

    edge: Edge
    folder: Path
    process: "subprocess.Popen[bytes]"

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.edge.listen}"

    @property
    def grpc_address(self) -> str:
        return f"127.0.0.1:{self.edge.grpc_listen}"

    def log(self) -> list[dict[str, Any]]:
        """Lines of the access log that are whole."""
        lines = (self.folder / "access.log").read_bytes().splitlines(keepends=True)
        return [msgspec.json.decode(line) for line in lines if line.endswith(b"\n")]

    def until_logged(self, count: int) -> list[dict[str, Any]]:
        """The log, once it has so many lines."""

        def lines() -> list[dict[str, Any]] | None:
            found = self.log()
            return found if len(found) >= count else None

        return until(lines, f"{count} lines in the access log")

    def cpu_s(self) -> float:
        """CPU time of all its processes."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return sum(cpu_s_of(int(pid)) for pid in (self.process.pid, *children))


def cpu_s_of(pid: int) -> float:
    """User and system time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextmanager
def nginx_before(folder: Path, *gateways: GatewayPlace, workers: str = "2", **options: Any) -> Iterator[Nginx]:
    """Runs until the end, on free ports; whatever user the test is."""
    listen, grpc_listen = free_ports(2)
    edge = Edge(gateways, listen=listen, grpc_listen=grpc_listen, **options)
    folder.mkdir(parents=True, exist_ok=True)
    conf = nginx_conf(edge).replace("worker_processes auto;", f"worker_processes {workers};")
    (folder / "nginx.conf").write_text(conf)
    told = "daemon off; user root;" if os.geteuid() == 0 else "daemon off;"
    with (folder / "error.log").open("wb") as errors:
        process = subprocess.Popen(
            [nginx_executable(), "-p", str(folder), "-c", str(folder / "nginx.conf"), "-e", "stderr", "-g", told],
            stdout=errors,
            stderr=errors,
        )
    try:
        until(lambda: _accepts(process, folder, listen), "nginx to accept connections")
        yield Nginx(edge, folder, process)
    finally:
        process.terminate()
        process.wait(30)


def _accepts(process: "subprocess.Popen[bytes]", folder: Path, port: int) -> bool:
    assert process.poll() is None, f"nginx ended: {(folder / 'error.log').read_text()}"
    try:
        socket.create_connection(("127.0.0.1", port), 1.0).close()
    except OSError:
        time.sleep(0.01)
        return False
    return True
