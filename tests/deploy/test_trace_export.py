"""Spans on their way to a collector: OpenTelemetry's exporter, a real HTTP server, OTLP's own messages."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans
from prometheus_client import REGISTRY

from deploy.telemetry.export import WAITING_BATCHES, Exporter
from registry.contracts.traces import Span
from tests.deploy.platforms import until


class Collector(ThreadingHTTPServer):
    """Keeps what it is sent."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Take)
        self.received: list[ExportTraceServiceRequest] = []
        self.tokens: set[str] = set()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    @property
    def resources(self) -> list[ResourceSpans]:
        return [one for request in self.received for one in request.resource_spans]


class _Take(BaseHTTPRequestHandler):
    server: Collector

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        if self.path == "/v1/traces":
            self.server.received.append(ExportTraceServiceRequest.FromString(body))
            self.server.tokens.add(self.headers.get("x-token", ""))
        self.send_response(200)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def collector() -> Iterator[Collector]:
    server = Collector()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


def a_span(number: int, service: str = "sluice-gateway", parent: str = "", error: str = "") -> Span:
    return Span(
        "4b" * 16, f"{number:016x}", parent, f"span {number}", "client", service, 10**18, 10**18 + 5, {"a": 1}, error
    )


def test_a_collector_hears_every_span_with_its_parent_service_and_error(collector: Collector) -> None:
    exporter = Exporter(collector.endpoint + "/", {"service.instance.id": "gateway-0"}, {"x-token": "t"})
    exporter.start()
    exporter.tell([a_span(1), a_span(2, "sluice-worker", f"{1:016x}", "it broke")])
    exporter.stop()

    by_service = {
        next(a.value.string_value for a in one.resource.attributes if a.key == "service.name"): one
        for one in collector.resources
    }
    assert by_service.keys() == {"sluice-gateway", "sluice-worker"}
    (root,) = by_service["sluice-gateway"].scope_spans[0].spans
    (child,) = by_service["sluice-worker"].scope_spans[0].spans
    assert (root.trace_id.hex(), root.parent_span_id, root.end_time_unix_nano) == ("4b" * 16, b"", 10**18 + 5)
    assert child.parent_span_id == root.span_id
    assert (child.status.message, child.status.code) == ("it broke", 2)
    assert collector.tokens == {"t"}


def test_spans_told_one_by_one_all_arrive(collector: Collector) -> None:
    exporter = Exporter(collector.endpoint, {})
    exporter.start()
    for number in range(1, 1001):
        exporter.tell([a_span(number)])
    exporter.stop()

    def count() -> int:
        return sum(len(scope.spans) for one in collector.resources for scope in one.scope_spans)

    until(lambda: count() == 1000, "every span to arrive")


def dropped() -> float:
    return REGISTRY.get_sample_value("deploy_trace_spans_total", {"outcome": "dropped"}) or 0.0


def test_what_finds_the_queue_full_is_dropped_and_counted() -> None:
    exporter = Exporter("http://127.0.0.1:1", {})  # nobody started it: nothing leaves the queue
    before = dropped()

    for number in range(1, WAITING_BATCHES + 11):
        exporter.tell([a_span(number)])

    assert dropped() - before == 10


def test_spans_that_nobody_takes_are_counted() -> None:
    before = REGISTRY.get_sample_value("deploy_trace_spans_total", {"outcome": "failed"}) or 0.0
    exporter = Exporter("http://127.0.0.1:1", {})  # nobody listens there
    exporter.start()
    exporter.tell([a_span(1)])
    exporter.stop(wait_s=30)

    assert REGISTRY.get_sample_value("deploy_trace_spans_total", {"outcome": "failed"}) == before + 1
