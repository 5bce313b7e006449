"""Many cases against one target: fed, watched, and what breaks the promise kept in a file.

A case may cost a bounded time and a bounded memory: a timer of processor time goes off in the first, and the process
has a limit of address space for the second. New words of refusal are what guides: an input that met a rule that none
before it met becomes a seed for more.
"""

import hashlib
import random
import resource
import signal
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from tests.fuzz.mutation import mutated
from tests.fuzz.target import READ, Check, Target

CASE_CPU_S = 2.0
MEMORY_BYTES = 768 << 20
"""What a case may take beyond what the process has when it begins."""
MAX_CORPUS = 600


class TooSlow(BaseException):
    """A case took more processor time than one may. No Exception: a parser that catches those must not catch it."""


@dataclass
class Result:
    """What came of a target. outcomes: by word. defects: input and trace, one of each kind."""

    target: str
    cases: int = 0
    cpu_s: float = 0.0
    outcomes: Counter[str] = field(default_factory=Counter)
    defects: dict[str, tuple[bytes, str]] = field(default_factory=dict)

    @property
    def read(self) -> int:
        """Inputs that were read, not refused."""
        return self.outcomes[READ]


@contextmanager
def limited_memory(bytes_more: int = MEMORY_BYTES) -> Iterator[None]:
    """A limit of address space for this process: an allocation beyond it is a MemoryError."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + bytes_more, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


@contextmanager
def limited_time() -> Iterator[Callable[[], None]]:
    """Gives what begins a case's time; in a case that takes more, TooSlow is raised."""

    def over(signum: int, frame: FrameType | None) -> None:
        raise TooSlow(f"over {CASE_CPU_S:g} s of processor time")

    before = signal.signal(signal.SIGPROF, over)
    try:
        yield lambda: signal.setitimer(signal.ITIMER_PROF, CASE_CPU_S) and None
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def attempt(check: Check, data: bytes, begin: Callable[[], None]) -> tuple[str, str]:
    """What came of one case, and where it broke if it did: then the first word names the kind of defect."""
    begin()
    try:
        return check(data), ""
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:
        frames = traceback.extract_tb(error.__traceback__)
        ours = next(
            (one for one in reversed(frames) if "/tests/fuzz/" not in one.filename and _is_ours(one)), frames[-1]
        )
        return f"DEFECT {type(error).__name__} {ours.name}:{ours.lineno}", traceback.format_exc(limit=-12)


def _is_ours(frame: traceback.FrameSummary) -> bool:
    return not {"site-packages", "lib"} & set(Path(frame.filename).parts)


def inputs(target: Target, rng: random.Random) -> tuple[list[bytes], Iterator[bytes]]:
    """The corpus, to which whoever runs adds, and an endless row of inputs made of it: the seeds as they are first."""
    corpus = list(target.seeds())

    def row() -> Iterator[bytes]:
        yield from list(corpus)
        while True:
            yield mutated(rng.choice(corpus), corpus, target.form, rng)

    return corpus, row()


def run(
    target: Target,
    cases: int,
    seed: int,
    folder: Path,
    tell: Callable[[Result], None] = lambda _: None,
    note: Callable[[bytes], None] = lambda _: None,
) -> Result:
    """So many cases, the same for the same seed. folder: empty, for files that the target needs.

    tell: hears each second how far it is. note: gets every input before the target does.
    """
    rng = random.Random(f"{target.name} {seed}")
    corpus, row = inputs(target, rng)
    result, began_s, told_s = Result(target.name), time.process_time(), time.monotonic()
    with target.opens(folder) as check, limited_memory(), limited_time() as begin:
        for place in range(cases):
            data = next(row)
            note(data)
            came, trace = attempt(check, data, begin)
            result.cases += 1
            if trace:
                result.defects.setdefault(came, (data, trace))
            elif not place:
                assert came == READ, f"{target.name}: its first seed is not read: {came}"
            if came not in result.outcomes and len(corpus) < MAX_CORPUS:
                corpus.append(data)
            result.outcomes[came] += 1
            if time.monotonic() - told_s > 1.0:
                told_s = time.monotonic()
                tell(result)
    result.cpu_s = time.process_time() - began_s
    return result


def crash_file(folder: Path, target: str, data: bytes) -> Path:
    """Where an input that broke a target is kept: the name says the target."""
    return folder / f"{target}-{hashlib.sha256(data).hexdigest()[:12]}.bin"


def target_of(path: Path) -> str:
    """The target whose input the file is."""
    return path.stem.rpartition("-")[0]
