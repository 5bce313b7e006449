"""The loop: nothing lost, nothing counted twice, nothing that a bad event or version could stop."""

import threading
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
import redis
from prometheus_client import REGISTRY

from drift import snapshot
from drift.monitor import Monitor, ProfileOf
from drift.settings import MonitorSettings, Rule
from drift.windows.judge import DriftVerdict
from drift.windows.segments import Segments
from registry.contracts.events import RankingEvent, encode_event, join_events
from registry.errors import StoreUnavailable, UnknownVersion
from registry.stream import MemoryStream, RedisStream, StreamEntry, StreamReader
from tests.builders import NOW_MS, a_click, a_mirror, an_exposure
from tests.drift.monitored import Monitored
from tests.drift.traffic import COLUMNS, PROFILE, rankings

SETTINGS = MonitorSettings(
    Rule(min_lists=50), window_s=10.0, lateness_s=2.0, save_every_s=5.0, entries_a_read=4, wait_s=0.05, retry_s=0.01
)
WINDOW_MS = 10_000


@dataclass
class Watched(Monitored[Monitor]):
    """A stream, and monitors over it that can be started again."""

    told: list[DriftVerdict] = field(default_factory=list)
    settings: MonitorSettings = SETTINGS

    def reader(self) -> StreamReader:
        return self.stream.reader("monitor", "monitor-0")

    def start(
        self,
        profiles: ProfileOf = lambda model, version: PROFILE,
        sink: Callable[[DriftVerdict], None] | None = None,
        reader: StreamReader | None = None,
    ) -> Monitor:
        """A new monitor under the name of the last; as if that had been killed."""
        return Monitor(
            reader or self.reader(), profiles, sink or self.told.append, self.settings, self.kept_in, self.clock
        )

    def counted(self) -> list[tuple[int, int]]:
        """Start, after NOW_MS, and lists of every window told of, each window once."""
        return sorted({(v.start_ms - NOW_MS, v.lists) for v in self.told})


@pytest.fixture(params=["memory", "redis"])
def watched(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Watched]:
    if request.param == "memory":
        yield Watched(MemoryStream(), tmp_path / "monitor.snapshot")
    else:
        client: redis.Redis = request.getfixturevalue("redis_client")
        yield Watched(RedisStream(client), tmp_path / "monitor.snapshot")


def ten_a_second(lists: int, seed: int = 31, start_ms: int = NOW_MS, **changes: Any) -> list[RankingEvent]:
    return rankings(seed, lists, start_ms=start_ms, every_ms=100, **changes)


def events_counter(outcome: str) -> float:
    return REGISTRY.get_sample_value("drift_events_total", {"outcome": outcome}) or 0.0


def test_every_window_that_is_over_is_told_of_once(watched: Watched) -> None:
    watched.write(ten_a_second(350))
    watched.clock.now_s += 35.0

    watched.read_all(watched.start())

    assert watched.counted() == [(0, 100), (WINDOW_MS, 100), (2 * WINDOW_MS, 100)]
    assert len(watched.told) == 3


def test_queries_outside_of_the_experiments_and_mirrored_ones_are_not_watched(watched: Watched) -> None:
    before = events_counter("outside")
    lists = ten_a_second(100)
    outside = [msgspec.structs.replace(e, ranking_id=f"o{e.ranking_id}", arm="outside", version=9) for e in lists]
    watched.write([*lists, *outside, a_mirror("m1", lists[0].ranking_id)])
    watched.clock.now_s += 15.0

    watched.read_all(watched.start())

    assert [(v.version, v.arm, v.lists) for v in watched.told] == [(1, "champion", 100)]
    assert events_counter("outside") - before == 100


def test_time_alone_ends_a_window_when_traffic_stops(watched: Watched) -> None:
    watched.write(ten_a_second(100))
    watched.clock.now_s += 10.0
    monitor = watched.start()
    watched.read_all(monitor)
    assert not watched.told

    watched.clock.now_s += 2.0
    monitor.step(0)

    assert watched.counted() == [(0, 100)]


@pytest.mark.parametrize("steps", range(9))
@pytest.mark.parametrize("saved", [True, False])
def test_a_kill_between_any_two_steps_neither_loses_nor_counts_twice(watched: Watched, steps: int, saved: bool) -> None:
    watched.write(ten_a_second(350))
    watched.clock.now_s += 35.0
    killed = watched.start()
    for _ in range(steps):
        killed.step(0)
    if saved:
        killed.save()

    watched.read_all(watched.start())

    assert watched.counted() == [(0, 100), (WINDOW_MS, 100), (2 * WINDOW_MS, 100)]


