"""Turns: which report is made next, what happens when one cannot be made, and that one is made at a time."""

import fcntl
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from deploy.drift_reports.make import ReportSources
from deploy.drift_reports.process import REFUSED
from deploy.drift_reports.turns import AGAIN_AFTER_MS, MOST_ATTEMPTS, ReportTurns
from drift.days.reports import DayReport, DayReports
from drift.evidently_reports.files import EvidentlyReports, ReportPlace
from drift.settings import ReportSettings
from pipelines.archive.files import Archive
from registry.contracts.drift import ShiftRecord, day_of
from tests.builders import NOW_MS, a_shift_alarm, a_shift_record
from tests.drift.made_reports import a_made_report

DAY_MS = 86_400_000


@dataclass
class Bench:
    """Closed days in a folder, and a process that makes a bare report, or ends as it is told."""

    folder: Path
    each_day: int = 0
    ends: list[tuple[int, str]] = field(default_factory=list)
    asked: list[tuple[str, ...]] = field(default_factory=list)
    shown: tuple[ShiftRecord, ...] = ()

    @property
    def reports(self) -> EvidentlyReports:
        return EvidentlyReports(self.folder, kept=30)

    @property
    def turns(self) -> ReportTurns:
        settings = ReportSettings(each_day=self.each_day)
        sources = ReportSources(
            Archive(self.folder), DayReports(self.folder), lambda *_: None, lambda _: self.shown, settings
        )
        return ReportTurns(sources, self.reports, lambda: ["codesearch"], self.process)

    def process(self, words: Sequence[str]) -> tuple[int, str]:
        self.asked.append(tuple(words))
        code, why = self.ends.pop(0) if self.ends else (0, "")
        if code == 0:
            self.reports.write(a_made_report(ReportPlace(words[0], words[1], day_of(words[2]))))
        return code, why

    def closed(self, day: int, alarmed: bool = False, **changes: object) -> ShiftRecord:
        since_ms = NOW_MS + day * DAY_MS
        alarms = (a_shift_alarm(),) if alarmed else ()
        record = a_shift_record(since_ms=since_ms, until_ms=since_ms + DAY_MS, alarms=alarms, **changes)
        DayReports(self.folder).write(DayReport(record, ()))
        return record

    def all_turns(self, now_ms: int = NOW_MS) -> list[str]:
        """Until nothing is due: names of the days that were tried."""
        tried = []
        while True:
            before = len(self.asked)
            self.turns.turn(now_ms)
            if len(self.asked) == before:
                return tried
            tried.append(" ".join(self.asked[-1][1:]))


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def test_days_with_an_open_alarm_have_their_report_the_newest_first(bench: Bench) -> None:
    for day, alarmed in ((0, True), (1, True), (2, False), (3, True)):
        bench.closed(day, alarmed)
    bench.closed(3, True, arm="challenger", version=2)

    tried = bench.all_turns()

    # of each arm the newest three are looked at
    assert tried == ["champion 2026-01-04", "challenger-2 2026-01-04", "champion 2026-01-02"]
    assert bench.turns.due(["codesearch"], NOW_MS) is None


def test_an_alarm_on_confidence_counts_and_one_that_the_board_alone_knows(bench: Bench) -> None:
    bench.closed(0)
    bench.closed(0, True, family="confidence")
    bench.closed(1)
    disagreeing = bench.closed(1, family="confidence")
    bench.shown = (a_shift_record(**_times(disagreeing), family="confidence", alarms=(a_shift_alarm(),)),)

    assert bench.all_turns() == ["champion 2026-01-02", "champion 2026-01-01"]


def _times(record: ShiftRecord) -> dict[str, int]:
    return {"since_ms": record.since_ms, "until_ms": record.until_ms}


def test_told_so_every_day_has_one(bench: Bench) -> None:
    bench.each_day = 1
    for day in (0, 1):
        bench.closed(day)

    assert bench.all_turns() == ["champion 2026-01-02", "champion 2026-01-01"]


def test_what_somebody_waits_for_goes_first_and_is_made_anew(bench: Bench) -> None:
    bench.closed(0)
    bench.closed(1, alarmed=True)
    bench.all_turns()

    for day in (1, 0):
        bench.reports.want(ReportPlace("codesearch", "champion", NOW_MS + day * DAY_MS))

    assert bench.all_turns() == ["champion 2026-01-01", "champion 2026-01-02"]
    assert bench.reports.wanted("codesearch") == []


def test_what_fails_is_tried_again_later_each_time_and_then_left(bench: Bench) -> None:
    bench.closed(0, alarmed=True)
    bench.ends = [(1, "killed")] * 9
    tried_ms = []

    for step in range(200):
        now_ms = NOW_MS + step * AGAIN_AFTER_MS // 4
        if bench.all_turns(now_ms):
            tried_ms.append((now_ms - NOW_MS) / AGAIN_AFTER_MS)

    assert tried_ms == [0, 1, 5]
    ((place, failed),) = bench.reports.failures("codesearch")
    assert (failed.attempts, failed.why) == (MOST_ATTEMPTS, "killed")
    bench.ends = []
    bench.reports.want(place)
    assert bench.all_turns() == ["champion 2026-01-01"]
    assert bench.reports.failures("codesearch") == []


def test_what_is_refused_is_not_tried_again(bench: Bench) -> None:
    bench.closed(0, alarmed=True)
    bench.ends = [(REFUSED, "the archive has no list of that day")]

    assert bench.all_turns() == ["champion 2026-01-01"]
    assert bench.all_turns(NOW_MS + 30 * DAY_MS) == []


def test_a_wish_that_fails_is_no_wish_any_more(bench: Bench) -> None:
    bench.closed(0)
    bench.ends = [(REFUSED, "why not")]
    bench.reports.want(ReportPlace("codesearch", "champion", NOW_MS))

    assert bench.all_turns() == ["champion 2026-01-01"]
    assert [failed.why for _, failed in bench.reports.failures("codesearch")] == ["why not"]


def test_while_somebody_makes_one_nobody_else_does(bench: Bench) -> None:
    bench.closed(0, alarmed=True)
    bench.turns.turn(NOW_MS - 1)
    bench.reports.want(ReportPlace("codesearch", "champion", NOW_MS))
    lock = bench.folder / ".making-reports"

    with lock.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert bench.turns.turn(NOW_MS) == []
    assert bench.turns.turn(NOW_MS) == ["codesearch/champion/2026-01-01"]
