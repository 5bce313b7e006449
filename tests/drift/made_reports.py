"""Reports that nobody drew."""

from drift.evidently_reports.about import MadeReport, ReportAbout, ReportFigures, SampleAbout
from drift.evidently_reports.files import ReportPlace
from tests.builders import NOW_MS

DAY_MS = 86_400_000


def a_made_report(place: ReportPlace, html: str = "<p>é</p>") -> MadeReport:
    sample = SampleAbout(1, 1, 1)
    about = ReportAbout(
        *(place.model, place.arm, 1, place.since_ms, place.since_ms + DAY_MS, NOW_MS, (), "profile", sample, sample)
    )
    return MadeReport(about, html, ReportFigures(about, (), ()))
