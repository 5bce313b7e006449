"""The wall clock of a whole platform, set by the test: Debian's libfaketime in every process of it.

`unshare --time` moves only the clocks that count from the start of the machine; the wall's is the one that people and
NTP set.
"""

import os
from pathlib import Path

from tests.missing_tools import lacks

_PLACES = ("usr/lib/x86_64-linux-gnu", "usr/lib/aarch64-linux-gnu")
_ROOTS = (Path("/"), Path(__file__).parents[2] / ".faketime")


def library() -> Path:
    """Skips the test where there is none; `deploy/scripts/faketime` unpacks Debian's."""
    for root in _ROOTS:
        for place in _PLACES:
            if (found := root / place / "faketime" / "libfaketimeMT.so.1").exists():
                return found
    return lacks("no libfaketime: deploy/scripts/faketime unpacks Debian's")


class WallClock:
    """file: what the processes look at, for each question about the time."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self.ahead(0)

    def environment(self) -> dict[str, str]:
        """Of a process that goes by this clock; what counts seconds since the start goes on as ever."""
        return {
            "LD_PRELOAD": str(library()),
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }

    def ahead(self, seconds: int) -> None:
        """It jumps to so many seconds ahead of the real one, or behind."""
        beside = self._file.with_name(f"{self._file.name}.{os.getpid()}")
        beside.write_text(f"{seconds:+d}\n")
        beside.replace(self._file)
