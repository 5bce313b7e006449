"""The page: what it runs is named by hash, what is ours stands on top, and a page in parts is refused."""

import base64
import hashlib

import numpy as np
import pytest

from drift.errors import ReportRefused
from drift.evidently_reports.about import ReportAbout, SampleAbout
from drift.evidently_reports.figures import figures_of
from drift.evidently_reports.head import head_of, title_of
from drift.evidently_reports.page import locked
from tests.builders import NOW_MS, a_shift_alarm, a_shift_record

PAGE = "<html><head><style></style></head><body><div></div><script>draw('<head><body>')</script></body></html>"
HOSTILE = "</p><script>alert(1)</script>"


def an_about(**changes: object) -> ReportAbout:
    record = a_shift_record(verdict="failed", why=HOSTILE, alarms=(a_shift_alarm(quantity=HOSTILE),))
    fields: dict[str, object] = {
        "model": "codesearch",
        "arm": "champion",
        "version": 1,
        "since_ms": NOW_MS,
        "until_ms": NOW_MS + 86_400_000,
        "made_ms": NOW_MS,
        "records": (record,),
        "against": "anchor",
        "day": SampleAbout(100, 800, 5000, (NOW_MS,)),
        "reference": SampleAbout(100, 800, 9000, (NOW_MS - 7 * 86_400_000,)),
    }
    return ReportAbout(**(fields | changes))  # type: ignore[arg-type]


def test_scripts_are_allowed_by_hash_and_nothing_else_is() -> None:
    page = locked(PAGE, "a title", "<p>ours</p>")

    digest = base64.b64encode(hashlib.sha256(b"draw('<head><body>')").digest()).decode()
    assert page.scripts == (f"sha256-{digest}",)
    meta = page.html.index(f"default-src 'none'; script-src 'sha256-{digest}';")
    assert meta < page.html.index("<style>") < page.html.index("<body><p>ours</p><div>")
    assert page.html.count("ours") == 1
    assert "<title>a title</title>" in page.html


@pytest.mark.parametrize(
    "page",
    [
        PAGE.replace("<script>", '<script src="https://elsewhere.example/x.js">'),
        PAGE.replace("<script>draw('<head><body>')</script>", ""),
        PAGE.replace("<body>", "<body><body>"),
    ],
)
def test_a_page_that_is_not_of_one_piece_is_refused(page: str) -> None:
    with pytest.raises(ReportRefused, match="not of one piece"):
        locked(page, "", "")


def test_words_of_others_are_words_on_the_page() -> None:
    figures = [figures_of(HOSTILE, np.arange(10.0), np.arange(5.0))]

    head = head_of(an_about(drawn=(HOSTILE,)), figures)

    assert "<script" not in head
    assert head.count("&lt;script&gt;") == 3  # why, alarm, figures


def test_the_page_says_what_is_compared_and_that_it_decides_nothing() -> None:
    anchored = head_of(an_about(), [])
    profiled = head_of(an_about(against="profile", reference=SampleAbout(4000, 0, 4000)), [])

    assert title_of(an_about()) == "codesearch@1, champion, 2026-01-01 (UTC)"
    assert "100 of the day's 5000 lists (800 shown items)" in anchored
    assert "100 of 9000 of the anchor's days of the same weekday (2025-12-25)" in anchored
    assert "the version's reference profile" in profiled
    assert "raises none" in anchored


def test_a_day_of_another_length_is_named_by_its_times() -> None:
    assert title_of(an_about(until_ms=NOW_MS + 20_000)).endswith("2026-01-01 00:00:00 to 2026-01-01 00:00:20 (UTC)")
