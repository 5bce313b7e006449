"""Runs a command that must not outlive its parent: `child.py PARENT_PID NICE COMMAND ARGS...`.

A file of its own, run by path, because the parent-death signal must be set between fork and
exec and Python code in a forked child of a threaded parent is not safe. It ends with exec: no
process stays behind. The signal (SIGTERM) comes when the *thread* that forked ends, so parents
start children from their main thread. Linux only; elsewhere the command simply runs.

NICE (0 to 19) is by how much it yields the processor to those who answer queries. Linux may
share the processor among sessions first (autogroups, see sched(7)), and then a nice value means
something only inside one: who leads a session lowers the session as well.

Imports nothing of Sluice: it runs isolated, before any site packages.
"""

import contextlib
import ctypes
import os
import signal
import sys

IMPORT_ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
"""Where children run: `python -m` finds our packages there, not a namesake in the user's folder."""

_PR_SET_PDEATHSIG = 1


def main(parent_pid: int, nice: int, command: list[str]) -> int:
    """Returns only if the command could not be started."""
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0) != 0:
            print(f"prctl: {os.strerror(ctypes.get_errno())}", file=sys.stderr)
            return 126
    if os.getppid() != parent_pid:
        return 0  # the parent died before the signal was set: there is nobody to work for
    if nice:
        _yield_processor(nice)
    try:
        os.execvp(command[0], command)
    except OSError as error:
        print(f"{command[0]}: {error.strerror}", file=sys.stderr)
        return 127


def _yield_processor(nice: int) -> None:
    os.nice(nice)
    if os.getsid(0) == os.getpid():
        # no such file: a kernel without autogroups; refused: a container that may not
        with contextlib.suppress(OSError), open("/proc/self/autogroup", "w") as autogroup:
            autogroup.write(str(nice))


def bound(command: list[str], nice: int = 0) -> list[str]:
    """The command, bound to the life of the calling process. nice: by how much it yields the processor, 0 to 19."""
    return [sys.executable, "-I", "-S", __file__, str(os.getpid()), str(nice), *command]


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]))
