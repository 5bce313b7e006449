"""What serving can be told. Every value is checked when the process starts."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from registry.roles import ROLES
from serving.flow.settings import FlowSettings

PRECISIONS = ("fp32", "tf32", "bf16", "fp16")
COMPILES = ("none", "compile", "aoti")
LINE = "[A-Za-z0-9][A-Za-z0-9._-]{0,63}"
"""How a line (a product whose queries share a quota) may be named."""
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
    messages that have arrived in part, or wait. max_unsent_bytes: of answers that wait for the client's HTTP/2 windows;
    beyond it calls are refused. head_s: for the connection's preface, for a header block that comes
    in parts, and for a frame; body_s: for a unary call's message from its head on, for a stream's from its first byte
    on, and beside that, as for frames, as long as what has come of it takes at bytes_a_s. read_s: without reading
    answers that are too long to wait in buffers, or for taking fewer than bytes_a_s of those that wait for windows.
    """

    max_streams: int = 256
    max_header_bytes: int = 16 << 10
    max_receiving_bytes: int = 256 << 20
    max_unsent_bytes: int = 256 << 20
    head_s: float = 10.0
    body_s: float = 10.0
    bytes_a_s: float = 4096.0
    read_s: float = 30.0

    def __post_init__(self) -> None:
        for key in ("head_s", "body_s", "read_s"):
            _require(0 < getattr(self, key) <= 3600, f"grpc.{key}", getattr(self, key), "0 < s <= 3600")
        _require(self.bytes_a_s > 0, "grpc.bytes_a_s", self.bytes_a_s, "more than 0")
        _require(1 <= self.max_streams <= 65536, "grpc.max_streams", self.max_streams, "1 to 65536")
        _require(
            1024 <= self.max_header_bytes <= 1 << 20, "grpc.max_header_bytes", self.max_header_bytes, "1 KiB to 1 MiB"
        )
        _require(
            self.max_receiving_bytes >= 1 << 20, "grpc.max_receiving_bytes", self.max_receiving_bytes, "at least 1 MiB"
        )
        _require(self.max_unsent_bytes >= 1 << 20, "grpc.max_unsent_bytes", self.max_unsent_bytes, "at least 1 MiB")


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


@dataclass(frozen=True, slots=True)
class TokenSettings:
    """Whose tokens (JWT) are good, and what they say. issuer: the `iss` that they must have, empty: no tokens are.
    audience: the `aud`. key_set: URL or path of the issuer's public keys (JWKS).

    role_claim, models_claim, line_claim: of role, models and line, a name or a path with dots; without models_claim a
    token is good for all models, with it, it must say which, `*` for all. roles: role by value of the claim, beside
    the roles' own names. leeway_s: that clocks may differ. secret: of HS256, for development only, where development
    is set; at least 32 bytes.
    refresh_s: how often the keys are fetched anew; unknown_s: for an unknown key id at most so often; stale_s: how
    long they count while the issuer is away.
    """

    issuer: str = ""
    audience: str = ""
    key_set: str = ""
    role_claim: str = "sluice_role"
    models_claim: str = ""
    line_claim: str = ""
    roles: Mapping[str, str] = field(default_factory=dict)
    leeway_s: float = 30.0
    development: bool = False
    secret: bytes = field(default=b"", repr=False)
    refresh_s: float = 300.0
    unknown_s: float = 10.0
    stale_s: float = 24 * 3600.0
    timeout_s: float = 5.0

    def __post_init__(self) -> None:
        told = bool(self.issuer or self.audience or self.key_set or self.secret)
        _require(bool(self.issuer) or not told, "jwt_issuer", self.issuer, "the `iss` of your issuer's tokens")
        _require(
            bool(self.audience) or not told, "jwt_audience", self.audience, "the `aud` of tokens for this platform"
        )
        _require(bool(self.key_set or self.secret) or not told, "jwt_key_set", "", "URL or path of the issuer's JWKS")
        scheme, colon, rest = self.key_set.partition("://")
        near = rest.startswith(("127.0.0.1:", "localhost:", "[::1]:"))
        _require(
            not colon or scheme == "https" or (scheme == "http" and (near or self.development)),
            "jwt_key_set",
            self.key_set,
            "https://…, a path, or http:// of this machine",
        )
        _require(self.development or not self.secret, "jwt_secret", "(set)", "none without SLUICE_DEVELOPMENT=1")
        _require(not self.secret or len(self.secret) >= 32, "jwt_secret", "(set)", "at least 32 bytes")
        _require(bool(self.role_claim), "jwt.role_claim", self.role_claim, "the name of a claim")
        wrong = [role for role in self.roles.values() if role not in ROLES]
        _require(not wrong, "jwt.roles", wrong, f"values of {', '.join(ROLES)}")
        _require(0 <= self.leeway_s <= 300, "jwt.leeway_s", self.leeway_s, "0 <= s <= 300")
        _require(1 <= self.unknown_s <= self.refresh_s <= 86_400, "jwt.refresh_s", self.refresh_s, "unknown_s to 86400")
        _require(self.refresh_s <= self.stale_s, "jwt.stale_s", self.stale_s, f"at least refresh_s ({self.refresh_s})")

    @property
    def used(self) -> bool:
        """Whether any token is good."""
        return bool(self.issuer)


