"""Closed days as files, `<folder>/<model>/days/<arm>/<family>-<day>.json`: what every quantity did, day by day."""

from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, unquote

import msgspec

from drift.atomic_file import replace_file
from drift.days.figures import DayFigures
from drift.windows.reports import stamp
from drift.windows.shapes import CategoryShift, Shape
from registry.contracts.drift import Family, RowAges, ShiftKind, ShiftRecord

KEPT = 400
FOLDER = "days"


class QuantityDay(msgspec.Struct, frozen=True):
    """A quantity's shift from the anchor, from the profile before there is one, as `ShiftAlarm.effect`; None if the
    day said nothing of it. cusum: the largest sum over its threshold. mean, std: of the day's single values, a share's
    mean being the share; None where there was no value."""

    quantity: str
    kind: ShiftKind
    shift: float | None
    cusum: float
    mean: float | None = None
    std: float | None = None


class DayReport(msgspec.Struct, frozen=True):
    """shapes: how bins differ from the profile's, PSI and the like; categories, row_ages: of the family
    `features`. Shown, never decided on."""

    record: ShiftRecord
    quantities: tuple[QuantityDay, ...]
    shapes: tuple[Shape, ...] = ()
    schema: int = 1
    categories: tuple[CategoryShift, ...] = ()
    row_ages: RowAges | None = None

    @staticmethod
    def of(record: ShiftRecord, quantities: tuple[QuantityDay, ...], figures: DayFigures) -> "DayReport":
        """Of a day that was watched."""
        return DayReport(record, quantities, figures.shapes, categories=figures.categories, row_ages=figures.row_ages)


@dataclass(frozen=True, slots=True)
class DayReports:
    """kept: how many days of an arm and family stay; the oldest go first."""

    folder: Path
    kept: int = KEPT

    def write(self, report: DayReport) -> None:
        """Keeps the day; the same day again replaces itself. Raises OSError."""
        record = report.record
        home = self._home(record.model, record.arm if record.arm == "champion" else f"{record.arm}-{record.version}")
        path = home / f"{record.family}-{stamp(record.since_ms)}.json"
        replace_file(path, msgspec.json.format(msgspec.json.encode(report), indent=1))
        for old in sorted(home.glob(f"{record.family}-*.json"))[: -self.kept]:  # the times in their names sort
            old.unlink(missing_ok=True)

    def read(self, model: str, arm: str = "champion", family: Family = "features", newest: int = 14) -> list[DayReport]:
        """Days, oldest first; arm: of a challenger with its version, `challenger-2`. Raises OSError."""
        files = sorted(self._home(model, arm).glob(f"{family}-*.json"))[-newest:]
        return [msgspec.json.decode(file.read_bytes(), type=DayReport) for file in files]

    def day(self, model: str, arm: str, family: Family, since_ms: int) -> DayReport | None:
        """The day that began then; arm as in `read`. Raises OSError."""
        try:
            content = (self._home(model, arm) / f"{family}-{stamp(since_ms)}.json").read_bytes()
        except FileNotFoundError:
            return None
        return msgspec.json.decode(content, type=DayReport)

    def arms(self, model: str) -> list[str]:
        """Those that have days, as `read` takes them; the champion's first. Raises OSError."""
        home = self.folder / model / FOLDER
        found = [unquote(one.name) for one in home.iterdir()] if home.exists() else []
        return sorted(found, key=lambda arm: (arm != "champion", arm))

    def _home(self, model: str, arm: str) -> Path:
        return self.folder / model / FOLDER / quote(arm, safe="")
