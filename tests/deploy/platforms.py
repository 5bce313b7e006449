"""Starts supervisors of small platforms in one data folder, and sees how they are."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

from deploy.machine.identity import identify
from deploy.machine.state import PlatformState, ProcessState, read_state
from deploy.machine.supervision import Phase
from deploy.settings import PlatformSettings

ROOT = Path(__file__).resolve().parents[2]
PATIENCE_S = 60.0

Found = TypeVar("Found")


def until(condition: Callable[[], Found | None], what: str, patience_s: float = PATIENCE_S) -> Found:
    """What the condition gives as soon as that is true; fails the test if it never is."""
    give_up_s = time.monotonic() + patience_s
    while not (found := condition()):
        assert time.monotonic() < give_up_s, f"not within {patience_s:g} s: {what}"
        time.sleep(0.01)
    return found


def process_of(state: PlatformState | None, name: str) -> ProcessState:
    """The state of one process."""
    assert state is not None
    return next(process for process in state.processes if process.name == name)


def pid_of(state: PlatformState, name: str) -> int:
    """The pid of a process that runs."""
    pid = process_of(state, name).pid
    assert pid is not None
    return pid


def gone(*pids: int) -> bool:
    """None of them runs."""
    return not any(identify(pid) for pid in pids)


@dataclass
class Platforms:
    """Supervisors of `small_platform`, one data folder; all are stopped at the end."""

    settings: PlatformSettings
    started: list["subprocess.Popen[str]"] = field(default_factory=list)

    def start(self, name: str, **environment: str) -> "subprocess.Popen[str]":
        """Start a supervisor of the platform with this name."""
        supervisor = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("small_platform.py")), name],
            env={**os.environ, **self.settings.to_environment(), "PYTHONPATH": str(ROOT), **environment},
            stderr=subprocess.PIPE,
            text=True,
        )
        self.started.append(supervisor)
        return supervisor

    def ready(self, supervisor: "subprocess.Popen[str]", patience_s: float = PATIENCE_S) -> PlatformState:
        """The state in which everything is ready."""

        def state() -> PlatformState | None:
            found = self.state(supervisor)
            return found if found and found.ready else None

        return until(state, "everything is ready", patience_s)

    def in_phase(self, supervisor: "subprocess.Popen[str]", name: str, phase: Phase, restarts: int) -> ProcessState:
        """The process, as soon as it is in that phase after at least so many restarts."""

        def process() -> ProcessState | None:
            state = self.state(supervisor)
            found = process_of(state, name) if state else None
            return found if found and found.phase is phase and found.restarts >= restarts else None

        return until(process, f"{name} is {phase}")

    def state(self, supervisor: "subprocess.Popen[str]") -> PlatformState | None:
        """What this supervisor wrote last."""
        assert supervisor.poll() is None, f"the supervisor ended: {supervisor.communicate()[1]}"
        state = read_state(self.settings)
        return state if state and state.supervisor_pid == supervisor.pid else None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for supervisor in self.started:
            if supervisor.poll() is None:
                supervisor.send_signal(signal.SIGTERM)
            supervisor.communicate(timeout=PATIENCE_S)
        if self.settings.sockets_folder != self.settings.run_folder and self.settings.sockets_folder.exists():
            self.settings.sockets_folder.rmdir()
