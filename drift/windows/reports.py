"""Verdicts as files: `<folder>/<model>/<version>/<arm>-<start>.json`, and `latest-<arm>.json`."""

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from drift.atomic_file import replace_file
from drift.windows.judge import DriftVerdict


@dataclass(frozen=True, slots=True)
class VerdictReports:
    """kept: how many windows of a version and arm stay (a day of five minutes); the oldest go first."""

    folder: Path
    kept: int = 300

    def write(self, verdict: DriftVerdict) -> None:
        """Keeps the verdict, as the arm's latest too unless a later window is there already.

        The same window again replaces itself. Raises OSError.
        """
        home = self.folder / verdict.model / str(verdict.version)
        content = msgspec.json.format(msgspec.json.encode(verdict), indent=1)
        path = home / f"{verdict.arm}-{stamp(verdict.start_ms)}.json"
        replace_file(path, content)
        windows = sorted(home.glob(f"{verdict.arm}-*.json"))  # the times in their names sort
        if path == windows[-1]:
            replace_file(home / f"latest-{verdict.arm}.json", content)
        for old in windows[: -self.kept]:
            old.unlink(missing_ok=True)

    def latest(self, model: str, version: int, arm: str) -> DriftVerdict | None:
        """None if no window has been judged. Raises OSError."""
        try:
            content = (self.folder / model / str(version) / f"latest-{arm}.json").read_bytes()
        except FileNotFoundError:
            return None
        return msgspec.json.decode(content, type=DriftVerdict)


def stamp(time_ms: int) -> str:
    """A time in a file's name; they sort as times do."""
    return f"{datetime.fromtimestamp(time_ms / 1000, UTC):%Y%m%dT%H%M%S}{time_ms % 1000:03}Z"
