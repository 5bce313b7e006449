"""How a rollout is shown: its steps, its traffic, what was counted, and what comes next."""

from typing import Any

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from deploy.commands.live_view import LiveView
from deploy.commands.table import duration

_COLOURS = {"passed": "green", "failed": "bold red", "inconclusive": "yellow", "errored": "red"}
_STATES = {"running": "cyan", "paused": "yellow", "promoted": "green"}


def rollout_table(report: Any, now_ms: int) -> RenderableType:
    """report: as the control API gives it."""
    about, outlook = report["rollout"], report["outlook"]
    state = about["state"]
    head = Text.assemble(
        (f"{about['model']}@{about['challenger']}", "bold"),
        f" against @{about['champion']}  ",
        (state, _STATES.get(state, "bold red")),
        f"  rollout {about['id']}, plan revision {report['plan_revision']}",
    )
    parts: list[RenderableType] = [head, _steps(report, now_ms)]
    if guardrails := outlook.get("guardrails"):
        parts.append(_guardrails(guardrails))
    if outlook:
        parts.append(Text.assemble(("next  ", "bold"), f"{outlook['next'].replace('_', ' ')}: {outlook['why']}"))
    elif report["history"]:
        last = report["history"][-1]
        parts.append(
            Text.assemble(("ended  ", "bold"), f"{last['what'].replace('_', ' ')} by {last['who']}: {last['why']}")
        )
    return Group(*parts)


def _steps(report: Any, now_ms: int) -> Table:
    about = report["rollout"]
    table = Table("", "step", "kind", "traffic", "mirrored", "for", "needs", box=None, pad_edge=False)
    for index, step in enumerate(about["spec"]["steps"]):
        here = index == about["step"]
        done = index < about["step"] or about["state"] == "promoted"
        mark = "[green]✓[/]" if done else "[cyan]▶[/]" if here else " "
        spent = duration((now_ms - about["entered_ms"]) / 1000) if here and not done else ""
        traffic = report["weight"] if here and not done else step["weight"]
        table.add_row(
            *(mark, step["name"], step["kind"], _share(traffic), _share(step["mirror_share"])),
            f"{spent} of {duration(step['min_s'])}" if spent and step["min_s"] else spent,
            ", ".join(need["kind"] for need in step["needs"]) or "",
            style="bold" if here and not done else "dim",
        )
    return table


def _guardrails(guardrails: Any) -> Table:
    sample = f"{guardrails['challenger_queries']} queries, champion {guardrails['champion_queries']}"
    table = Table("guardrail", "challenger", "champion", "limit", "verdict", box=None, pad_edge=False, title=sample)
    for check in guardrails["checks"]:
        verdict = check["verdict"]
        table.add_row(
            *(check["name"], _figure(check["challenger"]), _figure(check["champion"]), _figure(check["limit"])),
            f"[{_COLOURS[verdict]}]{verdict}[/]",
        )
    return table


def _share(steps: int) -> str:
    return f"{steps / 10:g} %" if steps else ""


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def live_rollout(console: Console | None) -> LiveView:
    """Reports as they come, see `LiveView`."""
    return LiveView(console, rollout_table, _line)


def _line(report: Any) -> str:
    about = report["rollout"]
    step = about["spec"]["steps"][about["step"]]["name"]
    return f"{about['id']} {about['state']} step {step} at {report['weight'] / 10:g} %"
