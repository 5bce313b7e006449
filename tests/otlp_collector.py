"""A collector of traces: a real HTTP server that takes OTLP's own messages."""

import contextlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, Span


class Collector(ThreadingHTTPServer):
    """Keeps what it is sent."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Take)
        self.received: list[ExportTraceServiceRequest] = []
        self.tokens: set[str] = set()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def of_trace(self, trace_id: str) -> dict[str, list[Span]]:
        """The trace's spans by service."""
        found: dict[str, list[Span]] = {}
        for one in self.resources:
            service = next(a.value.string_value for a in one.resource.attributes if a.key == "service.name")
            spans = [span for scope in one.scope_spans for span in scope.spans if span.trace_id.hex() == trace_id]
            if spans:
                found.setdefault(service, []).extend(spans)
        return found

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


@contextlib.contextmanager
def a_collector() -> Iterator[Collector]:
    """On a free port of this machine."""
    server = Collector()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
