"""What the monitor knows and how far it has read, in one file that is replaced as a whole."""

from collections import OrderedDict
from pathlib import Path

import msgspec
import xxhash

from drift.atomic_file import replace_file
from drift.errors import UnreadableSnapshot
from drift.windows.window import WindowState
from registry.contracts.errors import UNDECODABLE

SCHEMA = 1
REMEMBERED = 1 << 16


class Snapshot(msgspec.Struct, frozen=True):
    """entries: ids of stream entries that are in `windows` and may not be acknowledged yet.

    recent: see `Recent`. days: of closed windows, while they last.
    """

    watermark_ms: int
    entries: tuple[str, ...]
    recent: bytes
    windows: tuple[WindowState, ...]
    schema: int = SCHEMA
    days: tuple[WindowState, ...] = ()


class Recent:
    """The last ranking ids that came, as 8-byte digests: gateways may write an event again after
    a crash, within moments.

    >>> recent = Recent()
    >>> recent.is_new("a"), recent.is_new("a")
    (True, False)
    """

    def __init__(self, known: bytes = b"", remembered: int = REMEMBERED) -> None:
        self._remembered = remembered
        self._digests = OrderedDict.fromkeys(known[i : i + 8] for i in range(0, len(known), 8))

    def is_new(self, ranking_id: str) -> bool:
        """Whether it did not come lately; it has now."""
        digest = xxhash.xxh3_64_digest(ranking_id.encode())
        if digest in self._digests:
            return False
        self._digests[digest] = None
        if len(self._digests) > self._remembered:
            self._digests.popitem(last=False)
        return True

    def to_bytes(self) -> bytes:
        """Oldest first, as the constructor takes them."""
        return b"".join(self._digests)


def save(path: Path, snapshot: Snapshot) -> None:
    """A crash leaves the old file or the new one. Raises OSError."""
    replace_file(path, msgspec.msgpack.encode(snapshot))


def load(path: Path) -> Snapshot | None:
    """None if there is no file. Raises UnreadableSnapshot."""
    try:
        found = msgspec.msgpack.decode(path.read_bytes(), type=Snapshot)
    except FileNotFoundError:
        return None
    except UNDECODABLE as error:
        raise UnreadableSnapshot(f"{path} is no snapshot of the drift monitor: {error}") from error
    if found.schema != SCHEMA:
        raise UnreadableSnapshot(f"{path} has schema {found.schema}: this code reads {SCHEMA}")
    return found
