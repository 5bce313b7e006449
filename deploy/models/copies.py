"""Copies of versions on this machine, fetched by a process of its own: MLflow's five seconds and hundred megabytes
never enter a worker."""

import subprocess
import sys
import tempfile
from pathlib import Path

from deploy.features.url import without_password
from deploy.settings import PlatformSettings
from registry.artefacts import read
from registry.cache import VersionCache
from registry.contracts.manifest import ModelPackage
from registry.errors import StoreUnavailable
from registry.signatures import TrustedKeys

FETCH_TIMEOUT_S = 120.0


def version_cache(settings: PlatformSettings) -> VersionCache:
    """Verified copies of versions; what is missing is fetched."""

    def fetch(model: str, version: int) -> ModelPackage:
        with tempfile.TemporaryDirectory(prefix="sluice-fetch-") as scratch:
            argv = [sys.executable, "-m", "deploy.models.fetch", model, str(version), f"{scratch}/package"]
            subprocess.run(argv, check=True, timeout=FETCH_TIMEOUT_S, stdout=subprocess.DEVNULL)
            return read(Path(scratch) / "package")

    return VersionCache(settings.versions_folder, fetch, TrustedKeys.parse(settings.trusted_keys))


def local_version(settings: PlatformSettings, model: str, version: int, digest: str) -> ModelPackage:
    """A version's package from the copies on this machine, fetched if it is not there."""
    return read(version_cache(settings).get(model, version, digest))


def fetch_copy(settings: PlatformSettings, model: str, version: int, folder: Path) -> None:
    """A version out of the registry into the copies on this machine.

    Raises StoreUnavailable."""
    argv = [sys.executable, "-m", "deploy.models.fetch", model, str(version), str(folder)]
    try:
        subprocess.run(argv, check=True, timeout=FETCH_TIMEOUT_S, stdout=subprocess.DEVNULL)
    except (subprocess.SubprocessError, OSError) as error:
        where = without_password(settings.mlflow_url)
        raise StoreUnavailable(f"{model}@{version} could not be fetched from {where}: {error}") from error
