"""Which process a pid means. Pids are reused: a pid read from a file may be somebody else's by now,
so it only counts together with the time at which that process started.

Reads /proc, so Linux only; elsewhere no process is ever recognised, and none is ended.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_PROC = Path("/proc")


@dataclass(frozen=True, slots=True)
class Identity:
    """started_ticks: since boot, in the kernel's clock ticks. session: pid of the session's leader."""

    pid: int
    started_ticks: int
    session: int


def identify(pid: int) -> Identity | None:
    """The process that has this pid now; None if there is none, or only its exit status is left."""
    try:
        status = (_PROC / str(pid) / "stat").read_text()
    except OSError:
        return None
    fields = status.rpartition(")")[2].split()  # the name before may hold spaces and brackets
    state, session, started_ticks = fields[0], int(fields[3]), int(fields[19])
    return None if state in "ZX" else Identity(pid, started_ticks, session)


def everybody() -> Iterator[Identity]:
    """All processes of this machine (of this container)."""
    for entry in _PROC.iterdir() if _PROC.is_dir() else ():
        if entry.name.isdigit() and (found := identify(int(entry.name))):
            yield found


def environment_of(pid: int) -> dict[str, str]:
    """The variables a process started with; empty if it is gone or not ours to read."""
    try:
        raw = (_PROC / str(pid) / "environ").read_bytes()
    except OSError:
        return {}
    pairs = (os.fsdecode(entry).partition("=") for entry in raw.split(b"\0") if entry)
    return {key: value for key, _, value in pairs}


def boot_id() -> str:
    """Start times only compare within one boot."""
    try:
        return (_PROC / "sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""
