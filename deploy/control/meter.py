"""The traffic meter: the last hour of what all gateways counted, for the console's charts.

Gateways count from their start and show it on the counter board; the meter looks every few seconds and keeps what
came in between. Prometheus keeps months; this is so that a page says something on a machine without Prometheus.
"""

import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from deploy.control.looker import Looker
from registry.contracts.counters import LATENCY_BOUNDS_MS, STAGE_BOUNDS_MS, ArmCounters, CounterSnapshot
from registry.contracts.traffic import Arm
from registry.counters import CounterBoard

SAMPLE_S = 5.0
KEPT_S = 3600.0
_MOST_LATE = 3  # samples; what came over a longer time than that is no rate of any moment

Counts = NDArray[np.int64]
ArmKey = tuple[str, Arm]
"""Experiment (empty: none) and arm."""


@dataclass(frozen=True, slots=True)
class ArmSum:
    """Queries of one arm over a time. latency: of those answered, (buckets,), see `contracts.counters`."""

    answered: int
    refused: int
    failed: int
    degraded: int
    away: int
    latency: Counts

    def __add__(self, other: "ArmSum") -> "ArmSum":
        return ArmSum(
            self.answered + other.answered,
            self.refused + other.refused,
            self.failed + other.failed,
            self.degraded + other.degraded,
            self.away + other.away,
            self.latency + other.latency,
        )

    @property
    def empty(self) -> bool:
        """Nobody asked."""
        return not (self.answered or self.refused or self.failed)

    @staticmethod
    def between(before: ArmCounters | None, now: ArmCounters) -> "ArmSum":
        """What one process counted since then; None: all."""

        def gain(name: str) -> int:
            return int(getattr(now, name)) - (int(getattr(before, name)) if before else 0)

        latency = np.array(now.latency, dtype=np.int64)
        if before is not None:
            latency = latency - np.array(before.latency, dtype=np.int64)
        return ArmSum(gain("answered"), gain("refused"), gain("failed"), gain("degraded"), gain("away"), latency)


@dataclass(frozen=True, slots=True)
class Sample:
    """What came in between two looks, ms since the epoch.

    arms: by model and arm. stages: by model, (stages, buckets).
    """

    since_ms: int
    until_ms: int
    arms: Mapping[str, Mapping[ArmKey, ArmSum]]
    stages: Mapping[str, Counts]


class TrafficMeter:
    """Takes looks at the board, keeps the last hour. One thread looks, others read."""

    def __init__(self, kept_s: float = KEPT_S, sample_s: float = SAMPLE_S) -> None:
        self.sample_s = sample_s
        self._samples: deque[Sample] = deque(maxlen=max(1, round(kept_s / sample_s)))
        self._before: Mapping[str, CounterSnapshot] | None = None
        self._looked_ms = 0

    def take(self, shown: Mapping[str, CounterSnapshot], now_ms: int) -> None:
        """One look. The first tells nothing; nor does one long after the last, for what came since is of no moment."""
        before, since_ms = self._before, self._looked_ms
        self._before, self._looked_ms = shown, now_ms
        if before is None or not 0 < now_ms - since_ms <= _MOST_LATE * self.sample_s * 1000:
            return
        arms: dict[str, dict[ArmKey, ArmSum]] = {}
        stages: dict[str, Counts] = {}
        for process, snapshot in shown.items():
            old = before.get(process)
            _add_arms(arms, old, snapshot)
            _add_stages(stages, old, snapshot)
        self._samples.append(Sample(since_ms, now_ms, arms, stages))

    def samples(self, since_ms: int) -> tuple[Sample, ...]:
        """Those that end after then, oldest first; for any thread."""
        return tuple(one for one in tuple(self._samples) if one.until_ms > since_ms)


def _add_arms(arms: dict[str, dict[ArmKey, ArmSum]], old: CounterSnapshot | None, new: CounterSnapshot) -> None:
    known = {counted.key: counted for counted in old.arms} if old else {}
    for counted in new.arms:
        came = ArmSum.between(known.get(counted.key), counted)
        if came.empty:
            continue
        of_model = arms.setdefault(counted.model, {})
        key: ArmKey = (counted.experiment, counted.arm)
        of_model[key] = of_model[key] + came if key in of_model else came


