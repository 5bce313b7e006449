"""Which windows are due: laws over restarts, missed runs and clocks that are set."""

import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.runs.schedule import (
    DAY_MS,
    HOUR_MS,
    Period,
    RunWindow,
    before_their_time,
    due_windows,
    missed_windows,
    newest_window,
    startable,
)
from registry import run_moves
from tests.builders import NOW_MS, a_run

LEASE_MS = 10_000
ANCHOR_MS = int(datetime(2026, 1, 5, tzinfo=UTC).timestamp() * 1000)
EVERY_WEEK = Period(ANCHOR_MS, 7 * DAY_MS, settle_ms=HOUR_MS, at_most=8)
FORTNIGHTLY = Period(ANCHOR_MS, 14 * DAY_MS, settle_ms=HOUR_MS, newest_only=True)

periods = st.builds(
    Period,
    anchor_ms=st.integers(0, 3000),
    period_ms=st.integers(50, 500),
    settle_ms=st.integers(0, 300),
    newest_only=st.booleans(),
    at_most=st.integers(1, 10),
)
times = st.integers(0, 10_000)


def at(*day: int) -> int:
    return int(datetime(*day, tzinfo=UTC).timestamp() * 1000)  # type: ignore[misc, arg-type]


@given(periods, times, times)
def test_what_is_due_is_closed_of_this_schedule_and_not_known(period: Period, now_ms: int, born_ms: int) -> None:
    for window in due_windows(period, now_ms, [], born_ms):
        assert (window.since_ms - period.anchor_ms) % period.period_ms == 0
        assert window.until_ms - window.since_ms == period.period_ms
        assert window.until_ms + period.settle_ms <= now_ms
        assert window.since_ms >= period.anchor_ms
        assert window.until_ms > born_ms


@given(periods, st.lists(times, max_size=40))
def test_however_the_clock_is_set_no_window_is_run_twice(period: Period, looks_ms: list[int]) -> None:
    run: list[RunWindow] = []
    for now_ms in looks_ms:
        run += due_windows(period, now_ms, run, born_ms=0)

    assert len(set(run)) == len(run)


