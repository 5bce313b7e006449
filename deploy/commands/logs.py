"""`sluice logs`."""

import json
import os
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, TextIO

import typer

from deploy.errors import SettingsError, SluiceError
from deploy.settings import PlatformSettings

LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
_POLL_S = 0.2
_SHOWN_APART = ("ts", "level", "logger", "message", "process", "exception")

Line = dict[str, Any]


def logs(
    process: Annotated[str, typer.Argument(help="Only of this process, `worker-0` or all of `worker`.")] = "",
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with what comes.")] = False,
    lines: Annotated[int, typer.Option("--lines", "-n", help="How many of the last lines.", min=0)] = 50,
    level: Annotated[str, typer.Option(help="Only of this level or above.")] = "DEBUG",
    as_json: Annotated[bool, typer.Option("--json", help="As they are in the file.")] = False,
) -> None:
    """What the processes wrote, last lines first to last."""
    settings = PlatformSettings.from_environment(os.environ)
    if level.upper() not in LEVELS:
        raise SettingsError("--level", level, f"one of {', '.join(LEVELS)}", "sluice logs --level ERROR")
    if not settings.log_file.exists():
        raise SluiceError(f"there is no log yet at {settings.log_file}", "sluice up")
    wanted = wanted_lines(process, level.upper())
    show = json.dumps if as_json else readable
    try:
        for line in last_lines(settings.log_file, lines, wanted):
            typer.echo(show(line))
        if follow:
            for line in new_lines(settings.log_file, wanted):
                typer.echo(show(line))
    except KeyboardInterrupt:
        sys.exit(130)


def wanted_lines(process: str, level: str) -> Callable[[Line], bool]:
    """Whether a line is of the process (or one of its replicas) and of the level or above."""
    at_least = LEVELS.index(level)

    def wanted(line: Line) -> bool:
        name, found = str(line.get("process", "")), str(line.get("level", "INFO"))
        of_process = not process or name == process or name.rpartition("-")[0] == process
        return of_process and (found not in LEVELS or LEVELS.index(found) >= at_least)

    return wanted


def readable(line: Line) -> str:
    """
    >>> readable({"ts": "1970-01-01T00:00:00.250Z", "level": "INFO", "process": "redis", "message": "up", "port": 0})
    '00:00:00.250 INFO     redis          up  port=0'
    """
    rest = "".join(f"  {key}={value}" for key, value in line.items() if key not in _SHOWN_APART)
    time_of_day = str(line.get("ts", ""))[11:23]
    text = f"{time_of_day} {line.get('level', ''):<8} {line.get('process', ''):<14} {line.get('message', '')}{rest}"
    return f"{text}\n{line['exception']}" if "exception" in line else text


def last_lines(path: Path, count: int, wanted: Callable[[Line], bool]) -> list[Line]:
    """The last wanted lines, oldest first, from rotated files too if the newest has not enough."""
    found: deque[Line] = deque()
    rotated = (path.with_name(f"{path.name}.{age}") for age in range(1, 100))
    for part in (path, *rotated):
        if len(found) >= count or not part.exists():
            break
        with part.open(encoding="utf-8", errors="replace") as stream:
            of_part = deque((line for line in map(_decoded, stream) if wanted(line)), maxlen=count - len(found))
        found.extendleft(reversed(of_part))
    return list(found)


def new_lines(path: Path, wanted: Callable[[Line], bool]) -> Iterator[Line]:
    """Wanted lines that are written from now on, across rotations; without end."""
    skip = path.stat().st_size
    while True:
        with path.open(encoding="utf-8", errors="replace") as stream:
            stream.seek(skip)
            yield from filter(wanted, map(_decoded, _until_rotated(path, stream)))
        skip = 0


def _until_rotated(path: Path, stream: TextIO) -> Iterator[str]:
    """Whole lines, as they are written, until all of a file that was renamed is read."""
    partial = ""
    while True:
        rotated = path.exists() and path.stat().st_ino != os.fstat(stream.fileno()).st_ino
        while text := stream.readline():
            partial += text
            if partial.endswith("\n"):
                yield partial
                partial = ""
        if rotated:
            return
        time.sleep(_POLL_S)


def _decoded(text: str) -> Line:
    try:
        line = json.loads(text)
    except ValueError:
        return {"message": text.rstrip()}
    return line if isinstance(line, dict) else {"message": text.rstrip()}
