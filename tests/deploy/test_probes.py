"""Probes, against servers that really answer."""

import functools
import threading
from collections.abc import Iterator
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from deploy.machine.probes import PROCESS_HEADER, HttpAnswers


class _Gateway0(BaseHTTPRequestHandler):
    """Answers /health as the gateway `gateway-0`, and nothing else."""

    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/health" else 404)
        self.send_header(PROCESS_HEADER, "gateway-0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Not to the terminal."""


@pytest.fixture
def port() -> Iterator[int]:
    with HTTPServer(("127.0.0.1", 0), _Gateway0) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(("process", "ready"), [("gateway-0", True), ("gateway-1", False), ("", True)])
def test_a_process_that_shares_its_port_is_ready_when_it_answers_itself(port: int, process: str, ready: bool) -> None:
    assert HttpAnswers(functools.partial(HTTPConnection, "127.0.0.1", port), "/health", process)() is ready


def test_an_answer_that_is_not_200_is_not_ready(port: int) -> None:
    assert not HttpAnswers(functools.partial(HTTPConnection, "127.0.0.1", port), "/other", "gateway-0")()
