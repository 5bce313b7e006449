"""What the online gate hears of drift: failed days of the version, open or closed just before, and nothing else."""

import io

from rich.console import Console

from deploy.commands.drift import print_records
from deploy.verdicts.drift_alarms import STILL_OPEN_MS, open_alarms
from registry.drift_board import MemoryDriftBoard
from tests.builders import NOW_MS, a_shift_alarm, a_shift_record

DAY_MS = 86_400_000
CLOSED_MS = NOW_MS + DAY_MS  # when the day that is told ended


def a_board(verdict: str = "failed") -> MemoryDriftBoard:
    board = MemoryDriftBoard()
    board.publish(a_shift_record(verdict=verdict, alarms=(a_shift_alarm("length"),)))
    board.publish(a_shift_record(version=2, arm="challenger", verdict="passed"))
    return board


def test_a_failed_day_is_an_open_alarm_of_its_version() -> None:
    alarms = open_alarms(a_board())

    (told,) = alarms("codesearch", 1, CLOSED_MS, CLOSED_MS + DAY_MS)
    assert told == "drift of features of @1 (length)"
    assert alarms("codesearch", 2, CLOSED_MS, CLOSED_MS + DAY_MS) == []
    assert alarms("other", 1, CLOSED_MS, CLOSED_MS + DAY_MS) == []


def test_what_is_not_known_yet_or_long_over_is_no_alarm() -> None:
    alarms = open_alarms(a_board())

    assert alarms("codesearch", 1, NOW_MS, CLOSED_MS - 1) == []
    assert alarms("codesearch", 1, CLOSED_MS + STILL_OPEN_MS, CLOSED_MS + 2 * STILL_OPEN_MS) == []


def test_a_day_that_is_inconclusive_or_passed_is_no_alarm() -> None:
    for verdict in ("passed", "inconclusive", "errored"):
        assert open_alarms(a_board(verdict))("codesearch", 1, CLOSED_MS, CLOSED_MS + DAY_MS) == []


def test_open_alarms_are_shown_whole_on_a_narrow_terminal() -> None:
    shown = io.StringIO()
    record = a_shift_record(verdict="failed", alarms=(a_shift_alarm("bm25_of_the_module_best"),))
    print_records(Console(file=shown, width=80), [record])

    assert "…" not in shown.getvalue()
    assert "bm25_of_the_module_best" in shown.getvalue() and "sd" in shown.getvalue()
