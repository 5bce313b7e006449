"""`python -m deploy.machine.supervisor`: keeps the processes of one data folder running, until told to stop.

The loop is dull: see who ended or became ready, do what `supervision.decide` says, write down
how things stand, wait for a signal or a moment. It starts children from the main thread (see
`child`), each as leader of a session of its own, so that Ctrl-C in a terminal reaches only us
and what a child started can be ended with it.
"""

import contextlib
import dataclasses
import logging
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from types import FrameType

from prometheus_client.multiprocess import mark_process_dead

from deploy.errors import SluiceError
from deploy.machine.child import IMPORT_ROOT, bound
from deploy.machine.home import claim_ports, held, prepare
from deploy.machine.processes import platform_processes
from deploy.machine.pump import LogPump
from deploy.machine.state import describe, end_leftovers, write_state
from deploy.machine.supervision import Action, Phase, Process, ProcessSpec, decide
from deploy.settings import PlatformSettings, log_effective

logger = logging.getLogger("deploy.machine.supervisor")  # it runs as __main__

LEFTOVER_GRACE_S = 10.0
_BUSY_PAUSE_S = 0.05
_IDLE_PAUSE_S = 5.0

SpecsOf = Callable[[PlatformSettings], Sequence[ProcessSpec]]


def main() -> int:
    """Exit code: see `errors`."""
    try:
        settings = PlatformSettings.from_environment(os.environ)
        settings = dataclasses.replace(settings, probe_address="")  # of one process: these would fight for the port
        supervise(settings, platform_processes)
    except SluiceError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def supervise(settings: PlatformSettings, specs_of: SpecsOf, leftover_grace_s: float = LEFTOVER_GRACE_S) -> None:
    """Hold the data folder and run its processes until SIGTERM or SIGINT, then stop them in order.

    Raises SluiceError if the folder is held, a port is taken or a folder cannot be used.
    """
    signals = Signals()
    with held(settings):
        prepare(settings)
        pump = LogPump(settings.log_file)
        logging.basicConfig(handlers=[pump.handler("supervisor")], level=settings.log_level, force=True)
        try:
            end_leftovers(settings, leftover_grace_s)
            settings = claim_ports(settings)
            log_effective(settings, os.environ)
            Supervisor(settings, specs_of(settings), pump).run(signals)
        finally:
            pump.close()


class Signals:
    """SIGTERM and SIGINT ask to stop; they and SIGCHLD end a wait at once."""

    def __init__(self) -> None:
        self.stop_asked = False
        self._woken, wake = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._ask)
        signal.signal(signal.SIGCHLD, lambda _number, _frame: None)

    def wait(self, timeout_s: float) -> None:
        """Until a signal came, at most so long."""
        select.select([self._woken], [], [], timeout_s)
        with contextlib.suppress(BlockingIOError):
            os.read(self._woken, 4096)

    def _ask(self, _number: int, _frame: FrameType | None) -> None:
        self.stop_asked = True


class Supervisor:
    """The processes and what is done with them. One thread uses it: the main one."""

    def __init__(self, settings: PlatformSettings, specs: Sequence[ProcessSpec], pump: LogPump) -> None:
        self._settings = settings
        self._pump = pump
        self._processes = {spec.name: Process(spec) for spec in specs}
        self._children: dict[str, subprocess.Popen[bytes]] = {}
        self._written: list[Process] = []
        self._unwritten = False  # the disk refused it

    def run(self, signals: Signals) -> None:
        """Returns when all have stopped, after they were asked to."""
        while not all(process.phase is Phase.STOPPED for process in self._processes.values()):
            now_s = time.monotonic()
            for process in list(self._processes.values()):
                self._observe(process, now_s)
            actions = decide(list(self._processes.values()), now_s, signals.stop_asked)
            for action in actions:
                self._act(action, now_s)
            self._write_down()
            signals.wait(0.0 if actions else self._pause_s())

    def _observe(self, process: Process, now_s: float) -> None:
        name, spec = process.spec.name, process.spec
        if name in self._children:
            if _has_ended(self._children[name]):
                self._bury(process, now_s)
            elif process.phase is Phase.STARTING and now_s - process.since_s >= spec.ready_after_s and spec.is_ready():
                self._processes[name] = process.ready(now_s)
                logger.info("%s is ready after %.1f s", name, now_s - process.started_s)

    def _bury(self, process: Process, now_s: float) -> None:
        child = self._children.pop(process.spec.name)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(child.pid, signal.SIGKILL)  # what it started; not reaped yet, so the group is still its own
        how = _how(child.wait())
        mark_process_dead(child.pid, str(self._settings.metrics_folder))  # type: ignore[no-untyped-call]
        self._processes[process.spec.name] = gone = process.exited(how, now_s)
        level = logging.INFO if gone.phase is Phase.STOPPED else logging.ERROR
        logger.log(level, "%s ended: %s, now %s", process.spec.name, how, gone.phase)

    def _act(self, action: Action, now_s: float) -> None:
        process = self._processes[action.name]
        child = self._children.get(action.name)
        match action.do:
            case "start":
                self._processes[action.name] = process.started(self._spawn(process.spec), now_s)
            case "stop":
                self._processes[action.name] = process.stopping(now_s)
                if child:
                    child.send_signal(process.spec.stop_signal)
            case "kill" if child:
                logger.error("%s is killed: still %s", action.name, process.phase)
                self._processes[action.name] = process.killed(now_s)
                os.killpg(child.pid, signal.SIGKILL)

    def _spawn(self, spec: ProcessSpec) -> int:
        child = subprocess.Popen(
            bound(list(spec.argv), spec.nice),
            env={**os.environ, **self._settings.to_environment(), **spec.env, "PYTHONUNBUFFERED": "1"},
            cwd=IMPORT_ROOT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        assert child.stdout is not None
        self._pump.attach(spec.name, child.stdout)
        self._children[spec.name] = child
        logger.info("%s started with pid %d", spec.name, child.pid)
        return child.pid

    def _write_down(self) -> None:
        """Where the disk refuses it is tried again each turn: readers of the state are late, nobody has to end."""
        processes = list(self._processes.values())
        if processes == self._written:
            return
        try:
            write_state(self._settings, describe(processes, time.monotonic(), time.time()))
        except OSError as error:
            if not self._unwritten:
                logger.error("the state of the processes cannot be written: %s; free some space", error)
            self._unwritten = True
            return
        self._written, self._unwritten = processes, False

    def _pause_s(self) -> float:
        quiet = all(process.phase is Phase.READY for process in self._processes.values())
        return _IDLE_PAUSE_S if quiet and not self._unwritten else _BUSY_PAUSE_S


def _has_ended(child: subprocess.Popen[bytes]) -> bool:
    """Without reaping it: until then its pid cannot become somebody else's."""
    return os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def _how(returncode: int) -> str:
    return f"exit {returncode}" if returncode >= 0 else f"killed by {signal.Signals(-returncode).name}"


if __name__ == "__main__":
    sys.exit(main())
