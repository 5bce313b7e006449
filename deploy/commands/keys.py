"""`sluice keys create|rotate|limit|list|revoke`: who may ask queries and use the control API, and how much."""

import os
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

import msgspec
import typer
from rich.console import Console
from rich.table import Column, Table

from deploy.control.admin_key import read_admin_key
from deploy.control.client import ControlClient
from deploy.settings import ClientSettings, PlatformSettings
from registry.roles import ROLES

keys = typer.Typer(help="API keys: create, rotate, limit, list, revoke.", no_args_is_help=True)

AsJson = Annotated[bool, typer.Option("--json", help="For scripts.")]
KeyId = Annotated[str, typer.Argument(help="Its id, see `sluice keys list`.", metavar="ID")]
_SPAN = re.compile(r"(\d{1,6})([smhd])")
_UNIT_S = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_NO_RATE = 0.0
_WHOLE = ("id", "role", "created", "last used", "expires", "revoked")


@keys.command()
def create(
    name: Annotated[str, typer.Argument(help="Who the history will say it was.")],
    role: Annotated[str, typer.Option(help="caller, viewer, operator or admin.")],
    models: Annotated[list[str] | None, typer.Option("--model", help="Good for this model only; repeat it.")] = None,
    expires: Annotated[str, typer.Option(help="Good for so long, `90d`, `12h`; for ever, if not given.")] = "",
    requests_per_s: Annotated[float, typer.Option(help="Its quota.", min=0)] = _NO_RATE,
    candidates_per_s: Annotated[float, typer.Option(help="Its quota.", min=0)] = _NO_RATE,
    line: Annotated[str, typer.Option(help="Line whose quota it draws on, too, whatever its queries say.")] = "",
    as_json: AsJson = False,
) -> None:
    """Make a key and show it, this once.

    caller asks queries and gives feedback; viewer also looks; operator also starts, pauses and ends rollouts, rolls
    back and hands in evidence; admin also promotes, changes plans by hand, makes keys and reads the audit log.
    """
    if role not in ROLES:
        raise typer.BadParameter(f"expected one of {', '.join(ROLES)}", param_hint="--role")
    body: dict[str, Any] = {"name": name, "role": role, "models": models or [], "line": line}
    body |= {"requests_per_s": requests_per_s, "candidates_per_s": candidates_per_s}
    if expires:
        body["expires_in_s"] = _seconds(expires, "--expires")
    with ControlClient.of(os.environ) as control:
        made = control.post("/v1/keys", body)
    typer.echo(msgspec.json.encode(made).decode() if as_json else made["key"])


@keys.command()
def rotate(
    key_id: KeyId,
    grace: Annotated[str, typer.Option(help="The old text is good for so long, `24h`, `0s`.")] = "24h",
    as_json: AsJson = False,
) -> None:
    """Give a key another text and show it, this once; id, role and quota stay.

    The key of this platform's data folder is written there, too.
    """
    with ControlClient.of(os.environ) as control:
        rotated = control.post(f"/v1/keys/{quote(key_id, safe='')}/rotate", {"grace_s": _seconds(grace, "--grace")})
    _keep_local(rotated)
    typer.echo(msgspec.json.encode(rotated).decode() if as_json else rotated["key"])


@keys.command()
def limit(
    key_id: KeyId,
    requests_per_s: Annotated[float, typer.Option(help="0: the platform's default.", min=0)] = _NO_RATE,
    candidates_per_s: Annotated[float, typer.Option(help="0: the platform's default.", min=0)] = _NO_RATE,
    as_json: AsJson = False,
) -> None:
    """Set a key's quota; gateways follow within a second."""
    body = {"requests_per_s": requests_per_s, "candidates_per_s": candidates_per_s}
    with ControlClient.of(os.environ) as control:
        limited = control.post(f"/v1/keys/{quote(key_id, safe='')}/limit", body)
    typer.echo(msgspec.json.encode(limited).decode() if as_json else f"{limited['name']}: {_quota(limited)}")


@keys.command("list")
def list_keys(as_json: AsJson = False) -> None:
    """All keys, without the keys themselves."""
    with ControlClient.of(os.environ) as control:
        found = control.get("/v1/keys")["keys"]
    if as_json:
        typer.echo(msgspec.json.encode(found).decode())
        return
    Console().print(key_table(found))


def key_table(found: Sequence[Mapping[str, Any]]) -> Table:
    """A row a key; what no key has (a quota of its own, an end) takes no column."""
    rows = [
        {
            "id": key["id"],
            "name": key["name"],
            "begins": key["prefix"],
            "role": key["role"],
            "models": ", ".join(key["models"]) or "all",
            "quota": _quota(key) if key["requests_per_s"] or key["candidates_per_s"] else "",
            "created": _time(key["created_ms"]),
            "last used": _time(key["used_ms"]),
            "expires": _time(key["expires_ms"]),
            "revoked": _time(key["revoked_ms"]),
        }
        for key in found
    ]
    titles = [title for title in (rows[0] if rows else ()) if any(row[title] for row in rows)]
    table = Table(
        *(Column(title, overflow="fold", no_wrap=title in _WHOLE) for title in titles),
        box=None,
        pad_edge=False,
        header_style="bold",
    )
    for row in rows:
        table.add_row(*(row[title] for title in titles))
    return table


@keys.command()
def revoke(key_id: KeyId, as_json: AsJson = False) -> None:
    """End a key for good."""
    with ControlClient.of(os.environ) as control:
        revoked: dict[str, Any] = control.post(f"/v1/keys/{quote(key_id, safe='')}/revoke")
    typer.echo(msgspec.json.encode(revoked).decode() if as_json else f"revoked {revoked['name']} ({revoked['id']})")


def _keep_local(rotated: Any) -> None:
    """Where the key of commands on this machine was rotated, they go on with its new text."""
    if ClientSettings.from_environment(os.environ).url:
        return
    path = PlatformSettings.from_environment(os.environ).admin_key_file
    try:
        local = read_admin_key(path)
    except OSError:
        return
    old = rotated["about"]["old_prefix"]
    if old and local.startswith(old):
        _write_key(path, rotated["key"])
        typer.echo(f"written to {path}", err=True)


def _write_key(path: Path, text: str) -> None:
    fresh = path.with_name(f"{path.name}.{os.getpid()}")
    fresh.touch(0o600)
    fresh.write_text(text + "\n")
    fresh.replace(path)


def _seconds(span: str, option: str) -> int:
    found = _SPAN.fullmatch(span.strip())
    if not found:
        raise typer.BadParameter("expected a number and one of s, m, h, d, as in 24h", param_hint=option)
    return int(found[1]) * _UNIT_S[found[2]]


def _quota(key: Any) -> str:
    told = ((key["requests_per_s"], "requests/s"), (key["candidates_per_s"], "candidates/s"))
    return ", ".join(f"{rate:g} {unit}" for rate, unit in told if rate) or "default"


def _time(at_ms: int | None) -> str:
    return "" if at_ms is None else datetime.fromtimestamp(at_ms / 1000, UTC).date().isoformat()
