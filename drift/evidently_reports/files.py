"""Reports as files, `<folder>/<model>/evidently/<arm>/<day>.about.json` and beside it `.html.gz` and `.json`.

The `about` comes last: what it stands for is whole. Other marks: `.wanted` by somebody, `.failed` how often and why.
"""

import gzip
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec

from drift.atomic_file import replace_file
from drift.evidently_reports.about import MadeReport, ReportAbout
from drift.windows.reports import stamp
from registry.contracts.drift import day_of

FOLDER = "evidently"
_ARM = re.compile(r"champion|challenger-[1-9]\d{0,17}")
_ABOUT, _FIGURES, _PAGE, _WANTED, _FAILED = ".about.json", ".json", ".html.gz", ".wanted", ".failed"

Form = Literal["html", "json"]


class Failed(msgspec.Struct, frozen=True):
    """attempts: so many have failed. at_ms: the last one. why: in its words."""

    attempts: int
    at_ms: int
    why: str


@dataclass(frozen=True, slots=True, order=True)
class ReportPlace:
    """Which report: a model's arm and the start of the day, ms since the epoch. Raises ValueError if that is no arm."""

    model: str
    arm: str
    since_ms: int

    def __post_init__(self) -> None:
        if not _ARM.fullmatch(self.arm):
            raise ValueError(f"arm={self.arm[:32]!r}: expected champion, or challenger-VERSION")


@dataclass(frozen=True, slots=True)
class EvidentlyReports:
    """kept: how many days of a model's arm stay, the oldest go first. All methods raise OSError if the disk does."""

    folder: Path
    kept: int

    def write(self, report: MadeReport) -> None:
        """Keeps it in place of one of the same day, and settles what was wanted."""
        about = report.about
        place = ReportPlace(about.model, about.arm, about.since_ms)
        # no time in it: the same page is the same file
        replace_file(self._file(place, _PAGE), gzip.compress(report.html.encode(), compresslevel=6, mtime=0))
        replace_file(self._file(place, _FIGURES), msgspec.json.format(msgspec.json.encode(report.figures), indent=1))
        replace_file(self._file(place, _ABOUT), msgspec.json.format(msgspec.json.encode(about), indent=1))
        self._settle(place)
        for old in sorted(self._home(place).glob(f"*{_ABOUT}"))[: -self.kept]:  # the times in their names sort
            for ending in (_ABOUT, _FIGURES, _PAGE):  # first of all, what says that it is there
                old.with_name(old.name.removesuffix(_ABOUT) + ending).unlink(missing_ok=True)

    def about(self, place: ReportPlace) -> ReportAbout | None:
        """None if there is no such report."""
        return _about(self._file(place, _ABOUT))

    def content(self, place: ReportPlace, form: Form) -> bytes | None:
        """Its page, gzipped, or its figures as JSON; None if there is no such report."""
        if self.about(place) is None:
            return None
        try:
            return self._file(place, _PAGE if form == "html" else _FIGURES).read_bytes()
        except FileNotFoundError:
            return None  # it has just become too old

    def there(self, model: str) -> list[ReportAbout]:
        """The model's, the newest day first."""
        files = (self.folder / model / FOLDER).glob(f"*/*{_ABOUT}")
        found = [about for path in files if (about := _about(path)) is not None]
        return sorted(found, key=lambda about: (-about.until_ms, about.arm))

    def want(self, place: ReportPlace) -> None:
        """Somebody waits for it, also after it has failed and if there is one, which is made anew."""
        self._file(place, _FAILED).unlink(missing_ok=True)
        replace_file(self._file(place, _WANTED), b"")

    def wanted(self, model: str) -> list[ReportPlace]:
        """What people wait for, the oldest day first."""
        found = (self.folder / model / FOLDER).glob(f"*/*{_WANTED}")
        return sorted(ReportPlace(model, path.parent.name, day_of(path.name.removesuffix(_WANTED))) for path in found)

    def is_wanted(self, place: ReportPlace) -> bool:
        """Whether somebody waits for it."""
        return self._file(place, _WANTED).exists()

    def fail(self, place: ReportPlace, failed: Failed) -> None:
        """The last attempt was in vain: it is nobody's wish any more."""
        replace_file(self._file(place, _FAILED), msgspec.json.encode(failed))
        self._file(place, _WANTED).unlink(missing_ok=True)

    def failures(self, model: str) -> list[tuple[ReportPlace, Failed]]:
        """Those whose last attempt failed, the newest day first."""
        files = (self.folder / model / FOLDER).glob(f"*/*{_FAILED}")
        places = [ReportPlace(model, path.parent.name, day_of(path.name.removesuffix(_FAILED))) for path in files]
        found = ((place, self.failed(place)) for place in sorted(places, key=lambda one: -one.since_ms))
        return [(place, failed) for place, failed in found if failed is not None]

    def failed(self, place: ReportPlace) -> Failed | None:
        """None if the last attempt did not fail, or there was none."""
        try:
            return msgspec.json.decode(self._file(place, _FAILED).read_bytes(), type=Failed)
        except FileNotFoundError:
            return None

    def _settle(self, place: ReportPlace) -> None:
        for mark in (_WANTED, _FAILED):
            self._file(place, mark).unlink(missing_ok=True)

    def _home(self, place: ReportPlace) -> Path:
        return self.folder / place.model / FOLDER / place.arm

    def _file(self, place: ReportPlace, ending: str) -> Path:
        return self._home(place) / f"{stamp(place.since_ms)}{ending}"


def _about(path: Path) -> ReportAbout | None:
    try:
        return msgspec.json.decode(path.read_bytes(), type=ReportAbout)
    except FileNotFoundError:
        return None
