"""`sluice features load|show|stats`: stored rows, from files into Redis, and as they are there."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from deploy.client import GatewayClient
from deploy.commands.table import duration
from deploy.errors import NotRunning, SluiceError
from deploy.machine.lifecycle import running
from deploy.settings import PlatformSettings

if TYPE_CHECKING:
    from deploy.features.stats import ServingStats, ViewStats
    from registry.contracts.features import FeatureView

STORE_TIMEOUT_S = 5.0

features = typer.Typer(help="Stored feature rows: load files, show a row, count them.", no_args_is_help=True)

AsJson = Annotated[bool, typer.Option("--json", help="For scripts.")]
ViewFile = Annotated[Path | None, typer.Option("--view", help="The feature view, JSON.")]
OfModel = Annotated[str | None, typer.Option("--model", help="The view of NAME's champion, or of NAME@VERSION.")]


@features.command()
def load(
    files: Annotated[list[Path], typer.Argument(help="Parquet, CSV (.gz), Arrow or Feather.", metavar="FILE...")],
    view_file: ViewFile = None,
    model: OfModel = None,
    item_column: Annotated[str, typer.Option(help="The column of item ids.")] = "item",
    updated_ms: Annotated[
        int | None, typer.Option(help="When the values were true, ms since the epoch. Default: now.", min=0)
    ] = None,
    restart: Annotated[bool, typer.Option("--restart", help="From the first row, even after a cut.")] = False,
    as_json: AsJson = False,
) -> None:
    """Write files' rows into Redis, replacing older ones; worker memories follow within a second.

    Columns are found by name; null and NaN are missing values and become the default. A load that
    was cut off goes on where it was when it is started again.
    """
    settings = _running()
    if (view_file is None) == (model is None):
        raise typer.BadParameter("expected one of --view VIEW.json and --model NAME[@VERSION]")
    view = _view(settings, view_file, model)
    from deploy.features.ledger import LoadLedger
    from deploy.features.load import load_file
    from deploy.features.store import feature_client
    from pipelines.errors import DataRefused
    from pipelines.sources.feature_files import FeatureFile

    console = Console(stderr=True)
    done: list[dict[str, Any]] = []
    with _redis_errors("; the same command goes on where it stopped"):
        client = feature_client(settings, STORE_TIMEOUT_S)
        try:
            opened = [FeatureFile(path, view, item_column) for path in files]  # all, before any row is written
            for file in opened:
                if file.ignored:
                    console.print(f"{file.path}: columns that view {view.name!r} lacks: {', '.join(file.ignored)}")
                ledger = LoadLedger(settings.loads_folder, file.path, view, item_column)
                if restart:
                    ledger.forget()
                began_s = time.monotonic()
                with _bars(console) as bars:
                    bar = bars.add_task(file.path.name, total=file.rows)
                    report = load_file(
                        client,
                        view,
                        file,
                        ledger,
                        updated_ms if updated_ms is not None else _now_ms(),
                        lambda rows, bars=bars, bar=bar: bars.update(bar, completed=rows),  # type: ignore[misc]
                        given_ms=updated_ms is not None,
                    )
                    bars.update(bar, completed=report.rows, total=report.rows)
                done.append(
                    {
                        "file": str(file.path),
                        "view": view.name,
                        "fingerprint": view.fingerprint,
                        "rows": report.rows,
                        "resumed_rows": report.resumed_rows,
                        "updated_ms": report.updated_ms,
                        "ignored_columns": list(report.ignored),
                        "seconds": round(time.monotonic() - began_s, 3),
                    }
                )
        except DataRefused as error:
            raise SluiceError(str(error), "sluice features load --help") from error
    if as_json:
        typer.echo(msgspec.json.encode(done).decode())
        return
    for loaded in done:
        written = loaded["rows"] - loaded["resumed_rows"]
        went_on = f", {loaded['resumed_rows']} of them by an earlier load" if loaded["resumed_rows"] else ""
        rate = written / max(loaded["seconds"], 0.001)
        typer.echo(f"{loaded['file']}: {loaded['rows']} rows of view {view.name!r}{went_on} ({rate:.0f} rows/s)")


@features.command()
def show(
    view_name: Annotated[str, typer.Argument(help="Name of the feature view.", metavar="VIEW")],
    item: Annotated[str, typer.Argument(help="The item's id.")],
    view_file: ViewFile = None,
    model: OfModel = None,
    as_json: AsJson = False,
) -> None:
    """The row that Redis holds of an item. Exit code 1 if there is none.

    Without --view and --model, the view is looked for among the versions on this machine.
    """
    settings = _running()
    from deploy.features.store import feature_client
    from deploy.features.stored_row import stored_row
    from deploy.features.views import views_named

    with _redis_errors():
        if view_file is None and model is None:
            views = views_named(settings, view_name)
            if not views:
                raise SluiceError(f"no version on this machine has a feature view {view_name!r}", "--view VIEW.json")
        else:
            views = [_view(settings, view_file, model)]
            if views[0].name != view_name:
                raise SluiceError(f"that is feature view {views[0].name!r}, not {view_name!r}", "sluice features stats")
        row = stored_row(feature_client(settings, STORE_TIMEOUT_S), view_name, views, item, _now_ms())
    if as_json:
        shown = {"view": view_name, "item": item, "stored": row is not None} | (row.to_json() if row else {})
        typer.echo(msgspec.json.encode(shown).decode())
        if row is None:
            raise typer.Exit(1)
        return
    if row is None:
        raise SluiceError(f"item {item!r} is not stored in view {view_name!r}", "sluice features load")
    table = Table("column", "value", "", box=None, pad_edge=False, header_style="bold")
    for value in row.values:
        notes = ["missing: the default"] if value.missing else ["default"] if value.default else []
        if value.freshness_s is not None:
            state = "[red]stale[/]" if value.stale else "fresh"
            notes.append(f"{state}, limit {duration(value.freshness_s)}")
        table.add_row(value.column, f"{value.value:g}", ", ".join(notes))
    console = Console()
    console.print(
        f"{item} of view {view_name} (layout {row.fingerprint}), {duration(row.age_s)} old",
        markup=False,
        highlight=False,
    )
    console.print(table)


@features.command()
def stats(
    view_name: Annotated[str | None, typer.Argument(help="Only this view.", metavar="VIEW")] = None,
    as_json: AsJson = False,
) -> None:
    """Rows, bytes and ages by view, and what the tiers answered from memory."""
    settings = _running()
    from deploy.features.stats import store_stats
    from deploy.features.store import feature_client

    console = Console(stderr=True)
    with _redis_errors(), _bars(console) as bars:
        bar = bars.add_task("keys in Redis", total=None)
        stored = store_stats(
            feature_client(settings, STORE_TIMEOUT_S),
            view_name,
            _now_ms(),
            lambda seen, total: bars.update(bar, completed=seen, total=total),
        )
    serving = _serving(settings)
    if as_json:
        shown: dict[str, Any] = {
            "views": [of_view.to_json() for of_view in stored],
            "serving": serving.to_json() if serving else None,
        }
        typer.echo(msgspec.json.encode(shown).decode())
        return
    _tell_stats(Console(), stored, serving, view_name)


def _tell_stats(
    console: Console, stored: "list[ViewStats]", serving: "ServingStats | None", view_name: str | None
) -> None:
    table = Table("view", "rows", "MB", "age p0 / p50 / p99 / p100", "layouts", box=None, pad_edge=False)
    for found in stored:
        ages = " / ".join(duration(found.age_s[q]) for q in ("p0", "p50", "p99", "p100")) if found.age_s else ""
        layouts = ", ".join(f"{mark} {share:.0%}" for mark, share in found.layouts.items())
        table.add_row(found.view, str(found.rows), f"{found.bytes / 1e6:.2f}", ages, layouts)
    console.print(table if stored else "no rows are stored", highlight=False)
    if serving is None:
        console.print("no gateway answers: nothing is known of the tiers", highlight=False)
        return
    for tier, views in serving.lookups.items():
        for view, counts in sorted(views.items()):
            if view_name in (None, view) and (looked_up := counts["hit"] + counts["miss"]):
                share = counts["hit"] / looked_up
                console.print(f"{tier} tier  {view}: {share:.1%} of {looked_up} lookups hit", highlight=False)
    for title, by_name in (("missing", serving.missing), ("stale", serving.stale), ("refused", serving.refused)):
        for name, count in sorted(by_name.items()):
            console.print(f"{title} rows  {name}: {count}", highlight=False)


def _view(settings: PlatformSettings, view_file: Path | None, model: str | None) -> "FeatureView":
    from deploy import wiring
    from deploy.features.views import view_of_file, view_of_model

    if view_file is not None:
        return view_of_file(view_file)
    assert model is not None
    return view_of_model(settings, wiring.redis_client(settings), model)


def _serving(settings: PlatformSettings) -> "ServingStats | None":
    from deploy.features.stats import serving_stats

    try:
        with GatewayClient.of(settings, timeout_s=5.0) as gateway:
            return serving_stats(gateway.text("/metrics"))
    except NotRunning:
        return None


def _running() -> PlatformSettings:
    return running(PlatformSettings.from_environment(os.environ))[0]


@contextmanager
def _redis_errors(more: str = "") -> Iterator[None]:
    import redis

    try:
        yield
    except redis.RedisError as error:
        raise SluiceError(f"Redis: {error}", f"sluice status{more}") from error


def _bars(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description:<24}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        _Speed(),
        TimeElapsedColumn(),
        console=console,
        disable=not console.is_terminal,
    )


class _Speed(ProgressColumn):
    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text(f"{speed:,.0f}/s" if speed else "")


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
