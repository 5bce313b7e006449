"""Reports as files: there or not, the oldest gone first, and who waits for which."""

import gzip
from pathlib import Path

import msgspec
import pytest

from drift.evidently_reports.about import ReportFigures
from drift.evidently_reports.files import EvidentlyReports, Failed, ReportPlace
from tests.builders import NOW_MS
from tests.drift.made_reports import DAY_MS, a_made_report


def a_place(day: int, arm: str = "champion") -> ReportPlace:
    return ReportPlace("codesearch", arm, NOW_MS + day * DAY_MS)


@pytest.fixture
def reports(tmp_path: Path) -> EvidentlyReports:
    return EvidentlyReports(tmp_path, kept=2)


def test_a_report_is_read_as_it_was_made(reports: EvidentlyReports) -> None:
    made = a_made_report(a_place(0))
    assert (reports.about(a_place(0)), reports.content(a_place(0), "html"), reports.there("codesearch")) == (
        None,
        None,
        [],
    )

    reports.write(made)

    page, figures = (reports.content(a_place(0), form) for form in ("html", "json"))
    assert page and gzip.decompress(page).decode() == made.html
    assert figures and msgspec.json.decode(figures, type=ReportFigures) == made.figures
    assert (reports.about(a_place(0)), reports.there("codesearch")) == (made.about, [made.about])
    assert reports.about(a_place(0, "challenger-2")) is None


def test_what_a_kill_left_without_its_last_file_is_not_there(reports: EvidentlyReports) -> None:
    reports.write(a_made_report(a_place(0)))
    (about,) = reports.folder.rglob("*.about.json")
    about.unlink()

    assert (reports.about(a_place(0)), reports.content(a_place(0), "json"), reports.there("codesearch")) == (
        None,
        None,
        [],
    )


def test_the_oldest_days_of_an_arm_go_first(reports: EvidentlyReports) -> None:
    for day, arm in ((1, "champion"), (0, "champion"), (0, "challenger-2"), (2, "champion")):
        reports.write(a_made_report(a_place(day, arm)))

    there = [(about.arm, (about.since_ms - NOW_MS) // DAY_MS) for about in reports.there("codesearch")]
    assert there == [("champion", 2), ("champion", 1), ("challenger-2", 0)]
    assert len(list(reports.folder.rglob("*.html.gz"))) == 3


def test_a_wish_stays_until_it_is_fulfilled_or_has_failed(reports: EvidentlyReports) -> None:
    for day in (1, 0):
        reports.want(a_place(day))
    assert reports.wanted("codesearch") == [a_place(0), a_place(1)]

    reports.write(a_made_report(a_place(0)))
    reports.fail(a_place(1), failed := Failed(1, NOW_MS, "no list"))

    assert (reports.wanted("codesearch"), reports.failures("codesearch")) == ([], [(a_place(1), failed)])
    reports.want(a_place(1))
    assert (reports.is_wanted(a_place(1)), reports.failed(a_place(1))) == (True, None)


@pytest.mark.parametrize(
    "arm", ["", "..", "challenger", "challenger-0", "challenger-2/..", "champion-1", "interleaved"]
)
def test_an_arm_that_is_none_has_no_place(arm: str) -> None:
    with pytest.raises(ValueError, match="expected champion, or"):
        a_place(0, arm)
