"""`sluice drift explain`: what tells a closed day apart from those before, by name."""

import os
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress
from rich.table import Table

from deploy.commands.promote import AsJson, Model
from deploy.commands.table import print_whole
from deploy.errors import SluiceError
from deploy.settings import PlatformSettings

if TYPE_CHECKING:
    from deploy.verdicts.day_explained import DayExplained
    from registry.contracts.profile import ReferenceProfile


def explain(
    model: Model,
    day: Annotated[
        datetime | None, typer.Option(help="Start of the day, UTC; the newest one if left out.", formats=["%Y-%m-%d"])
    ] = None,
    arm: Annotated[
        str, typer.Option(help="`champion`, or a challenger with its version: `challenger-2`.")
    ] = "champion",
    as_json: AsJson = False,
) -> None:
    """Whether a closed day can be told apart from those before, and by which features. Takes a minute or so.

    A classifier tries, list by list; it explains an alarm and raises none. Any two days differ a little: how well
    the earlier days are told apart from each other stands beside it.
    """
    from deploy.verdicts.day_explained import DayExplainer
    from drift.days.reports import DayReports
    from drift.errors import NothingToExplain
    from pipelines.archive.files import Archive
    from pipelines.errors import DataRefused
    from registry.artefacts import read
    from registry.contracts.errors import ContractError
    from registry.errors import RegistryError

    settings = PlatformSettings.from_environment(os.environ)

    def profile_of(name: str, version: int) -> "ReferenceProfile | None":
        folder = settings.versions_folder / name / str(version)
        return read(folder).profile if folder.exists() else None

    explainer = DayExplainer(
        Archive(settings.archive_folder), DayReports(settings.reports_folder / "drift"), profile_of
    )
    since_ms = None if day is None else round(day.replace(tzinfo=UTC).timestamp() * 1000)
    try:
        with Progress(console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task("telling days apart")
            found = explainer.explain(model, arm, since_ms, lambda done, of: bar.update(task, completed=done, total=of))
    except (NothingToExplain, DataRefused, RegistryError, ContractError) as error:
        raise SluiceError(str(error), "`sluice drift days`, or other --day and --arm") from error
    if as_json:
        typer.echo(msgspec.json.encode(found).decode())
    else:
        print_explained(Console(), found)


def print_explained(console: Console, found: "DayExplained") -> None:
    """What it came to in words, then the features."""
    told = found.explanation
    console.print(
        f"{escape(found.model)}@{found.version} {found.arm}, day of {_date(found.day)}, {told.lists} lists, against "
        f"{len(found.before)} days from {_date(found.before[0])} on",
        highlight=False,
    )
    usual = f"; earlier days among each other {min(told.usual):.2f} to {max(told.usual):.2f}" if told.usual else ""
    console.print(f"  told apart: AUC {told.auc:.2f} (0.50 is chance), p {told.p_value:.2g}{usual}", highlight=False)
    if not told.is_unusual:
        console.print("  no more different than days are")
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("feature")
    for title in ("AUC lost", "shift", "ks", "missing", "AUC without"):
        table.add_column(title, justify="right")
    for one in told.named:
        cells = (f"{one.auc_lost:.2f}", f"{one.shift:+.2f} sd", f"{one.ks:.2f}", f"{100 * one.missing:+.1f} points")
        table.add_row(escape(one.feature), *cells, f"{one.auc_without:.2f} (p {one.p_without:.2g})")
    print_whole(console, table)
    console.print("  these explain it" if told.explained else "  there is more to it than these")


def _date(at_ms: int) -> str:
    return f"{datetime.fromtimestamp(at_ms / 1000, UTC):%Y-%m-%d}"
