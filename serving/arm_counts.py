"""Answers counted by arm: for guardrails, through the counter board, and for Prometheus.

Counted is the arm that the plan gave the unit, served or not: a challenger that is away, and whose
units the champion answers, shows as away, not as absent.
"""

import logging
import threading
import time
from bisect import bisect_left
from collections.abc import Callable

from registry.contracts.counters import LATENCY_BOUNDS_MS, LATENCY_BUCKETS, ArmCounters, CounterSnapshot, total
from registry.contracts.traffic import Arm
from registry.counters import CounterBoard
from registry.errors import RegistryError
from serving import metrics
from serving.stage_times import StageTimes
from serving.tally import flush_with_the_rest

log = logging.getLogger(__name__)

KEPT_REVISIONS = 64
MAX_EXPERIMENT_LABELS = 64
OTHER = "other"

Key = tuple[str, int, str, Arm, Arm]
"""Model, plan revision, experiment (empty: none), the arm that the plan gave, and the one that answered."""


class ArmTally:
    """Answers of one arm under one plan revision. One thread counts and flushes, another may read.

    label: of its experiment, for Prometheus.
    """

    __slots__ = ("_degraded", "_failed", "_flushed", "_key", "_label", "_latency", "_refused", "_total_s")

    def __init__(self, key: Key, label: str) -> None:
        self._key, self._label = key, label
        self._refused = self._failed = self._degraded = 0
        self._total_s = 0.0
        self._latency = [0] * LATENCY_BUCKETS
        self._flushed = ([0] * LATENCY_BUCKETS, 0.0, 0)

    def answered(self, total_s: float, degraded: bool) -> None:
        """One more, so long after its permit; degraded: it did without something."""
        self._latency[bisect_left(LATENCY_BOUNDS_MS, total_s * 1000)] += 1  # as `latency_bucket`, without the call
        self._total_s += total_s
        if degraded:
            self._degraded += 1

    def not_answered(self, status: int) -> None:
        """One more that got this status (as in `serving.errors`) instead."""
        refused = status < 500
        if refused:
            self._refused += 1
        else:
            self._failed += 1
        model, _, _, assigned, arm = self._key
        metrics.ANSWERS.labels(model, arm, status).inc()
        metrics.ARM_ANSWERS.labels(model, self._label, assigned, "refused" if refused else "failed").inc()

    def counters(self) -> ArmCounters:
        """As they stand."""
        # degraded first: read while the other thread counts, it must not come to more than the answers
        degraded, latency = self._degraded, tuple(self._latency)
        answered, away = sum(latency), self._key[4] != self._key[3]
        return ArmCounters(
            *self._key[:4], answered, self._refused, self._failed, degraded, latency, answered if away else 0
        )

    def flush(self) -> None:
        """Tells Prometheus what was answered since the last time."""
        before, before_s, before_degraded = self._flushed
        latency, total_s, degraded = list(self._latency), self._total_s, self._degraded
        fresh = {i: now - then for i, (now, then) in enumerate(zip(latency, before, strict=True)) if now != then}
        if not fresh:
            return
        self._flushed = (latency, total_s, degraded)
        model, _, _, assigned, arm = self._key
        answers = sum(fresh.values())
        metrics.ANSWERS.labels(model, arm, 200).inc(answers)
        metrics.ARM_ANSWERS.labels(model, self._label, assigned, "answered").inc(answers)
        metrics.ARM_DEGRADED.labels(model, self._label, assigned).inc(degraded - before_degraded)
        seconds = metrics.ARM_SECONDS.labels(model, self._label, assigned)
        # prometheus_client can observe a value, but not add a histogram: hence its inner parts
        seconds._sum.inc(total_s - before_s)
        for bucket, answered in fresh.items():
            seconds._buckets[-(-bucket // metrics.ARM_BOUNDS_STEP)].inc(answered)


class ArmCounts:
    """All arms of this process. Of each model the newest KEPT_REVISIONS of its plan are kept: guardrails add up what
    came since the plan that brought a step, and a step may last for weeks, in which overrides and other layers change.

    stages: where the answers' time went, shown and flushed with the arms.
    """

    def __init__(self) -> None:
        self.stages = StageTimes()
        self._tallies: dict[Key, ArmTally] = {}
        self._experiments: set[str] = set()
        flush_with_the_rest(self)

    def of(self, model: str, plan_revision: int, experiment: str, assigned: Arm, arm: Arm) -> ArmTally:
        """The tally of who was in an arm and answered in one, mostly the same."""
        key = (model, plan_revision, experiment, assigned, arm)
        found = self._tallies.get(key)
        return found if found is not None else self._new(key)

    def snapshot(self, process: str, at_ms: int) -> CounterSnapshot:
        """All of them, by the arm that the plan gave; for any thread."""
        by_arm: dict[tuple[str, int, str, str], list[ArmCounters]] = {}
        for tally in self._tallies.values():
            counted = tally.counters()
            by_arm.setdefault(counted.key, []).append(counted)
        arms = (
            parts[0] if len(parts) == 1 else total(model, revision, experiment, parts[0].arm, parts)
            for (model, revision, experiment, _), parts in by_arm.items()
        )
        return CounterSnapshot(process, at_ms, tuple(arms), self.stages.counters())

    def flush(self) -> None:
        """See `tally.Flushed`."""
        for tally in self._tallies.values():
            tally.flush()
        self.stages.flush()

    def _new(self, key: Key) -> ArmTally:
        model, revision, experiment = key[:3]
        if len(self._experiments) < MAX_EXPERIMENT_LABELS:
            self._experiments.add(experiment)
        tally = ArmTally(key, experiment if experiment in self._experiments else OTHER)
        revisions = sorted({known[1] for known in self._tallies if known[0] == model} | {revision})
        old = set(revisions[:-KEPT_REVISIONS])
        for known, leaving in self._tallies.items():
            if known[0] == model and known[1] in old:
                leaving.flush()
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
