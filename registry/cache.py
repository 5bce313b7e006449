"""Verified copies of versions in a folder, so that a restart needs neither MLflow nor a network."""

import logging
from collections.abc import Callable
from pathlib import Path

from registry.artefacts import read, verify, write
from registry.contracts.manifest import ModelPackage
from registry.errors import RefusedVersion

log = logging.getLogger(__name__)


class VersionCache:
    """`<folder>/<model>/<version>/`, shared by the processes of a machine.

    fetch: brings a version from its store; called outside any lock, so two processes that miss at
    the same moment both fetch, and either result is whole.
    """

    def __init__(self, folder: Path, fetch: Callable[[str, int], ModelPackage]) -> None:
        self._folder, self._fetch = folder, fetch

    def get(self, model: str, version: int, digest: str) -> Path:
        """The folder of the version, verified just now.

        What is missing, damaged or of another digest is fetched again. Raises RefusedVersion if
        what was fetched is not what the digest says, and whatever `fetch` raises.
        """
        folder = self._folder / model / str(version)
        if folder.exists():
            try:
                verify(read(folder), digest)
                return folder
            except RefusedVersion as error:
                log.warning("fetching %s@%d again: %s", model, version, error)
        package = self._fetch(model, version)
        verify(package, digest)
        write(package, folder)
        return folder
