"""Starting and ending the platform of a data folder from outside: what commands are made of."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from deploy.errors import AlreadyRunning, NotReady, NotRunning, SluiceError, StartFailed
from deploy.machine.child import IMPORT_ROOT, bound
from deploy.machine.home import as_running, holder
from deploy.machine.identity import identify
from deploy.machine.state import PlatformState, read_state
from deploy.settings import PlatformSettings

POLL_S = 0.1

Show = Callable[[PlatformState], None]


def running(settings: PlatformSettings) -> tuple[PlatformSettings, PlatformState]:
    """The settings as they are found running (`as_running`), and the state, of this folder's platform.

    Raises NotRunning, SettingsError.
    """
    state = read_state(settings)
    if (pid := holder(settings)) is None or state is None or state.supervisor_pid != pid:
        raise NotRunning(f"Sluice is not running in {settings.home}", "sluice up")
    return as_running(settings), state


def launch(settings: PlatformSettings, attached: bool) -> "subprocess.Popen[bytes]":
    """Start the supervisor as a process of its own.

    attached: it is told to stop when the calling process ends, in whatever way.
    Raises AlreadyRunning.
    """
    if (pid := holder(settings)) is not None:
        raise _held_by(settings, pid)
    settings.logs_folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "deploy.machine.supervisor"]
    with open(_last_words(settings), "wb") as last_words:
        return subprocess.Popen(
            bound(command) if attached else command,
            env={**os.environ, **settings.to_environment()},
            cwd=IMPORT_ROOT,
            stdin=subprocess.DEVNULL,
            stdout=last_words,
            stderr=last_words,
            start_new_session=True,
        )


def wait_until_ready(
    settings: PlatformSettings, supervisor: "subprocess.Popen[bytes]", wait_s: float, show: Show
) -> PlatformState:
    """The state in which all processes are ready; `show` is given what there is on the way.

    Raises StartFailed if the supervisor ended, NotReady if time is over (all goes on running).
    """
    until_s = time.monotonic() + wait_s
    while True:
        ended = supervisor.poll() is not None
        state = state_of(settings, supervisor)
        if ended:
            raise failure(settings, supervisor)
        if state is not None:
            show(state)
            if state.ready:
                return state
        if time.monotonic() > until_s:
            missing = state.missing if state else "the supervisor"
            raise NotReady(f"not ready after {wait_s:g} s: {missing}", "sluice status, sluice logs --level ERROR")
        time.sleep(POLL_S)


def state_of(settings: PlatformSettings, supervisor: "subprocess.Popen[bytes]") -> PlatformState | None:
    """What this supervisor wrote last; None if it has not written yet."""
    state = read_state(settings)
    return state if state is not None and state.supervisor_pid == supervisor.pid else None


def failure(settings: PlatformSettings, supervisor: "subprocess.Popen[bytes]") -> SluiceError:
    """Why a supervisor that ended did so, in its own words."""
    lines = _last_words(settings).read_text(errors="replace").splitlines()
    return StartFailed.told(lines[-1] if lines else "", supervisor.returncode)


def stop(settings: PlatformSettings, wait_s: float) -> int:
    """Stop the platform of this folder and wait until it is gone. Returns the supervisor's pid.

    Raises NotRunning, or NotReady if it is still stopping when time is over.
    """
    pid = holder(settings)
    supervisor = identify(pid) if pid is not None else None
    if supervisor is None:
        raise NotRunning(f"Sluice is not running in {settings.home}", "sluice up")
    os.kill(supervisor.pid, signal.SIGTERM)
    until_s = time.monotonic() + wait_s
    while identify(supervisor.pid) == supervisor:
        if time.monotonic() > until_s:
            raise NotReady(f"still stopping after {wait_s:g} s (supervisor {supervisor.pid})", "sluice status")
        time.sleep(POLL_S)
    return supervisor.pid


def _held_by(settings: PlatformSettings, pid: int) -> AlreadyRunning:
    state = read_state(settings)
    if state is None or state.supervisor_pid != pid or not state.stopping:
        return AlreadyRunning(f"Sluice is already running in {settings.home} (supervisor {pid})", "sluice status")
    return AlreadyRunning(
        f"Sluice is still stopping in {settings.home} (supervisor {pid})",
        "sluice down, which waits until it has stopped, then the same command again",
    )


def _last_words(settings: PlatformSettings) -> Path:
    return settings.logs_folder / "supervisor.err"