@given(periods, times, st.integers(1, 50))
def test_who_looks_often_enough_runs_every_window_in_order(period: Period, since_ms: int, count: int) -> None:
    run: list[RunWindow] = []
    start_ms = max(since_ms, period.anchor_ms)
    for now_ms in range(start_ms, start_ms + count * period.period_ms, max(1, period.period_ms // 3)):
        run += due_windows(period, now_ms, run, born_ms=start_ms)

    last = period.newest_closed(now_ms)
    wanted = [period.window(index) for index in range(max(0, last - count - 1), last + 1)]
    assert run == [window for window in wanted if window.until_ms > start_ms]


@given(periods, times, st.integers(0, 5000))
def test_a_clock_that_was_set_back_asks_for_nothing_that_it_asked_for_before(
    period: Period, now_ms: int, back_ms: int
) -> None:
    known: list[RunWindow] = []
    for moment_ms in (*range(0, now_ms, max(1, period.period_ms // 2)), now_ms):
        known += due_windows(period, moment_ms, known, born_ms=0)

    assert due_windows(period, max(0, now_ms - back_ms), known, born_ms=0) == []


def test_after_a_long_absence_all_weeks_are_collected_and_the_newest_fortnight_is_trained_on() -> None:
    now_ms = at(2026, 3, 2, 2)

    weeks = due_windows(EVERY_WEEK, now_ms, [], born_ms=at(2026, 2, 1))
    fortnights = due_windows(FORTNIGHTLY, now_ms, [], born_ms=at(2026, 1, 1))

    assert [window.until_ms for window in weeks] == [at(2026, 2, day) for day in (2, 9, 16, 23)] + [at(2026, 3, 2)]
    assert fortnights == [RunWindow(at(2026, 2, 16), at(2026, 3, 2))]
    assert missed_windows(FORTNIGHTLY, fortnights[0], [], born_ms=at(2026, 1, 1)) == 3
    assert missed_windows(FORTNIGHTLY, fortnights[0], [FORTNIGHTLY.window(1)], born_ms=at(2026, 1, 1)) == 1


def test_a_window_is_due_when_late_clicks_have_come() -> None:
    closed_ms = at(2026, 1, 19) + HOUR_MS

    assert due_windows(FORTNIGHTLY, closed_ms - 1, [], born_ms=0) == []
    assert due_windows(FORTNIGHTLY, closed_ms, [], born_ms=0) == [RunWindow(ANCHOR_MS, at(2026, 1, 19))]


def test_daylight_saving_time_moves_no_window() -> None:
    berlin = ZoneInfo("Europe/Berlin")
    before, after = datetime(2026, 3, 28, 12, tzinfo=berlin), datetime(2026, 3, 30, 12, tzinfo=berlin)
    assert after - before == timedelta(days=2)  # by the wall clock
    assert after.timestamp() - before.timestamp() == 47 * 3600  # and really

    windows = [FORTNIGHTLY.window(index) for index in range(26)]
    assert {window.until_ms % DAY_MS for window in windows} == {0}
    program = (
        "import time; from pipelines.runs.schedule import *;"
        f"print(time.localtime({at(2026, 7, 1) // 1000}).tm_hour, "
        f"due_windows({FORTNIGHTLY!r}, {at(2026, 7, 1)}, [], 0)[0].until_ms)"
    )
    told = {
        zone: subprocess.run(
            [sys.executable, "-c", program], env=os.environ | {"TZ": zone}, capture_output=True, text=True, check=True
        ).stdout.split()
        for zone in ("UTC", "America/New_York", "Asia/Kolkata")
    }
    assert {hour for hour, _ in told.values()} == {"0", "20", "5"}
    assert {until for _, until in told.values()} == {str(at(2026, 6, 22))}


def test_a_run_of_a_clock_that_was_ahead_is_found_when_the_clock_is_right_again() -> None:
    ahead, past = a_run(until_ms=NOW_MS + DAY_MS), a_run(until_ms=NOW_MS)

    assert before_their_time([ahead, past], NOW_MS) == [ahead]
    assert before_their_time([run_moves.void(ahead, now_ms=NOW_MS)], NOW_MS) == []
    assert before_their_time([ahead], NOW_MS + DAY_MS) == []


def test_of_a_model_one_run_at_a_time_is_taken_up_the_oldest_window_first() -> None:
    newer, older = a_run(until_ms=NOW_MS), a_run(until_ms=NOW_MS - DAY_MS)
    other = a_run(model="other")

    assert startable([newer, older, other], NOW_MS, LEASE_MS) == [older, other]
    begun = run_moves.claim(newer, "w1", now_ms=NOW_MS, lease_ms=LEASE_MS)
    assert startable([begun, older, other], NOW_MS, LEASE_MS) == [other]
    assert startable([begun, older, other], NOW_MS + LEASE_MS, LEASE_MS) == [begun, other]


def test_a_run_that_waits_for_its_next_attempt_holds_up_no_other() -> None:
    run = run_moves.claim(a_run(until_ms=NOW_MS - DAY_MS), "w1", now_ms=NOW_MS, lease_ms=LEASE_MS)
    waits = run_moves.step_failed(run, "disk full", now_ms=NOW_MS, retry_in_ms=1000)
    other = a_run(until_ms=NOW_MS)

    assert startable([waits, other], NOW_MS, LEASE_MS) == [other]
    assert startable([waits, other], NOW_MS + 1000, LEASE_MS) == [waits]


def test_asked_twice_within_the_hour_it_is_the_same_window() -> None:
    window = newest_window(14 * DAY_MS, NOW_MS + 5)

    assert window == newest_window(14 * DAY_MS, NOW_MS + HOUR_MS - 1) == RunWindow(NOW_MS - 14 * DAY_MS, NOW_MS)
    assert newest_window(14 * DAY_MS, NOW_MS + HOUR_MS) != window


def test_windows_within_a_span_lie_wholly_in_it() -> None:
    week = EVERY_WEEK.window

    assert EVERY_WEEK.within(week(1).since_ms, week(2).until_ms) == [week(1), week(2)]
    assert EVERY_WEEK.within(week(1).since_ms + 1, week(2).until_ms) == [week(2)]
    assert EVERY_WEEK.within(week(1).since_ms, week(1).until_ms - 1) == []


@pytest.mark.parametrize("wrong", [{"period_ms": 0}, {"settle_ms": -1}, {"at_most": 0}])
def test_a_schedule_that_makes_no_sense_is_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=f"schedule.{next(iter(wrong))}"):
        Period(**({"anchor_ms": 0, "period_ms": 1} | wrong))
