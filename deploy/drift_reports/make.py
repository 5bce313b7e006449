"""One day's report, from the archive's lists of it and of its reference."""

from collections.abc import Callable
from dataclasses import dataclass

from deploy.drift_reports.rows import sampled
from drift.days.reports import DayReports
from drift.errors import ReportRefused
from drift.evidently_reports.about import MadeReport, ReferenceKind, ReportAbout, SampleAbout
from drift.evidently_reports.files import ReportPlace
from drift.evidently_reports.report import make_report
from drift.evidently_reports.sample import Lists
from drift.settings import WEEK, ReportSettings
from pipelines.archive.files import Archive
from registry.contracts.drift import Family, ShiftRecord
from registry.contracts.profile import ReferenceProfile

FAMILIES: tuple[Family, ...] = ("features", "confidence")
FEWEST = 100  # lists of an anchor: with fewer the profile tells more


@dataclass(frozen=True, slots=True)
class ReportSources:
    """What reports are made of. profile: a version's, None if it is not to be had; may raise RegistryError. shown: the
    newest records of a model on the drift board, which know of disagreement too."""

    archive: Archive
    days: DayReports
    profile: Callable[[str, int], ReferenceProfile | None]
    shown: Callable[[str], tuple[ShiftRecord, ...]]
    settings: ReportSettings

    def records(self, place: ReportPlace) -> tuple[ShiftRecord, ...]:
        """What the day came to, by family, then of segments; empty if it was not closed."""
        found = {
            (family, ""): day.record
            for family in FAMILIES
            if (day := self.days.day(place.model, place.arm, family, place.since_ms)) is not None
        }
        if not found:
            return ()
        newest = [one for one in self.shown(place.model) if place_of(one) == place and one.verdict != "errored"]
        return tuple((found | {(one.family, one.segment): one for one in newest}).values())

    def make(self, place: ReportPlace, now_ms: int) -> MadeReport:
        """The report. Raises ReportRefused if there is nothing to make it of, DataRefused if the archive is damaged."""
        records = self.records(place)
        if not records:
            raise ReportRefused(f"that day of {place.model!r}, {place.arm}, was not closed: see `sluice drift days`")
        record = records[0]
        profile = self.profile(place.model, record.version)
        if profile is None or not profile.features:
            raise ReportRefused(f"no reference profile of {place.model}@{record.version} was found")
        sample = sampled(
            *(self.archive, place.model, record.arm, record.version, profile),
            *([(record.since_ms, record.until_ms)], self.settings.lists),
        )
        day = sample.taken()
        if not len(day):
            raise ReportRefused("the archive has no list of that day that fits the profile: was it moved?")
        against, reference, about_reference = self._reference(record, profile)
        about = ReportAbout(
            model=place.model,
            arm=place.arm,
            version=record.version,
            since_ms=record.since_ms,
            until_ms=record.until_ms,
            made_ms=now_ms,
            records=records,
            against=against,
            day=SampleAbout(len(day), len(day.values), sample.offered, (record.since_ms,)),
            reference=about_reference,
        )
        names = [one.name for one in profile.features]
        return make_report(about, names, day, reference, self.settings.drawn)

    def _reference(
        self, record: ShiftRecord, profile: ReferenceProfile
    ) -> tuple[ReferenceKind, Lists | ReferenceProfile, SampleAbout]:
        """The anchor's days of that weekday, if the archive has them still; else the version's profile."""
        days = same_weekdays(record)
        if days:
            length_ms = record.until_ms - record.since_ms
            each = max(1, self.settings.lists // len(days))
            version = None if record.arm == "champion" else record.version
            samples = [
                sampled(self.archive, record.model, record.arm, version, profile, [(day, day + length_ms)], each)
                for day in days
            ]
            lists = Lists.none(len(profile.features))
            for sample in samples:
                lists = lists.beside(sample.taken())
            if len(lists) >= FEWEST:
                there = tuple(day for day, sample in zip(days, samples, strict=True) if sample.offered)
                offered = sum(sample.offered for sample in samples)
                return "anchor", lists, SampleAbout(len(lists), len(lists.values), offered, there)
        return "profile", profile, SampleAbout(profile.lists, 0, profile.lists)


def place_of(record: ShiftRecord) -> ReportPlace:
    """Where the report of the record's day is kept."""
    arm = record.arm if record.arm == "champion" else f"{record.arm}-{record.version}"
    return ReportPlace(record.model, arm, record.since_ms)


def same_weekdays(record: ShiftRecord) -> list[int]:
    """Starts of the anchor's days with the record's weekday, by its own length of a day, before it; none without an
    anchor."""
    week_ms = WEEK * (record.until_ms - record.since_ms)
    first = record.since_ms - (record.since_ms - record.anchor_since_ms) // week_ms * week_ms
    return [day for day in range(first, record.anchor_until_ms, week_ms) if day < record.since_ms]
