"""What commands about the registry begin with: the running platform, who asks and when, and refusals as one line."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Annotated

import typer

from deploy.errors import SluiceError
from deploy.machine.home import holder
from deploy.machine.lifecycle import running
from deploy.settings import PlatformSettings
from registry.contracts.errors import ContractError
from registry.errors import RegistryError

AsJson = Annotated[bool, typer.Option("--json", help="For scripts.")]
ModelName = Annotated[str, typer.Argument(help="Name of the model.")]


def platform() -> PlatformSettings:
    """Of the platform that runs: here, or in a fleet, whose settings name its engines. Raises NotRunning."""
    settings = PlatformSettings.from_environment(os.environ)
    return settings if _is_fleet(settings) else running(settings)[0]


def _is_fleet(settings: PlatformSettings) -> bool:
    """Whether there is no supervisor to ask: a container, whose settings name all engines."""
    return bool(settings.redis and settings.mlflow) and holder(settings) is None


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

    fleet = _is_fleet(settings)  # SLUICE_URL and SLUICE_KEY say where its gateways are
    with ControlClient.of(os.environ, who()) if fleet else ControlClient.local(settings, who()) as control:
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
