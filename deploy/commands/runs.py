"""`sluice runs list|show|retry|cancel` and `sluice retrain`: runs of pipelines, through the control API."""

import os
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Annotated, Any

import msgspec
import typer
from rich.console import Console
from rich.table import Table

from deploy.commands.promote import AsJson, Model, OnceKey, Why
from deploy.commands.run_view import live_run, run_table, window_of
from deploy.control.client import ControlClient, model_path
from deploy.errors import SluiceError

runs = typer.Typer(help="Runs of pipelines: list, show, retry, cancel.", no_args_is_help=True)

RunId = Annotated[str, typer.Argument(help="Its id, see `sluice runs list`.", metavar="RUN")]
POLL_S = 1.0
ENDED_OTHERWISE, BROKEN = 1, 2


class _WaitFailed(SluiceError):
    """For those who wait: 1 says that the run ended badly, so an error is another number."""

    exit_code = BROKEN


@runs.command("list")
def list_runs(
    model: Annotated[str, typer.Argument(help="Of this model only.", metavar="[MODEL]")] = "",
    state: Annotated[str, typer.Option(help="Only those: queued, running, succeeded, failed, cancelled, dead.")] = "",
    limit: Annotated[int, typer.Option(help="How many at most.", min=1, max=1000)] = 50,
    as_json: AsJson = False,
) -> None:
    """Runs, the newest windows first. One that is dead failed too often and waits for `sluice runs retry`."""
    asked = f"?limit={limit}" + (f"&state={state}" if state else "")
    with ControlClient.of(os.environ) as control:
        found = control.get((model_path(model, "runs") if model else "/v1/runs") + asked)["runs"]
    if as_json:
        typer.echo(msgspec.json.encode(found).decode())
        return
    table = Table(box=None, pad_edge=False)
    table.add_column("run", no_wrap=True)  # names the window's end, and is what the other commands want whole
    for name in ("by", "state", "step", "done", "what came of it"):
        table.add_column(name, overflow="fold")
    for one in found:
        about = one["run"]
        step = next((step for step in about["steps"] if step["state"] in ("waiting", "running")), about["steps"][-1])
        table.add_row(
            *(about["id"], about["trigger"], _state(about), step["name"]),
            *(f"{one['progress']:.0%}", about["outcome"] or about["error"] or step["saying"]),
        )
    Console().print(table)


@runs.command()
def show(
    run_id: RunId,
    watch: Annotated[bool, typer.Option("--watch", help="Live until it ends: exit code 0 succeeded, 1 not.")] = False,
    as_json: AsJson = False,
) -> None:
    """One run: its steps, how far it is, what came of it and who did what to it."""
    with ControlClient.of(os.environ) as control:
        if watch:
            raise typer.Exit(_exit_code(_watch(control, run_id, live=not as_json)))
        found = control.get(_path(run_id))
    if as_json:
        typer.echo(msgspec.json.encode(found).decode())
        return
    Console().print(run_table(found, time.time_ns() // 1_000_000))


@runs.command()
def retry(
    run_id: RunId,
    why: Why,
    from_step: Annotated[str, typer.Option("--from", help="Again from this step on; default: what is not done.")] = "",
    as_json: AsJson = False,
) -> None:
    """Go on with a run that failed, was cancelled or is dead."""
    with ControlClient.of(os.environ) as control:
        _tell(control.post(_path(run_id, "retry"), {"why": why, "from_step": from_step}), as_json)


@runs.command()
def cancel(run_id: RunId, why: Why, as_json: AsJson = False) -> None:
    """End a run. What it has done stays done."""
    with ControlClient.of(os.environ) as control:
        _tell(control.post(_path(run_id, "cancel"), {"why": why}), as_json)


def retrain(
    model: Model,
    why: Why,
    since: Annotated[str, typer.Option(help="Clicks from this time on, ISO 8601, UTC unless it says.")] = "",
    until: Annotated[str, typer.Option(help="And before this one. Default: the usual window, to the full hour.")] = "",
    wait: Annotated[bool, typer.Option("--wait", help="Until its end: 0 succeeded, 1 not, 2 error.")] = False,
    idempotency_key: OnceKey = "",
    as_json: AsJson = False,
) -> None:
    """Learn anew from a window of clicks; what comes of it goes through the gates."""
    window = {"since_ms": _time(since, "--since"), "until_ms": _time(until, "--until")} if since or until else {}
    try:
        with ControlClient.of(os.environ) as control:
            body = {"why": why} | window
            asked = control.post(model_path(model, "retrain"), body, idempotency_key=idempotency_key)
            if wait:
                found = _watch(control, asked["run"]["id"], live=not as_json)
                if as_json:
                    typer.echo(msgspec.json.encode(found).decode())
                raise typer.Exit(_exit_code(found))
    except SluiceError as error:
        if not wait:
            raise
        raise _WaitFailed(error.message, error.hint) from error
    _tell(asked, as_json)


def _time(text: str, option: str) -> int:
    try:
        told = datetime.fromisoformat(text)
    except ValueError as error:
        raise typer.BadParameter(
            "expected a time, as 2026-01-05 or 2026-01-05T06:00+01:00", param_hint=option
        ) from error
    return round((told if told.tzinfo else told.replace(tzinfo=UTC)).timestamp() * 1000)


def _path(run_id: str, *verb: str) -> str:
    model, dot, _ = run_id.partition(".")  # an id begins with its model
    if not model or not dot:
        raise SluiceError(f"{run_id[:80]!r} is no id of a run", "sluice runs list")
    return model_path(model, "runs", run_id, *verb)


def _state(about: Any) -> str:
    return "cancelling" if about["cancelling"] else str(about["state"])


def _tell(found: Any, as_json: bool) -> None:
    if as_json:
        typer.echo(msgspec.json.encode(found).decode())
        return
    about = found["run"]
    typer.echo(f"{about['id']}: {_state(about)}, window {window_of(about)}; sluice runs show {about['id']} --watch")


def _watch(control: ControlClient, run_id: str, live: bool, pause: Callable[[float], None] = time.sleep) -> Any:
    """The run when it has ended; shown all the way if live."""
    with live_run(Console() if live else None) as view:
        while True:
            found = control.get(_path(run_id))
            view.show(found, time.time_ns() // 1_000_000)
            if found["run"]["state"] not in ("queued", "running"):
                return found
            pause(POLL_S)


def _exit_code(found: Any) -> int:
    return 0 if found["run"]["state"] == "succeeded" else ENDED_OTHERWISE
