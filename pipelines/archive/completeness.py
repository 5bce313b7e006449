"""Until when the archive has everything: what an archiver says of it, and what who closes a window asks.

    <archive>/complete.json     {"until_ms": ...}: whatever gateways answered and received before then is on disk

An answer is in its gateway's journal first and in the stream a moment later. A stream that was away leaves journals
full, and says nothing of them: what comes out of it late, or a stream or disk that did not do its work, shows that more
may be on its way, and the word is kept back until nothing of the kind was seen for `CALM_MS`. What a gateway holds that
is away by itself, nobody can see."""

from pathlib import Path

import msgspec

from pipelines.durable import replace_file
from registry.contracts.errors import UNDECODABLE
from registry.stream import StreamReader

FILE = "complete.json"
CALM_MS = 10_000  # from an answer to its place in the stream, at most, while all is well


class _Word(msgspec.Struct, frozen=True):
    until_ms: int


def complete_until(archive: Path) -> int | None:
    """Ms since the epoch; None if no archiver has said so, or it cannot be read."""
    try:
        return msgspec.json.decode((archive / FILE).read_bytes(), type=_Word).until_ms
    except (OSError, *UNDECODABLE):
        return None


def say_complete(archive: Path, until_ms: int) -> None:
    """A reader sees the word before or this one."""
    replace_file(archive / FILE, msgspec.json.encode(_Word(until_ms)))


class Calm:
    """Whether events come as they are made. Times are of one clock, ms."""

    def __init__(self) -> None:
        self._disturbed_ms: int | None = None

    def failed(self, now_ms: int) -> None:
        """The stream or the disk did not do its work."""
        self._disturbed_ms = now_ms

    def came(self, oldest_ms: int | None, came_ms: int, now_ms: int) -> None:
        """Events began to come at came_ms, the oldest of them made at oldest_ms; None if there were none."""
        if oldest_ms is not None and oldest_ms < came_ms - CALM_MS:
            self._disturbed_ms = now_ms

    def complete_until(self, reader: StreamReader, now_ms: int) -> int | None:
        """Until when all is on disk; None if that cannot be said now. Raises StoreUnavailable."""
        since_ms = now_ms - CALM_MS
        if self._disturbed_ms is not None and since_ms < self._disturbed_ms <= now_ms:
            return None
        return since_ms if reader.is_past(now_ms - CALM_MS // 2) else None
