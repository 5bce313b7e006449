"""`sluice rollout plan|start|pause|resume|abort|show|explain|replay|list|watch|diff|aa`: a version becomes champion."""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer
from rich.console import Console
from rich.table import Column, Table

from deploy.commands.promote import AsJson, IfRevision, Model, OnceKey, Why
from deploy.commands.rank_diff import diff
from deploy.commands.rollout_gates import aa, explain, newest_rollout, replay, rollout_body, show_plan
from deploy.commands.rollout_view import live_rollout, rollout_table
from deploy.control.client import ControlClient, model_path
from deploy.errors import SluiceError

rollout = typer.Typer(
    help="A version on its way to champion: plan it, start, pause, resume, abort, show, explain, replay, watch it.",
    no_args_is_help=True,
)
for _command in (diff, explain, replay, aa):
    rollout.command(_command.__name__)(_command)

RolloutId = Annotated[str, typer.Argument(help="Its id. Default: the newest of the model.", metavar="[ROLLOUT]")]
POLL_S = 1.0
ENDED_OTHERWISE, BROKEN = 1, 2


Spec = Annotated[
    Path | None, typer.Option(help="JSON: steps, guardrails, holdback_weight, holdback_s, as you want them.")
]
Interleaving = Annotated[bool, typer.Option("--interleaving", help="With an interleaving step.")]
OnlineGate = Annotated[bool, typer.Option(help="Wait for the online gate, which needs clicks.")]
InLayer = Annotated[str, typer.Option(help="Rollouts in different layers run beside each other.")]
Simulated = Annotated[bool, typer.Option("--simulated", help="Simulated users click, people do not.")]
Underpowered = Annotated[bool, typer.Option("--underpowered", help="Though a gate gets too little traffic.")]
OverBudget = Annotated[bool, typer.Option("--over-budget", help="Though the year's alpha is spent.")]


class _WaitFailed(SluiceError):
    """For those who wait: 1 says that the rollout ended another way, so an error is another number."""

    exit_code = BROKEN


@rollout.command()
def start(
    model: Model,
    version: Annotated[int, typer.Argument(help="The challenger.", min=1)],
    why: Why,
    spec: Spec = None,
    interleaving: Interleaving = False,
    online_gate: OnlineGate = True,
    layer: InLayer = "rollout",
    simulated: Simulated = False,
    underpowered: Underpowered = False,
    over_budget: OverBudget = False,
    wait: Annotated[bool, typer.Option("--wait", help="Until its end: exit code 0 promoted, 1 not, 2 error.")] = False,
    if_revision: IfRevision = None,
    idempotency_key: OnceKey = "",
    as_json: AsJson = False,
) -> None:
    """Start a rollout of a version against the champion."""
    body = rollout_body(
        version,
        why,
        interleaving=interleaving,
        online_gate=online_gate,
        layer=layer,
        simulated=simulated,
        underpowered=underpowered,
        over_budget=over_budget,
    ) | (_spec(spec) if spec else {})
    try:
        with ControlClient.of(os.environ) as control:
            path = model_path(model, "rollouts")
            made = control.post(path, body, if_match=if_revision, idempotency_key=idempotency_key)
            if wait:
                report = _watch(control, model, made["rollout"]["id"], live=not as_json)
                if as_json:
                    typer.echo(msgspec.json.encode(report).decode())
                raise typer.Exit(_exit_code(report))
    except SluiceError as error:
        if not wait:
            raise
        raise _WaitFailed(error.message, error.hint) from error
    _tell(made, as_json)


@rollout.command()
def plan(
    model: Model,
    version: Annotated[int, typer.Argument(help="The challenger.", min=1)],
    spec: Spec = None,
    interleaving: Interleaving = False,
    layer: InLayer = "rollout",
    simulated: Simulated = False,
    as_json: AsJson = False,
) -> None:
    """What its gates would need, what live traffic brings, and whether it would start. Exit code 1: it would not."""
    body = rollout_body(version, "planned", interleaving=interleaving, layer=layer, simulated=simulated)
    with ControlClient.of(os.environ) as control:
        found = control.post(model_path(model, "rollouts", "plan"), body | (_spec(spec) if spec else {}))
    if as_json:
        typer.echo(msgspec.json.encode(found).decode())
    else:
        show_plan(Console(), found)
    raise typer.Exit(1 if found["refused"] else 0)


@rollout.command()
def pause(model: Model, why: Why, rollout_id: RolloutId = "", as_json: AsJson = False) -> None:
    """Advance no more for now; failing evidence still rolls it back."""
    _move("pause", model, rollout_id, why, as_json)


