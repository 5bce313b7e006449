"""`sluice promote` and `sluice rollback`: by hand, through the control API."""

import os
from typing import Annotated, Any

import msgspec
import typer

from deploy.control.client import ControlClient, model_path

Model = Annotated[str, typer.Argument(help="Name of the model.")]
Why = Annotated[str, typer.Option("--why", help="The reason; the history keeps it.")]
AsJson = Annotated[bool, typer.Option("--json", help="For scripts.")]
IfRevision = Annotated[
    int | None, typer.Option("--if-revision", help="Only if the traffic plan is still at this revision.", min=0)
]
OnceKey = Annotated[
    str, typer.Option("--idempotency-key", help="The same key again gets the same answer and changes nothing twice.")
]


def promote(
    model: Model,
    version: Annotated[int, typer.Argument(help="The version that becomes champion.", min=1)],
    why: Why,
    holdback: Annotated[float, typer.Option(help="Per cent of units to keep the old one.", min=0, max=50)] = 0,
    if_revision: IfRevision = None,
    idempotency_key: OnceKey = "",
    as_json: AsJson = False,
) -> None:
    """Make a version champion. Rollouts of other versions end."""
    body = {"version": version, "why": why, "holdback": round(holdback * 10)}
    change = _change(model, "promote", body, if_revision, idempotency_key)
    _tell(change, as_json)


def rollback(
    model: Model,
    why: Why,
    to: Annotated[int | None, typer.Option(help="A former champion, whatever is under test.", min=1)] = None,
    if_revision: IfRevision = None,
    idempotency_key: OnceKey = "",
    as_json: AsJson = False,
) -> None:
    """Take back what came last: versions under test, else the champion."""
    change = _change(model, "rollback", {"why": why, "to": to}, if_revision, idempotency_key)
    _tell(change, as_json)


def _change(model: str, verb: str, body: dict[str, Any], if_revision: int | None, key: str) -> Any:
    with ControlClient.of(os.environ) as control:
        return control.post(model_path(model, verb), body, if_match=if_revision, idempotency_key=key)


def _tell(change: Any, as_json: bool) -> None:
    if as_json:
        typer.echo(msgspec.json.encode(change).decode())
        return
    plan = change["plan"]
    others = [
        f"{one['name']} @{one['version']} at {one['weight'] / 10:g} %"
        for layer in plan["layers"]
        for one in layer["experiments"]
    ]
    beside = f", beside it {', '.join(others)}" if others else ", alone"
    typer.echo(f"{plan['model']}: champion @{plan['champion']}{beside} (revision {change['plan_revision']})")
