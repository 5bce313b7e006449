"""`sluice rollout plan|explain|replay|aa`: what online gates would need, say, and said."""

import os
import tempfile
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from deploy import wiring
from deploy.commands.promote import AsJson, IfRevision, Model, OnceKey
from deploy.control.client import ControlClient, model_path
from deploy.errors import SluiceError
from deploy.machine.lifecycle import running
from deploy.settings import PlatformSettings
from registry.errors import RegistryError

DIFFERS, NOT_REPLAYED = 1, 2


def rollout_body(
    version: int,
    why: str,
    *,
    interleaving: bool = False,
    online_gate: bool = True,
    layer: str = "rollout",
    simulated: bool = False,
    underpowered: bool = False,
    over_budget: bool = False,
    aa: bool = False,
) -> dict[str, Any]:
    """What the API is asked to start or to plan."""
    return {
        "version": version,
        "why": why,
        "interleaving": interleaving,
        "online_gate": online_gate,
        "layer": layer,
        "simulated": simulated,
        "underpowered": underpowered,
        "over_budget": over_budget,
        "aa": aa,
    }


def show_plan(console: Console, found: Any) -> None:
    """found: as the control API gives it."""
    table = Table(
        "step", "kind", "looks", "alpha", "to be found", "needed", "brought", "power", box=None, pad_edge=False
    )
    for gate in found["gates"]:
        terms, size = gate["terms"], gate["terms"]["size"]
        effect = f"{terms['effect']:+.2%}" + (f" over {terms['margin']:+.2%}" if terms["margin"] else "")
        needed, brought, power = ("", "", "[red]unknown[/]")
        if size:
            needed = f"{size['needed_lists']} lists, {size['needed_days']:.3g} days"
            brought = f"{size['available_lists']} lists, {size['units_per_day']:.0f} units a day"
            power = f"[{'green' if size['power'] >= terms['power'] else 'bold red'}]{size['power']:.0%}[/]"
        looks = f"{terms['looks']} x {terms['look_s']:g} s"
        table.add_row(gate["step"], gate["kind"], looks, f"{terms['alpha']:.2%}", effect, needed, brought, power)
    console.print(table)
    budget = found["budget"]
    console.print(
        f"alpha: {found['alpha']:.2%} of this decision; {budget['decisions']} decisions in 365 days have spent"
        f" {budget['spent']:.1%} of {budget['yearly']:.0%}",
        highlight=False,
    )
    if found["refused"]:
        console.print(f"[bold red]it would not start:[/] {escape(found['refused'])}", highlight=False, soft_wrap=True)
    else:
        console.print("[green]it would start[/]", highlight=False)


def explain(
    model: Model,
    rollout_id: Annotated[
        str, typer.Argument(help="Its id. Default: the newest of the model.", metavar="[ROLLOUT]")
    ] = "",
    as_json: AsJson = False,
) -> None:
    """Why it stands where it stands: estimate, interval, boundary, sample so far and still expected, rule, verdict."""
    with ControlClient.of(os.environ) as control:
        which = rollout_id or newest_rollout(control, model)
        found = control.get(model_path(model, "rollouts", which, "explain"))
    typer.echo(msgspec.json.encode(found).decode() if as_json else found["text"])


def replay(
    evidence_id: Annotated[str, typer.Argument(help="64 hex digits, as `explain` and `show --json` name it.")],
    as_json: AsJson = False,
) -> None:
    """Read the archive again: 0 the same verdict byte for byte, 1 another (and why), 2 it cannot be replayed."""
    from pipelines.archive.files import Archive
    from pipelines.errors import PipelineError
    from pipelines.gates.data import GateData
    from pipelines.gates.judge import replay as replayed
    from pipelines.gates.judge import what_differs

    settings = running(PlatformSettings.from_environment(os.environ))[0]
    try:
        found = wiring.traffic_control(settings).evidence_of([evidence_id])
        if not found:
            raise _NotReplayed(f"there is no evidence {evidence_id[:64]!r}", "sluice rollout explain MODEL")
        with tempfile.TemporaryDirectory(prefix="sluice-replay-") as scratch:  # what the judge keeps is its own
            now = replayed(found[0], GateData(Archive(settings.archive_folder), Path(scratch)))
    except (RegistryError, PipelineError, ValueError, OSError) as error:
        raise _NotReplayed(str(error), "sluice status") from error
    differs = what_differs(found[0], now)
    if as_json:
        about = {"evidence": evidence_id, "same": not differs, "differs": differs, "replayed": now}
        typer.echo(msgspec.json.encode(about).decode())
    else:
        typer.echo(differs or f"{now.verdict}, the same byte for byte: {now.why}")
    raise typer.Exit(DIFFERS if differs else 0)


def aa(
    model: Model,
    why: Annotated[str, typer.Option(help="The reason, kept with it.")] = "A/A: are the gates right?",
    layer: Annotated[str, typer.Option(help="Of its own, beside real rollouts.")] = "aa",
    simulated: Annotated[bool, typer.Option("--simulated", help="Simulated users click, people do not.")] = False,
    if_revision: IfRevision = None,
    idempotency_key: OnceKey = "",
    as_json: AsJson = False,
) -> None:
    """Run the champion against itself through the same gates; its verdicts are counted, it promotes nothing."""
    with ControlClient.of(os.environ) as control:
        champion = control.get(model_path(model, "plan"))["plan"]["champion"]
        body = rollout_body(champion, why, layer=layer, simulated=simulated, aa=True)
        made = control.post(model_path(model, "rollouts"), body, if_match=if_revision, idempotency_key=idempotency_key)
    about = made["rollout"]
    told = f"{about['id']}: @{champion} against itself in layer {layer}; `sluice rollout explain {model} {about['id']}`"
    typer.echo(msgspec.json.encode(made).decode() if as_json else told)


def newest_rollout(control: ControlClient, model: str) -> str:
    """Its id. Raises SluiceError if there is none."""
    found = control.get(model_path(model, "rollouts"))["rollouts"]
    if not found:
        raise SluiceError(f"model {model!r} has had no rollout", f"sluice rollout start {model} VERSION --why …")
    return str(found[0]["rollout"]["id"])


class _NotReplayed(SluiceError):
    """1 says that it is another verdict, so an error is another number."""

    exit_code = NOT_REPLAYED
