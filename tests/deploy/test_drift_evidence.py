"""A challenger's drift is evidence against it only where it is its own, and large."""

import io
import math
from typing import Any

import msgspec
import pytest
from rich.console import Console

from deploy.commands.drift import heat_map, print_records
from deploy.verdicts.drift_evidence import KIND, DriftEvidence
from drift.days.reports import DayReport, QuantityDay
from pipelines.rollouts.canary import RollBack, decide
from pipelines.rollouts.guardrails import Sample
from registry.contracts.drift import QuantityFigures, RowAges, ShiftRecord
from registry.contracts.rollouts import Evidence, Verdict
from registry.drift_board import MemoryDriftBoard
from registry.traffic_control import MemoryControl
from tests.builders import NOW_MS, a_shift_alarm, a_shift_record
from tests.deploy.test_rank_evidence import start

LARGE = a_shift_alarm("price", effect=0.4)
SMALL = a_shift_alarm("price", effect=0.15)
LOST = a_shift_alarm("price", kind="missing_share", effect=0.9)
HALF_LOST = a_shift_alarm("price", kind="missing_share", effect=0.06)


def challenger(*alarms: Any, **changes: Any) -> ShiftRecord:
    verdict = "failed" if alarms else "passed"
    return a_shift_record(alarms=alarms, **({"arm": "challenger", "version": 2, "verdict": verdict} | changes))


def champion(*alarms: Any, **changes: Any) -> ShiftRecord:
    return a_shift_record(alarms=alarms, **({"verdict": "failed" if alarms else "passed"} | changes))


def kept(record: ShiftRecord, beside: ShiftRecord | None, control: MemoryControl) -> list[Evidence]:
    board = MemoryDriftBoard()
    if beside is not None:
        board.publish(beside)
    for _ in range(2):  # told again after a crash
        DriftEvidence(lambda: control, board).keep(record)
    return control.evidence("codesearch", kind=KIND)


@pytest.mark.parametrize(
    ("record", "beside", "verdict"),
    [
        (challenger(LARGE), champion(), "failed"),
        (challenger(LOST), champion(), "failed"),
        (challenger(LARGE), champion(a_shift_alarm("other")), "failed"),
        (challenger(LARGE), champion(SMALL), "inconclusive"),
        (challenger(SMALL), champion(), "inconclusive"),
        (challenger(HALF_LOST), champion(), "inconclusive"),
        (challenger(LARGE), None, "inconclusive"),
        (challenger(LARGE), champion(until_ms=NOW_MS), "inconclusive"),
        (challenger(LARGE), champion(verdict="errored"), "inconclusive"),
        (challenger(), champion(LARGE), "passed"),
        (challenger(verdict="errored", why="no profile"), champion(), "errored"),
    ],
)
def test_only_a_large_shift_that_the_champion_does_not_see_fails(
    record: ShiftRecord, beside: ShiftRecord | None, verdict: Verdict
) -> None:
    control = MemoryControl()
    rollout = start(control)

    (evidence,) = kept(record, beside, control)

    assert (evidence.verdict, evidence.is_of(rollout)) == (verdict, True)
    assert (evidence.made_ms, evidence.since_ms, evidence.until_ms) == (
        record.made_ms,
        record.since_ms,
        record.until_ms,
    )
    assert evidence.body["record"]["model"] == "codesearch"


def test_what_fails_rolls_the_challenger_back_and_says_why() -> None:
    control = MemoryControl()
    rollout = start(control)

    evidence = kept(challenger(LARGE), champion(), control)
    outcome = decide(rollout, evidence, Sample(), NOW_MS + 2 * 86_400_000)

    assert isinstance(outcome, RollBack)
    assert "in the challenger's arm alone: price (mean, +0.40)" in outcome.why


def test_a_day_that_began_before_the_rollout_does_not_roll_it_back() -> None:
    control = MemoryControl()
    rollout = start(control, at_ms=NOW_MS + 1)

    (evidence,) = kept(challenger(LARGE), champion(), control)

    assert (evidence.verdict, "began before the rollout" in evidence.why) == ("inconclusive", True)
    assert not isinstance(decide(rollout, [evidence], Sample(), NOW_MS + 2 * 86_400_000), RollBack)


@pytest.mark.parametrize(
    "record", [champion(LARGE), challenger(LARGE, family="confidence"), challenger(LARGE, version=9)]
)
def test_champions_confidence_and_versions_on_no_rollout_are_no_evidence(record: ShiftRecord) -> None:
    control = MemoryControl()
    start(control)

    assert kept(record, champion(), control) == []


def test_records_are_shown_with_their_alarms() -> None:
    console = Console(file=io.StringIO(), width=160)

    print_records(console, [champion(LARGE, LOST), challenger(verdict="inconclusive", why="3 days are known")])

    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "codesearch@1 champion, features: failed  day to 2026-01-02 00:00Z, 5000 lists, 29 days known" in text
    assert "price" in text and "+0.40 sd" in text and "+90.0 points" in text
    assert "3 days are known" in text


def test_what_is_only_shown_of_a_day_stands_beneath_its_verdict() -> None:
    far = QuantityFigures(
        "price", 0.31, 0.2, 0.45, math.log(2), jensen_shannon=0.12, new_share=0.025, newcomers=("price=9",)
    )
    near = QuantityFigures("length", -0.002, 0.01, 0.02, 0.0)
    ages = RowAges(90.0, 7300.0, 200_000.0, {"stale_rows": 0.02})
    record = msgspec.structs.replace(champion(), figures=(far, near), row_ages=ages)
    console = Console(file=io.StringIO(), width=160)

    print_records(console, [record, champion()])

    lines = [line.split() for line in console.file.getvalue().splitlines()]  # type: ignore[attr-defined]
    assert ["price", "+0.310", "0.200", "0.45", "sd", "x", "2.00", "0.120", "2.5", "%", "(price=9)"] in lines
    assert ["length", "-0.002", "0.010", "0.02", "sd", "x", "1.00"] in lines
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "rows were 90 s old (half), 2 h (95 %), 2.3 days (99 %); 2.0 % of answers had stale_rows" in text
    assert text.count("never alarmed on") == 1


def test_days_are_shown_beside_each_other_what_shifted_most_first() -> None:
    quiet, moved = (QuantityDay("length", "mean", shift, 0.1) for shift in (0.01, 0.02))
    lost = QuantityDay("price", "missing_share", 0.4, 3.0)
    unknown = QuantityDay("price", "missing_share", None, 0.0)
    reports = [DayReport(a_shift_record(), (quiet, unknown)), DayReport(a_shift_record(), (moved, lost))]
    console = Console(file=io.StringIO(), width=100)

    console.print(heat_map(reports, top=5))

    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert [line.split() for line in lines] == [
        ["quantity", "01.01.", "01.01."],
        ["price", "missing", "share", "+0.40"],
        ["length", "+0.01", "+0.02"],
    ]
