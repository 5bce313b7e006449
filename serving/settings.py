"""What serving can be told. Every value is checked when the process starts."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from serving.flow.settings import FlowSettings

PRECISIONS = ("fp32", "tf32", "bf16", "fp16")
COMPILES = ("none", "compile", "aoti")
_DEVICE = re.compile(r"cpu|cuda(:\d{1,2})?")


def _require(holds: bool, key: str, value: object, rule: str) -> None:
    if not holds:
        raise ValueError(f"{key}={value}: expected {rule}")


def device_rules(device: str, precision: str, compile: str) -> Iterator[tuple[str, bool, str]]:
    """What must hold of a worker's device, whoever reads the setting: key, whether it does, the rule."""
    yield "device", bool(_DEVICE.fullmatch(device)), "cpu, cuda or cuda:<number>"
    allowed = [name for name in PRECISIONS if name != "tf32" or device != "cpu"]
    yield "precision", precision in allowed, f"one of {', '.join(allowed)} on {device}"
    yield "compile", compile in COMPILES, f"one of {', '.join(COMPILES)}"


@dataclass(frozen=True, slots=True)
class GatewaySettings:
    """workers: socket paths of the replicas. journal_bytes: room for events while Redis is away.

    max_body_bytes: of our own routes; max_infer_bytes: of tensor requests, after decompression too;
    max_json_bytes: of the JSON in them, whose parsing needs several times that.
    arena_bytes: memory shared with each worker for tensors on their way.
    default_deadline_ms: for queries that name none; max_deadline_ms: the most one may ask for.
    log_every: one of so many answers is logged at INFO; of degraded ones, one a second besides.
    version_header: whether a query may name a version of its plan (`x-sluice-version`), for testers.
    max_mirrored: mirrored queries at once; mirror_deadline_ms: how long each may take.
    flow: what is let in, sent again or answered by less.
    """

    journal: Path
    plan_copy: Path
    workers: tuple[str, ...]
    max_in_flight: int = 512
    max_candidates: int = 10_000
    max_body_bytes: int = 4 << 20
    max_infer_bytes: int = 64 << 20
    max_json_bytes: int = 8 << 20
    max_feedback_events: int = 1000
    default_deadline_ms: int = 1000
    max_deadline_ms: int = 60_000
    journal_bytes: int = 64 << 20
    arena_bytes: int = 64 << 20
    log_every: int = 100
    version_header: bool = False
    max_mirrored: int = 32
    mirror_deadline_ms: int = 1000
    flow: FlowSettings = field(default_factory=FlowSettings)

    def __post_init__(self) -> None:
        _require(bool(self.workers), "gateway.workers", self.workers, "at least one socket")
        _require(1 <= self.max_in_flight <= 65536, "gateway.max_in_flight", self.max_in_flight, "1 to 65536")
        _require(1 <= self.max_candidates <= 65535, "gateway.max_candidates", self.max_candidates, "1 to 65535")
        _require(self.max_body_bytes >= 1024, "gateway.max_body_bytes", self.max_body_bytes, "at least 1024")
        _require(self.max_infer_bytes >= 1024, "gateway.max_infer_bytes", self.max_infer_bytes, "at least 1024")
        _require(
            1024 <= self.max_json_bytes <= self.max_infer_bytes,
            "gateway.max_json_bytes",
            self.max_json_bytes,
            f"1024 <= bytes <= max_infer_bytes ({self.max_infer_bytes})",
        )
        _require(self.arena_bytes >= 4096, "gateway.arena_bytes", self.arena_bytes, "at least 4096")
        _require(
            1 <= self.default_deadline_ms <= self.max_deadline_ms,
            "gateway.default_deadline_ms",
            self.default_deadline_ms,
            f"1 <= ms <= max_deadline_ms ({self.max_deadline_ms})",
        )
        _require(1 <= self.max_mirrored <= 4096, "gateway.max_mirrored", self.max_mirrored, "1 to 4096")
        _require(
            1 <= self.mirror_deadline_ms <= self.max_deadline_ms,
            "gateway.mirror_deadline_ms",
            self.mirror_deadline_ms,
            f"1 <= ms <= max_deadline_ms ({self.max_deadline_ms})",
        )
        _require(self.journal_bytes >= 1 << 16, "gateway.journal_bytes", self.journal_bytes, "at least 65536")


