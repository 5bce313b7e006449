"""`sluice simulate`: the operating characteristics of every decision procedure, measured on simulated users."""

import os
import platform
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from deploy.errors import SluiceError
from deploy.settings import PlatformSettings

if TYPE_CHECKING:
    from deploy.simulation.running import Line, Wanted
    from deploy.simulation.world import World

_COLOURS = {"held": "green", "within error": "yellow", "missed": "bold red", "shown": "dim"}
_WIDTH = 112
_PACKAGES = ("numpy", "scipy", "sluice")


def simulate(
    only: Annotated[str, typer.Option(help="Of the table, these only: D1,D3.")] = "",
    runs: Annotated[int | None, typer.Option(help="Of each, instead of as many as it needs.", min=2)] = None,
    seed: Annotated[int, typer.Option(help="The same seed and data, the same table.", min=0)] = 0,
    quick: Annotated[
        bool, typer.Option("--quick", help="A minute instead of a quarter of an hour, and less sure.")
    ] = False,
    data: Annotated[
        Path | None,
        typer.Option(help="Judged data: a LETOR/SVMLight file or folder, or Parquet. Default: code search."),
    ] = None,
    queries: Annotated[int, typer.Option(help="Lists of the data, at most.", min=20, max=2000)] = 256,
    processes: Annotated[int | None, typer.Option(help="Default: one a core.", min=1)] = None,
    json: Annotated[Path | None, typer.Option(help="Where to keep the figures.")] = None,
) -> None:
    """Try the gates, the planner, rollouts and drift detectors on simulated users of real judged lists.

    Prints each figure with its standard error beside what it must reach. Exit code 1 if one is missed.
    """
    from deploy.simulation.running import encode
    from deploy.simulation.running import simulate as run

    console = Console(width=None if sys.stdout.isatty() else _WIDTH)
    what = _wanted(only, runs, quick)
    with _bars(console) as bars:
        world = _world(data, queries, seed, bars)
        tasks = {one.id: bars.add_task(one.id, total=one.runs) for one in what}
        lines = run(
            world,
            what,
            seed,
            processes or os.cpu_count() or 1,
            lambda id_, done, total: bars.update(tasks[id_], completed=done, total=total),
        )
    _show(console, lines, world, seed)
    if json is not None:
        json.write_bytes(encode(lines, world, seed, _about()) + b"\n")
    if missed := sorted({line.id for line in lines if line.standing == "missed"}):
        raise SluiceError(
            f"missed: {', '.join(missed)}",
            f"sluice simulate --only {','.join(missed)} --seed {seed + 1}, with more --runs",
        )


def _wanted(only: str, runs: int | None, quick: bool) -> "list[Wanted]":
    from deploy.simulation.characteristics import CHARACTERISTICS
    from deploy.simulation.running import wanted

    ids = [id_.strip().upper() for id_ in only.split(",") if id_.strip()]
    if unknown := [id_ for id_ in ids if id_ not in CHARACTERISTICS]:
        raise SluiceError(f"--only {unknown[0]}: not in the table", f"some of {', '.join(CHARACTERISTICS)}")
    return wanted(ids, runs, quick)


def _world(path: Path | None, queries: int, seed: int, bars: Progress) -> "World":
    from deploy.demo.datasets import load_data
    from deploy.simulation.world import World
    from pipelines.errors import DataRefused

    bar = bars.add_task("read the data", total=None)
    settings = PlatformSettings.from_environment(os.environ)
    found = load_data(settings, path, "simulation", lambda done, total: bars.update(bar, completed=done, total=total))
    bars.update(bar, completed=1, total=1)
    splits = found.splits
    try:
        return World.of((splits.train, splits.validation, splits.test), queries, seed)
    except DataRefused as error:
        raise SluiceError(str(error), "data with more judged lists") from error


def _show(console: Console, lines: "Sequence[Line]", world: "World", seed: int) -> None:
    console.print(f"{world.queries} lists of {world.name}, simulated users, seed {seed}", highlight=False)
    for id_, of_id in groupby(lines, lambda line: line.id):
        found = list(of_id)
        told = f"{found[0].runs} runs, {found[0].cpu_s:.0f} CPU s"
        console.print(f"\n[bold]{id_} {found[0].title}[/] [dim]({told})[/]", highlight=False, soft_wrap=True)
        table = Table(box=None, pad_edge=False, show_header=False)
        for width, right in ((40, False), (20, True), (16, False), (16, False), (12, False)):
            table.add_column(width=width, justify="right" if right else "left")
        for line in found:
            standing = "" if line.standing == "shown" else line.standing
            reference = f"[dim]{line.reference}[/]"
            table.add_row(line.what, line.measured, line.bar, reference, f"[{_COLOURS[line.standing]}]{standing}[/]")
        console.print(table)


def _bars(console: Console) -> Progress:
    return Progress(
        SpinnerColumn(finished_text="[green]✓"),
        TextColumn("{task.description:<14}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console,
    )


def _about() -> dict[str, str]:
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        **{name: version(name) for name in _PACKAGES},
    }
