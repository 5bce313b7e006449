"""Verified copies of versions in a folder, so that a restart needs neither MLflow nor a network."""

import logging
import shutil
import uuid
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from registry.artefacts import read, verify, write
from registry.contracts.manifest import ModelPackage
from registry.errors import RefusedVersion
from registry.signatures import ANYBODY, TrustedKeys

log = logging.getLogger(__name__)


class VersionCache:
    """`<folder>/<model>/<version>/`, shared by the processes of a machine.

    fetch: brings a version from its store; called outside any lock, so two processes that miss at
    the same moment both fetch, and either result is whole. trusted: whose versions may be loaded.
    """

    def __init__(self, folder: Path, fetch: Callable[[str, int], ModelPackage], trusted: TrustedKeys = ANYBODY) -> None:
        self._folder, self._fetch, self._trusted = folder, fetch, trusted

    def get(self, model: str, version: int, digest: str) -> Path:
        """The folder of the version, verified just now.

        What is missing, damaged, of another digest or not signed as it should be is fetched again. Raises
        RefusedVersion if what was fetched is not what the digest says or is not signed, and whatever `fetch` raises.
        """
        folder = self._folder / model / str(version)
        if folder.exists():
            try:
                verify(read(folder), digest, self._trusted)
                return folder
            except RefusedVersion as error:
                log.warning("fetching %s@%d again: %s", model, version, error)
        package = self._fetch(model, version)
        verify(package, digest, self._trusted)
        write(package, folder)
        return folder

    def drop(self, wanted: Callable[[str, int], bool]) -> list[tuple[str, int]]:
        """Deletes the copies of versions that are not wanted; says which. Those will be fetched again if asked for."""
        copies = [path for path in self._folder.glob("[!.]*/[!.]*") if path.is_dir() and path.name.isdecimal()]
        dropped = [path for path in sorted(copies) if not wanted(path.parent.name, int(path.name))]
        for path in dropped:
            gone = path.with_name(f".{path.name}-{uuid.uuid4().hex}")
            with suppress(FileNotFoundError):  # another process was quicker
                path.rename(gone)  # nobody finds half of a version
                shutil.rmtree(gone)
        return [(path.parent.name, int(path.name)) for path in dropped]