@dataclass
class BrokenAcknowledgement:
    """A reader whose connection breaks when it acknowledges."""

    reader: StreamReader

    def read(self, max_entries: int, wait_s: float) -> list[StreamEntry]:
        return self.reader.read(max_entries, wait_s)

    def acknowledge(self, entry_ids: Collection[str]) -> None:
        raise StoreUnavailable("Redis could not acknowledge events: connection reset")

    def lag(self) -> int:
        return self.reader.lag()

    def trim_acknowledged(self) -> int:
        return self.reader.trim_acknowledged()


@pytest.mark.parametrize("forgotten", [False, True])
def test_a_kill_between_snapshot_and_acknowledgement_counts_nothing_twice(watched: Watched, forgotten: bool) -> None:
    watched.write(ten_a_second(90))
    watched.clock.now_s += 9.0
    killed = watched.start(reader=BrokenAcknowledgement(watched.reader()))
    killed.step(0)
    with pytest.raises(StoreUnavailable):
        killed.save()
    if forgotten:  # which rankings were counted: their entries are known all the same
        kept = snapshot.load(watched.kept_in)
        assert kept is not None
        snapshot.save(watched.kept_in, msgspec.structs.replace(kept, counted=()))

    monitor = watched.start()
    watched.write(ten_a_second(10, seed=32, start_ms=NOW_MS + 9000))
    watched.read_all(monitor)
    watched.clock.now_s += 3.0
    monitor.step(0)

    assert watched.counted() == [(0, 100)]


def test_a_kill_while_a_verdict_is_kept_tells_the_same_verdict_again(watched: Watched) -> None:
    class DiskFull(OSError):
        pass

    def sink(verdict: DriftVerdict) -> None:
        watched.told.append(verdict)
        raise DiskFull

    watched.write(ten_a_second(100))
    watched.clock.now_s += 12.0
    killed = watched.start(sink=sink)
    with pytest.raises(DiskFull):
        watched.read_all(killed)

    watched.read_all(watched.start())

    first, again = watched.told
    assert first == again


def test_a_window_that_was_told_of_stays_closed_after_a_restart(watched: Watched) -> None:
    watched.write(ten_a_second(100))
    watched.clock.now_s += 12.0
    watched.read_all(watched.start())
    late = events_counter("late")

    monitor = watched.start()
    watched.write(ten_a_second(20, seed=36))
    watched.read_all(monitor)

    assert events_counter("late") == late + 20
    assert watched.counted() == [(0, 100)]


@pytest.mark.parametrize("restarted", [True, False])
def test_a_clock_that_was_ahead_for_a_while_blinds_nobody(watched: Watched, restarted: bool) -> None:
    watched.read_after_a_clock_that_was_ahead(ten_a_second, restarted)

    assert watched.counted() == [(0, 100), (WINDOW_MS, 100)]


def test_what_is_in_a_snapshot_is_acknowledged_and_no_more(watched: Watched) -> None:
    watched.write(ten_a_second(90))
    watched.clock.now_s += 9.0
    monitor = watched.start()
    monitor.step(0)
    lag = watched.reader().lag
    assert (lag(), repr(monitor)) == (6, "<Monitor [1 open windows | 4 entries to acknowledge]>")

    watched.clock.now_s += SETTINGS.save_every_s
    monitor.step(0)

    assert (lag(), repr(monitor)) == (0, "<Monitor [1 open windows | 0 entries to acknowledge]>")


def test_a_ranking_that_was_written_twice_counts_once_even_across_a_restart(watched: Watched) -> None:
    events = ten_a_second(100)
    watched.write([*events[:60], *events[40:60]])
    first = watched.start()
    watched.clock.now_s += 10.0
    watched.read_all(first)
    first.save()
    watched.write(events[30:])

    monitor = watched.start()
    watched.read_all(monitor)
    watched.clock.now_s += 2.0
    monitor.step(0)

    assert watched.counted() == [(0, 100)]


def test_feedback_is_no_ranking_and_what_cannot_be_read_is_left_out_and_counted(watched: Watched) -> None:
    before = events_counter("unreadable")
    watched.stream.append([b"no payload", join_events([b"\x01", encode_event(ten_a_second(1)[0])])])
    newer = msgspec.structs.replace(ten_a_second(2)[1], schema=99)
    watched.write([a_click(), newer, an_exposure(), *ten_a_second(100)[2:]])
    watched.clock.now_s += 12.0

    watched.read_all(watched.start())

    assert watched.counted() == [(0, 99)]
    assert events_counter("unreadable") == before + 3
    assert watched.reader().lag() == 0


