"""`sluice drift show|days|report|profile|rebaseline`: what closed days came to, and declared changes of features."""

import os
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from deploy import wiring
from deploy.commands.drift_explain import explain
from deploy.commands.drift_figures import print_figures
from deploy.commands.promote import AsJson, Model, OnceKey, Why
from deploy.commands.table import print_whole
from deploy.control.client import ControlClient, model_path
from deploy.drift_reports.parts import evidently_reports
from deploy.errors import SluiceError
from deploy.machine.lifecycle import running
from deploy.settings import PlatformSettings
from registry.contracts.errors import ContractError
from registry.errors import RegistryError

if TYPE_CHECKING:
    from drift.days.reports import DayReport
    from registry.contracts.drift import CalibrationRecord, Family, ShiftAlarm, ShiftRecord
    from registry.contracts.profile import ReferenceProfile
    from registry.drift_board import DriftBoard

drift = typer.Typer(help="Closed days: show what they came to, rebaseline after a change of features.")
drift.command()(explain)
Arm = Annotated[str, typer.Option(help="`champion`, or a challenger with its version: `challenger-2`.")]
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
        _print_reports(Console(), records)
        if (calibration := _board().calibrations().get(model)) is not None:
            Console().print(calibration_line(calibration), highlight=False)
    raise typer.Exit(1 if any(record.open_alarms for record in records) else 0)


def _print_reports(console: Console, records: "Sequence[ShiftRecord]") -> None:
    """Where Evidently's reports of the days with open alarms are."""
    from deploy.drift_reports.make import place_of

    settings = running(PlatformSettings.from_environment(os.environ))[0]
    reports = evidently_reports(settings)
    for place, path in dict.fromkeys((place_of(one), one.report) for one in records if one.open_alarms):
        there = reports.about(place) is not None
        told = f"{settings.gateway_url}{path}" if there else "in a minute or so, when the Celery worker has made it"
        console.print(f"report of {place.arm}: {told}", highlight=False, soft_wrap=True)


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
    arm: Arm = "champion",
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
    print_whole(Console(), heat_map(found, top))


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
def rebaseline(model: Model, why: Why, idempotency_key: OnceKey = "", as_json: AsJson = False) -> None:
    """Say that the model's features mean something else from now on: what they look like is learnt anew."""
    with ControlClient.of(os.environ) as control:
        path = model_path(model, "drift", "rebaseline")
        change = control.post(path, {"why": why}, idempotency_key=idempotency_key)
    if as_json:
        typer.echo(msgspec.json.encode(change).decode())
        return
    typer.echo(f"the anchor of {model} is laid anew from the first day that begins after {_time(change['from_ms'])}")


@drift.command()
def report(
    model: Model,
    day: Annotated[str, typer.Option(help="Its date, as 2026-01-31; default: the newest that was closed.")] = "",
    arm: Arm = "champion",
    as_html: Annotated[bool, typer.Option("--html", help="Evidently's page, on stdout or into --out.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Its figures, and ours of the same lists.")] = False,
    out: Annotated[Path | None, typer.Option(help="Into this file; one that ends with .html gets the page.")] = None,
    again: Annotated[bool, typer.Option("--again", help="Make it anew, also if it is there.")] = False,
    wait_s: Annotated[
        float, typer.Option("--wait", help="How many seconds to wait for one that is made.", min=0)
    ] = 600,
) -> None:
    """Evidently's report of a closed day, made if it is not there. Without --html, --json or --out: where it is."""
    if as_html and as_json:
        raise typer.BadParameter("expected one of them", param_hint="--html, --json")
    form = "json" if as_json or (out is not None and out.suffix == ".json") else "html"
    with ControlClient.of(os.environ) as control:
        found = _report_there(control, model, day, arm, again, wait_s)
        asked = f"{found['path']}{'&' if '?' in found['path'] else '?'}format={form}"
        content = control.fetch(asked) if as_html or as_json or out else b""
    if out is not None:
        out.write_bytes(content)
        typer.echo(f"{out}: {len(content)} bytes, {found['day']} of {model}, {found['arm']}")
    elif content:
        sys.stdout.buffer.write(content)
    else:
        verdicts = ", ".join(f"{family} {verdict}" for family, verdict in found["verdicts"].items())
        typer.echo(f"{found['day']} of {model}@{found['version']}, {found['arm']}: {verdicts}")
        typer.echo(f"{control.url}{found['path']}")