@dataclass(frozen=True, slots=True)
class Rates:
    """Of a quota, per second; 0: not limited."""

    requests: float = 0.0
    candidates: float = 0.0


@dataclass(frozen=True, slots=True)
class QuotaSettings:
    """key: of a key or token that has none of its own. lines: by name of the line. burst_s: as much as comes in so
    long may be asked for at once.

    lease_s: a gateway takes what it needs for so long; keep_s: after so long it throws away what it did not need.
    timeout_s: for Redis; away_s: how long it is not asked again when it did not answer. gateways: that share the
    quotas, as far as is known before Redis says.
    """

    key: Rates = field(default_factory=Rates)
    lines: Mapping[str, Rates] = field(default_factory=dict)
    burst_s: float = 2.0
    lease_s: float = 0.1
    keep_s: float = 1.0
    timeout_s: float = 0.1
    away_s: float = 1.0
    gateways: int = 1

    def __post_init__(self) -> None:
        _require(0 < self.burst_s <= 604_800, "quotas.burst_s", self.burst_s, "0 < s <= 604800, a week")
        _require(0 < self.lease_s <= self.keep_s <= 60, "quotas.lease_s", self.lease_s, "0 < s <= keep_s <= 60")
        _require(0 < self.timeout_s <= 5, "quotas.timeout_s", self.timeout_s, "0 < s <= 5")
        _require(self.gateways >= 1, "quotas.gateways", self.gateways, "at least 1")


@dataclass(frozen=True, slots=True)
class IdentitySettings:
    """closed: whether queries need a key or token, too; control routes do in any case.

    sheet_copy: file that keeps the last key sheet for a start without the board. remember_s: how long somebody who was
    let in is let in again without a look at the sheet, if that does not change. used_every_s: how often it is noted
    which keys are in use.
    """

    closed: bool
    sheet_copy: Path
    remember_s: float = 5.0
    used_every_s: float = 60.0

    def __post_init__(self) -> None:
        _require(0 < self.remember_s <= 60, "identity.remember_s", self.remember_s, "0 < s <= 60")


def parse_quotas(text: str) -> QuotaSettings:
    """What `SLUICE_QUOTAS` says, `key=50/5000,search=1000/100000,burst_s=2`: requests and candidates a second of
    keys without their own, and of lines by name; 0: not limited. Raises ValueError, naming the rule.

    >>> parse_quotas("search=1000/0").lines
    {'search': Rates(requests=1000.0, candidates=0.0)}
    """
    rule = "name=requests/candidates a second, each name once, `key` for keys without their own, and burst_s=seconds"
    lines: dict[str, Rates] = {}
    burst_s = QuotaSettings().burst_s
    for part in filter(None, (part.strip() for part in text.split(","))):
        if found := re.fullmatch(r"burst_s=(\d{1,6}(\.\d{1,3})?)", part):
            burst_s = float(found[1])
        elif found := re.fullmatch(rf"({LINE})=(\d{{1,9}}(?:\.\d{{1,3}})?)/(\d{{1,9}}(?:\.\d{{1,3}})?)", part):
            if found[1] in lines:
                raise ValueError(f"quotas={part}: expected {rule}")
            lines[found[1]] = Rates(float(found[2]), float(found[3]))
        else:
            raise ValueError(f"quotas={part}: expected {rule}")
    return QuotaSettings(lines.pop("key", Rates()), lines, burst_s)


def parse_token_claims(text: str) -> dict[str, Any]:
    """What `SLUICE_JWT_CLAIMS` says, for `TokenSettings`: `role=groups,models=models,line=team,
    role.ml-admins=admin,leeway_s=30`. Raises ValueError, naming the rule.

    >>> parse_token_claims("role=groups,role.ml-admins=admin")
    {'role_claim': 'groups', 'roles': {'ml-admins': 'admin'}}
    """
    rule = "role=, models=, line=CLAIM, role.VALUE=a role, leeway_s=seconds"
    told: dict[str, Any] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, _, value = part.partition("=")
        if name in ("role", "models", "line") and value:
            told[f"{name}_claim"] = value
        elif name.startswith("role.") and value in ROLES:
            told.setdefault("roles", {})[name.removeprefix("role.")] = value
        elif name == "leeway_s" and value.isascii() and value.isdigit():
            told["leeway_s"] = float(value)
        else:
            raise ValueError(f"jwt_claims={part[:64]}: expected {rule}")
    return told
