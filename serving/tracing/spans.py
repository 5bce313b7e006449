"""Spans of a query, from its answer: plain functions of stage times.

Names and attributes follow OpenTelemetry's semantic conventions for HTTP, RPC and Redis where there are any;
ours begin with `sluice.`. None of them says who asked: no unit, no query text, no item.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from registry.contracts.traces import Span, Trace, Value

GATEWAY, WORKER = "sluice-gateway", "sluice-worker"


@dataclass(frozen=True, slots=True)
class Told:
    """A query as its root span shows it. name: method and route, as of the door that it came through."""

    trace: Trace
    name: str
    attributes: Mapping[str, Value]
    end_ns: int
    total_s: float
    error: str = ""


@dataclass(frozen=True, slots=True)
class Stages:
    """What a worker's reply says of its time, microseconds. fetched_rows: that no memory of the worker held, so that
    the query's batch asked Redis for them; fetch_us: how long that took, as a part of features_us."""

    queue_us: float
    features_us: float
    device_us: float
    fetched_rows: int = 0
    fetch_us: float = 0.0

    @staticmethod
    def of(stages_ms: Mapping[str, float], fetched_rows: int = 0, fetch_us: float = 0.0) -> "Stages":
        """As an answer carries them."""
        queue, features, device = (1000 * stages_ms.get(stage, 0.0) for stage in ("queue", "features", "device"))
        return Stages(queue, features, device, fetched_rows, fetch_us)


def query_spans(told: Told, stages: Stages | None, target: str, make_id: Callable[[], str]) -> list[Span]:
    """The root first. stages: of the worker that answered, None if none did.

    target: what was asked of the worker, `rank codesearch@2`.
    make_id: 16 hex digits, new each time.
    """
    end_ns, start_ns = told.end_ns, told.end_ns - int(told.total_s * 1e9)
    trace = told.trace
    root = Span(
        trace.trace_id,
        make_id(),
        trace.parent_id,
        told.name,
        "server",
        GATEWAY,
        start_ns,
        end_ns,
        told.attributes,
        told.error,
    )
    if stages is None:
        return [root]
    call = Span(root.trace_id, make_id(), root.span_id, target, "client", GATEWAY, start_ns, end_ns, _RPC)
    parts = (("queue", stages.queue_us), ("features", stages.features_us), ("device", stages.device_us))
    spent_ns = min(sum(int(us * 1e3) for _, us in parts), end_ns - start_ns)
    at_ns = start_ns + (end_ns - start_ns - spent_ns) // 2
    ends_ns = at_ns + spent_ns
    work = Span(root.trace_id, make_id(), call.span_id, target, "server", WORKER, at_ns, ends_ns, _RPC)
    spans = [root, call, work]
    for name, us in parts:
        until_ns = min(at_ns + int(us * 1e3), ends_ns)
        part = Span(root.trace_id, make_id(), work.span_id, name, "internal", WORKER, at_ns, until_ns, {})
        spans.append(part)
        if name == "features" and stages.fetched_rows:  # at its end: what memory holds is looked up first
            asked_ns = max(at_ns, until_ns - int(stages.fetch_us * 1e3))
            asked: Mapping[str, Value] = {**_REDIS, "sluice.rows.fetched": stages.fetched_rows}
            fetch = Span(root.trace_id, make_id(), part.span_id, "fetch", "client", WORKER, asked_ns, until_ns, asked)
            spans.append(fetch)
        at_ns = until_ns
    return spans


_RPC: Mapping[str, Value] = {"rpc.system": "sluice"}
_REDIS: Mapping[str, Value] = {"db.system.name": "redis"}
