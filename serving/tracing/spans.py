"""Spans of a query, from its answer: plain functions of stage times.

Names and attributes follow OpenTelemetry's semantic conventions for HTTP, RPC and Redis where there are any;
ours begin with `sluice.`. None of them says who asked: no unit, no query text, no item.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from registry.contracts.traces import Kind, Span, Trace, Value

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
    """What a worker's reply says of its time, microseconds. fetched_rows: that no memory of the worker held, and Redis
    was asked for."""

    queue_us: float
    features_us: float
    device_us: float
    fetched_rows: int = 0

    @staticmethod
    def of(stages_ms: Mapping[str, float]) -> "Stages":
        """As an answer carries them."""
        queue, features, device = (1000 * stages_ms.get(stage, 0.0) for stage in ("queue", "features", "device"))
        return Stages(queue, features, device)


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
    fetched: Mapping[str, Value] = {"sluice.rows.fetched": stages.fetched_rows, **_REDIS} if stages.fetched_rows else {}
    parts: tuple[tuple[str, Kind, float, Mapping[str, Value]], ...] = (
        ("queue", "internal", stages.queue_us, {}),
        ("features", "client" if fetched else "internal", stages.features_us, fetched),
        ("device", "internal", stages.device_us, {}),
    )
    spent_ns = min(sum(int(us * 1e3) for _, _, us, _ in parts), end_ns - start_ns)
    at_ns = start_ns + (end_ns - start_ns - spent_ns) // 2
    ends_ns = at_ns + spent_ns
    work = Span(root.trace_id, make_id(), call.span_id, target, "server", WORKER, at_ns, ends_ns, _RPC)
    spans = [root, call, work]
    for name, kind, us, attributes in parts:
        until_ns = min(at_ns + int(us * 1e3), ends_ns)
        spans.append(Span(root.trace_id, make_id(), work.span_id, name, kind, WORKER, at_ns, until_ns, attributes))
        at_ns = until_ns
    return spans


_RPC: Mapping[str, Value] = {"rpc.system": "sluice"}
_REDIS: Mapping[str, Value] = {"db.system.name": "redis"}
