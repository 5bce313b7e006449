"""Answers counted by arm: for guardrails, through the counter board, and for Prometheus.

Counted is the arm that the plan gave the unit, served or not: a challenger that is away, and whose
units the champion answers, shows as degraded, not as absent.
"""

import logging
import threading
import time
from collections.abc import Callable

from registry.contracts.counters import LATENCY_BUCKETS, ArmCounters, CounterSnapshot, latency_bucket
from registry.contracts.traffic import Arm
from registry.counters import CounterBoard
from registry.errors import RegistryError
from serving import metrics
from serving.tally import CounterTally, HistogramTally

log = logging.getLogger(__name__)

KEPT_REVISIONS = 8
MAX_EXPERIMENT_LABELS = 64
OTHER = "other"

Key = tuple[str, int, str, Arm]
"""Model, plan revision, experiment (empty: none), arm."""


class _Series:
    """An arm's time series, over all plan revisions."""

    __slots__ = ("answered", "degraded", "failed", "refused", "seconds")

    def __init__(self, model: str, experiment: str, arm: Arm) -> None:
        labels = (model, experiment, arm)
        self.answered, self.refused, self.failed = (
            CounterTally(metrics.ARM_ANSWERS.labels(*labels, outcome)) for outcome in ("answered", "refused", "failed")
        )
        self.degraded = CounterTally(metrics.ARM_DEGRADED.labels(*labels))
        self.seconds = HistogramTally(metrics.ARM_SECONDS.labels(*labels)).observe


class ArmTally:
    """One arm's answers under one plan revision. One thread counts, another may read."""

    __slots__ = ("_degraded", "_failed", "_key", "_latency", "_refused", "_series")

    def __init__(self, key: Key, series: _Series) -> None:
        self._key, self._series = key, series
        self._refused = self._failed = self._degraded = 0
        self._latency = [0] * LATENCY_BUCKETS

    def answered(self, total_s: float, degraded: bool) -> None:
        """One more, so long after its permit; degraded: it did without something."""
        self._latency[latency_bucket(total_s * 1000)] += 1
        self._series.answered.inc()
        self._series.seconds(total_s)
        if degraded:
            self._degraded += 1
            self._series.degraded.inc()

    def not_answered(self, status: int) -> None:
        """One more that got this status (as in `serving.errors`) instead."""
        if status < 500:
            self._refused += 1
            self._series.refused.inc()
        else:
            self._failed += 1
            self._series.failed.inc()

    def counters(self) -> ArmCounters:
        """As they stand."""
        # degraded first: read while the other thread counts, it must not come to more than the answers
        degraded, latency = self._degraded, tuple(self._latency)
        return ArmCounters(*self._key, sum(latency), self._refused, self._failed, degraded, latency)


class ArmCounts:
    """All arms of this process. Of each model the newest KEPT_REVISIONS of its plan are kept: nobody holds arms
    of older ones against each other."""

    def __init__(self) -> None:
        self._tallies: dict[Key, ArmTally] = {}
        self._series: dict[tuple[str, str, Arm], _Series] = {}

    def of(self, model: str, plan_revision: int, experiment: str, arm: Arm) -> ArmTally:
        """The arm's tally."""
        key = (model, plan_revision, experiment, arm)
        found = self._tallies.get(key)
        return found if found is not None else self._new(key)

    def snapshot(self, process: str, at_ms: int) -> CounterSnapshot:
        """All of them; for any thread."""
        return CounterSnapshot(process, at_ms, tuple(tally.counters() for tally in list(self._tallies.values())))

    def _new(self, key: Key) -> ArmTally:
        model, _, experiment, arm = key
        known = {name for _, name, _ in self._series}
        label = experiment if experiment in known or len(known) < MAX_EXPERIMENT_LABELS else OTHER
        if (model, label, arm) not in self._series:
            self._series[model, label, arm] = _Series(model, label, arm)
        tally = ArmTally(key, self._series[model, label, arm])
        revisions = sorted({revision for name, revision, *_ in self._tallies if name == model} | {key[1]})
        old = set(revisions[:-KEPT_REVISIONS])
        kept = {k: v for k, v in self._tallies.items() if k[0] != model or k[1] not in old}
        self._tallies = kept | {key: tally}  # not changed in place: another thread may be reading
        return tally


class CounterPublisher(threading.Thread):
    """Shows the counts on the board every period. process: see `contracts.counters.process_name`."""

    def __init__(
        self,
        counts: ArmCounts,
        board: CounterBoard,
        process: str,
        period_s: float = 1.0,
        wall_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        super().__init__(name="counters", daemon=True)
        self._counts, self._board, self._process = counts, board, process
        self._period_s, self._wall_ms = period_s, wall_ms
        self._stop_asked = threading.Event()
        self._away = False

    def run(self) -> None:
        """Publishes until stopped, and once more then."""
        while not self._stop_asked.wait(self._period_s):
            self.publish()
        self.publish()

    def stop(self) -> None:
        """Ends the thread once the last counts are on the board, or it does not answer."""
        self._stop_asked.set()
        self.join()

    def publish(self) -> bool:
        """Returns False if the board does not answer: the counts are cumulative, the next time tells all."""
        try:
            self._board.publish(self._counts.snapshot(self._process, self._wall_ms()))
        except RegistryError as error:
            if not self._away:
                log.warning("the counter board is away, guardrails see nothing new of this gateway: %s", error)
            self._away = True
            return False
        self._away = False
        return True
