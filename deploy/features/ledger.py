"""How far a feature file was loaded, kept so that an interrupted load goes on where it was."""

import hashlib
from pathlib import Path

import msgspec

from deploy.machine.home import write_atomically
from registry.contracts.errors import UNDECODABLE
from registry.contracts.features import FeatureView

_EDGE_BYTES = 1 << 20


class LoadMark(msgspec.Struct, frozen=True):
    """stored_rows: how many rows from the file's start are in Redis. last_item: the last of them.
    updated_ms: written into all rows of this load."""

    stored_rows: int
    last_item: str
    updated_ms: int


class LoadLedger:
    """The mark of one file for one layout of a view.

    A file is known by size, time of change and both its ends, not by its name: a copy goes on,
    a changed file starts again.
    """

    def __init__(self, folder: Path, path: Path, view: FeatureView, item_column: str) -> None:
        found = path.stat()
        digest = hashlib.blake2b(f"{found.st_size} {found.st_mtime_ns} {item_column}\0".encode(), digest_size=16)
        digest.update(view.fingerprint.encode())
        with open(path, "rb") as file:
            digest.update(file.read(_EDGE_BYTES))
            file.seek(max(0, found.st_size - _EDGE_BYTES))
            digest.update(file.read(_EDGE_BYTES))
        self._file = folder / f"{digest.hexdigest()}.json"

    def read(self) -> LoadMark | None:
        """The mark of an interrupted load; None if there is none, or none that can be read."""
        try:
            return msgspec.json.decode(self._file.read_bytes(), type=LoadMark)
        except (FileNotFoundError, *UNDECODABLE):
            return None

    def write(self, mark: LoadMark) -> None:
        """Replaces the mark."""
        self._file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_atomically(self._file, msgspec.json.encode(mark))

    def forget(self) -> None:
        """The load is over."""
        self._file.unlink(missing_ok=True)
