"""What the supervisor writes down: how its processes are, for `sluice status`, and who they are,
so that the next supervisor can end what a killed one left running.
"""

import contextlib
import logging
import os
import signal
import time
from pathlib import Path

import msgspec

from deploy.machine.home import write_atomically
from deploy.machine.identity import Identity, boot_id, environment_of, everybody, identify
from deploy.machine.supervision import Phase, Process
from deploy.settings import PlatformSettings

logger = logging.getLogger(__name__)


class ProcessState(msgspec.Struct, frozen=True):
    """One process.

    since_s: seconds since the epoch at which it came into its phase.
    started_ticks: with the pid, who it is; see `identity`.
    """

    name: str
    phase: Phase
    pid: int | None
    started_ticks: int | None
    restarts: int
    since_s: float
    last_exit: str

    @property
    def ready(self) -> bool:
        """It does its work."""
        return self.phase is Phase.READY


class PlatformState(msgspec.Struct, frozen=True):
    """All processes, in start order."""

    supervisor_pid: int
    boot_id: str
    processes: tuple[ProcessState, ...]

    @property
    def ready(self) -> bool:
        """Everything is there."""
        return all(process.ready for process in self.processes)

    @property
    def stopping(self) -> bool:
        """It was asked to end, and no process will be started any more."""
        return any(process.phase in (Phase.STOPPING, Phase.STOPPED) for process in self.processes)

    @property
    def missing(self) -> str:
        """What is not ready, in words.

        >>> PlatformState(1, "", (ProcessState("redis", Phase.FAILED, None, None, 7, 0.0, ""),)).missing
        'redis FAILED'
        """
        return ", ".join(f"{p.name} {p.phase}" for p in self.processes if not p.ready)


def state_file(settings: PlatformSettings) -> Path:
    """Where the state of this data folder's platform lies."""
    return settings.run_folder / "state.json"


def describe(processes: list[Process], monotonic_s: float, epoch_s: float) -> PlatformState:
    """The state of the calling supervisor's processes; both clocks show the same instant."""
    return PlatformState(os.getpid(), boot_id(), tuple(_describe(p, epoch_s - monotonic_s) for p in processes))


def _describe(process: Process, epoch_of_monotonic_s: float) -> ProcessState:
    found = identify(process.pid) if process.pid is not None else None
    return ProcessState(
        name=process.spec.name,
        phase=process.phase,
        pid=process.pid,
        started_ticks=found.started_ticks if found else None,
        restarts=process.restarts,
        since_s=round(process.since_s + epoch_of_monotonic_s, 3),
        last_exit=process.last_exit,
    )


def write_state(settings: PlatformSettings, state: PlatformState) -> None:
    """Replace what was written before."""
    write_atomically(state_file(settings), msgspec.json.encode(state))


def read_state(settings: PlatformSettings) -> PlatformState | None:
    """What was written last, possibly by a supervisor that is gone; None if nothing was."""
    try:
        return msgspec.json.decode(state_file(settings).read_bytes(), type=PlatformState)
    except FileNotFoundError:
        return None


def end_leftovers(settings: PlatformSettings, grace_s: float) -> list[str]:
    """End what the last supervisor of this folder left running; the caller holds the folder.

    Only processes that are provably ours: the ones it wrote down, by pid and start time, and
    what they started (same session, our SLUICE_HOME). Returns their names or pids.
    """
    state = read_state(settings)
    if state is None or state.boot_id != boot_id():
        return []
    recorded = {process.pid: process for process in state.processes if process.pid is not None}

    def ours(found: Identity) -> bool:
        leader = recorded.get(found.session)
        if leader is None or leader.started_ticks is None:
            return False
        if found.pid == leader.pid:
            return found.started_ticks == leader.started_ticks
        started_later = found.started_ticks >= leader.started_ticks
        return started_later and environment_of(found.pid).get("SLUICE_HOME") == str(settings.home)

    left = [found for found in everybody() if ours(found)]
    for number, patience_s in ((signal.SIGTERM, grace_s), (signal.SIGKILL, 5.0)):
        _signal(left, number)
        _until_gone(left, patience_s)
    names = [recorded[found.pid].name if found.pid in recorded else str(found.pid) for found in left]
    if names:
        logger.warning("ended what an earlier supervisor left running: %s", ", ".join(names))
    return names


def _signal(left: list[Identity], number: int) -> None:
    for found in left:
        if identify(found.pid) == found:
            with contextlib.suppress(ProcessLookupError):
                os.kill(found.pid, number)


def _until_gone(left: list[Identity], patience_s: float) -> None:
    until_s = time.monotonic() + patience_s
    while any(identify(found.pid) == found for found in left) and time.monotonic() < until_s:
        time.sleep(0.02)
