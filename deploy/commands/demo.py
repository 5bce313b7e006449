"""`sluice demo`."""

import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from deploy.errors import NotRunning, SluiceError
from deploy.features.url import without_password
from deploy.machine import lifecycle
from deploy.settings import PlatformSettings

if TYPE_CHECKING:
    from deploy.demo.chain import DemoData, DemoReport

START_WITHIN_S = 240.0
STOP_WITHIN_S = 60.0
Told = Callable[[int, int], None]
T = TypeVar("T")


def demo(
    data: Annotated[
        Path | None,
        typer.Option(help="Judged data: a LETOR/SVMLight file or folder, or Parquet. Default: code search."),
    ] = None,
    model: Annotated[str | None, typer.Option(help="Name to serve under. Default: from the data.")] = None,
    exit: Annotated[bool, typer.Option("--exit", help="Stop the platform at the end.")] = False,
    seed: Annotated[int, typer.Option(help="Of the simulated clicks.")] = 0,
) -> None:
    """Train, serve and measure a ranker on real data, on this machine.

    Starts the platform if it is not running, and leaves it running until Ctrl-C.
    """
    signal.signal(signal.SIGTERM, _interrupt)
    settings = PlatformSettings.from_environment(os.environ)
    console = Console()
    supervisor: subprocess.Popen[bytes] | None = None
    began_s = time.monotonic()
    try:
        with _bars(console) as bars:
            steps = _Steps(bars)
            try:
                settings, _ = lifecycle.running(settings)
            except NotRunning:
                supervisor = lifecycle.launch(settings, attached=True)
                settings = steps.run("start the platform", _starter(settings, supervisor))
            found, report = _main_job(settings, data, model, seed, steps)
        _tell(console, settings, found, report, time.monotonic() - began_s)
        if not report.agrees:
            raise SluiceError("served and offline NDCG disagree", "report this as a bug, with the lines above")
        if supervisor is not None and not exit:
            console.print("\nThe platform goes on running; Ctrl-C ends it. In another terminal: sluice status")
            supervisor.wait()
    except KeyboardInterrupt:
        if supervisor is None:
            raise
    finally:
        if supervisor is not None and supervisor.poll() is None:
            console.print("stopping the platform …")
            supervisor.terminate()
            supervisor.wait(STOP_WITHIN_S)


class _Steps:
    """One progress bar a step; where there is no terminal (CI, a log), a line when it is done."""

    def __init__(self, bars: Progress) -> None:
        self._bars = bars

    def run(self, title: str, work: Callable[[Told], T]) -> T:
        """The work's result; the work tells how far it is."""
        bar, began_s = self._bars.add_task(title, total=None), time.monotonic()
        result = work(lambda done, total: self._bars.update(bar, completed=done, total=total))
        total = self._bars.tasks[bar].total or 1
        self._bars.update(bar, completed=total, total=total)
        if self._bars.disable:
            took = f"{total:>6.0f} done {time.monotonic() - began_s:>6.1f} s"
            self._bars.console.print(f"✓ {title:<34} {took}", highlight=False)
        return result


def _bars(console: Console) -> Progress:
    return Progress(
        SpinnerColumn(finished_text="[green]✓"),
        TextColumn("{task.description:<34}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console,
        disable=not console.is_terminal,
    )


def _starter(settings: PlatformSettings, supervisor: "subprocess.Popen[bytes]") -> Callable[[Told], PlatformSettings]:
    def start(told: Told) -> PlatformSettings:
        lifecycle.wait_until_ready(
            settings,
            supervisor,
            START_WITHIN_S,
            lambda state: told(sum(process.ready for process in state.processes), len(state.processes)),
        )
        return lifecycle.running(settings)[0]

    return start


def _main_job(
    settings: PlatformSettings, path: Path | None, name: str | None, seed: int, steps: _Steps
) -> tuple["DemoData", "DemoReport"]:
    from deploy.demo import chain as job
    from deploy.demo.datasets import load_data

    model = name or job.default_model_name(path)
    found = steps.run("read the data", lambda told: load_data(settings, path, model, told))
    steps.run("features into Redis", lambda told: job.ingest(settings, found, told))
    champion = steps.run("look for a trained champion", lambda _: job.current_champion(settings, found))
    if champion is None:
        champion = steps.run("train, register, promote", lambda told: job.train_champion(settings, found, told))
    version, package = champion
    steps.run("load and warm up the champion", lambda _: job.wait_until_served(settings, model, version))
    report = steps.run(
        "held-out queries through /rank", lambda told: job.replay(settings, found, version, package, seed, told)
    )
    return found, report


def _tell(console: Console, settings: PlatformSettings, found: "DemoData", report: "DemoReport", took_s: float) -> None:
    table = Table(title=f"{found.title}, served as {report.model}@{report.version}", show_header=False)
    table.add_row("held-out queries answered", f"{report.queries} ({report.degraded} degraded)")
    table.add_row("NDCG@10, measured from what was served", f"{report.served_ndcg:.6f}")
    table.add_row("NDCG@10, the same model offline", f"{report.offline_ndcg:.6f}")
    table.add_row("the two agree to 1e-6", "yes" if report.agrees else "[red]NO")
    table.add_row("NDCG@10, candidates as they came", f"{report.given_order_ndcg:.6f}")
    table.add_row("lists with a relevant candidate", f"{report.counted} of {report.queries}")
    table.add_row("latency p50 / p95 / p99", f"{report.p50_ms:.1f} / {report.p95_ms:.1f} / {report.p99_ms:.1f} ms")
    table.add_row("clicks sent (simulated from the labels)", str(report.clicks))
    table.add_row("click-NDCG@10 from the archive (simulated)", f"{report.click_ndcg:.6f}")
    table.add_row("rankings in the archive", f"{report.archived_rankings} of {report.queries}")
    table.add_row("clicks in the archive", f"{report.archived_clicks} of {report.clicks}")
    table.add_row("all of this took", f"{took_s:.0f} s")
    console.print(table)
    places = {
        "API docs": f"{settings.gateway_url}/docs",
        "metrics": f"{settings.gateway_url}/metrics",
        "MLflow": without_password(settings.mlflow_url),
        "data folder": settings.home,
        "log": settings.log_file,
    }
    for name, place in places.items():
        console.print(f"{name:<12} {place}", highlight=False, soft_wrap=True)


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt
