"""`python -m tests.bench.soak`: half an hour at 70 % of the capacity, then five minutes at three times it.

300 candidates by id through the peers' MLP, everything that answers and follows queries on: gateway, worker, archiver,
drift monitor, controller, Redis; one of twenty answers gets a click. All server processes on one core, the generator
on the other. Capacity is the most that closed loops get inside the deadline; it is looked for before either part. Every
ten seconds each process says what it holds. At the end: by how much memory grew, with its error; descriptors and
threads; p99 by window; what was answered and acknowledged, against what the archive has.

What grows by design: the controller for an hour, whose traffic meter keeps so long (4 MB); the monitor until a day's
sketches are full (`tests.bench.monitor --parts memory`: flat from the second hour on); the archive, which is kept for
as long as the operator says. The stream is trimmed behind its readers.
"""

import argparse
import platform as machine
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from deploy import wiring
from deploy.machine.state import PlatformState
from deploy.settings import PlatformSettings
from pipelines.archive.files import Archive
from tests.bench.load import cpu_s, hardware, measure, versions
from tests.bench.open_loop import Poured, pour
from tests.bench.overload import rank_requests, recovered_s
from tests.bench.platform_under_test import COLUMNS, data_plane, ltr_package, platform_pids

SERVER_CORE, GENERATOR_CORE = 0, 1
SAMPLED_EVERY_S = 10.0
WINDOW_S = 300.0
WARM_UP = 1 / 3  # of the samples: caches fill, the allocator finds its size
CLICK_EVERY = 20
ARCHIVED_WITHIN_S = 120.0
OVERLOAD = 3.0
CALM_S = 30.0  # afterwards, in which recovery is looked for


@dataclass(slots=True)
class Samples:
    """Of one process, by time: memory that no file is behind, in MB (what others map of the same libraries does not
    move it, as it does the proportional set size), descriptors, threads."""

    at_s: list[float] = field(default_factory=list)
    mb: list[float] = field(default_factory=list)
    descriptors: list[int] = field(default_factory=list)
    threads: list[int] = field(default_factory=list)


class Sampler(threading.Thread):
    """Looks at every process until it is stopped. pids: by the process's name."""

    def __init__(self, pids: dict[str, int], told: Callable[[], str]) -> None:
        super().__init__(daemon=True)
        self._pids, self._told = pids, told
        self._stop_asked = threading.Event()
        self.samples = {name: Samples() for name in pids}

    def run(self) -> None:
        """Until stopped; says where it is once a minute."""
        began_s = time.monotonic()
        while not self._stop_asked.wait(SAMPLED_EVERY_S):
            at_s = time.monotonic() - began_s
            for name, pid in self._pids.items():
                about = Path(f"/proc/{pid}")
                of = self.samples[name]
                of.at_s.append(at_s)
                of.mb.append(anonymous_mb(pid))
                of.descriptors.append(len(list((about / "fd").iterdir())))
                of.threads.append(len(list((about / "task").iterdir())))
            if len(of.at_s) % 6 == 0:
                held = ", ".join(f"{name} {self.samples[name].mb[-1]:.0f}" for name in self._pids)
                print(f"{at_s / 60:5.1f} min: MB {held}; {self._told()}", file=sys.stderr, flush=True)

    def stop(self) -> None:
        """Returns when it has stopped."""
        self._stop_asked.set()
        self.join()


def anonymous_mb(pid: int) -> float:
    """Heap and stacks, each page as the share of those who have it."""
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return int(rollup.split("Pss_Anon:")[1].split()[0]) / 1024


def slope(at_s: Sequence[float], values: Sequence[float]) -> tuple[float, float]:
    """By how much it grows in an hour (least squares), and the standard error of that, which counts that samples
    remember those before (Newey and West 1987, Bartlett's kernel)."""
    hours: NDArray[np.float64] = np.asarray(at_s) / 3600
    given: NDArray[np.float64] = np.asarray(values, dtype=np.float64)
    count = len(hours)
    centred = hours - hours.mean()
    spread = float(centred @ centred)
    grows = float(centred @ given) / spread
    moments = centred * (given - given.mean() - grows * centred)
    lags = max(1, int(4 * (count / 100) ** (2 / 9)) * 3)
    variance = float(moments @ moments)
    for lag in range(1, min(lags, count - 1) + 1):
        variance += 2 * (1 - lag / (lags + 1)) * float(moments[lag:] @ moments[:-lag])
    return grows, max(variance, 0.0) ** 0.5 / spread


def capacity_of(port: int, requests: Sequence[bytes], pids: list[int], seconds: float) -> float:
    """Answers a second, the most that a closed loop of 16, 32 or 64 clients gets."""
    found = 0.0
    for clients in (16, 32, 64):
        closed = measure(port, requests, b'"position":10', clients, seconds, GENERATOR_CORE, pids)
        found = max(found, closed.requests_s * (1 - closed.wrong / closed.requests))
    return found


def windows(poured: Poured, deadline_s: float) -> list[str]:
    """A line for each: minutes, answers, p50 and p99 in ms, and how many were not good."""
    lines = []
    took, at_s, status = np.array(poured.took_s), np.array(poured.at_s), np.array(poured.status)
    for begin_s in np.arange(0.0, poured.seconds, WINDOW_S):
        inside = (at_s >= begin_s) & (at_s < begin_s + WINDOW_S)
        good = inside & (status == 200)
        if not good.any():
            continue
        p50, p99 = np.quantile(took[good], [0.5, 0.99]) * 1000
        bad = int(inside.sum() - (good & (took <= deadline_s)).sum())
        lines.append(f"| {begin_s / 60:.0f} | {int(good.sum())} | {p50:.1f} | {p99:.1f} | {bad} |")
    return lines


def seconds_of(poured: Poured, deadline_s: float) -> list[str]:
    """A line for each of the first dozen, and for each later one with a query that was not answered in time."""
    lines = []
    took, at_s, status = np.array(poured.took_s), np.array(poured.at_s), np.array(poured.status)
    for second in range(int(poured.seconds)):
        inside = (at_s >= second) & (at_s < second + 1)
        bad = int((inside & ((status != 200) | (took > deadline_s))).sum())
        longest = took[inside & np.isfinite(took)].max(initial=0.0)
        if second < 12 or bad:
            lines.append(f"| {second} | {int(inside.sum())} | {bad} | {longest * 1000:.0f} |")
    return lines


def archived(settings: PlatformSettings, since_ms: int, rankings: int, clicks: int) -> tuple[int, int]:
    """Rankings and clicks in the archive since then, once there are as many or it has had its time."""
    archive = Archive(settings.archive_folder)
    until_s = time.monotonic() + ARCHIVED_WITHIN_S
    while True:
        now_ms = time.time_ns() // 1_000_000 + 60_000
        ids: set[str] = set()
        for part in archive.ranking_parts("bench", since_ms, now_ms, ["ranking_id"]):
            ids.update(part.column("ranking_id").to_pylist())
        events = archive.feedback("bench", since_ms, now_ms, ["event_id"]).num_rows
        if (len(ids) >= rankings and events >= clicks) or time.monotonic() > until_s:
            return len(ids), events
        time.sleep(2.0)


def folder_mb(folder: Path) -> float:
    """Bytes of its files."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 2**20


class Told(argparse.Namespace):
    """What the command line said."""

    minutes: float
    load: float
    overload_minutes: float
    candidates: int
    deadline_ms: int
    items: int
    seed: int
    out: Path | None


class Report:
    """Prints, and keeps what it printed."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, *lines: str) -> None:
        """To standard output."""
        self.lines += lines
        print("\n".join(lines), flush=True)


def soak(report: Report, settings: PlatformSettings, state: PlatformState, requests: list[bytes], told: Told) -> None:
    """The whole measurement."""
    minutes, load, seed = told.minutes, told.load, told.seed
    overload_s, deadline_s = told.overload_minutes * 60, told.deadline_ms / 1000
    port, pids = settings.gateway_port, platform_pids(state)
    by_name = {"supervisor": state.supervisor_pid} | {one.name: one.pid for one in state.processes if one.pid}
    capacity = capacity_of(port, requests, pids, min(20.0, minutes * 20))
    since_ms = time.time_ns() // 1_000_000
    report.say(f"Capacity: {capacity:.0f} queries/s. Soaked at {load:.0%} of it, {load * capacity:.0f}/s.", "")
    redis = wiring.redis_client(settings)

    def about() -> str:
        used = redis.info("memory")["used_memory"] / 2**20
        return f"redis {used:.0f} MB, archive {folder_mb(settings.archive_folder):.0f} MB"

    sampler = Sampler(by_name, about)
    before_s, spent = time.monotonic(), cpu_s(pids)
    sampler.start()
    poured = pour(port, requests, load * capacity, minutes * 60, GENERATOR_CORE, seed, click_every=CLICK_EVERY)
    sampler.stop()
    busy = (cpu_s(pids) - spent) / (time.monotonic() - before_s)
    statuses = poured.statuses()
    report.say(
        f"Sent {len(poured.status)} in {minutes:g} minutes: {statuses}; server core busy {busy:.0%}, generator"
        f" {poured.generator_cpu:.0%} and at most {poured.late_s * 1000:.0f} ms late; {about()}.",
        "",
        "| from minute | answered | p50 ms | p99 ms | not inside the deadline |",
        "|---:|---:|---:|---:|---:|",
        *windows(poured, deadline_s),
        "",
        f"Anonymous memory after the first {WARM_UP:.0%} of the time, by least squares:",
        "",
        "| process | MB first | MB last | MB an hour | standard error | descriptors first, last, most | threads |",
        "|---|---:|---:|---:|---:|---|---|",
    )
    for name, of in sampler.samples.items():
        skip = int(len(of.at_s) * WARM_UP)
        grows, error = slope(of.at_s[skip:], of.mb[skip:])
        report.say(
            f"| {name} | {of.mb[0]:.1f} | {of.mb[-1]:.1f} | {grows:+.2f} | {error:.2f} | {of.descriptors[0]},"
            f" {of.descriptors[-1]}, {max(of.descriptors)} | {of.threads[0]}, {of.threads[-1]} |"
        )
    rankings, clicks = archived(settings, since_ms, statuses.get(200, 0), poured.clicks)
    answered = statuses.get(200, 0)
    report.say(
        "",
        f"Answered {answered}, archived {rankings}; clicks acknowledged {poured.clicks}, archived {clicks}.",
        "",
    )
    if overload_s:
        capacity = capacity_of(port, requests, pids, min(10.0, minutes * 10))  # now: others have the machine, too
        flood = pour(port, requests, OVERLOAD * capacity, overload_s, GENERATOR_CORE, seed + 1)
        calm = pour(port, requests, load * capacity, CALM_S, GENERATOR_CORE, seed + 2)
        good = len(flood.good(deadline_s)) / overload_s
        report.say(
            f"Capacity now: {capacity:.0f}/s. {OVERLOAD:g} times that for {overload_s / 60:g} minutes:"
            f" {flood.statuses()}; goodput {good:.0f}/s, {good / capacity:.0%} of the capacity; p99 of answers"
            f" {flood.answered_p(0.99) * 1000:.0f} ms; generator {flood.generator_cpu:.0%} and at most"
            f" {flood.late_s * 1000:.0f} ms late.",
            "",
            f"At {load:.0%} afterwards, for {CALM_S:g} s: {calm.statuses()}; everybody is answered in time after"
            f" {recovered_s(calm, deadline_s):.1f} s.",
            "",
            "| second | sent | not inside the deadline | longest ms |",
            "|---:|---:|---:|---:|",
            *seconds_of(calm, deadline_s),
        )


def main() -> None:
    """Runs, prints, and writes what it printed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--load", type=float, default=0.7, help="of the capacity")
    parser.add_argument("--overload-minutes", type=float, default=5.0, help="0: no overload")
    parser.add_argument("--candidates", type=int, default=300)
    parser.add_argument("--deadline-ms", type=int, default=1000)
    parser.add_argument("--items", type=int, default=5_000)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--out", type=Path, help="also into this file")
    told = parser.parse_args(namespace=Told())
    rng = np.random.default_rng(told.seed)
    items = [f"item-{i:07d}" for i in range(told.items)]
    values = rng.standard_normal((told.items, COLUMNS), dtype=np.float32)
    requests = rank_requests(items, told.candidates, told.deadline_ms, 500, rng)
    report = Report()
    report.say(
        f"{hardware()}; Python {machine.python_version()}, {versions()}; {time.strftime('%Y-%m-%d %H:%M')}; seed"
        f" {told.seed}; {told.candidates} candidates, MLP, deadline {told.deadline_ms} ms.",
        "",
    )
    with data_plane([ltr_package("bench", told.seed)], SERVER_CORE, items, values, with_monitor=True) as running:
        soak(report, *running, requests, told)
    if told.out is not None:
        told.out.write_text("\n".join(report.lines) + "\n")


if __name__ == "__main__":
    main()