@dataclass(frozen=True, slots=True)
class GrpcSettings:
    """What one gRPC connection may ask of the gateway. Messages are bounded as over HTTP.

    max_streams: calls at once. max_header_bytes: of a call's metadata. max_receiving_bytes: of
    messages that have arrived in part, or wait.
    """

    max_streams: int = 256
    max_header_bytes: int = 16 << 10
    max_receiving_bytes: int = 256 << 20

    def __post_init__(self) -> None:
        _require(1 <= self.max_streams <= 65536, "grpc.max_streams", self.max_streams, "1 to 65536")
        _require(
            1024 <= self.max_header_bytes <= 1 << 20, "grpc.max_header_bytes", self.max_header_bytes, "1 KiB to 1 MiB"
        )
        _require(
            self.max_receiving_bytes >= 1 << 20, "grpc.max_receiving_bytes", self.max_receiving_bytes, "at least 1 MiB"
        )


@dataclass(frozen=True, slots=True)
class ControlSettings:
    """How the gateway hands on requests of the control plane.

    address: where the controller listens, see `addresses`; empty: there is none. timeout_s: for one
    request; max_body_bytes, max_answer_bytes: of it and of its answer; max_in_flight: at once.
    """

    address: str = ""
    timeout_s: float = 30.0
    max_body_bytes: int = 1 << 20
    max_answer_bytes: int = 16 << 20
    max_in_flight: int = 64

    def __post_init__(self) -> None:
        _require(0 < self.timeout_s <= 600, "control.timeout_s", self.timeout_s, "0 < s <= 600")
        _require(self.max_body_bytes >= 1024, "control.max_body_bytes", self.max_body_bytes, "at least 1024")
        _require(self.max_answer_bytes >= 1024, "control.max_answer_bytes", self.max_answer_bytes, "at least 1024")
        _require(1 <= self.max_in_flight <= 4096, "control.max_in_flight", self.max_in_flight, "1 to 4096")


@dataclass(frozen=True, slots=True)
class WorkerSettings:
    """address: where gateways connect, see `addresses`. slab_rows: rows kept in host memory per
    feature view.

    batch_candidates: rows in one forward pass. redis_timeout_s: the most a batch waits for rows.
    check_rows_per_s, check_within_s: how rows are checked after changes may have been missed, see
    `features.suspects`; of one feature view in this worker. prefetches: round trips for rows
    ahead that may wait.
    unload_after_s: how long a version that no plan names stays warm. model_bytes: memory of the
    device by model; device_bytes: all of it. model_weights: shares of the device's time.
    heartbeat_s, heartbeat_ttl_s: how often the worker announces itself, and how long that counts.
    triton_servers: addresses (host:port, gRPC) of the servers that versions may run on, by name.
    device: in torch's words, `cpu`, `cuda` or `cuda:1`. precision, compile: how versions compute there,
    see `device.precision` and `device.compiled`. graphs: whether forward passes on a GPU are captured.
    device_rows: rows resident in a GPU's memory per feature view.
    """

    address: str
    plan_copy: Path
    device: str = "cpu"
    precision: str = "fp32"
    compile: str = "none"
    graphs: bool = True
    device_rows: int = 1_000_000
    threads: int = 1
    slab_rows: int = 200_000
    batch_candidates: int = 4096
    redis_timeout_s: float = 0.25
    check_rows_per_s: int = 20_000
    check_within_s: float = 30.0
    prefetches: int = 64
    unload_after_s: float = 30.0
    model_bytes: Mapping[str, int] = field(default_factory=dict)
    device_bytes: int | None = None
    model_weights: Mapping[str, float] = field(default_factory=dict)
    heartbeat_s: float = 1.0
    heartbeat_ttl_s: float = 5.0
    triton_servers: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for key, holds, rule in device_rules(self.device, self.precision, self.compile):
            _require(holds, f"worker.{key}", getattr(self, key), rule)
        _require(self.device_rows >= 16, "worker.device_rows", self.device_rows, "at least 16")
        _require(1 <= self.threads <= 256, "worker.threads", self.threads, "1 to 256")
        _require(self.slab_rows >= 16, "worker.slab_rows", self.slab_rows, "at least 16")
        _require(self.batch_candidates >= 1, "worker.batch_candidates", self.batch_candidates, "at least 1")
        _require(0 < self.redis_timeout_s <= 10, "worker.redis_timeout_s", self.redis_timeout_s, "0 < s <= 10")
        _require(self.check_rows_per_s >= 100, "worker.check_rows_per_s", self.check_rows_per_s, "at least 100")
        _require(0 <= self.check_within_s <= 3600, "worker.check_within_s", self.check_within_s, "0 <= s <= 3600")
        _require(1 <= self.prefetches <= 10_000, "worker.prefetches", self.prefetches, "1 to 10000")
        _require(
            0 < 2 * self.heartbeat_s <= self.heartbeat_ttl_s,
            "worker.heartbeat_ttl_s",
            self.heartbeat_ttl_s,
            f"at least two heartbeats of {self.heartbeat_s} s",
        )
