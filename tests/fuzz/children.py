"""A target's cases in a process of its own: a crash of the interpreter, or a hang, is a defect like any other."""

import logging
import mmap
import multiprocessing
import os
import struct
import tempfile
import time
import warnings
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

from tests.fuzz import running
from tests.fuzz.mutation import MAX_BYTES
from tests.fuzz.running import Result
from tests.fuzz.targets import all_targets

NOTED = "input"
_SIZE = struct.Struct("<I")
SILENT_CPU_S, SILENT_S = 30.0, 600.0
"""A child that says nothing for so much processor time, or for so long, hangs where no timer of its own reaches. Time
alone tells little: on a busy machine who is nice waits."""


class Noted:
    """The input under way, in a file that outlives the process that reads it."""

    def __init__(self, path: Path) -> None:
        with path.open("a+b") as file:
            file.truncate(MAX_BYTES + _SIZE.size)
            self._memory = mmap.mmap(file.fileno(), MAX_BYTES + _SIZE.size)

    def __call__(self, data: bytes) -> None:
        self._memory[: _SIZE.size + len(data)] = _SIZE.pack(len(data)) + data

    def last(self) -> bytes:
        """What was noted last."""
        size = _SIZE.unpack_from(self._memory)[0]
        return self._memory[_SIZE.size : _SIZE.size + size]


def in_child(name: str, cases: int, seed: int, show: Callable[[Result], None]) -> Result:
    """The target's result. show: is told in between how far it is."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.fuzz.children"])
    with tempfile.TemporaryDirectory(prefix="sluice-fuzz-") as folder:
        ours, theirs = context.Pipe(duplex=False)
        child = context.Process(target=_child, args=(theirs, name, cases, seed, Path(folder)))
        child.start()
        theirs.close()
        try:
            return _heard(ours, child.pid or 0, show)
        except TimeoutError:
            child.kill()
            return _broken(name, "hang", f"nothing was heard for {SILENT_CPU_S:g} s of its time", Path(folder))
        except EOFError:
            child.join()
            return _broken(name, "crash", f"the process ended with {child.exitcode}", Path(folder))
        finally:
            child.join()
            ours.close()


def _heard(ours: Connection, pid: int, show: Callable[[Result], None]) -> Result:
    """The child's last word. Raises TimeoutError if it falls silent, EOFError if it ends without."""
    told_s, told_cpu_s = time.monotonic(), 0.0
    while time.monotonic() - told_s < SILENT_S and _cpu_s(pid) - told_cpu_s < SILENT_CPU_S:
        if ours.poll(1.0):
            result, is_last = ours.recv()
            if is_last:
                return result
            told_s, told_cpu_s = time.monotonic(), _cpu_s(pid)
            show(result)
    raise TimeoutError


def _cpu_s(pid: int) -> float:
    """What a process has used; 0 if it is gone, which its pipe will say."""
    try:
        used = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
    except OSError:
        return 0.0
    return sum(map(int, used)) / os.sysconf("SC_CLK_TCK")


def _broken(name: str, how: str, trace: str, folder: Path) -> Result:
    return Result(name, defects={f"DEFECT {how}": (Noted(folder / NOTED).last(), trace)})


def _child(pipe: Connection, name: str, cases: int, seed: int, folder: Path) -> None:
    def tell(so_far: Result) -> None:
        pipe.send((Result(name, so_far.cases, outcomes=so_far.outcomes), False))

    logging.disable(logging.CRITICAL)  # what is refused and logged is expected to be
    warnings.simplefilter("error")
    scratch = folder / "scratch"
    scratch.mkdir()
    pipe.send((running.run(all_targets()[name], cases, seed, scratch, tell, Noted(folder / NOTED)), True))


all_targets()  # imports what they read with, once for all children
