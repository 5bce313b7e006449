"""Counters by arm: what every gateway says of its answers, so that a guardrail can hold two arms against
each other over the same time.

Each process counts from its own start and only upwards; what happened in a window is the difference of
two readings. A restarted process is another one, so its count from zero takes nothing away.
"""

from bisect import bisect_left
from collections.abc import Iterable

import msgspec

from registry.contracts.errors import UNDECODABLE, ContractError
from registry.contracts.traffic import Arm

LATENCY_BOUNDS_MS: tuple[float, ...] = tuple(0.25 * 2 ** (step / 4) for step in range(69))
"""Upper bounds of the latency buckets, each included: 0.25 ms to 32.8 s, 19 % apart; one more bucket takes
what is beyond. A quantile read from them is that much too high at most."""

LATENCY_BUCKETS = len(LATENCY_BOUNDS_MS) + 1


STAGES = ("queue", "features", "device", "hop", "total")
"""Of an answered query: waiting for a device, rows, forward pass, the way there and back, and all of it."""

STAGE_BOUNDS_MS: tuple[float, ...] = tuple(0.01 * 2 ** (step / 4) for step in range(87))
"""Upper bounds of the stages' buckets, each included: 0.01 ms to 29.7 s, as far apart as `LATENCY_BOUNDS_MS` (a
stage may take microseconds); one more bucket takes what is beyond."""

STAGE_BUCKETS = len(STAGE_BOUNDS_MS) + 1


def latency_bucket(latency_ms: float) -> int:
    """The bucket that an answer of this latency counts in.

    >>> latency_bucket(0.0), latency_bucket(0.25), latency_bucket(0.26), latency_bucket(1e9)
    (0, 0, 1, 69)
    """
    return bisect_left(LATENCY_BOUNDS_MS, latency_ms)


class ArmCounters(msgspec.Struct, frozen=True):
    """Answers of one arm of one experiment under one plan revision, since the process started.

    experiment: empty for the champion's arm. arm: that the plan gave the unit, whoever answered.
    answered: 2xx; refused: 4xx, the caller's doing (bad input, no permit), in no comparison; failed: 5xx, and
    deadlines that were missed. degraded: of those answered, how many left something out; away: how many the
    champion answered because the experiment's version could not. latency: of those answered, by bucket.
    """

    model: str
    plan_revision: int
    experiment: str
    arm: Arm
    answered: int = 0
    refused: int = 0
    failed: int = 0
    degraded: int = 0
    latency: tuple[int, ...] = (0,) * LATENCY_BUCKETS
    away: int = 0

    def __post_init__(self) -> None:
        if len(self.latency) != LATENCY_BUCKETS:
            raise ContractError(f"latency has {len(self.latency)} buckets: expected {LATENCY_BUCKETS}")
        if min(self.answered, self.refused, self.failed, self.degraded, self.away, *self.latency) < 0:
            raise ContractError("a counter is negative")

    @property
    def key(self) -> tuple[str, int, str, str]:
        """What is counted apart."""
        return self.model, self.plan_revision, self.experiment, self.arm


class StageCounters(msgspec.Struct, frozen=True):
    """Where the time of a model's answered queries went, since the process started.

    buckets: of each of STAGES in turn, queries by bucket.
    """

    model: str
    buckets: tuple[tuple[int, ...], ...]

    def __post_init__(self) -> None:
        if [len(stage) for stage in self.buckets] != [STAGE_BUCKETS] * len(STAGES):
            raise ContractError(f"buckets: expected {len(STAGES)} stages of {STAGE_BUCKETS} buckets")
        if any(min(stage) < 0 for stage in self.buckets):
            raise ContractError("a counter is negative")


class CounterSnapshot(msgspec.Struct, frozen=True):
    """All counters of one process at one instant.

    process: its name, pid and start, as `process_name` writes them. at_ms: of its clock, since the epoch.
    stages: by model, at most a second behind the rest.
    """

    process: str
    at_ms: int
    arms: tuple[ArmCounters, ...]
    stages: tuple[StageCounters, ...] = ()

    def encode(self) -> bytes:
        """JSON."""
        return msgspec.json.encode(self)

    @staticmethod
    def decode(raw: bytes) -> "CounterSnapshot":
        """Raises ContractError naming what does not fit."""
        try:
            return msgspec.json.decode(raw, type=CounterSnapshot)
        except UNDECODABLE as error:
            raise ContractError(f"not a snapshot of counters: {error}") from error


def process_name(name: str, pid: int, started_ms: int) -> str:
    """Of one process, never of another: `gateway-0:4711:1767225600000`."""
    return f"{name}:{pid}:{started_ms}"


def total(model: str, plan_revision: int, experiment: str, arm: Arm, counted: Iterable[ArmCounters]) -> ArmCounters:
    """The sum of counters, whatever their keys, under the key given; zeros if there are none."""
    answered = refused = failed = degraded = away = 0
    latency = [0] * LATENCY_BUCKETS
    for one in counted:
        answered, refused = answered + one.answered, refused + one.refused
        failed, degraded, away = failed + one.failed, degraded + one.degraded, away + one.away
        latency = [left + right for left, right in zip(latency, one.latency, strict=True)]
    return ArmCounters(model, plan_revision, experiment, arm, answered, refused, failed, degraded, tuple(latency), away)
