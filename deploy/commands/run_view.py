"""How a run is shown: its steps, how far it is, what came of it, and who did what to it."""

from datetime import UTC, datetime
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from deploy.commands.live_view import LiveView
from deploy.commands.table import duration

_STATES = {"queued": "yellow", "running": "cyan", "succeeded": "green", "cancelled": "dim", "void": "dim"}
_MARKS = {"done": "[green]✓[/]", "running": "[cyan]▶[/]", "skipped": "[dim]-[/]", "waiting": " "}
_BAR = 20


def run_table(found: Any, now_ms: int) -> RenderableType:
    """found: as the control API gives it."""
    about = found["run"]
    state = "cancelling" if about["cancelling"] else about["state"]
    head = Text.assemble(
        (about["id"], "bold"),
        f"  {about['kind']} of {window_of(about)}, by {about['trigger']}  ",
        (state, _STATES.get(state, "bold red")),
        f"  {found['progress']:.0%}",
    )
    parts: list[RenderableType] = [head, _steps(about, now_ms)]
    for title, text in (("outcome", about["outcome"]), ("error", about["error"])):
        if text:
            parts.append(Text.assemble((f"{title}  ", "bold"), text))
    if about["state"] == "queued" and about["retry_at_ms"] > now_ms:
        parts.append(Text(f"next attempt in {duration((about['retry_at_ms'] - now_ms) / 1000)}"))
    notes = Table("when", "what", "who", "why", box=None, pad_edge=False)
    for note in about["notes"]:
        notes.add_row(_moment(note["at_ms"]), note["what"].replace("_", " "), note["who"], note["why"])
    parts.append(notes)
    return Group(*parts)


def window_of(about: Any) -> str:
    """The run's window, for eyes, in UTC.

    >>> window_of({"since_ms": 0, "until_ms": 86_400_000})
    '1970-01-01 00:00 to 1970-01-02 00:00'
    """
    return f"{_moment(about['since_ms'])} to {_moment(about['until_ms'])}"


def _steps(about: Any, now_ms: int) -> Table:
    table = Table("", "step", "progress", "for", "attempt", "", box=None, pad_edge=False)
    for step in about["steps"]:
        ended_ms = step["finished_ms"] or (now_ms if step["state"] == "running" else 0)
        spent = duration((ended_ms - step["started_ms"]) / 1000) if step["started_ms"] and ended_ms else ""
        full = round(_BAR * step["progress"])
        bar = f"{'━' * full}{' ' * (_BAR - full)} {step['progress']:4.0%}" if step["state"] == "running" else ""
        table.add_row(
            *(_MARKS[step["state"]], step["name"], bar, spent, str(step["attempts"] or "")),
            step["saying"] or step["error"] or _found_out(step["output"]),
            style="dim" if step["state"] in ("waiting", "skipped") else "",
        )
    return table


def _found_out(output: Any) -> str:
    """What a step says of itself, the short things."""
    plain = {name: value for name, value in output.items() if isinstance(value, int | float | str) and value != ""}
    return ", ".join(
        f"{name} {value:.6g}" if isinstance(value, float) else f"{name} {value}" for name, value in plain.items()
    )


def _moment(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M")


def live_run(console: Console | None) -> LiveView:
    """A run as it goes, see `LiveView`."""
    return LiveView(console, run_table, _line)


def _line(found: Any) -> str:
    about = found["run"]
    step = next((one for one in about["steps"] if one["state"] in ("running", "waiting")), about["steps"][-1])
    told = about["outcome"] or about["error"] or step["saying"]
    return " ".join(filter(None, (about["id"], about["state"], step["name"], f"{found['progress']:.0%}", told)))
