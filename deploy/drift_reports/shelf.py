"""Reports as the control API shows them: found by their day's name, wanted, and how a page may be served."""

from collections.abc import Sequence
from dataclasses import dataclass

from deploy.control.errors import ControlRefused, NotThere
from deploy.drift_reports.make import place_of
from drift.days.reports import DayReports
from drift.evidently_reports.about import ReportAbout
from drift.evidently_reports.files import EvidentlyReports, Form, ReportPlace
from drift.evidently_reports.page import policy
from registry.contracts.drift import ShiftRecord, day_name, day_of, report_path
from serving.gateway.control.drift import DriftReportLine, DriftReportWish

LATEST = "latest"


@dataclass(frozen=True, slots=True)
class ReportShelf:
    """days: that were closed, of which reports can be made."""

    reports: EvidentlyReports
    days: DayReports

    def lines(self, model: str) -> tuple[DriftReportLine, ...]:
        """What is there, the newest day first."""
        return tuple(map(_line, self.reports.there(model)))

    def of(self, records: Sequence[ShiftRecord]) -> tuple[DriftReportLine, ...]:
        """Those of the records' days that are there."""
        found = (self.reports.about(place) for place in dict.fromkeys(map(place_of, records)))
        return tuple(_line(about) for about in found if about is not None)

    def waiting(self, model: str) -> tuple[DriftReportWish, ...]:
        """What is wanted, then what failed."""
        wanted = [DriftReportWish(day_name(one.since_ms), one.arm, "wanted") for one in self.reports.wanted(model)]
        failed = [
            DriftReportWish(day_name(one.since_ms), one.arm, "failed", why.attempts, why.why)
            for one, why in self.reports.failures(model)
        ]
        return (*wanted, *failed)

    def content(self, model: str, day: str, arm: str, form: Form) -> tuple[ReportAbout, bytes]:
        """day: its name, or `latest`; then arm may be `challenger`, whichever that was. A page is gzipped. Raises
        NotThere, ContractError."""
        if day == LATEST:
            places = [ReportPlace(model, one.arm, one.since_ms) for one in self.reports.there(model)]
            place = next((one for one in places if arm in (one.arm, one.arm.partition("-")[0])), None)
            if place is None:
                raise NotThere(f"no report of {model!r}, {arm[:32]}, is there: `sluice drift report {model}` makes one")
        else:
            place = _place(model, arm, day_of(day))
        about, content = self.reports.about(place), self.reports.content(place, form)
        if about is None or content is None:
            raise NotThere(
                f"no report of {model!r}, {place.arm}, {day_name(place.since_ms)} is there: {self._why(place)}"
            )
        return about, content

    def want(self, model: str, day: str, arm: str, newest: Sequence[ShiftRecord]) -> DriftReportWish:
        """day: empty for the newest that was closed. Raises NotThere, ContractError."""
        if day:
            place = _place(model, arm, day_of(day))
        else:
            places = [place_of(record) for record in newest if place_of(record).arm == arm]
            if not places:
                raise NotThere(f"no day of {model!r}, {arm[:32]}, was closed yet")
            place = places[0]
        if self.days.day(model, place.arm, "features", place.since_ms) is None:
            raise NotThere(
                f"{day_name(place.since_ms)} of {model!r}, {place.arm}, was not closed: see `sluice drift days`"
            )
        self.reports.want(place)
        return DriftReportWish(day_name(place.since_ms), place.arm, "wanted")

    def _why(self, place: ReportPlace) -> str:
        if self.reports.is_wanted(place):
            return "it is being made"
        if (failed := self.reports.failed(place)) is not None:
            return failed.why
        arm = "" if place.arm == "champion" else f" --arm {place.arm}"
        return f"`sluice drift report {place.model} --day {day_name(place.since_ms)}{arm}` makes it"


def page_headers(about: ReportAbout) -> dict[str, str]:
    """Of the page: it may run its own scripts, in an origin of its own, and ask nobody for anything."""
    rules = f"{policy(about.scripts)}; frame-ancestors 'self'; sandbox allow-scripts allow-downloads"
    return {"content-security-policy": rules, "x-content-type-options": "nosniff", "vary": "accept, accept-encoding"}


def _place(model: str, arm: str, since_ms: int) -> ReportPlace:
    try:
        return ReportPlace(model, arm, since_ms)
    except ValueError as error:
        raise ControlRefused(str(error)) from error


def _name(record: ShiftRecord) -> str:
    return f"{record.family} of {record.segment}" if record.segment else record.family


def _line(about: ReportAbout) -> DriftReportLine:
    arm = about.arm.partition("-")[0]
    return DriftReportLine(
        day=day_name(about.since_ms),
        arm=about.arm,
        version=about.version,
        path=report_path(about.model, arm, about.version, about.since_ms),
        since_ms=about.since_ms,
        until_ms=about.until_ms,
        made_ms=about.made_ms,
        verdicts={_name(record): record.verdict for record in about.records},
        alarms=sum(len(record.open_alarms) for record in about.records),
        against=about.against,
        lists=about.day.lists,
    )
