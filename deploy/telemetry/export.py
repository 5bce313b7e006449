"""Spans into a bounded queue, and from there to an OTLP collector, on a thread of its own.

What finds the queue full is dropped and counted: a collector that is away costs nobody an answer.
"""

import logging
import queue
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from deploy.telemetry.metrics import SPANS
from registry.contracts.traces import Span

if TYPE_CHECKING:
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import ReadableSpan

log = logging.getLogger(__name__)

WAITING_BATCHES = 2048


class Exporter:
    """endpoint: of the collector, `http://host:4318`; `/v1/traces` is added. headers: sent along, a token, say.

    resource: attributes of the process; `service.name` is each span's.
    """

    def __init__(self, endpoint: str, resource: Mapping[str, str], headers: Mapping[str, str] | None = None) -> None:
        self._endpoint, self._resource, self._headers = endpoint.rstrip("/"), dict(resource), dict(headers or {})
        self._waiting: queue.Queue[Sequence[Span] | None] = queue.Queue(WAITING_BATCHES)
        self._thread = threading.Thread(target=self._run, name="traces", daemon=True)

    def start(self) -> None:
        """Begins to send."""
        self._thread.start()

    def tell(self, spans: Sequence[Span]) -> None:
        """Takes them, or drops them; never waits."""
        try:
            self._waiting.put_nowait(spans)
        except queue.Full:
            SPANS.labels("dropped").inc(len(spans))

    def stop(self, wait_s: float = 5.0) -> None:
        """Sends what waits, for so long at most."""
        try:
            self._waiting.put(None, timeout=wait_s)
        except queue.Full:
            return
        self._thread.join(wait_s)

    def send(self, spans: Sequence[Span]) -> None:
        """Sends them now, on the calling thread: for a process that tells of little and may end at any time."""
        exporter = self._exporter()
        self._send(exporter.export, spans, {})
        exporter.shutdown()  # type: ignore[no-untyped-call]

    def _exporter(self) -> "OTLPSpanExporter":
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

        return OTLPSpanExporter(f"{self._endpoint}/v1/traces", headers=self._headers, timeout=5)

    def _run(self) -> None:
        exporter = self._exporter()
        resources: dict[str, Resource] = {}
        while (first := self._waiting.get()) is not None:
            batch, more = list(first), True
            while more and len(batch) < 512:
                try:
                    spans = self._waiting.get_nowait()
                except queue.Empty:
                    break
                more = spans is not None
                batch += spans or ()
            self._send(exporter.export, batch, resources)
            if not more:
                break
        exporter.shutdown()  # type: ignore[no-untyped-call]

    def _send(
        self,
        export: "Callable[[Sequence[ReadableSpan]], object]",
        batch: Iterable[Span],
        resources: "dict[str, Resource]",
    ) -> None:
        from opentelemetry.sdk.trace.export import SpanExportResult

        made = [readable(span, self._resource, resources) for span in batch]
        try:
            outcome = "sent" if export(made) is SpanExportResult.SUCCESS else "failed"
        except Exception:  # a library's thread: whatever it is, the next batch may fare better
            log.exception("%d spans could not be sent to %s", len(made), self._endpoint)
            outcome = "failed"
        SPANS.labels(outcome).inc(len(made))


def readable(span: Span, resource: Mapping[str, str], resources: "dict[str, Resource]") -> "ReadableSpan":
    """OpenTelemetry's form. resources: those made so far, by service."""
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.sdk.util.instrumentation import InstrumentationScope
    from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags

    def context(span_id: str) -> SpanContext:
        return SpanContext(int(span.trace_id, 16), int(span_id, 16), False, TraceFlags(TraceFlags.SAMPLED))

    if span.service not in resources:
        resources[span.service] = Resource({"service.name": span.service, "service.namespace": "sluice", **resource})
    return ReadableSpan(
        span.name,
        context(span.span_id),
        context(span.parent_id) if span.parent_id else None,
        resources[span.service],
        dict(span.attributes),
        kind=SpanKind[span.kind.upper()],
        status=Status(StatusCode.ERROR, span.error) if span.error else Status(StatusCode.UNSET),
        start_time=span.start_ns,
        end_time=span.end_ns,
        instrumentation_scope=InstrumentationScope("sluice"),
    )
