"""`sluice audit`: who asked the control plane for what, and what came of it."""

import os
from datetime import UTC, datetime
from typing import Annotated, Any
from urllib.parse import urlencode

import msgspec
import typer
from rich.console import Console
from rich.table import Table

from deploy.control.client import ControlClient


def audit(
    model: Annotated[str, typer.Option(help="Of this model only.")] = "",
    principal: Annotated[str, typer.Option(help="By this key or token only, by its id.")] = "",
    request: Annotated[str, typer.Option(help="This request only, by its `x-request-id`.")] = "",
    limit: Annotated[int, typer.Option(help="How many rows at most, the newest.", min=1, max=1000)] = 50,
    before: Annotated[int, typer.Option(help="Older than this row.", min=0)] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="A row a line, whole, for scripts.")] = False,
) -> None:
    """Changes and refusals, the newest first. A change has two rows: asked, before it was done, and answered."""
    told = {"limit": limit, "before": before, "model": model, "principal": principal, "request_id": request}
    with ControlClient.of(os.environ) as control:
        lines = control.get(f"/v1/audit?{urlencode({name: value for name, value in told.items() if value})}")["lines"]
    if as_json:
        for line in lines:
            typer.echo(msgspec.json.encode({"seq": line["seq"], **line["record"]}).decode())
        return
    table = Table("row", "at", "who", "from", "asked for", "came of it", box=None, pad_edge=False, header_style="bold")
    for line in lines:
        table.add_row(str(line["seq"]), *_cells(line["record"]))
    Console().print(table)


def _cells(record: Any) -> tuple[str, ...]:
    at = (
        datetime.fromtimestamp(record["at_ms"] / 1000, UTC)
        .isoformat(sep=" ", timespec="seconds")
        .removesuffix("+00:00")
    )
    about = " ".join(filter(None, (record["route"], record.get("model"), record.get("target"))))
    if record["phase"] == "asked":
        came = f"asked: {record['why']}" if record.get("why") else "asked"
    else:
        revision = f", revision {record['plan_revision']}" if record.get("plan_revision") is not None else ""
        came = f"{record.get('status')}{revision} {record.get('error', '')}".strip()
    return at, record.get("who") or "a stranger", record.get("source", ""), about, came
