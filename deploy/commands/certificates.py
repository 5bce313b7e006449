"""`sluice certificates make`: certificates for TLS, from an authority of one's own."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from deploy.machine.certificates import make_certificates

certificates = typer.Typer(help="Certificates for TLS: make.", no_args_is_help=True)


@certificates.callback()
def group() -> None:
    """Certificates for TLS."""


@certificates.command()
def make(
    folder: Annotated[Path, typer.Argument(help="Where they go; its ca.pem and ca.key are used if they are there.")],
    hosts: Annotated[
        list[str] | None, typer.Option("--host", help="Name or address by which clients find gateways; repeat it.")
    ] = None,
    days: Annotated[int, typer.Option(help="So long they are good; the authority for ten years.", min=1, max=825)] = 90,
) -> None:
    """Make an authority, and certificates for workers, gateways and clients.

    Again in the same folder: new ones by the same authority. Processes that run take them within seconds.
    """
    where = folder.expanduser().absolute()
    table = Table("for", "certificate", "key", "good until", box=None, pad_edge=False)
    for made in make_certificates(where, days, hosts or ()):
        table.add_row(made.name, made.certificate.name, made.key.name, f"{made.until:%Y-%m-%d}")
    console = Console()
    console.print(f"in {where}", soft_wrap=True, highlight=False)
    console.print(table)
    fleet = f"SLUICE_FLEET_TLS=ca={where}/ca.pem,certificate={where}/{{0}}.pem,key={where}/{{0}}.key"
    console.print("\nbetween gateways and workers (each shows its own; where both share one")
    console.print("environment, the gateway's pair with worker=sluice-gateway does for both):")
    for role in ("gateway", "worker"):
        console.print(f"  {fleet.format(role)}", soft_wrap=True, highlight=False)
    console.print("at the gateway's own ports (clients=… asks clients for a certificate, too):")
    gateway = f"SLUICE_GATEWAY_TLS=certificate={where}/gateway.pem,key={where}/gateway.key"
    console.print(f"  {gateway}", soft_wrap=True, highlight=False)
    console.print(f"  {gateway},clients={where}/ca.pem", soft_wrap=True, highlight=False)
