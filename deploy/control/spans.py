"""A control request as a span: what somebody changed, in the trace that it belongs to."""

import random
from collections.abc import Mapping

from deploy.control.asks import Reply
from registry.contracts.traces import Span, new_trace, parse_traceparent
from serving.gateway.control.routes import ControlRoute

SERVICE = "sluice-controller"


def control_span(
    route: ControlRoute,
    headers: Mapping[str, str],
    path: Mapping[str, str],
    reply: Reply,
    start_ns: int,
    end_ns: int,
    source: random.Random,
) -> Span | None:
    """None if the caller decided that nobody follows it. They are few: those without a trace begin one.

    headers: lower case. path: its parameters.
    """
    trace = parse_traceparent(headers.get("traceparent", "").encode("latin-1", "replace")) or new_trace(source)
    if trace.sampled is False:
        return None
    return Span(
        trace.trace_id,
        f"{source.getrandbits(64) or 1:016x}",
        trace.parent_id,
        f"{route.method} {route.path}",
        "server",
        SERVICE,
        start_ns,
        end_ns,
        {
            "http.request.method": route.method,
            "http.route": route.path,
            "http.response.status_code": reply.status,
            **{f"sluice.{name}": value for name, value in path.items()},
        },
        f"status {reply.status}" if reply.status >= 500 else "",
    )
