"""Drift over the control API: reports as pages and figures, what is wanted, and declared changes."""

import base64
from collections.abc import Iterator
from pathlib import Path

import httpx
import msgspec
import pytest

from drift.days.reports import DayReport, DayReports
from drift.evidently_reports.files import Failed, ReportPlace
from registry.contracts.drift import Rebaseline, ShiftRecord
from tests.builders import NOW_MS, a_shift_alarm, a_shift_record
from tests.deploy.control_desk import MODEL, ControlBench, a_control_bench
from tests.drift.made_reports import a_made_report

WHY = {"why": "prices are in cents now"}
DAY_MS = 86_400_000
REPORTS = "/drift/reports"
PAGE = "<script>draw('é')</script>"
SCRIPTS = ("sha256-AAAA",)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[ControlBench]:
    with a_control_bench(tmp_path) as bench:
        yield bench


def a_place(day: int, arm: str = "champion") -> ReportPlace:
    return ReportPlace(MODEL, arm, NOW_MS + day * DAY_MS)


def make(bench: ControlBench, day: int, arm: str = "champion", page: str = PAGE) -> None:
    made = a_made_report(a_place(day, arm), page)
    record = a_shift_record(verdict="failed", alarms=(a_shift_alarm(),))
    about = msgspec.structs.replace(made.about, scripts=SCRIPTS, records=(record,))
    bench.reports.write(type(made)(about, page, made.figures))


def close(bench: ControlBench, day: int, **changes: object) -> ShiftRecord:
    since_ms = NOW_MS + day * DAY_MS
    record = a_shift_record(since_ms=since_ms, until_ms=since_ms + DAY_MS, **changes)
    DayReports(bench.reports.folder).write(DayReport(record, ()))
    bench.drift.publish(record)
    return record


def told(response: httpx.Response, status: int) -> str:
    assert response.status_code == status, response.text
    return str(response.json()["error"])


def test_reports_are_listed_the_newest_first_with_their_paths(bench: ControlBench) -> None:
    for day, arm in ((0, "champion"), (1, "champion"), (1, "challenger-1")):
        make(bench, day, arm)

    lines = bench.get(REPORTS).json()["reports"]

    path = f"/v1/models/{MODEL}{REPORTS}/2026-01-0"
    expected = [
        ("2026-01-02", "challenger-1", f"{path}2?arm=challenger-1"),
        ("2026-01-02", "champion", f"{path}2"),
        ("2026-01-01", "champion", f"{path}1"),
    ]
    assert [(line["day"], line["arm"], line["path"]) for line in lines] == expected
    assert (lines[0]["verdicts"], lines[0]["alarms"], lines[0]["against"]) == ({"features": "failed"}, 1, "profile")
    assert all(bench.request("GET", line["path"]).status_code == 200 for line in lines)


def test_a_program_gets_figures_and_a_browser_the_page_that_may_run_its_own_scripts_only(bench: ControlBench) -> None:
    make(bench, 0)

    figures = bench.get(f"{REPORTS}/2026-01-01")
    page = bench.get(f"{REPORTS}/2026-01-01", headers={"accept": "text/html,*/*;q=0.8"})

    assert figures.json()["about"]["model"] == MODEL
    assert (page.text, page.headers["content-type"]) == (PAGE, "text/html; charset=utf-8")
    assert page.headers["content-encoding"] == "gzip"
    rules = page.headers["content-security-policy"]
    assert rules.startswith("default-src 'none'; script-src 'sha256-AAAA'; ")
    assert "sandbox allow-scripts allow-downloads" in rules
    assert page.headers["x-content-type-options"] == "nosniff"


def test_the_form_can_be_asked_for_and_who_does_not_unpack_gets_it_unpacked(bench: ControlBench) -> None:
    make(bench, 0)

    page = bench.get(f"{REPORTS}/2026-01-01", params={"format": "html"}, headers={"accept-encoding": "identity"})
    figures = bench.get(f"{REPORTS}/2026-01-01", params={"format": "json"}, headers={"accept": "text/html"})

    assert (page.content.decode(), page.headers.get("content-encoding")) == (PAGE, None)
    assert figures.json()["about"]["model"] == MODEL
    assert "expected html or json" in told(bench.get(f"{REPORTS}/2026-01-01", params={"format": "pdf"}), 400)


def test_the_latest_is_the_arm_s_newest_day(bench: ControlBench) -> None:
    for day, arm in ((0, "champion"), (1, "champion"), (5, "challenger-2")):
        make(bench, day, arm, page=f"<p>{arm} {day}</p>")

    def latest(**query: str) -> str:
        return bench.get(f"{REPORTS}/latest", params={"format": "html"} | query).text

    assert latest() == "<p>champion 1</p>"
    assert latest(arm="challenger") == latest(arm="challenger-2") == "<p>challenger-2 5</p>"
    assert "no report" in told(bench.get(f"{REPORTS}/latest", params={"arm": "challenger-3"}), 404)


def test_a_report_that_is_not_there_says_why(bench: ControlBench) -> None:
    path = f"{REPORTS}/2026-01-01"
    assert "`sluice drift report codesearch --day 2026-01-01` makes it" in told(bench.get(path), 404)

    bench.reports.want(a_place(0))
    assert "it is being made" in told(bench.get(path), 404)

    bench.reports.fail(a_place(0), Failed(3, NOW_MS, "the archive has no list of that day"))
    assert "no list of that day" in told(bench.get(path), 404)


