"""Runs in memory, on SQLite and on PostgreSQL; and their moves."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from registry import run_moves
from registry.contracts.errors import ContractError
from registry.contracts.runs import Run
from registry.errors import RunConflict
from registry.runs import MemoryRuns, RunStore, SqlRuns
from registry.traffic_control import SqlControl
from tests.builders import NOW_MS, a_run
from tests.suites.run_stores import LEASE_MS, RunStoreSuite, claimed

LATE_MS = NOW_MS + LEASE_MS


class TestMemoryRuns(RunStoreSuite):
    @pytest.fixture
    def store(self) -> RunStore:
        return MemoryRuns()


class TestRunsOnSqlite(RunStoreSuite):
    @pytest.fixture
    def store(self, tmp_path: Path) -> Iterator[RunStore]:
        with closing(SqlControl(f"sqlite:///{tmp_path}/control.db")) as control:
            yield SqlRuns(control.engine)


class TestRunsOnPostgres(RunStoreSuite):
    @pytest.fixture
    def store(self, postgres_url: str) -> Iterator[RunStore]:
        with closing(SqlControl(postgres_url)) as control:
            yield SqlRuns(control.engine)


def done(run: Run, **changes: Any) -> Run:
    return run_moves.step_done(run, {"n": 1}, "d" * 64, now_ms=NOW_MS, **changes)


def failed(run: Run, retry_in_ms: int | None = 100, **changes: Any) -> Run:
    return run_moves.step_failed(run, "disk full", now_ms=NOW_MS, retry_in_ms=retry_in_ms, **changes)


WORDS: dict[str, Any] = {"who": "ann", "why": "because", "now_ms": NOW_MS}


def test_a_run_goes_step_by_step_and_succeeds_after_the_last() -> None:
    run = a_run(steps=("one", "two"))
    run = done(claimed(run))
    assert (run.state, run.step.name, run.progress) == ("running", "two", 0.5)
    assert run_moves.free(run, NOW_MS, LEASE_MS)

    run = done(claimed(run))

    assert (run.state, run.progress, run.output_of("one"), run.lease) == ("succeeded", 1.0, {"n": 1}, 2)
    assert not run_moves.free(run, LATE_MS, LEASE_MS)


def test_an_outcome_ends_a_run_well_and_skips_what_is_left() -> None:
    run = done(claimed(a_run(steps=("gate", "register"))), outcome="not better")

    assert (run.state, run.outcome, [step.state for step in run.steps]) == (
        *("succeeded", "not better"),
        ["done", "skipped"],
    )


def test_a_lease_that_ran_out_is_anybody_s_and_one_that_lasts_nobody_else_s() -> None:
    run = claimed(a_run(), "w1")

    with pytest.raises(RunConflict, match="held by w1"):
        claimed(run, "w2", LATE_MS - 1)
    taken = claimed(run, "w2", LATE_MS)

    assert (taken.holder, taken.lease, taken.step.attempts) == ("w2", 2, 2)
    assert taken.notes[-1].why == "w1 fell silent"


def test_a_lease_of_a_clock_that_was_ahead_holds_nobody_up() -> None:
    ahead_ms = NOW_MS + 365 * 86_400_000
    run = claimed(a_run(), "w1", ahead_ms)

    assert claimed(run, "w2", NOW_MS).holder == "w2"


def test_a_step_that_gets_further_each_time_is_not_counted_as_failing_again_and_again() -> None:
    run, attempts = a_run(), []
    for progress in (0.2, 0.4, 0.4, 0.3, 0.6):
        run = claimed(run, now_ms=run.lease_until_ms or NOW_MS)
        attempts.append(run.step.attempts)
        run = run_moves.beat(run, progress, "", now_ms=run.lease_until_ms - 1, lease_ms=LEASE_MS)

    assert attempts == [1, 1, 1, 2, 3]
    assert claimed(run, now_ms=run.lease_until_ms).step.attempts == 1


def test_an_attempt_that_failed_waits_and_the_last_one_is_a_dead_letter() -> None:
    run = failed(claimed(a_run()))
    assert (run.state, run.error, run.step.error, run.retry_at_ms) == ("queued", "disk full", "disk full", NOW_MS + 100)
    assert not run_moves.free(run, NOW_MS + 99, LEASE_MS)

    run = claimed(run, now_ms=NOW_MS + 100)
    assert run.step.attempts == 2
    assert failed(run, None, dead=True).state == "dead"
    assert failed(run, None).state == "failed"


def test_cancelling_ends_what_nobody_works_on_at_once_and_the_rest_when_its_holder_hears_of_it() -> None:
    run = a_run(steps=("one", "two"))
    assert run_moves.cancel(run, **WORDS, lease_ms=LEASE_MS).state == "cancelled"

    held = run_moves.cancel(claimed(run), **WORDS, lease_ms=LEASE_MS)
    assert (held.state, held.cancelling) == ("running", True)
    assert run_moves.stopped(held, now_ms=NOW_MS).state == "cancelled"
    between = done(held)
    assert (between.state, between.steps[0].state) == ("cancelled", "done")
    assert failed(held).state == "cancelled"
    with pytest.raises(RunConflict, match="is cancelled"):
        run_moves.cancel(between, **WORDS, lease_ms=LEASE_MS)


def test_a_retry_goes_on_where_it_stopped_and_from_a_step_on_if_one_is_named() -> None:
    run = failed(claimed(done(claimed(a_run(steps=("one", "two", "three"))))), None)

    on = run_moves.retry(run, **WORDS)
    assert (on.state, on.step.name, on.step.attempts, on.steps[0].state) == ("queued", "two", 0, "done")
    again = run_moves.retry(run, **WORDS, from_step="one")
    assert (again.step.name, [step.redone for step in again.steps]) == ("one", [1, 1, 1])
    with pytest.raises(RunConflict, match="one, two, three"):
        run_moves.retry(run, **WORDS, from_step="four")


def test_what_succeeded_is_done_again_only_from_a_step_that_is_named() -> None:
    run = done(claimed(a_run(steps=("one",))))

    with pytest.raises(RunConflict, match="is succeeded"):
        run_moves.retry(run, **WORDS)
    assert run_moves.retry(run, **WORDS, from_step="one").state == "queued"


def test_a_step_whose_files_are_damaged_is_done_again_with_all_after_it() -> None:
    run = claimed(done(claimed(done(claimed(a_run(steps=("one", "two", "three")))))))

    again = run_moves.damaged(run, 1, now_ms=NOW_MS)

    assert [(step.state, step.redone) for step in again.steps] == [("done", 0), ("waiting", 1), ("waiting", 1)]
    assert run_moves.free(again, NOW_MS, LEASE_MS)


def test_notes_are_bounded_and_the_first_says_who_asked() -> None:
    run = a_run()
    for _ in range(60):
        run = failed(claimed(run, now_ms=LATE_MS))
    assert len(run.notes) == 50
    assert (run.notes[0].what, run.notes[-1].what) == ("asked", "failed")


def by_its_holder(run: Run, name: str, now_ms: int) -> Run:
    if name == "beat":
        return run_moves.beat(run, 0.5, "", now_ms=now_ms, lease_ms=LEASE_MS)
    if name == "stopped":
        return run_moves.stopped(run, now_ms=now_ms)
    return done(run) if name == "done" else failed(run)


moves = st.lists(st.sampled_from(["claim", "beat", "done", "fail", "cancel", "retry", "stopped"]), max_size=30)


@given(moves)
def test_whatever_happens_a_run_is_readable_and_every_move_is_one_revision(names: list[str]) -> None:
    run, now_ms = a_run(steps=("one", "two")), NOW_MS
    for name in names:
        before, now_ms = run, now_ms + LEASE_MS // 3
        try:
            if name == "claim":
                run = claimed(run, "w", now_ms)
            elif name == "cancel":
                run = run_moves.cancel(run, **(WORDS | {"now_ms": now_ms}), lease_ms=LEASE_MS)
            elif name == "retry":
                run = run_moves.retry(run, **(WORDS | {"now_ms": now_ms}))
            elif run_moves.held(run, now_ms, LEASE_MS):
                run = by_its_holder(run, name, now_ms)
        except RunConflict:
            assert run == before
        assert Run.decode(run.encode()) == run
        assert run.revision - before.revision == (run != before)
        assert run.state != "succeeded" or run.current is None
        assert run.lease_until_ms == 0 or run.state == "running"
        assert run.lease >= before.lease


def test_what_is_no_run_is_refused() -> None:
    with pytest.raises(ContractError, match="ends before"):
        replace(a_run(), until_ms=a_run().since_ms)
    with pytest.raises(ContractError, match="a step"):
        replace(a_run(), steps=())
    with pytest.raises(ContractError, match="not a run"):
        Run.decode(b"{}")
