"""The probe port of one process: /live, /ready and /metrics, for an orchestrator and for Prometheus.

Where one supervisor keeps all processes of a machine, it asks them by itself and gateways tell everybody's metrics.
In containers each process is alone, so each tells for itself (`SLUICE_PROBE_ADDRESS`). It asks nobody who he is: a
private network only.
"""

import contextlib
import http.server
import logging
import os
import socket
import threading
from collections.abc import Callable, Iterator
from http import HTTPStatus

from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, CollectorRegistry, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

from deploy.settings import PlatformSettings
from serving.addresses import TcpAddress, parse_address

log = logging.getLogger(__name__)

SLOW_CLIENT_S = 5.0
Ready = Callable[[], bool]


@contextlib.contextmanager
def probe_port(settings: PlatformSettings, ready: Ready = lambda: True) -> Iterator[None]:
    """Open while the context is, if the settings name an address. ready: whether the process does its work, asked by
    threads of the port. Raises OSError if the address is taken."""
    if not settings.probe_address:
        yield
        return
    port = ProbePort(settings, ready)
    port.start()
    try:
        yield
    finally:
        port.stop()


class ProbePort:
    """As `probe_port`, for processes that are no context of ours (Celery's)."""

    def __init__(self, settings: PlatformSettings, ready: Ready) -> None:
        address = parse_address(settings.probe_address)
        assert isinstance(address, TcpAddress)  # as the settings have checked

        class Handler(_Handler):
            is_ready = staticmethod(ready)

        self._server = _server_class(address)(address.target, Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, name="probes", daemon=True)

    def start(self) -> None:
        """It listens already; from now on it answers."""
        self._thread.start()

    def stop(self) -> None:
        """Closes it."""
        self._server.shutdown()
        self._server.server_close()


def _server_class(address: TcpAddress) -> type[http.server.ThreadingHTTPServer]:
    class Server(http.server.ThreadingHTTPServer):
        address_family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
        daemon_threads = True

    return Server


class _Handler(http.server.BaseHTTPRequestHandler):
    is_ready: Ready = staticmethod(lambda: True)
    timeout = SLOW_CLIENT_S
    server_version, sys_version = "sluice", ""

    def do_GET(self) -> None:
        match self.path:
            case "/live":
                self._answer(HTTPStatus.OK, b"live\n")
            case "/ready":
                ready = self.is_ready()
                self._answer(
                    HTTPStatus.OK if ready else HTTPStatus.SERVICE_UNAVAILABLE, b"ready\n" if ready else b"not ready\n"
                )
            case "/metrics":
                self._answer(HTTPStatus.OK, generate_latest(_registry()), CONTENT_TYPE_LATEST)
            case _:
                self._answer(HTTPStatus.NOT_FOUND, b"expected /live, /ready or /metrics\n")

    def _answer(self, status: HTTPStatus, body: bytes, kind: str = "text/plain; charset=utf-8") -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        log.debug(format, *args)


def _registry() -> CollectorRegistry:
    """Of this process, or where it has children that count, too, of all."""
    folder = os.environ.get("PROMETHEUS_MULTIPROC_DIR")
    if not folder:
        return REGISTRY
    registry = CollectorRegistry()
    MultiProcessCollector(registry, path=folder)  # type: ignore[no-untyped-call]
    return registry
