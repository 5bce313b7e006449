"""`sluice keys create|list|revoke`: who may use the control API."""

import os
from datetime import UTC, datetime
from typing import Annotated, Any
from urllib.parse import quote

import msgspec
import typer
from rich.console import Console
from rich.table import Column, Table

from deploy.control.client import ControlClient

keys = typer.Typer(help="API keys: create, list, revoke.", no_args_is_help=True)

AsJson = Annotated[bool, typer.Option("--json", help="For scripts.")]


@keys.command()
def create(
    name: Annotated[str, typer.Argument(help="Who the history will say it was.")],
    role: Annotated[str, typer.Option(help="viewer, operator or admin.")],
    models: Annotated[list[str] | None, typer.Option("--model", help="Good for this model only; repeat it.")] = None,
    as_json: AsJson = False,
) -> None:
    """Make a key and show it, this once.

    viewer looks; operator also starts, pauses and ends rollouts, rolls back and hands in evidence; admin also
    promotes, changes plans by hand and makes keys.
    """
    if role not in ("viewer", "operator", "admin"):
        raise typer.BadParameter("expected viewer, operator or admin", param_hint="--role")
    with ControlClient.of(os.environ) as control:
        made = control.post("/v1/keys", {"name": name, "role": role, "models": models or []})
    typer.echo(msgspec.json.encode(made).decode() if as_json else made["key"])


@keys.command("list")
def list_keys(as_json: AsJson = False) -> None:
    """All keys, without the keys themselves."""
    with ControlClient.of(os.environ) as control:
        found = control.get("/v1/keys")["keys"]
    if as_json:
        typer.echo(msgspec.json.encode(found).decode())
        return
    table = Table(Column("id", no_wrap=True, overflow="fold"), "name", "begins", "role", "models", "created", "revoked")
    for key in found:
        models = ", ".join(key["models"]) or "all"
        table.add_row(
            *(key["id"], key["name"], key["prefix"], key["role"], models),
            *(_time(key["created_ms"]), _time(key["revoked_ms"])),
        )
    Console().print(table)


@keys.command()
def revoke(
    key_id: Annotated[str, typer.Argument(help="Its id, see `sluice keys list`.", metavar="ID")],
    as_json: AsJson = False,
) -> None:
    """End a key for good."""
    with ControlClient.of(os.environ) as control:
        revoked: dict[str, Any] = control.post(f"/v1/keys/{quote(key_id, safe='')}/revoke")
    typer.echo(msgspec.json.encode(revoked).decode() if as_json else f"revoked {revoked['name']} ({revoked['id']})")


def _time(at_ms: int | None) -> str:
    return "" if at_ms is None else datetime.fromtimestamp(at_ms / 1000, UTC).date().isoformat()
