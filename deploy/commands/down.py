"""`sluice down`."""

import os
from typing import Annotated

import typer

from deploy.machine import lifecycle
from deploy.settings import PlatformSettings


def down(
    wait: Annotated[float, typer.Option(help="Seconds until all must have stopped.", min=1)] = 120.0,
) -> None:
    """Stop the platform in order and wait until it is gone."""
    settings = PlatformSettings.from_environment(os.environ)
    pid = lifecycle.stop(settings, wait)
    typer.echo(f"stopped the platform of {settings.home} (supervisor {pid})")
