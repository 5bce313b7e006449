"""`sluice drift show|days|rebaseline`: what closed days came to, and declared changes of features."""

import getpass
import os
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from deploy import wiring
from deploy.commands.drift_explain import explain
from deploy.commands.drift_figures import print_figures
from deploy.commands.promote import AsJson, Model, Why
from deploy.errors import SluiceError
from deploy.machine.lifecycle import running
from deploy.settings import PlatformSettings
from registry.errors import RegistryError

if TYPE_CHECKING:
    from drift.days.reports import DayReport
    from registry.contracts.drift import CalibrationRecord, Family, ShiftAlarm, ShiftRecord
    from registry.drift_board import DriftBoard

drift = typer.Typer(help="Closed days: show what they came to, rebaseline after a change of features.")
drift.command()(explain)
_FLOORS = {"mean": 0.1, "missing_share": 0.05, "zero_share": 0.05}
_COLOURS = {"passed": "green", "failed": "bold red", "inconclusive": "yellow", "errored": "red"}


@drift.command()
def show(model: Model, as_json: AsJson = False) -> None:
    """The newest closed day of every arm, and the alarms that are open. Exit code 1 if one is."""
    try:
        records = _board().latest(model)
    except RegistryError as error:
        raise SluiceError(str(error), "sluice status") from error
    if not records:
        raise SluiceError(f"no day of {model!r} was closed yet", "days of traffic, and a version with a profile")
    if as_json:
        typer.echo(msgspec.json.encode(records).decode())
    else:
        print_records(Console(), records)
        if (calibration := _board().calibrations().get(model)) is not None:
            Console().print(calibration_line(calibration), highlight=False)
    raise typer.Exit(1 if any(record.open_alarms for record in records) else 0)


@drift.command()
def calibration(model: Model, as_json: AsJson = False) -> None:
    """Whether clicks of the newest collected window came as often as scores said: nothing on how good they rank."""
    try:
        record = _board().calibrations().get(model)
    except RegistryError as error:
        raise SluiceError(str(error), "sluice status") from error
    if record is None:
        raise SluiceError(f"no window of {model!r} was collected yet", "`sluice runs list`, or wait for the week's end")
    if as_json:
        typer.echo(record.encode().decode())
        return
    console = Console()
    console.print(calibration_line(record), highlight=False)
    console.print(
        f"  mapping of scores fitted on {_time(record.fitted_since_ms)} to {_time(record.fitted_until_ms)}, held "
        f"against {record.lists} lists with {record.clicks} {'simulated ' if record.simulated else ''}clicks until "
        f"{_time(record.until_ms)}",
        highlight=False,
    )
    if record.bins:
        console.print(
            f"  calibration error {record.error:.4f} clicks an examined item beyond noise; plain {record.plain:.4f}, "
            f"of which chance alone makes {record.by_chance:.4f}",
            highlight=False,
        )
        table = Table(box=None, pad_edge=False, header_style="bold")
        for title in ("expected", "came", "+-", "share of looks"):
            table.add_column(title, justify="right")
        for one in record.bins:
            table.add_row(f"{one.predicted:.4f}", f"{one.observed:.4f}", f"{one.error:.4f}", f"{one.share:.0%}")
        console.print(table)


def calibration_line(record: "CalibrationRecord") -> str:
    """In one line, with its verdict."""
    colour = _COLOURS[record.verdict]
    told = f"{record.ratio:.2f} +- {record.ratio_error:.2f} clicks for each that scores said" if record.bins else ""
    words = "; ".join(filter(None, (told, escape(record.why))))
    return f"{escape(record.model)}@{record.version} calibration: [{colour}]{record.verdict}[/]  {words}"


@drift.command()
def days(
    model: Model,
    newest: Annotated[int, typer.Option("--days", help="How many.", min=1, max=60)] = 14,
    arm: Annotated[
        str, typer.Option(help="`champion`, or a challenger with its version: `challenger-2`.")
    ] = "champion",
    confidence: Annotated[bool, typer.Option("--confidence", help="Margin and entropy instead of features.")] = False,
    top: Annotated[int, typer.Option(help="How many quantities, those that shifted most.", min=1)] = 20,
) -> None:
    """How far each quantity lay from its anchor, day by day."""
    from drift.days.reports import DayReports

    settings = PlatformSettings.from_environment(os.environ)
    family: Family = "confidence" if confidence else "features"
    found = DayReports(settings.reports_folder / "drift").read(model, arm, family, newest)
    if not found:
        raise SluiceError(
            f"no day of {model!r}, {arm}, was closed yet", "days of traffic, and a version with a profile"
        )
    Console().print(heat_map(found, top))


