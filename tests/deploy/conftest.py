import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import pytest

from deploy.settings import PlatformSettings
from deploy.state import PlatformState, ProcessState, read_state
from deploy.supervision import Phase

ROOT = Path(__file__).resolve().parents[2]
PATIENCE_S = 30.0

Found = TypeVar("Found")


def until(condition: Callable[[], Found], what: str = "the condition") -> Found:
    """What the condition gives as soon as that is true; fails the test if it never is."""
    give_up_s = time.monotonic() + PATIENCE_S
    while not (found := condition()):
        assert time.monotonic() < give_up_s, f"not within {PATIENCE_S:g} s: {what}"
        time.sleep(0.01)
    return found


@dataclass
class SmallPlatforms:
    """Starts supervisors of `small_platform` in one data folder, and sees what they write."""

    settings: PlatformSettings
    environment: dict[str, str]
    started: list["subprocess.Popen[str]"] = field(default_factory=list)

    def start(self, name: str) -> "subprocess.Popen[str]":
        supervisor = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("small_platform.py")), name],
            env=self.environment,
            cwd=ROOT,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.started.append(supervisor)
        return supervisor

    def ready(self, supervisor: "subprocess.Popen[str]") -> PlatformState:
        return until(lambda: (state := self.state(supervisor)) and state.ready and state, "all is ready")

    def state(self, supervisor: "subprocess.Popen[str]") -> PlatformState | None:
        assert supervisor.poll() is None, supervisor.stderr and supervisor.stderr.read()
        state = read_state(self.settings)
        return state if state and state.supervisor_pid == supervisor.pid else None

    def restarted(self, supervisor: "subprocess.Popen[str]", name: str) -> ProcessState:
        def again() -> ProcessState | None:
            state = self.state(supervisor)
            found = process_of(state, name) if state else None
            return found if found and found.restarts and found.phase is Phase.READY else None

        return until(again, f"{name} is back")


def process_of(state: PlatformState, name: str) -> ProcessState:
    return next(process for process in state.processes if process.name == name)


@pytest.fixture
def platforms(tmp_path: Path) -> Iterator[SmallPlatforms]:
    settings = PlatformSettings(home=tmp_path / "home", gateway_port=0, mlflow_port=0)
    environment = {**os.environ, **settings.to_environment(), "PYTHONPATH": str(ROOT)}
    platforms = SmallPlatforms(settings, environment)
    yield platforms
    for supervisor in platforms.started:
        if supervisor.poll() is None:
            supervisor.send_signal(signal.SIGTERM)
        supervisor.communicate(timeout=PATIENCE_S)
