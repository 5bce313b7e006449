"""Days as files: in order, replaced by themselves, the oldest gone first."""

from pathlib import Path

from drift.days.reports import DayReport, DayReports, QuantityDay
from drift.windows.judge import Shape
from tests.builders import NOW_MS, a_shift_record

DAY_MS = 86_400_000


def a_report(day: int, why: str = "", **changes: object) -> DayReport:
    since_ms = NOW_MS + day * DAY_MS
    record = a_shift_record(since_ms=since_ms, until_ms=since_ms + DAY_MS, why=why, **changes)
    return DayReport(record, (QuantityDay("f", "mean", 0.1, 0.5), QuantityDay("g", "mean", None, 0.0)), ())


def test_days_are_read_in_order_the_newest_of_them(tmp_path: Path) -> None:
    reports = DayReports(tmp_path)
    for day in (2, 0, 3, 1):
        reports.write(a_report(day))

    assert reports.read("codesearch", newest=3) == [a_report(1), a_report(2), a_report(3)]


def test_the_same_day_again_replaces_itself_and_the_oldest_go_first(tmp_path: Path) -> None:
    reports = DayReports(tmp_path, kept=2)
    for day, why in ((0, ""), (1, "one"), (1, "two"), (2, "")):
        reports.write(a_report(day, why))

    assert [report.record.why for report in reports.read("codesearch")] == ["two", ""]


def test_arms_and_families_lie_apart(tmp_path: Path) -> None:
    reports = DayReports(tmp_path)
    reports.write(a_report(0))
    reports.write(a_report(1, arm="challenger", version=2))
    reports.write(a_report(2, family="confidence"))

    assert reports.read("codesearch") == [a_report(0)]
    assert [report.record.version for report in reports.read("codesearch", "challenger-2")] == [2]
    assert len(reports.read("codesearch", family="confidence")) == 1
    assert reports.read("codesearch", "challenger-3") == reports.read("other") == []


def test_a_report_keeps_shapes_beside_the_verdict(tmp_path: Path) -> None:
    report = DayReport(a_shift_record(), (), (Shape("f", 0.3, 0.1, 0.2),))

    DayReports(tmp_path).write(report)

    assert DayReports(tmp_path).read("codesearch") == [report]
