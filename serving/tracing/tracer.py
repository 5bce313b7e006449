"""Which queries are told of as traces, and how many at most."""

import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from registry.contracts.traces import Span, Trace, Value
from serving import metrics
from serving.tracing.spans import Stages, Told, query_spans


@dataclass(frozen=True, slots=True)
class TraceRules:
    """ratio: share of the traces that begin here. slow_ms: whatever took longer is told, 0: nothing for that.
    a_second: traces told at most, by one process, so that a bad day costs no more than a good one."""

    ratio: float = 0.01
    slow_ms: float = 250.0
    a_second: int = 50

    def __post_init__(self) -> None:
        if not 0 <= self.ratio <= 1:
            raise ValueError(f"ratio={self.ratio}: expected a share, 0 to 1")
        if not 0 <= self.slow_ms <= 60_000:
            raise ValueError(f"slow_ms={self.slow_ms}: expected 0 <= ms <= 60000")
        if not 1 <= self.a_second <= 10_000:
            raise ValueError(f"a_second={self.a_second}: expected 1 to 10000")

    def wants(self, trace: Trace, total_s: float, failed: bool) -> bool:
        """Whether a query that took so long is told."""
        if failed or (self.slow_ms and total_s * 1000 > self.slow_ms):
            return True
        return trace.drawn(self.ratio) if trace.sampled is None else trace.sampled


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
        name: str,
        total_s: float,
        attributes: Callable[[], Mapping[str, Value]],
        stages: Callable[[], Stages] | None = None,
        target: str = "",
        replica: str = "",
        error: str = "",
    ) -> bool:
        """Whether it was told. attributes, stages: made only then. name: of the root span."""
        if not self._rules.wants(trace, total_s, bool(error)) or not self._may():
            return False
        told = Told(trace, name, attributes(), self._wall_ns(), total_s, error)
        where: Mapping[str, Value] = {"service.instance.id": replica} if replica else {}
        self._tell(query_spans(told, None if stages is None else stages(), target, where, self._span_id))
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
