"""What a report is of, and what it says: as files keep it and the API tells it."""

from dataclasses import dataclass
from typing import Any, Literal

import msgspec

from drift.evidently_reports.figures import ComparedQuantity
from registry.contracts.drift import ShiftRecord

SCHEMA = 1

ReferenceKind = Literal["anchor", "profile"]


class SampleAbout(msgspec.Struct, frozen=True):
    """Lists that were looked at. lists, rows: taken; of: that the archive has. days: start of each, ms since the epoch;
    empty of a profile, whose rows are laid out from its bins."""

    lists: int
    rows: int
    of: int
    days: tuple[int, ...] = ()


class ReportAbout(msgspec.Struct, frozen=True):
    """arm: `champion`, or a challenger with its version, `challenger-2`. since_ms, until_ms: the day, ms since the
    epoch. records: what it came to, features and confidence. day, reference: what was looked at. drawn: quantities of
    Evidently's page. scripts: `sha256-…` of all that it runs. evidently: its version."""

    model: str
    arm: str
    version: int
    since_ms: int
    until_ms: int
    made_ms: int
    records: tuple[ShiftRecord, ...]
    against: ReferenceKind
    day: SampleAbout
    reference: SampleAbout
    drawn: tuple[str, ...] = ()
    scripts: tuple[str, ...] = ()
    evidently: str = ""
    schema: int = SCHEMA


class ReportFigures(msgspec.Struct, frozen=True):
    """quantities: all, our figures. evidently: the metrics of those that are drawn, as its JSON has them."""

    about: ReportAbout
    quantities: tuple[ComparedQuantity, ...]
    evidently: tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class MadeReport:
    """One report in all its forms."""

    about: ReportAbout
    html: str
    figures: ReportFigures
