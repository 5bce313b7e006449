"""`sluice up`."""

import os
import signal
import subprocess
import time
from types import FrameType
from typing import Annotated

import typer
from rich.console import Console

from deploy.commands.table import StateView
from deploy.features.url import without_password
from deploy.machine import lifecycle
from deploy.machine.home import as_running
from deploy.settings import PlatformSettings


def up(
    detach: Annotated[
        bool, typer.Option("--detach", "-d", help="Return when all is ready; go on in the background.")
    ] = False,
    wait: Annotated[float, typer.Option(help="Seconds until all must be ready, with --detach.", min=1)] = 180.0,
) -> None:
    """Start the platform: in the foreground until Ctrl-C, or with --detach in the background."""
    settings = PlatformSettings.from_environment(os.environ)
    console = Console()
    with StateView(console) as view:
        supervisor = lifecycle.launch(settings, attached=not detach)
        if detach:
            lifecycle.wait_until_ready(settings, supervisor, wait, view.show)
        else:
            _until_interrupted(settings, supervisor, view)
    if detach:
        _say_where(as_running(settings), console)


def _until_interrupted(settings: PlatformSettings, supervisor: "subprocess.Popen[bytes]", view: StateView) -> None:
    """Raises SluiceError if the supervisor ended without being asked to."""
    signal.signal(signal.SIGTERM, _interrupt)
    asked = False
    while supervisor.poll() is None:
        try:
            if state := lifecycle.state_of(settings, supervisor):
                view.show(state)
            time.sleep(lifecycle.POLL_S)
        except KeyboardInterrupt:
            asked = True
            supervisor.terminate()
    if state := lifecycle.state_of(settings, supervisor):
        view.show(state)
    if not asked and supervisor.returncode != 0:
        raise lifecycle.failure(settings, supervisor)


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _say_where(settings: PlatformSettings, console: Console) -> None:
    console.print(f"gateway  {settings.gateway_url}/docs", highlight=False)
    console.print(f"console  {settings.gateway_url}/console (signed in: sluice console)", highlight=False)
    console.print(f"metrics  {settings.gateway_url}/metrics", highlight=False)
    if settings.with_grpc:
        console.print(f"grpc     {settings.grpc_address}", highlight=False)
    if settings.with_mlflow:
        console.print(f"mlflow   {without_password(settings.mlflow_url)}", highlight=False)
    console.print(f"data     {settings.home}", highlight=False, soft_wrap=True)