@pytest.mark.parametrize(
    "day", ["2026-13-01", "yesterday", "20260101T000000000", "..%2f..%2f..%2fetc", "2026-01-01%00"]
)
def test_a_day_that_is_none_is_refused(bench: ControlBench, day: str) -> None:
    assert bench.get(f"{REPORTS}/{day}").status_code in (404, 422)


@pytest.mark.parametrize("arm", ["..", "challenger-2/../..", "interleaved", "challenger-"])
def test_an_arm_that_is_none_is_refused(bench: ControlBench, arm: str) -> None:
    assert "expected champion, or challenger-VERSION" in told(
        bench.get(f"{REPORTS}/2026-01-01", params={"arm": arm}), 400
    )


def test_a_browser_s_key_comes_as_a_password_and_for_pages_alone(bench: ControlBench) -> None:
    make(bench, 0)
    viewer = bench.key("viewer")
    basic = {"authorization": "Basic " + base64.b64encode(f"anybody:{viewer}".encode()).decode()}
    html = {"accept": "text/html"}

    def status(path: str, headers: dict[str, str], method: str = "GET") -> int:
        return bench.request(method, f"/v1/models/{MODEL}{path}", key="", headers=headers).status_code

    assert status(f"{REPORTS}/2026-01-01", basic | html) == 200
    assert status("/drift", basic) == 401
    assert status("/drift/rebaseline", basic, "POST") == 401
    asked = bench.get(f"{REPORTS}/2026-01-01", key="", headers=html)
    assert asked.status_code == 401
    assert asked.headers["www-authenticate"].startswith("Basic ")
    # a program is not asked for a password, as its browser would ask a person
    assert bench.get(f"{REPORTS}/2026-01-01", key="").headers["www-authenticate"].startswith("Bearer ")


def test_a_report_is_asked_for_by_an_operator_and_then_wanted(bench: ControlBench) -> None:
    close(bench, 0)
    close(bench, 1)
    close(bench, 1, arm="challenger", version=2)

    newest = bench.post(REPORTS, {})
    others = [bench.post(REPORTS, body) for body in ({"day": "2026-01-01"}, {"arm": "challenger-2"})]

    assert (newest.status_code, newest.json()["day"], newest.json()["state"]) == (202, "2026-01-02", "wanted")
    assert [one.status_code for one in others] == [202, 202]
    waiting = [(one["day"], one["arm"], one["state"]) for one in bench.get(REPORTS).json()["waiting"]]
    assert sorted(waiting) == [
        ("2026-01-01", "champion", "wanted"),
        ("2026-01-02", "challenger-2", "wanted"),
        ("2026-01-02", "champion", "wanted"),
    ]
    assert bench.post(REPORTS, {}, bench.key("viewer")).status_code == 403
    assert "was not closed" in told(bench.post(REPORTS, {"day": "2025-01-01"}), 404)
    assert "no day" in told(bench.post(REPORTS, {"arm": "challenger-7"}), 404)


def test_drift_names_the_reports_of_its_days_that_are_there(bench: ControlBench) -> None:
    close(bench, 0, verdict="failed", alarms=(a_shift_alarm(),))
    assert bench.get("/drift").json()["reports"] == []

    make(bench, 0)

    (line,) = bench.get("/drift").json()["reports"]
    assert line["path"] == close(bench, 0).report


def test_a_change_is_declared_once_and_told_again_by_its_key(bench: ControlBench) -> None:
    first = bench.post("/drift/rebaseline", WHY, idempotency_key="k1", x_on_behalf_of="Ann Lee")
    again = bench.post("/drift/rebaseline", WHY, idempotency_key="k1", x_on_behalf_of="Ann Lee")

    assert (first.status_code, again.headers["idempotency-replayed"]) == (200, "true")
    assert again.json() == first.json()
    who = "Ann Lee (key local)"
    assert bench.drift.declared(MODEL) == Rebaseline(MODEL, first.json()["from_ms"], who, WHY["why"])
    assert bench.post("/drift/rebaseline", {"why": "other"}, idempotency_key="k1").status_code == 422


def test_a_change_that_the_board_did_not_hear_of_is_declared_when_it_is_asked_for_again(bench: ControlBench) -> None:
    bench.away.add("board")
    assert "same Idempotency-Key" in told(bench.post("/drift/rebaseline", WHY, idempotency_key="k1"), 503)
    assert bench.drift.declared(MODEL) is None
    bench.away.clear()

    again = bench.post("/drift/rebaseline", WHY, idempotency_key="k1")

    declared = bench.drift.declared(MODEL)
    assert declared is not None
    assert (declared.from_ms, again.headers["idempotency-replayed"]) == (again.json()["from_ms"], "true")


def test_a_change_that_is_told_again_does_not_take_a_newer_one_s_place(bench: ControlBench) -> None:
    bench.post("/drift/rebaseline", WHY, idempotency_key="k1")
    newer = bench.post("/drift/rebaseline", {"why": "and back"}, idempotency_key="k2").json()

    bench.post("/drift/rebaseline", WHY, idempotency_key="k1")

    declared = bench.drift.declared(MODEL)
    assert declared is not None
    assert declared.why == newer["why"]


def test_only_an_operator_declares_and_with_a_reason(bench: ControlBench) -> None:
    assert bench.post("/drift/rebaseline", WHY, bench.key("viewer")).status_code == 403
    assert bench.post("/drift/rebaseline", WHY, bench.key("operator")).status_code == 200
    assert bench.post("/drift/rebaseline", {}).status_code == 400
