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
            fetch_copy(settings, model, version, Path(scratch) / "package")
            return read(Path(scratch) / "package")

    return VersionCache(settings.versions_folder, fetch, TrustedKeys.parse(settings.trusted_keys))


def local_version(settings: PlatformSettings, model: str, version: int, digest: str) -> ModelPackage:
    """A version's package from the copies on this machine, fetched if it is not there."""
    return read(version_cache(settings).get(model, version, digest))


def fetch_copy(settings: PlatformSettings, model: str, version: int, folder: Path) -> None:
    """A version out of the registry into a folder of this machine.

    Raises StoreUnavailable with the fetching process's last words."""
    argv = [sys.executable, "-m", "deploy.models.fetch", model, str(version), str(folder)]
    try:
        done = subprocess.run(
            argv, timeout=FETCH_TIMEOUT_S, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        sys.stderr.write(done.stderr)  # into the log, as it was said
        why = (done.stderr.strip().splitlines() or [f"exit {done.returncode}"])[-1] if done.returncode else ""
    except (subprocess.SubprocessError, OSError) as error:
        why = str(error)
    if why:
        where = without_password(settings.mlflow_url)
        raise StoreUnavailable(f"{model}@{version} could not be fetched from {where}: {why}")
