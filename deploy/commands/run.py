"""`sluice run`: one process of the platform, as a container has it."""

import os
import sys
import tempfile
from typing import Annotated

import typer

from deploy.errors import SluiceError
from deploy.settings import PlatformSettings

OWN = ("gateway", "worker", "controller", "archiver", "monitor")
CELERY = ("celery-worker", "celery-runs", "celery-beat")


def run(
    process: Annotated[str, typer.Argument(help=f"One of {', '.join(OWN + CELERY)}.", metavar="PROCESS")],
) -> None:
    """Run one process of the platform in the foreground, until SIGTERM. Containers do: nothing restarts it here."""
    from deploy.machine.home import holds_sockets, make_folders
    from deploy.machine.processes import celery_commands

    kind = process.rpartition("-")[0] if process.rpartition("-")[2].isdigit() else process
    if kind not in OWN and process not in CELERY:
        raise SluiceError(f"no process is called {process!r}", f"one of {', '.join(OWN + CELERY)}")
    settings = PlatformSettings.from_environment(os.environ)
    make_folders(settings, with_sockets=holds_sockets(settings))
    if process in CELERY:
        argv = celery_commands(settings)[process]
        # its children count as well: a folder for this container's life, beside which there is no other process
        folder = os.environ.get("PROMETHEUS_MULTIPROC_DIR") or tempfile.mkdtemp(prefix="sluice-metrics-")
        os.execve(argv[0], argv, {**os.environ, "PROMETHEUS_MULTIPROC_DIR": folder, "PYTHONUNBUFFERED": "1"})
    argv = (sys.executable, "-m", "deploy.process", process)
    os.execve(argv[0], argv, {**os.environ, "PYTHONUNBUFFERED": "1"})