def test_arms_are_judged_apart(watched: Watched) -> None:
    watched.write(ten_a_second(100))
    watched.write(rankings(33, 100, {"of_item": 3.0}, NOW_MS, 100, version=2, arm="challenger"))
    watched.clock.now_s += 12.0

    watched.read_all(watched.start())

    verdicts = {verdict.arm: verdict for verdict in watched.told}
    assert verdicts["challenger"].verdict == "failed"
    assert verdicts["champion"].verdict != "failed"
    labels = {"model": "codesearch", "arm": "challenger", "quantity": "of_item"}
    assert REGISTRY.get_sample_value("drift_shift_deviations", labels) == pytest.approx(3.3, abs=0.6)


def unknown_version(model: str, version: int) -> None:
    raise UnknownVersion(f"{model}@{version} is not registered")


@pytest.mark.parametrize("profiles", [lambda model, version: None, unknown_version])
def test_an_unknown_version_is_errored_and_others_go_on(watched: Watched, profiles: ProfileOf) -> None:
    watched.write([*ten_a_second(100), *ten_a_second(100, seed=34, version=9)])
    watched.clock.now_s += 12.0

    watched.read_all(watched.start(lambda model, version: profiles(model, version) if version == 9 else PROFILE))

    verdicts = {verdict.version: verdict for verdict in watched.told}
    assert (verdicts[9].verdict, verdicts[9].rankings) == ("errored", 100)
    assert verdicts[1].verdict in ("passed", "inconclusive")


@pytest.mark.parametrize(("by", "said"), [("of_querry", 1), ("of_query", 0), ("ranking:candidates", 0)])
def test_segments_of_a_feature_that_there_is_not_are_told_once_with_those_that_there_are(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, by: str, said: int
) -> None:
    settings = replace(SETTINGS, segments={"codesearch": Segments("codesearch", by, bounds=(0.0,))})
    watched = Watched(MemoryStream(), tmp_path / "monitor.snapshot", settings=settings)
    watched.write([*ten_a_second(150), *ten_a_second(150, seed=33, version=2)])
    watched.clock.now_s += 25.0

    watched.read_all(watched.start())

    warned = [record.getMessage() for record in caplog.records if "SLUICE_DRIFT_SEGMENTS" in record.getMessage()]
    assert len(warned) == said
    if said:
        assert "divides codesearch by 'of_querry', which the feature view of @1 lacks" in warned[0]
        assert warned[0].endswith(f"expected ranking:candidates, or one of {', '.join(COLUMNS)}")


def test_a_damaged_snapshot_is_put_aside_for_empty_windows(watched: Watched) -> None:
    watched.kept_in.write_bytes(b"\x93 half a snapsh")
    watched.write(ten_a_second(100))
    watched.clock.now_s += 12.0

    watched.read_all(watched.start())

    assert watched.counted() == [(0, 100)]


@dataclass
class AwayAtFirst:
    """A reader whose stream does not answer for the first reads."""

    reader: StreamReader
    failures: int = 2

    def read(self, max_entries: int, wait_s: float) -> list[StreamEntry]:
        if self.failures:
            self.failures -= 1
            raise StoreUnavailable("Redis could not read events: connection refused")
        return self.reader.read(max_entries, wait_s)

    def acknowledge(self, entry_ids: Collection[str]) -> None:
        self.reader.acknowledge(entry_ids)

    def lag(self) -> int:
        return self.reader.lag()

    def trim_acknowledged(self) -> int:
        return self.reader.trim_acknowledged()


def test_a_run_waits_for_a_stream_that_is_away_and_acknowledges_all_when_stopped(watched: Watched) -> None:
    watched.write([*ten_a_second(100), *ten_a_second(50, seed=35, start_ms=NOW_MS + WINDOW_MS)])
    watched.clock.now_s += 16.0
    stop, told = threading.Event(), threading.Event()

    def sink(verdict: DriftVerdict) -> None:
        watched.told.append(verdict)
        told.set()

    monitor = watched.start(sink=sink, reader=AwayAtFirst(watched.reader()))
    running = threading.Thread(target=monitor.run, args=(stop,))
    running.start()
    assert told.wait(10)
    stop.set()
    running.join(10)

    assert not running.is_alive()
    assert repr(monitor) == "<Monitor [1 open windows | 0 entries to acknowledge]>"
    again = watched.start()
    watched.read_all(again)
    watched.clock.now_s += 10.0
    again.step(0)
    assert watched.counted() == [(0, 100), (WINDOW_MS, 50)]
    assert watched.reader().lag() == 0