@drift.command()
def profile(
    model: Model,
    version: Annotated[int, typer.Argument(help="Of the model; default: its champion.", min=0)] = 0,
    against: Annotated[str, typer.Option(help="A closed day beside it, its date as 2026-01-31, or `newest`.")] = "",
    arm: Arm = "champion",
    as_json: AsJson = False,
) -> None:
    """What a version was made on: each feature's moments, shape and weight; with --against as that day was, too."""
    from deploy.commands.profile_table import profile_table
    from drift.days.reports import DayReports
    from registry.contracts.drift import day_of

    settings = PlatformSettings.from_environment(os.environ)
    found = _profile(settings, model, version)
    days: list[DayReport] = []
    if against:
        reports = DayReports(settings.reports_folder / "drift")
        for family in ("features", "confidence"):
            if against == "newest":
                days += reports.read(model, arm, family, newest=1)
            elif (closed := reports.day(model, arm, family, day_of(against))) is not None:
                days.append(closed)
        if not days:
            raise SluiceError(f"{against} of {model!r}, {arm}, was not closed", f"sluice drift days {model}")
    if as_json:
        told = {"profile": found, "days": days} if days else found
        typer.echo(msgspec.json.encode(told).decode())
        return
    console = Console()
    console.print(f"{escape(found.population)}, {found.lists} lists", highlight=False, soft_wrap=True)
    if days:
        record = days[0].record
        console.print(f"beside the day to {_time(record.until_ms)} of @{record.version}, {record.lists} lists")
    print_whole(console, profile_table(found, days))


def _profile(settings: PlatformSettings, model: str, version: int) -> "ReferenceProfile":
    """Of the copy on this machine, else from MLflow."""
    from registry.artefacts import read
    from registry.board import RedisBoard

    try:
        if not version:
            plan = RedisBoard(wiring.redis_client(running(settings)[0])).read().get(model)
            if plan is None:
                raise SluiceError(f"no model {model!r} is served", f"sluice drift profile {model} VERSION")
            version = plan.champion
        folder = settings.versions_folder / model / str(version)
        if folder.exists():
            return read(folder).profile
        return wiring.model_store(running(settings)[0]).package(model, version).profile
    except (RegistryError, ContractError) as error:
        raise SluiceError(f"{model}@{version}: {error}", "sluice models list") from error


def _report_there(
    control: ControlClient, model: str, day: str, arm: str, again: bool, wait_s: float, pause_s: float = 1.0
) -> Any:
    """The report's line, asked for and waited for if need be."""
    from registry.contracts.drift import day_name

    path, until_s, made_ms = model_path(model, "drift", "reports"), time.monotonic() + wait_s, -1
    if not day:
        closed = [one for one in control.get(model_path(model, "drift"))["records"] if _arm_of(one) == arm]
        if not closed:
            raise SluiceError(
                f"no day of {model!r}, {arm}, was closed yet", "days of traffic, a version with a profile"
            )
        day = day_name(closed[0]["since_ms"])
    asked = False
    while True:
        answer = control.get(path)
        line = next((one for one in answer["reports"] if (one["day"], one["arm"]) == (day, arm)), None)
        if line is not None and (not again or (asked and line["made_ms"] != made_ms)):
            return line
        wish = next((one for one in answer["waiting"] if (one["day"], one["arm"]) == (day, arm)), None)
        if not asked:
            made_ms, asked = line["made_ms"] if line else -1, True
            if wish is None or wish["state"] != "wanted":
                control.post(path, {"day": day, "arm": arm})
        elif wish is not None and wish["state"] == "failed":
            raise SluiceError(f"no report of {day} of {model}, {arm}: {wish['why']}", "sluice logs celery-worker")
        elif time.monotonic() >= until_s:
            raise SluiceError(f"the report of {day} of {model}, {arm}, is not there yet", "the same command again")
        time.sleep(pause_s)


def _arm_of(record: Any) -> str:
    return "champion" if record["arm"] == "champion" else f"{record['arm']}-{record['version']}"


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
            print_whole(console, _alarms(record.alarms))
        elif record.why:
            console.print(f"  {escape(record.why)}", highlight=False)
        print_figures(console, record)


def _part(record: "ShiftRecord") -> str:
    return f" where {escape(record.segment)}" if record.segment else ""


def _alarms(alarms: "Sequence[ShiftAlarm]") -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("quantity", "what", "against", "shift", "cusum", "of", "weight", "began", "open since", ""):
        right = title in ("shift", "cusum", "of", "weight")
        table.add_column(title, justify="right" if right else "left")
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
