"""`sluice rollout diff`: how a mirrored version's lists differ from the champion's."""

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
from deploy.errors import SluiceError
from deploy.machine.lifecycle import running
from deploy.settings import PlatformSettings
from registry.errors import RegistryError

if TYPE_CHECKING:
    from drift.mirrors.rank_diff import Estimate, LimitFinding, RankDiff
    from drift.mirrors.rank_summary import Example

_COLOURS = {"passed": "green", "failed": "bold red", "inconclusive": "yellow", "errored": "red"}
_AT_MOST = {"overlap": "at least"}


def diff(
    model: Annotated[str, typer.Argument(help="Name of the model.")],
    rollout: Annotated[str | None, typer.Argument(help="A rollout's id. Default: whatever was mirrored last.")] = None,
    examples: Annotated[int, typer.Option(help="How many of the lists that differ most to show.", min=0, max=10)] = 3,
    as_json: Annotated[bool, typer.Option("--json", help="For scripts.")] = False,
) -> None:
    """The newest comparison of a mirrored version's lists with the champion's, and where they differ most."""
    from deploy.verdicts.rank_evidence import newest_diff

    settings = running(PlatformSettings.from_environment(os.environ))[0]
    try:
        found = newest_diff(wiring.traffic_control(settings), model, rollout, time.time_ns() // 1_000_000)
    except RegistryError as error:
        raise SluiceError(str(error), "sluice status") from error
    if found is None:
        raise SluiceError(
            f"nothing of {rollout or model!r} was mirrored and compared yet",
            "a mirror share in the plan, and a minute of traffic",
        )
    if as_json:
        typer.echo(msgspec.json.encode(found).decode())
        return
    show(Console(), found, examples)


def show(console: Console, found: "RankDiff", examples: int) -> None:
    """Verdict, limits, measures, and the examples with the most different lists."""
    title = f"{found.model}@{found.version} in the shadow of @{found.champion}, {found.experiment}, "
    console.print(f"{escape(title)}revision {found.plan_revision}: {_coloured(found.verdict)}", highlight=False)
    for reason in found.reasons:
        console.print(f"  {escape(reason)}", highlight=False)
    for name, part in (("window", found.window), ("step", found.step)):
        errors = "".join(f", {count} x {escape(kind)}" for kind, count in sorted(part.errors.items()))
        console.print(
            f"{name:<7} {_time(part.start_ms)} to {_time(part.end_ms)}: {part.mirrored} mirrored, "
            f"{part.compared} compared, {part.failed} without a list{errors}",
            highlight=False,
        )
    console.print()
    console.print(_limits(found.window.findings, found.step.findings))
    console.print()
    console.print(_measures(found.window.estimates, found.step.estimates))
    if found.step.p99_ms and found.step.p50_ms:
        (p50, mirror_p50), (p99, mirror_p99) = found.step.p50_ms, found.step.p99_ms
        console.print(
            f"latency of the step: p50 {p50:.2f} ms, mirrored {mirror_p50:.2f}; p99 {p99:.2f} ms, "
            f"mirrored {mirror_p99:.2f}",
            highlight=False,
        )
    for example in found.examples[:examples]:
        console.print(
            f"\n{escape(example.ranking_id)}: overlap {example.overlap:.2f}, rank-biased overlap "
            f"{example.rank_biased_overlap:.2f}",
            highlight=False,
        )
        console.print(_example(example, found))


def _limits(window: "Sequence[LimitFinding]", step: "Sequence[LimitFinding]") -> Table:
    table = Table("limit", "", "this window", "", "this step", "", box=None, pad_edge=False, header_style="bold")
    for now, all_ in zip(window, step, strict=True):
        rule = f"{_AT_MOST.get(now.quantity, 'at most')} {now.limit:g}"
        cells = [cell for one in (now, all_) for cell in (_figure(one.estimate), _coloured(one.outcome))]
        table.add_row(now.quantity, rule, *cells)
    return table


def _measures(window: "Sequence[Estimate]", step: "Sequence[Estimate]") -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("measure", "this window", "this step", "95 % interval", "p05", "median", "p95", "lists"):
        table.add_column(title, justify="left" if title == "measure" else "right")
    for now, all_ in zip(window, step, strict=True):
        interval = f"{_figure(all_.low)} to {_figure(all_.high)}" if all_.lists else ""
        quantiles = [_figure(value) for value in (all_.p05, all_.p50, all_.p95)]
        table.add_row(now.measure, _figure(now.mean), _figure(all_.mean), interval, *quantiles, str(all_.lists))
    return table


def _example(example: "Example", found: "RankDiff") -> Table:
    """Both lists side by side; an item that only one of them shows is coloured."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("", f"@{found.champion}", f"@{found.version}", "was"):
        table.add_column(title, justify="left" if title.startswith("@") else "right")
    for place in range(max(len(example.items), len(example.mirror_items))):
        ours, theirs = (items[place] if place < len(items) else "" for items in (example.items, example.mirror_items))
        was = str(example.items.index(theirs) + 1) if theirs in example.items else ""
        left = escape(ours) if ours in example.mirror_items else f"[red]{escape(ours)}[/]"
        right = escape(theirs) if theirs in example.items else f"[green]{escape(theirs)}[/]"
        table.add_row(str(place + 1), left, right, was)
    return table


def _coloured(verdict: str) -> str:
    return f"[{_COLOURS[verdict]}]{verdict}[/]"


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def _time(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms / 1000, UTC).isoformat(sep=" ", timespec="seconds")