@rollout.command()
def resume(model: Model, why: Why, rollout_id: RolloutId = "", as_json: AsJson = False) -> None:
    """Go on from where it was paused."""
    _move("resume", model, rollout_id, why, as_json)


@rollout.command()
def abort(model: Model, why: Why, rollout_id: RolloutId = "", as_json: AsJson = False) -> None:
    """End it; the champion for all."""
    _move("abort", model, rollout_id, why, as_json)


@rollout.command()
def show(model: Model, rollout_id: RolloutId = "", as_json: AsJson = False) -> None:
    """Its step, traffic, sample, guardrails, what comes next, and its history."""
    with ControlClient.of(os.environ) as control:
        report = _report(control, model, rollout_id)
    if as_json:
        typer.echo(msgspec.json.encode(report).decode())
        return
    console = Console()
    console.print(rollout_table(report, time.time_ns() // 1_000_000))
    history = Table("at", "what", Column("step", overflow="fold"), "revision", "who", "why", title="history")
    for line in report["history"]:
        history.add_row(
            time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(line["at_ms"] / 1000)),
            *(line["what"], line["step"], str(line["plan_revision"]), line["who"], line["why"]),
        )
    console.print(history)


@rollout.command("list")
def list_rollouts(
    model: Model,
    open_only: Annotated[bool, typer.Option("--open", help="Only those that are not over.")] = False,
    as_json: AsJson = False,
) -> None:
    """A model's rollouts, the newest first."""
    with ControlClient.of(os.environ) as control:
        found = control.get(model_path(model, "rollouts") + ("?state=open" if open_only else ""))["rollouts"]
    if as_json:
        typer.echo(msgspec.json.encode(found).decode())
        return
    titles = ("rollout", "challenger", "champion", "state", "step", "weight", "layer")
    table = Table(*(Column(title, overflow="fold") for title in titles), box=None, pad_edge=False, header_style="bold")
    for one in found:
        about = one["rollout"]
        step = about["spec"]["steps"][about["step"]]["name"]
        table.add_row(
            *(about["id"], f"@{about['challenger']}", f"@{about['champion']}", about["state"], step),
            *(f"{one['weight'] / 10:g} %", about["layer"]),
        )
    Console().print(table)


@rollout.command()
def watch(model: Model, rollout_id: RolloutId = "") -> None:
    """Live until it ends. Exit code: 0 promoted, 1 ended otherwise, 2 error."""
    try:
        with ControlClient.of(os.environ) as control:
            report = _watch(control, model, rollout_id or newest_rollout(control, model), live=True)
    except SluiceError as error:
        raise _WaitFailed(error.message, error.hint) from error
    raise typer.Exit(_exit_code(report))


def _move(verb: str, model: str, rollout_id: str, why: str, as_json: bool) -> None:
    with ControlClient.of(os.environ) as control:
        which = rollout_id or newest_rollout(control, model)
        _tell(control.post(model_path(model, "rollouts", which, verb), {"why": why}), as_json)


def _tell(moved: Any, as_json: bool) -> None:
    if as_json:
        typer.echo(msgspec.json.encode(moved).decode())
        return
    about = moved["rollout"]
    step = about["spec"]["steps"][about["step"]]["name"]
    typer.echo(
        f"{about['id']}: @{about['challenger']} against @{about['champion']}, {about['state']}, step {step}, "
        f"{moved['weight'] / 10:g} % (revision {moved['plan_revision']})"
    )


def _report(control: ControlClient, model: str, rollout_id: str) -> Any:
    return control.get(model_path(model, "rollouts", rollout_id or newest_rollout(control, model)))


def _watch(
    control: ControlClient, model: str, rollout_id: str, live: bool, pause: Callable[[float], None] = time.sleep
) -> Any:
    """The report of a rollout that has ended; shown all the way if live."""
    with live_rollout(Console() if live else None) as view:
        while True:
            report = _report(control, model, rollout_id)
            view.show(report, time.time_ns() // 1_000_000)
            if report["rollout"]["state"] not in ("running", "paused"):
                return report
            pause(POLL_S)


def _exit_code(report: Any) -> int:
    return 0 if report["rollout"]["state"] == "promoted" else ENDED_OTHERWISE


def _spec(path: Path) -> dict[str, Any]:
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
    except (OSError, msgspec.DecodeError) as error:
        raise SluiceError(f"{path}: {error}", "a JSON object with `steps`, see /docs") from error