def _add_stages(stages: dict[str, Counts], old: CounterSnapshot | None, new: CounterSnapshot) -> None:
    known = {counted.model: counted for counted in old.stages} if old else {}
    for counted in new.stages:
        came = np.array(counted.buckets, dtype=np.int64)
        if (before := known.get(counted.model)) is not None:
            came = came - np.array(before.buckets, dtype=np.int64)
        if came.any():
            stages[counted.model] = stages[counted.model] + came if counted.model in stages else came


@dataclass(frozen=True, slots=True)
class Slot:
    """Some samples in a row, as one point of a chart. seconds: that were watched; 0: nobody looked."""

    until_ms: int
    seconds: float
    arms: Mapping[ArmKey, ArmSum]
    stages: Counts | None


def slots(samples: Sequence[Sample], model: str, until_ms: int, step_ms: int, count: int) -> list[Slot]:
    """The model's last `count` steps until then, oldest first; a sample counts where its middle lies."""
    parts: list[list[Sample]] = [[] for _ in range(count)]
    for sample in samples:
        place = count - 1 - (until_ms - (sample.since_ms + sample.until_ms) // 2) // step_ms
        if 0 <= place < count:
            parts[place].append(sample)
    return [_slot(part, model, until_ms - (count - 1 - place) * step_ms) for place, part in enumerate(parts)]


def _slot(part: Sequence[Sample], model: str, until_ms: int) -> Slot:
    arms: dict[ArmKey, ArmSum] = {}
    stages: Counts | None = None
    for sample in part:
        for key, came in sample.arms.get(model, {}).items():
            arms[key] = arms[key] + came if key in arms else came
        if (timed := sample.stages.get(model)) is not None:
            stages = timed if stages is None else stages + timed
    return Slot(until_ms, sum(one.until_ms - one.since_ms for one in part) / 1000, arms, stages)


def quantile_ms(counts: Counts, bounds_ms: Sequence[float], share: float) -> float | None:
    """The time that this share of queries took at most, read from buckets; None without any.

    counts: (bounds + 1,). Inside of a bucket times are taken as evenly spread, so that the error is a bucket's width,
    19 %, at most; beyond the last bound it is the last bound.

    >>> quantile_ms(np.array([0, 4, 0]), (1.0, 2.0), 0.5)
    1.5
    """
    total = int(counts.sum())
    if not total:
        return None
    wanted = share * total
    before = np.concatenate(([0], np.cumsum(counts)))
    place = min(int(np.searchsorted(before[1:], wanted)), len(counts) - 1)
    if place >= len(bounds_ms):
        return bounds_ms[-1]
    low = bounds_ms[place - 1] if place else 0.0
    inside = (wanted - float(before[place])) / max(1, int(counts[place]))
    return low + (bounds_ms[place] - low) * min(1.0, max(0.0, inside))


def latency_ms(counts: Counts, share: float) -> float | None:
    """See `quantile_ms`; of an arm's answers."""
    return quantile_ms(counts, LATENCY_BOUNDS_MS, share)


def stage_ms(counts: Counts, share: float) -> float | None:
    """See `quantile_ms`; of a stage."""
    return quantile_ms(counts, STAGE_BOUNDS_MS, share)


def all_arms(found: Sequence[Slot]) -> Iterator[ArmKey]:
    """Those that had queries, the champion's first."""
    return iter(sorted({key for slot in found for key in slot.arms}, key=lambda key: (key[1] != "champion", key)))


class MeterThread(Looker):
    """Has the meter look at the board until stopped; a board that does not answer leaves a gap."""

    def __init__(
        self,
        meter: TrafficMeter,
        board: CounterBoard,
        now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        super().__init__("meter", meter.sample_s, "the console's traffic has a gap")
        self.meter = meter
        self._board, self._now_ms = board, now_ms

    def _look(self) -> None:
        self.meter.take(self._board.read(), self._now_ms())
