"""The tick: what it asks for, over days and jumps of the clock, and what it lets alone."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest
from prometheus_client import REGISTRY

from pipelines.runs.drift_trigger import DriftRule, drift_reason
from pipelines.runs.schedule import DAY_MS, HOUR_MS, Period
from pipelines.runs.tick import LOOKED_AT, Schedule, tick
from pipelines.settings import RunSettings
from registry import run_moves
from registry.contracts.drift import ShiftRecord
from registry.contracts.runs import Run
from registry.errors import StoreUnavailable
from registry.runs import MemoryRuns, edit
from tests.builders import NOW_MS, a_run, a_shift_alarm, a_shift_record

MINE = RunSettings(lease_s=10.0, beat_s=1.0)
RULE = DriftRule(cool_down_ms=3 * DAY_MS, window_ms=14 * DAY_MS)
BOTH = Schedule(
    {
        "collect": Period(NOW_MS, 7 * DAY_MS, HOUR_MS),
        "retrain": Period(NOW_MS, 14 * DAY_MS, HOUR_MS, newest_only=True),
    }
)


@dataclass
class Bench:
    """A store under a schedule; NOW_MS is its anchor, and when the model was first served."""

    schedule: Schedule = BOTH
    store: MemoryRuns = field(default_factory=MemoryRuns)
    verdicts: list[ShiftRecord] = field(default_factory=list)
    away: bool = False

    def tick(self, now_ms: int) -> list[Run]:
        return tick(self.store, {"codesearch": NOW_MS}, self.schedule, MINE, self.drift, now_ms)

    def drift(self, model: str) -> Sequence[ShiftRecord]:
        if self.away:
            raise StoreUnavailable("Redis does not answer")
        return self.verdicts

    def finish(self, run: Run, now_ms: int) -> Run:
        """All its steps done."""
        while run.state != "succeeded":
            run = edit(self.store, run.id, lambda found: run_moves.claim(found, "w1", now_ms=now_ms, lease_ms=10_000))
            run = edit(self.store, run.id, lambda found: run_moves.step_done(found, {}, "", now_ms=now_ms))
        return run

    def windows(self, kind: str) -> list[tuple[float, float]]:
        """Of runs that are not void, in days since the anchor, oldest first."""
        found = [run for run in self.store.runs() if run.kind == kind and run.state != "void"]
        return [((run.since_ms - NOW_MS) / DAY_MS, (run.until_ms - NOW_MS) / DAY_MS) for run in reversed(found)]


def test_over_sixty_days_each_week_is_collected_and_each_fortnight_trained_on_once() -> None:
    bench = Bench()
    for hour in range(60 * 24):
        now_ms = NOW_MS + hour * HOUR_MS
        for run in (*bench.tick(now_ms), *bench.tick(now_ms)):  # two beats
            if bench.store.run(run.id).state == "queued":
                bench.finish(run, now_ms)

    assert bench.windows("collect") == [(7.0 * week, 7.0 * week + 7) for week in range(8)]
    assert bench.windows("retrain") == [(14.0 * i, 14.0 * i + 14) for i in range(4)]
    assert {run.state for run in bench.store.runs()} == {"succeeded"}


def test_a_clock_set_a_year_ahead_and_back_costs_no_window_its_run() -> None:
    bench = Bench()
    for day in range(60):
        now_ms = NOW_MS + day * DAY_MS + HOUR_MS
        if day == 20:
            for run in bench.tick(now_ms + 365 * DAY_MS):  # for one tick only
                bench.finish(run, now_ms + 365 * DAY_MS)
        for run in bench.tick(now_ms):
            bench.finish(run, now_ms)

    assert bench.windows("retrain") == [(14.0 * i, 14.0 * i + 14) for i in range(4)]
    assert bench.windows("collect") == [(7.0 * week, 7.0 * week + 7) for week in range(8)]
    void = [run for run in bench.store.runs() if run.state == "void"]
    assert void
    assert all("clock was ahead" in run.notes[-1].why for run in void)


def test_a_clock_set_back_runs_nothing_again() -> None:
    bench = Bench()
    for day in (14, 20, 3, 14, 15, 20, 21):
        now_ms = NOW_MS + day * DAY_MS + 2 * HOUR_MS
        for run in bench.tick(now_ms):
            bench.finish(run, now_ms)

    assert bench.windows("collect") == [(0.0, 7.0), (7.0, 14.0), (14.0, 21.0)]
    assert bench.windows("retrain") == [(0.0, 14.0)]


def test_after_an_absence_the_newest_fortnight_is_trained_on_and_says_how_many_were_missed() -> None:
    bench = Bench()

    bench.tick(NOW_MS + 57 * DAY_MS)

    assert bench.windows("retrain") == [(42.0, 56.0)]
    [run] = bench.store.runs(kind="retrain")
    assert run.notes[0].why == "its window is over; 3 before it had no run: nobody was there"
    assert len(bench.windows("collect")) == 8


def test_a_run_whose_worker_fell_silent_is_sent_again_and_one_that_is_held_is_not() -> None:
    bench = Bench(Schedule({}))
    run = bench.store.add(a_run())
    assert bench.tick(NOW_MS) == [run]
    held = edit(bench.store, run.id, lambda found: run_moves.claim(found, "w1", now_ms=NOW_MS, lease_ms=10_000))

    assert bench.tick(NOW_MS + 9_999) == []
    assert bench.tick(NOW_MS + 10_000) == [held]


def test_a_run_that_was_cancelled_while_its_worker_died_is_cancelled() -> None:
    bench = Bench(Schedule({}))
    run = bench.store.add(a_run())
    edit(bench.store, run.id, lambda found: run_moves.claim(found, "w1", now_ms=NOW_MS, lease_ms=10_000))
    edit(
        bench.store,
        run.id,
        lambda found: run_moves.cancel(found, who="ann", why="wrong", now_ms=NOW_MS, lease_ms=10_000),
    )

    assert bench.tick(NOW_MS + 1) == []
    assert bench.store.run(run.id).state == "running"
    assert bench.tick(NOW_MS + 10_000) == []
    assert bench.store.run(run.id).state == "cancelled"


def test_a_dead_run_is_a_gauge() -> None:
    bench = Bench(Schedule({}))
    run = bench.store.add(a_run(model="gauged", until_ms=NOW_MS - DAY_MS))
    edit(bench.store, run.id, lambda found: run_moves.claim(found, "w1", now_ms=NOW_MS, lease_ms=10_000))
    edit(
        bench.store,
        run.id,
        lambda found: run_moves.step_failed(found, "disk full", now_ms=NOW_MS, retry_in_ms=None, dead=True),
    )

    for day in range(LOOKED_AT):  # it stays one, whatever comes after it
        bench.store.add(a_run(model="gauged", kind="collect", until_ms=NOW_MS - day))
    bench.tick(NOW_MS)

    labels = {"model": "gauged", "kind": "retrain"}
    assert REGISTRY.get_sample_value("pipelines_runs", {**labels, "state": "dead"}) == 1
    assert REGISTRY.get_sample_value("pipelines_runs", {**labels, "state": "queued"}) == 0


def drifted(open_since_ms: int = NOW_MS, **changes: object) -> ShiftRecord:
    return a_shift_record(verdict="failed", alarms=(a_shift_alarm(open_since_ms=open_since_ms),), **changes)


def test_drift_asks_for_one_retraining_and_then_cools_down() -> None:
    bench = Bench(Schedule({}, RULE), verdicts=[drifted()])

    [run] = bench.tick(NOW_MS)
    assert (run.trigger, run.until_ms - run.since_ms) == ("drift", 14 * DAY_MS)
    assert run.notes[0].why.startswith("drift: ")
    bench.tick(NOW_MS + HOUR_MS)
    bench.finish(run, NOW_MS + HOUR_MS)
    bench.verdicts = [drifted(NOW_MS + DAY_MS)]
    bench.tick(NOW_MS + 3 * DAY_MS - 1)
    assert len(bench.store.runs()) == 1

    bench.tick(NOW_MS + 3 * DAY_MS)
    assert len(bench.store.runs()) == 2


def test_an_alarm_that_a_retraining_did_not_close_asks_for_no_second_one() -> None:
    run = a_run(now_ms=NOW_MS)

    ended = run_moves.step_failed(
        run_moves.claim(run, "w1", now_ms=NOW_MS, lease_ms=10_000), "x", now_ms=NOW_MS, retry_in_ms=None
    )
    assert drift_reason([ended], [drifted(NOW_MS - 1)], RULE, NOW_MS + 30 * DAY_MS) is None
    assert drift_reason([ended], [drifted(NOW_MS + 1)], RULE, NOW_MS + 30 * DAY_MS) is not None


@pytest.mark.parametrize("verdict", ["passed", "inconclusive", "errored"])
def test_only_a_failed_verdict_on_features_asks(verdict: str) -> None:
    assert drift_reason([], [a_shift_record(verdict=verdict)], RULE, NOW_MS) is None
    assert drift_reason([], [drifted(family="confidence")], RULE, NOW_MS) is None
    assert drift_reason([], [], RULE, NOW_MS) is None


def test_a_drift_board_that_is_away_stands_in_no_schedule_s_way() -> None:
    bench = Bench(Schedule(BOTH.periods, RULE), away=True)

    assert [run.kind for run in bench.tick(NOW_MS + 8 * DAY_MS)] == ["collect"]
