"""What the monitor knows and how far it has read, in one file that is replaced as a whole."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, TypeVar

import msgspec

from drift.atomic_file import replace_file
from drift.errors import UnreadableSnapshot
from drift.windows.counted import CountedSecond
from drift.windows.sketched import KeptSketch
from drift.windows.window import WindowState
from registry.contracts.errors import UNDECODABLE

SCHEMA = 1
_NUMBER = r"(0|[1-9][0-9]{0,19})"  # one way of writing each: an entry must not have two names
_ENTRY_ID = re.compile(f"{_NUMBER}(-{_NUMBER}){{1,2}}")  # Kafka's have three numbers


class _Placed(Protocol):
    """What every monitor's snapshot has."""

    @property
    def schema(self) -> int: ...
    @property
    def entries(self) -> Sequence[str]: ...


Kept = TypeVar("Kept", bound=_Placed)


class Snapshot(msgspec.Struct, frozen=True):
    """entries: ids of stream entries that are in `windows` and may not be acknowledged yet.

    counted: the rankings that are in `windows`. sketches: of `windows`. days: of closed windows, while they last.
    """

    watermark_ms: int
    entries: tuple[str, ...]
    windows: tuple[WindowState, ...]
    schema: int = SCHEMA
    days: tuple[WindowState, ...] = ()
    counted: tuple[CountedSecond, ...] = ()
    sketches: tuple[KeptSketch, ...] = ()


def save(path: Path, snapshot: Snapshot) -> None:
    """A crash leaves the old file or the new one. Raises OSError."""
    replace_file(path, msgspec.msgpack.encode(snapshot))


def load(path: Path) -> Snapshot | None:
    """None if there is no file. Raises UnreadableSnapshot."""
    return read(path, Snapshot, SCHEMA, "the drift monitor")


def read(path: Path, form: type[Kept], schema: int, whose: str) -> Kept | None:
    """A monitor's snapshot, None if there is no file. Raises UnreadableSnapshot. whose: in words."""
    try:
        found = msgspec.msgpack.decode(path.read_bytes(), type=form)
    except FileNotFoundError:
        return None
    except UNDECODABLE as error:
        raise UnreadableSnapshot(f"{path} is no snapshot of {whose}: {error}") from error
    if found.schema != schema:
        raise UnreadableSnapshot(f"{path} has schema {found.schema}: this code reads {schema}")
    check_entries(path, found.entries)
    return found


def check_entries(path: Path, entries: Sequence[str]) -> None:
    """Raises UnreadableSnapshot unless they can be ids of stream entries: no store acknowledges any others."""
    if not all(_ENTRY_ID.fullmatch(entry) and max(map(int, entry.split("-"))) < 1 << 64 for entry in entries):
        raise UnreadableSnapshot(f"{path} is damaged: it names entries that no stream has")
