"""What every drift board does: it shows the newest closed day of every arm, version and family."""

from typing import Any

import msgspec

from registry.contracts.drift import CalibrationRecord, Rebaseline, ReliabilityBin, ShiftRecord
from registry.drift_board import KEPT_MS, DriftBoard, latest_drift
from tests.builders import NOW_MS, a_shift_alarm, a_shift_record


def later(record: ShiftRecord, by_ms: int, **changes: object) -> ShiftRecord:
    """The same of a later day."""
    times = {"until_ms": record.until_ms + by_ms, "since_ms": record.since_ms + by_ms}
    return msgspec.structs.replace(record, **{**times, **changes})


def a_calibration(**changes: Any) -> CalibrationRecord:
    """One that passed, of one bin."""
    times = {"since_ms": 1, "until_ms": 2, "fitted_since_ms": 0, "fitted_until_ms": 1}
    figures = {"error": 0.0, "plain": 0.01, "by_chance": 0.01, "ratio": 1.0, "ratio_error": 0.02}
    fields: dict[str, Any] = {"model": "codesearch", "version": 1, "verdict": "passed", "why": "é", **times, **figures}
    bins = (ReliabilityBin(0.1, 0.11, 0.01, 1.0),)
    return CalibrationRecord(**(fields | {"simulated": False, "lists": 100, "clicks": 50, "bins": bins} | changes))


class DriftBoardSuite:
    """Subclasses supply the fixture `board`, an empty one."""

    def test_a_new_board_shows_nothing(self, board: DriftBoard) -> None:
        assert board.latest("codesearch") == ()
        assert board.declared("codesearch") is None
        assert latest_drift(board, "codesearch") == ()

    def test_it_shows_arms_versions_and_families_beside_each_other(self, board: DriftBoard) -> None:
        champion = a_shift_record(alarms=(a_shift_alarm(),), verdict="failed", why="é")
        confidence = a_shift_record(family="confidence")
        challengers = [later(a_shift_record(arm="challenger", version=version), version) for version in (2, 3)]
        for record in (champion, confidence, *challengers, a_shift_record(model="other")):
            board.publish(record)

        assert board.latest("codesearch") == (*reversed(challengers), confidence, champion)

    def test_a_later_day_replaces_an_earlier_one_and_not_the_other_way_round(self, board: DriftBoard) -> None:
        first = a_shift_record()
        second = later(first, 1, version=2)
        for record in (first, second, first):
            board.publish(record)

        assert board.latest("codesearch") == (second,)

    def test_a_day_told_again_shows_what_was_told_last(self, board: DriftBoard) -> None:
        board.publish(a_shift_record(why="one"))
        board.publish(a_shift_record(why="two"))

        assert [record.why for record in board.latest("codesearch")] == ["two"]

    def test_arms_that_are_silent_for_long_are_dropped(self, board: DriftBoard) -> None:
        board.publish(a_shift_record(arm="challenger", version=2))
        board.publish(newest := later(a_shift_record(), KEPT_MS + 1))

        assert board.latest("codesearch") == (newest,)

    def test_the_latest_drift_is_the_champion_s_or_that_of_a_version(self, board: DriftBoard) -> None:
        champion, confidence = a_shift_record(), a_shift_record(family="confidence")
        challenger = later(a_shift_record(arm="challenger", version=2), 5)
        for record in (champion, confidence, challenger):
            board.publish(record)

        assert set(latest_drift(board, "codesearch")) == {champion, confidence}
        assert latest_drift(board, "codesearch", version=2) == (challenger,)
        assert latest_drift(board, "codesearch", version=9) == ()

    def test_segments_stand_beside_the_whole_and_decide_nothing(self, board: DriftBoard) -> None:
        whole = a_shift_record()
        parts = [a_shift_record(segment=name, verdict="failed") for name in ("length<2", "2<=length")]
        for record in (*parts, whole):
            board.publish(record)

        assert set(board.latest("codesearch")) == {whole, *parts}
        assert latest_drift(board, "codesearch") == (whole,)

    def test_what_is_withdrawn_is_not_shown_and_all_else_is(self, board: DriftBoard) -> None:
        whole, part = a_shift_record(), a_shift_record(segment="length<2")
        for record in (whole, part):
            board.publish(record)

        board.withdraw(part)
        board.withdraw(a_shift_record(model="other"))

        assert board.latest("codesearch") == (whole,)

    def test_the_newest_declared_change_of_a_model_is_kept(self, board: DriftBoard) -> None:
        old, new = (Rebaseline("codesearch", NOW_MS + day, "anna", "units changed: é") for day in (0, 1))
        board.declare(old)
        board.declare(new)

        assert (board.declared("codesearch"), board.declared("other")) == (new, None)

    def test_the_newest_calibration_of_each_model_is_shown(self, board: DriftBoard) -> None:
        first, second, other = (
            a_calibration(until_ms=1),
            a_calibration(until_ms=2, ratio=1.2),
            a_calibration(model="other"),
        )
        for record in (first, second, first, other):
            board.calibrated(record)

        assert board.calibrations() == {"codesearch": second, "other": other}
