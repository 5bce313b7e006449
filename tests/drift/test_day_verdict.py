"""Four values: an alarm fails, too little says nothing, and only much quiet passes."""

import pytest

from drift.days.verdict import verdict_of
from tests.builders import a_shift_alarm

ENOUGH = {"lists": 200, "min_lists": 200, "days": 7, "min_days": 7}


def test_quiet_and_enough_passes() -> None:
    assert verdict_of((), **ENOUGH) == ("passed", "")


@pytest.mark.parametrize(("lists", "days", "why"), [(199, 7, "199 lists"), (200, 6, "6 days")])
def test_too_little_is_inconclusive(lists: int, days: int, why: str) -> None:
    verdict, told = verdict_of((), lists, 200, days, 7)

    assert verdict == "inconclusive"
    assert told.startswith(why)


def test_an_open_alarm_fails_even_on_a_thin_day() -> None:
    verdict, why = verdict_of((a_shift_alarm("price", effect=-0.21),), 0, 200, 1, 7)

    assert (verdict, why) == ("failed", "price: mean -0.21 sd from its anchor")


def test_an_answered_alarm_does_not_fail() -> None:
    assert verdict_of((a_shift_alarm(answered=True),), **ENOUGH) == ("passed", "")


def test_many_alarms_are_told_in_one_line() -> None:
    alarms = [a_shift_alarm(f"f{i}", kind="missing_share", effect=0.5) for i in range(7)]

    assert verdict_of(alarms, **ENOUGH)[1].endswith("f4: missing share +50.0 points from its anchor; and 2 more")