def heat_map(reports: "Sequence[DayReport]", top: int) -> Table:
    """A row a quantity, those first that shifted most; a column a day."""
    shifts: dict[tuple[str, str], dict[int, float]] = {}
    for place, report in enumerate(reports):
        for one in report.quantities:
            if one.shift is not None:
                shifts.setdefault((one.quantity, one.kind), {})[place] = one.shift
    table = Table("quantity", box=None, pad_edge=False, header_style="bold")
    for report in reports:
        table.add_column(f"{datetime.fromtimestamp(report.record.since_ms / 1000, UTC):%d.%m.}", justify="right")
    order = sorted(shifts, key=lambda key: -max(map(abs, shifts[key].values())) / _FLOORS[key[1]])
    for quantity, kind in order[:top]:
        by_day = shifts[quantity, kind]
        name = quantity if kind == "mean" else f"{quantity} {kind.replace('_', ' ')}"
        cells = [_cell(by_day.get(place), kind) for place in range(len(reports))]
        table.add_row(escape(name), *cells)
    return table


def _cell(shift: float | None, kind: str) -> str:
    if shift is None:
        return ""
    floors = abs(shift) / _FLOORS[kind]
    colour = "bold red" if floors >= 2 else "red" if floors >= 1 else "yellow" if floors >= 0.5 else "dim"
    return f"[{colour}]{shift:+.2f}[/]"


@drift.command()
def rebaseline(model: Model, why: Why) -> None:
    """Say that the model's features mean something else from now on: what they look like is learnt anew."""
    from registry.contracts.drift import Rebaseline

    change = Rebaseline(model, time.time_ns() // 1_000_000, getpass.getuser(), why)
    try:
        _board().declare(change)
    except RegistryError as error:
        raise SluiceError(str(error), "sluice status") from error
    typer.echo(f"the anchor of {model} is laid anew from the first day that begins after now")


def print_records(console: Console, records: "Sequence[ShiftRecord]") -> None:
    """A line a record, then a table of its alarms."""
    for record in records:
        colour = _COLOURS[record.verdict]
        console.print(
            f"{escape(record.model)}@{record.version} {record.arm}{_part(record)}, {record.family}: "
            f"[{colour}]{record.verdict}[/]  "
            f"day to {_time(record.until_ms)}, {record.lists} lists, {record.days} days known",
            highlight=False,
        )
        if record.alarms:
            console.print(_alarms(record.alarms))
        elif record.why:
            console.print(f"  {escape(record.why)}", highlight=False)
        print_figures(console, record)


def _part(record: "ShiftRecord") -> str:
    return f" where {escape(record.segment)}" if record.segment else ""


def _alarms(alarms: "Sequence[ShiftAlarm]") -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("quantity", "what", "against", "shift", "cusum", "of", "weight", "began", "open since", ""):
        table.add_column(title, justify="right" if title in ("shift", "cusum", "of", "weight") else "left")
    for alarm in alarms:
        shift = f"{alarm.effect:+.2f} sd" if alarm.kind == "mean" else f"{100 * alarm.effect:+.1f} points"
        table.add_row(
            escape(alarm.quantity),
            alarm.kind.replace("_", " "),
            alarm.against,
            shift,
            f"{alarm.cusum:.1f}",
            f"{alarm.threshold:.1f}",
            f"{alarm.importance:.2f}",
            _time(alarm.onset_ms),
            _time(alarm.open_since_ms),
            "answered by retraining" if alarm.answered else "",
        )
    return table


def _board() -> "DriftBoard":
    from registry.drift_board import RedisDriftBoard

    return RedisDriftBoard(wiring.redis_client(running(PlatformSettings.from_environment(os.environ))[0]))


def _time(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms / 1000, UTC).isoformat(sep=" ", timespec="minutes").replace("+00:00", "Z")
