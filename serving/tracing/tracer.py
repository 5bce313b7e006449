"""Tells of queries as traces, of so many a second at most."""

import logging
import random
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from registry.contracts.traces import Span, Trace, Value
from serving import metrics
from serving.errors import RankingError
from serving.tracing.doors import Door
from serving.tracing.rules import TraceRules
from serving.tracing.spans import Stages, Told, query_spans

log = logging.getLogger(__name__)


class Asked(Protocol):
    """What a query tells of itself, whatever it asks for."""

    trace: Trace
    door: Door
    model: str


class Tracer:
    """tell: takes spans and must not block; see `deploy.telemetry`. source: of span ids."""

    def __init__(
        self,
        rules: TraceRules,
        tell: Callable[[Sequence[Span]], None],
        source: random.Random,
        clock: Callable[[], float] = time.monotonic,
        wall_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self._rules, self._tell, self._source = rules, tell, source
        self._clock, self._wall_ns = clock, wall_ns
        self._second, self._told = 0, 0

    def answered(
        self,
        trace: Trace,
        door: Door,
        total_s: float,
        attributes: Callable[[], Mapping[str, Value]],
        stages: Callable[[], Stages],
        target: str,
    ) -> bool:
        """Whether it was told. attributes, stages: made only then. target: what was asked of the worker."""
        if not trace.trace_id or not self._rules.wants(trace, total_s, failed=False) or not self._may():
            return False
        of_query = attributes()
        told = Told(trace, door.name, {**door.attributes, **of_query}, self._wall_ns(), total_s)
        self._tell(query_spans(told, stages(), target, self._span_id))
        if self._rules.slow(total_s):
            noted = {"trace_id": trace.trace_id, "ranking_id": of_query.get("sluice.ranking_id", "")}
            log.info("slow: %s took %.1f ms", target, total_s * 1000, extra=noted)
        return True

    def failed(
        self, trace: Trace, door: Door, total_s: float, attributes: Mapping[str, Value], error: RankingError
    ) -> bool:
        """As `answered`, of a query without an answer. What the client did wrong (4xx) is no failure of ours."""
        broken = error.status >= 500
        if not trace.trace_id or not self._rules.wants(trace, total_s, broken) or not self._may():
            return False
        status: Mapping[str, Value] = {"error.type": type(error).__name__, "http.response.status_code": error.status}
        words = str(error) if broken else ""
        told = Told(trace, door.name, {**door.attributes, **attributes, **status}, self._wall_ns(), total_s, words)
        self._tell(query_spans(told, None, "", self._span_id))
        return True

    def _may(self) -> bool:
        second = int(self._clock())
        if second != self._second:
            self._second, self._told = second, 0
        self._told += 1
        if self._told > self._rules.a_second:
            metrics.TRACES_LEFT_OUT.inc()
            return False
        metrics.TRACES.inc()
        return True

    def _span_id(self) -> str:
        return f"{self._source.getrandbits(64) or 1:016x}"


def tell_failed(tracer: Tracer | None, query: Asked, error: RankingError, total_s: float) -> None:
    """See `Tracer.failed`. tracer: None where nobody is told."""
    if tracer is not None:
        tracer.failed(query.trace, query.door, total_s, of_model(query.model), error)


def of_model(model: str, version: int | None = None) -> dict[str, Value]:
    """Which model was asked, and which version answered."""
    return {"sluice.model": model} | ({} if version is None else {"sluice.version": version})
