"""What to start, stop or kill next: a plain function of what is known of the processes and the clock.

```
WAITING ──> STARTING ──> READY
               │  ^        │        an exit, or no readiness in time
               v  │ delay  v
           RESTARTING / FAILED      FAILED: died so often in a row that somebody should look;
                                    it is still tried again
any ──> STOPPING ──> STOPPED
```
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Literal


class Phase(StrEnum):
    """Where a process stands."""

    WAITING = "WAITING"
    STARTING = "STARTING"
    READY = "READY"
    RESTARTING = "RESTARTING"
    FAILED = "FAILED"
    STOPPING = "STOPPING"
    STOPPED = "STOPPED"


@dataclass(frozen=True, slots=True)
class RestartPolicy:
    """How long to wait before a process that ended is started again: doubling, up to a limit.

    healthy_after_s: a run as long as this is forgiven its earlier failures.
    crash_loop: so many failures in a row are called FAILED.
    """

    first_delay_s: float = 0.1
    longest_delay_s: float = 30.0
    healthy_after_s: float = 60.0
    crash_loop: int = 5

    def delay_s(self, failures: int) -> float:
        """
        >>> [RestartPolicy().delay_s(failures) for failures in (1, 2, 3, 50)]
        [0.1, 0.2, 0.4, 30.0]
        """
        return float(min(self.longest_delay_s, self.first_delay_s * 2 ** min(failures - 1, 32)))


@dataclass(frozen=True, slots=True)
class ProcessSpec:
    """A process to keep running.

    is_ready: asked again and again, quick to answer; it counts once `ready_after_s` are over.
    needs: processes that must have been ready once before this one starts for the first time.
    stop_grace_s: from the stop signal to SIGKILL.
    nice: 0 for those who answer queries, up to 19: by how much it yields the processor to them.
    """

    name: str
    argv: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict)
    is_ready: Callable[[], bool] = lambda: True
    ready_after_s: float = 0.0
    needs: tuple[str, ...] = ()
    start_timeout_s: float = 60.0
    stop_signal: int = 15
    stop_grace_s: float = 10.0
    restart: RestartPolicy = RestartPolicy()
    nice: int = 0


@dataclass(frozen=True, slots=True)
class Process:
    """What the supervisor knows of a process. Each change is a new record.

    since_s: when it came into its phase. failures: exits in a row, without a healthy run between.
    """

    spec: ProcessSpec
    phase: Phase = Phase.WAITING
    since_s: float = 0.0
    pid: int | None = None
    started_s: float = 0.0
    was_ready: bool = False
    failures: int = 0
    restarts: int = 0
    last_exit: str = ""

    def started(self, pid: int, now_s: float) -> "Process":
        """It runs, under this pid."""
        again = self.phase is not Phase.WAITING
        return replace(
            self, phase=Phase.STARTING, since_s=now_s, pid=pid, started_s=now_s, restarts=self.restarts + again
        )

    def ready(self, now_s: float) -> "Process":
        """It does its work."""
        return replace(self, phase=Phase.READY, since_s=now_s, was_ready=True)

    def stopping(self, now_s: float) -> "Process":
        """It was asked to end; one that does not run has ended."""
        return replace(self, phase=Phase.STOPPING if self.pid is not None else Phase.STOPPED, since_s=now_s)

    def killed(self, now_s: float) -> "Process":
        """It was sent SIGKILL; should it still be there much later, it is sent again."""
        return replace(self, since_s=now_s)

    def exited(self, how: str, now_s: float) -> "Process":
        """It ended, whether asked to or not."""
        gone = replace(self, since_s=now_s, pid=None, last_exit=how)
        if self.phase is Phase.STOPPING:
            return replace(gone, phase=Phase.STOPPED)
        healthy = now_s - self.started_s >= self.spec.restart.healthy_after_s and self.phase is Phase.READY
        failures = 1 if healthy else self.failures + 1
        looping = failures >= self.spec.restart.crash_loop
        return replace(gone, phase=Phase.FAILED if looping else Phase.RESTARTING, failures=failures)

    def __str__(self) -> str:
        return f"<Process {self.spec.name} [{self.phase} | pid {self.pid} | {self.restarts} restarts]>"


@dataclass(frozen=True, slots=True)
class Action:
    """start: run it. stop: send its stop signal. kill: it had its time."""

    do: Literal["start", "stop", "kill"]
    name: str


def decide(processes: Sequence[Process], now_s: float, stopping: bool) -> list[Action]:
    """What to do now with processes that are listed in start order."""
    if stopping:
        return _stop_last(processes, now_s)
    been_ready = {process.spec.name for process in processes if process.was_ready}
    return [action for process in processes if (action := _keep_running(process, been_ready, now_s))]


def _keep_running(process: Process, been_ready: set[str], now_s: float) -> Action | None:
    spec, waited_s = process.spec, now_s - process.since_s
    match process.phase:
        case Phase.WAITING if been_ready.issuperset(spec.needs):
            return Action("start", spec.name)
        case Phase.RESTARTING | Phase.FAILED if waited_s >= spec.restart.delay_s(process.failures):
            return Action("start", spec.name)
        case Phase.STARTING if waited_s > spec.start_timeout_s:
            return Action("kill", spec.name)
    return None


def _stop_last(processes: Sequence[Process], now_s: float) -> list[Action]:
    """One after the other, so that each can still flush into those that started before it."""
    for process in reversed(processes):
        if process.phase is Phase.STOPPED:
            continue
        if process.phase is not Phase.STOPPING:
            return [Action("stop", process.spec.name)]
        overdue = now_s - process.since_s >= process.spec.stop_grace_s
        return [Action("kill", process.spec.name)] if overdue else []
    return []
