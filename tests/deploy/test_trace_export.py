"""Spans on their way to a collector: OpenTelemetry's exporter, a real HTTP server, OTLP's own messages."""

from collections.abc import Iterator

import pytest
from prometheus_client import REGISTRY

from deploy.telemetry.export import WAITING_BATCHES, Exporter
from registry.contracts.traces import Span
from tests.deploy.platforms import until
from tests.otlp_collector import Collector, a_collector


@pytest.fixture
def collector() -> Iterator[Collector]:
    with a_collector() as server:
        yield server


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


def test_what_is_sent_at_once_is_there_when_that_returns(collector: Collector) -> None:
    Exporter(collector.endpoint, {}).send([a_span(7, "sluice-runs")])

    assert [span.name for span in collector.of_trace("4b" * 16)["sluice-runs"]] == ["span 7"]


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
