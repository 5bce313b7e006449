"""What a user has and wants: the numbers that a fleet is planned from, each checked."""

from dataclasses import dataclass, fields, replace
from math import isfinite
from typing import Literal

from deploy.errors import SettingsError

GPU_PASS_US, GPU_CANDIDATE_US = 4000.0, 4.0


def _require(holds: bool, key: str, value: object, rule: str) -> None:
    if not holds:
        raise SettingsError(f"--{key}", value, rule, f"--{key} with such a value, or without it")


@dataclass(frozen=True, slots=True)
class Prices:
    """Of an hour, in one currency: of a core, of a GPU with its host, of a GB of Redis memory; of a GB of archive a
    month.

    The defaults are round list prices of large clouds (2026), to be replaced by one's own.
    """

    core_hour: float = 0.04
    gpu_hour: float = 2.50
    memory_gb_hour: float = 0.006
    archive_gb_month: float = 0.023

    def __post_init__(self) -> None:
        for field in fields(self):
            _require(
                0 <= getattr(self, field.name) < 1e6, f"price-{field.name}", getattr(self, field.name), "0 or more"
            )


@dataclass(frozen=True, slots=True)
class Demand:
    """peak_s, mean_s: queries a second in the busiest minute, and over the day. candidates: of a query; columns: stored
    of an item; shown: items that an answer has.

    catalogue: items; skew: their popularity is rank**-skew; tier_rows: rows that a worker's tiers have room for (slab
    on
    the device, or in host memory); updates_s: changed rows a second. p99_ms: what 99 of 100 answers must not exceed;
    deadline_ms: after which an answer is of no use. spare: workers and gateways that may be gone at once.
    replicas_of_shard: copies of each Redis shard beside its master. stream_hours: for so long readers of the event
    stream may be away (it is trimmed behind them).
    device: what scores; pass_us, candidate_us: of a forward pass there, fixed and by candidate; None: as measured
    (cpu),
    or, of a GPU, 4,000 and 4, which nobody measured. batch_candidates: of one pass at most. machine_cores: of one node.
    """

    peak_s: float
    mean_s: float = 0.0
    candidates: int = 100
    columns: int = 136
    shown: int = 10
    catalogue: int = 1_000_000
    skew: float = 1.0
    tier_rows: int = 200_000
    updates_s: float = 100.0
    p99_ms: float = 120.0
    deadline_ms: float = 200.0
    spare: int = 1
    replicas_of_shard: int = 1
    stream_hours: float = 1.0
    device: Literal["cpu", "gpu"] = "cpu"
    pass_us: float | None = None
    candidate_us: float | None = None
    batch_candidates: int = 4096
    machine_cores: int = 32
    prices: Prices = Prices()

    def __post_init__(self) -> None:
        _require(isfinite(self.peak_s) and 0 < self.peak_s <= 1e8, "peak", self.peak_s, "0 < queries/s <= 100000000")
        _require(0 <= self.mean_s <= self.peak_s, "mean", self.mean_s, f"0 to the peak, {self.peak_s:g}")
        _require(1 <= self.candidates <= 100_000, "candidates", self.candidates, "1 to 100000")
        _require(1 <= self.columns <= 10_000, "columns", self.columns, "1 to 10000")
        _require(1 <= self.shown <= self.candidates, "shown", self.shown, f"1 to the candidates, {self.candidates}")
        _require(1 <= self.catalogue <= 10**11, "catalogue", self.catalogue, "1 to 100000000000 items")
        _require(0 <= self.skew <= 3, "skew", self.skew, "0 to 3: popularity is rank**-skew")
        _require(16 <= self.tier_rows <= 10**10, "tier-rows", self.tier_rows, "16 to 10000000000")
        _require(0 <= self.updates_s <= 1e7, "updates", self.updates_s, "0 to 10000000 rows a second")
        _require(
            1 <= self.p99_ms <= self.deadline_ms, "p99-ms", self.p99_ms, f"1 to the deadline, {self.deadline_ms:g}"
        )
        _require(self.deadline_ms <= 60_000, "deadline-ms", self.deadline_ms, "at most 60000")
        _require(0 <= self.spare <= 1000, "spare", self.spare, "0 to 1000")
        _require(0 <= self.replicas_of_shard <= 5, "replicas-of-shard", self.replicas_of_shard, "0 to 5")
        _require(0 < self.stream_hours <= 168, "stream-hours", self.stream_hours, "0 < hours <= 168")
        _require(self.device in ("cpu", "gpu"), "device", self.device, "cpu or gpu")
        for name in ("pass_us", "candidate_us"):
            value = getattr(self, name)
            _require(value is None or 0 <= value <= 1e7, name.replace("_", "-"), value, "0 to 10000000 microseconds")
        _require(
            self.candidates <= self.batch_candidates <= 10**6,
            "batch-candidates",
            self.batch_candidates,
            f"at least those of a query, {self.candidates}",
        )
        _require(1 <= self.machine_cores <= 1024, "machine-cores", self.machine_cores, "1 to 1024")

    @property
    def usual_s(self) -> float:
        """Mean queries a second; a third of the peak where it was not said."""
        return self.mean_s or self.peak_s / 3

    def at(self, peak_s: float) -> "Demand":
        """The same with another peak and a mean in proportion."""
        return replace(self, peak_s=peak_s, mean_s=self.usual_s * peak_s / self.peak_s)


def candidate_us_of(flops: float, tflops: float) -> float:
    """Microseconds of a candidate. flops: operations of the model for one; tflops: 1e12 a second that the device really
    reaches with it.

    >>> candidate_us_of(2e6, 0.5)
    4.0
    """
    _require(0 < flops <= 1e15, "flops", flops, "0 < operations a candidate <= 1e15")
    _require(0 < tflops <= 1e5, "tflops", tflops, "0 < 10**12 operations a second <= 100000")
    return flops / (tflops * 1e6)
