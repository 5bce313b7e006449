"""Many runs of many characteristics on all cores: the same seed gives the same table, with any number of processes."""

import multiprocessing
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from contextlib import suppress
from dataclasses import dataclass
from zlib import crc32

import msgspec
import numpy as np
from threadpoolctl import threadpool_limits

from deploy.simulation.challengers import oracle_champion
from deploy.simulation.characteristic import Characteristic, Figure, Outcome, Stage
from deploy.simulation.characteristics import CHARACTERISTICS
from deploy.simulation.world import World

Told = Callable[[str, int, int], None]
"""Which characteristic, how many of its runs are done, and how many there are."""

CHUNKS = 40  # of a characteristic's runs, so that progress is seen and cores end together


class Line(msgspec.Struct, frozen=True):
    """One figure as it is kept. JSON-able; the same seed and data give the same but for cpu_s.

    cpu_s: of all runs of the characteristic. For the others see `Figure`.
    """

    id: str
    title: str
    what: str
    value: float
    error: float | None
    measured: str
    sense: str
    limit: float | None
    bar: str
    reference: str
    standing: str
    runs: int
    cpu_s: float


@dataclass(frozen=True, slots=True)
class Wanted:
    """One characteristic and how many of its runs."""

    id: str
    runs: int


def wanted(only: Sequence[str], runs: int | None, quick: bool) -> list[Wanted]:
    """Those named, all if none is; `runs` of each, or as many as it has by default. KeyError for an unknown id."""
    chosen = [CHARACTERISTICS[id_] for id_ in only] if only else list(CHARACTERISTICS.values())
    return [Wanted(one.id, runs or (one.quick if quick else one.runs)) for one in chosen]


def simulate(world: World, what: Sequence[Wanted], seed: int, processes: int, told: Told) -> list[Line]:
    """The table's lines, in the order of `what`.

    Every run has a generator of its own, of the seed, the characteristic and the run's number. All characteristics go
    on side by side, so that after an interrupt (Ctrl-C) there is a table of the runs that were done, of those with two
    at least.
    """
    outcomes: dict[str, dict[int, Outcome]] = {one.id: {} for one in what}
    cpu_s = dict.fromkeys(outcomes, 0.0)
    runs = {one.id: one.runs for one in what}
    with suppress(KeyboardInterrupt):
        for id_, found, took_s in _all(world, what, seed, processes):
            outcomes[id_] |= found
            cpu_s[id_] += took_s
            told(id_, len(outcomes[id_]), runs[id_])
    lines = []
    for one in what:
        in_order = [outcomes[one.id][number] for number in sorted(outcomes[one.id])]
        if len(in_order) >= 2:
            figures = CHARACTERISTICS[one.id].figures(in_order)
            lines += [_line(CHARACTERISTICS[one.id], figure, len(in_order), cpu_s[one.id]) for figure in figures]
    return lines


def encode(lines: Sequence[Line], world: World, seed: int, about: Mapping[str, str]) -> bytes:
    """As JSON. about: versions, machine, date: whatever the figures should be read with."""
    found = {"data": world.name, "queries": world.queries, "seed": seed, "about": dict(about), "figures": list(lines)}
    return msgspec.json.format(msgspec.json.encode(found))


_Done = tuple[str, dict[int, Outcome], float]


def _all(world: World, what: Sequence[Wanted], seed: int, processes: int) -> Iterator[_Done]:
    # side by side: of each so far about the same part
    chunks = [
        (one.id, numbers)
        for _, one, numbers in sorted(
            ((numbers.stop / one.runs, one, numbers) for one in what for numbers in _chunks(one.runs)),
            key=lambda chunk: chunk[0],
        )
    ]
    if processes == 1:
        stage = _stage(world)
        for id_, numbers in chunks:
            yield _some(stage, id_, numbers, seed)
        return
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, mp_context=spawn, initializer=_begin, initargs=(world,)) as pool:
        futures: list[Future[_Done]] = [pool.submit(_in_process, id_, numbers, seed) for id_, numbers in chunks]
        try:
            for future in as_completed(futures):
                yield future.result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _chunks(runs: int) -> Iterator[range]:
    size = max(1, runs // CHUNKS)
    yield from (range(start, min(start + size, runs)) for start in range(0, runs, size))


def _stage(world: World) -> Stage:
    return Stage(world, oracle_champion(world))


def _some(stage: Stage, id_: str, numbers: range, seed: int) -> _Done:
    characteristic, began_s = CHARACTERISTICS[id_], time.process_time()
    found = {}
    with threadpool_limits(1, user_api="blas"):  # matrices are small, and there is a process for every core
        for number in numbers:
            rng = np.random.default_rng([seed, crc32(id_.encode()), number])
            found[number] = characteristic.run(stage, rng)
    return id_, found, time.process_time() - began_s


_here: list[Stage] = []  # of a process of the pool


def _begin(world: World) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the one who waits for us is told, and takes what is done
    _here.append(_stage(world))


def _in_process(id_: str, numbers: range, seed: int) -> _Done:
    return _some(_here[0], id_, numbers, seed)


def _line(of: Characteristic, figure: Figure, runs: int, cpu_s: float) -> Line:
    measured = figure.words(figure.value)
    if figure.error is not None:
        measured += f" ± {figure.words(figure.error)}"
    bar = "" if figure.limit is None else f"{figure.sense} {figure.words(figure.limit)}"
    return Line(
        of.id,
        of.title,
        figure.what,
        figure.value,
        figure.error,
        measured,
        figure.sense,
        figure.limit,
        bar,
        figure.reference,
        figure.standing,
        runs,
        round(cpu_s, 1),
    )
