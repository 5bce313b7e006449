"""Which queries are told of as traces."""

from dataclasses import dataclass

from registry.contracts.traces import Trace


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

    def slow(self, total_s: float) -> bool:
        """Whether that is long."""
        return bool(self.slow_ms) and total_s * 1000 > self.slow_ms

    def wants(self, trace: Trace, total_s: float, failed: bool) -> bool:
        """Whether a query that took so long is told."""
        if failed or self.slow(total_s):
            return True
        return trace.drawn(self.ratio) if trace.sampled is None else trace.sampled
