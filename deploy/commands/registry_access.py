"""What commands about the registry begin with: the running platform, who asks and when, and refusals as one line."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Annotated

import typer

from deploy.errors import SluiceError
from deploy.machine.lifecycle import running
from deploy.settings import PlatformSettings
from registry.contracts.errors import ContractError
from registry.errors import RegistryError

AsJson = Annotated[bool, typer.Option("--json", help="For scripts.")]
ModelName = Annotated[str, typer.Argument(help="Name of the model.")]


def platform() -> PlatformSettings:
    """Of the platform that runs. Raises NotRunning."""
    return running(PlatformSettings.from_environment(os.environ))[0]


@contextmanager
def told(hint: str) -> Iterator[None]:
    """The registry's refusals become a SluiceError with this hint."""
    try:
        yield
    except (RegistryError, ContractError) as error:
        raise SluiceError(str(error), hint) from error


def promote_at_once(settings: PlatformSettings, model: str, version: int, why: str) -> None:
    """Makes the version champion through the control API, with its record."""
    from deploy.control.client import ControlClient, model_path

    with ControlClient.local(settings, who()) as control:
        control.post(model_path(model, "promote"), {"version": version, "why": why})


def who() -> str:
    """Whom the history names."""
    return os.environ.get("USER", "unknown")


def now_ms() -> int:
    """Milliseconds since the epoch."""
    return time.time_ns() // 1_000_000


def time_of(at_ms: int) -> str:
    """For eyes, in UTC."""
    return datetime.fromtimestamp(at_ms / 1000, UTC).isoformat(sep=" ", timespec="seconds")
