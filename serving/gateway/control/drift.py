"""Drift, its reports and its days: bodies and answers."""

from typing import Annotated, Any

import msgspec

from registry.contracts.drift import CalibrationRecord, Family, ShiftAlarm, ShiftKind, ShiftRecord
from registry.contracts.rollouts import Verdict
from serving.gateway.control.fields import Body


class ReportBody(Body, frozen=True):
    """A report of a closed day. day: its date, `2026-01-31`; by default the newest. arm: `champion`, or a challenger
    with its version, `challenger-2`."""

    day: Annotated[str, msgspec.Meta(max_length=32)] = ""
    arm: Annotated[str, msgspec.Meta(max_length=32)] = "champion"


class DriftReportLine(msgspec.Struct, frozen=True):
    """A report that is there. day, arm: its name. path: of its page, and with `?format=json` of its figures. alarms:
    open ones. against: `anchor` or `profile`. lists: of the day, that were looked at."""

    day: str
    arm: str
    version: int
    path: str
    since_ms: int
    until_ms: int
    made_ms: int
    verdicts: dict[str, Verdict]
    alarms: int
    against: str
    lists: int


class DriftReportWish(msgspec.Struct, frozen=True):
    """A report that is not there yet. state: `wanted`, or `failed`, after so many attempts, and why."""

    day: str
    arm: str
    state: str
    attempts: int = 0
    why: str = ""


class DriftReportList(msgspec.Struct, frozen=True):
    """The newest day first. waiting: those that somebody asked for, or that could not be made."""

    model: str
    plan_revision: int
    reports: tuple[DriftReportLine, ...]
    waiting: tuple[DriftReportWish, ...]


class DriftReportAnswer(msgspec.Struct, frozen=True):
    """A report's figures. about: what was looked at, and what the day came to. quantities: our figures of all of them.
    evidently: the metrics of its JSON, of those that it draws."""

    about: dict[str, Any]
    quantities: list[dict[str, Any]]
    evidently: list[dict[str, Any]]


class DriftAnswer(msgspec.Struct, frozen=True):
    """The newest closed day of each arm, family and segment, the newest first; empty before a day was closed.
    calibration: of the newest collected window; null before one. reports: of these days, those that are there."""

    model: str
    plan_revision: int
    records: tuple[ShiftRecord, ...]
    calibration: CalibrationRecord | None = None
    reports: tuple[DriftReportLine, ...] = ()


class RebaselineAnswer(msgspec.Struct, frozen=True):
    """The anchor is laid anew from the first day that begins at from_ms or later."""

    model: str
    plan_revision: int
    from_ms: int
    who: str
    why: str


class DriftDay(msgspec.Struct, frozen=True):
    """A closed day. version: that most of its lists were ranked by."""

    since_ms: int
    until_ms: int
    version: int
    verdict: Verdict
    why: str
    lists: int


class DriftRow(msgspec.Struct, frozen=True):
    """A quantity day by day. shifts: from the anchor, in standard deviations of single values (kind `mean`) or as a
    difference of shares; None where the day said nothing. cusums: the largest sum over its threshold; 1 and more, with
    a shift past the floor, is an alarm. floor: smallest shift that is alarmed on."""

    quantity: str
    kind: ShiftKind
    floor: float
    shifts: tuple[float | None, ...]
    cusums: tuple[float | None, ...]


class DriftDaysAnswer(msgspec.Struct, frozen=True):
    """A heat-map's numbers: days oldest first, rows that shifted most first. arms: that have days. total: rows that
    there are; fewer are shown if `?limit=` says so. alarms: that are open on the newest day."""

    model: str
    plan_revision: int
    arm: str
    family: Family
    arms: tuple[str, ...]
    days: tuple[DriftDay, ...]
    rows: tuple[DriftRow, ...]
    total: int
    alarms: tuple[ShiftAlarm, ...]
