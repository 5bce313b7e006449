"""The loop over mirror events: each counts once, whatever is killed, and nothing stops it."""

import threading
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import pytest
import redis
from prometheus_client import REGISTRY

from drift import metrics
from drift.mirrors.monitor import GROUP, MirrorMonitor, Sink, load
from drift.mirrors.rank_diff import RankDiff
from drift.mirrors.rank_summary import Standard
from drift.settings import RankDiffSettings, RankLimits
from registry.contracts.events import MirrorEvent, encode_event, join_events
from registry.errors import StoreUnavailable
from registry.stream import MemoryStream, RedisStream, StreamEntry, StreamReader
from tests.builders import NOW_MS, a_mirror, a_ranking
from tests.drift.mirrored import mirrors
from tests.drift.monitored import Monitored

SETTINGS = RankDiffSettings(
    RankLimits(min_lists=50),
    window_s=10.0,
    lateness_s=2.0,
    save_every_s=5.0,
    entries_a_read=4,
    wait_s=0.05,
    retry_s=0.01,
)
WINDOW_MS = 10_000
ALL = [(0, 100, 100), (WINDOW_MS, 100, 200), (2 * WINDOW_MS, 100, 300)]


def standard(model: str, version: int) -> Standard | None:
    return 0.0, 1.0


@dataclass
class Mirrored(Monitored[MirrorMonitor]):
    """A stream, and monitors over it that can be started again."""

    told: list[RankDiff] = field(default_factory=list)

    def reader(self) -> StreamReader:
        return self.stream.reader(GROUP, "monitor-0")

    def start(self, sink: Sink | None = None, reader: StreamReader | None = None) -> MirrorMonitor:
        """A new monitor under the name of the last; as if that had been killed."""
        return MirrorMonitor(
            reader or self.reader(), standard, sink or self.told.append, SETTINGS, self.kept_in, self.clock
        )

    def counted(self) -> list[tuple[int, int, int]]:
        """Start after NOW_MS, queries of the window and of the step; each window once."""
        return sorted({(d.window.start_ms - NOW_MS, d.window.mirrored, d.step.mirrored) for d in self.told})


@pytest.fixture(params=["memory", "redis"])
def mirrored(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Mirrored]:
    if request.param == "memory":
        yield Mirrored(MemoryStream(), tmp_path / "mirror.windows")
    else:
        client: redis.Redis = request.getfixturevalue("redis_client")
        yield Mirrored(RedisStream(client), tmp_path / "mirror.windows")


def ten_a_second(queries: int, seed: int = 41, start_ms: int = NOW_MS) -> list[MirrorEvent]:
    return mirrors(seed, queries, start_ms=start_ms, every_ms=100)


def events_counter(outcome: str) -> float:
    return REGISTRY.get_sample_value("drift_mirror_events_total", {"outcome": outcome}) or 0.0


def test_every_window_that_is_over_is_told_of_once_with_its_step(mirrored: Mirrored) -> None:
    mirrored.write(ten_a_second(350))
    mirrored.clock.now_s += 35.0

    mirrored.read_all(mirrored.start())

    assert mirrored.counted() == ALL
    assert len(mirrored.told) == 3
    assert mirrored.told[-1].step.verdict in ("passed", "inconclusive")


@pytest.mark.parametrize("steps", range(9))
@pytest.mark.parametrize("saved", [True, False])
def test_a_kill_between_any_two_steps_neither_loses_nor_counts_twice(
    mirrored: Mirrored, steps: int, saved: bool
) -> None:
    mirrored.write(ten_a_second(350))
    mirrored.clock.now_s += 35.0
    killed = mirrored.start()
    for _ in range(steps):
        killed.step(0)
    if saved:
        killed.save()

    mirrored.read_all(mirrored.start())

    assert mirrored.counted() == ALL


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
def test_a_kill_between_snapshot_and_acknowledgement_counts_nothing_twice(mirrored: Mirrored, forgotten: bool) -> None:
    mirrored.write(ten_a_second(60))
    mirrored.clock.now_s += 9.0
    killed = mirrored.start(reader=BrokenAcknowledgement(mirrored.reader()))
    killed.step(0)
    with pytest.raises(StoreUnavailable):
        killed.save()
    if forgotten:  # more events came since than are remembered one by one
        kept = load(mirrored.kept_in)
        assert kept is not None
        mirrored.kept_in.write_bytes(msgspec.msgpack.encode(msgspec.structs.replace(kept, recent=b"")))

    monitor = mirrored.start()
    mirrored.write(ten_a_second(40, seed=42, start_ms=NOW_MS + 6000))
    mirrored.read_all(monitor)
    mirrored.clock.now_s += 3.0
    monitor.step(0)

    assert mirrored.counted() == [(0, 100, 100)]


def test_an_event_that_was_written_twice_counts_once_even_across_a_restart(mirrored: Mirrored) -> None:
    events = ten_a_second(100)
    mirrored.write([*events[:60], *events[40:60]])
    first = mirrored.start()
    mirrored.clock.now_s += 10.0
    mirrored.read_all(first)
    first.save()
    mirrored.write(events[30:])

    monitor = mirrored.start()
    mirrored.read_all(monitor)
    mirrored.clock.now_s += 2.0
    monitor.step(0)

    assert mirrored.counted() == [(0, 100, 100)]


@pytest.mark.parametrize("restarted", [True, False])
def test_a_clock_that_was_ahead_for_a_while_blinds_nobody(mirrored: Mirrored, restarted: bool) -> None:
    mirrored.read_after_a_clock_that_was_ahead(ten_a_second, restarted)

    assert [(start_ms, queries) for start_ms, queries, _ in mirrored.counted()] == [(0, 100), (10_000, 100)]


def test_what_comes_late_is_missing_from_its_window_and_counted_in_the_step(mirrored: Mirrored) -> None:
    events = ten_a_second(200)
    mirrored.write([*events[:90], *events[100:]])
    mirrored.clock.now_s += 20.0
    monitor = mirrored.start()
    mirrored.read_all(monitor)
    late = events_counter("late")

    mirrored.write(events[90:100])
    mirrored.read_all(monitor)
    mirrored.clock.now_s += 3.0
    monitor.step(0)

    assert events_counter("late") == late + 10
    assert mirrored.counted() == [(0, 90, 90), (WINDOW_MS, 100, 200)]


def test_a_window_ends_though_nothing_but_rankings_comes_any_more(mirrored: Mirrored) -> None:
    mirrored.write(ten_a_second(100))
    monitor = mirrored.start()
    mirrored.clock.now_s += 10.0
    mirrored.read_all(monitor)
    assert not mirrored.told

    mirrored.clock.now_s += 2.0
    mirrored.write([a_ranking(f"r{i}") for i in range(4)], an_entry=1)
    assert monitor.step(0) == 4

    assert mirrored.counted() == [(0, 100, 100)]


def test_other_events_pass_and_what_cannot_be_read_is_left_out_and_counted(mirrored: Mirrored) -> None:
    before = events_counter("unreadable")
    broken = encode_event(a_mirror("broken"))[:-3]
    newer = encode_event(a_mirror("newer")).replace(b"\xa6mirror\x01", b"\xa6mirror\x63")
    mirrored.stream.append([b"no payload", join_events([newer, encode_event(a_ranking())]), b"\x91" + broken])
    mirrored.write([a_ranking(), *ten_a_second(100), a_ranking()])
    mirrored.clock.now_s += 12.0
    monitor = mirrored.start()

    mirrored.read_all(monitor)
    monitor.save()

    assert mirrored.counted() == [(0, 100, 100)]
    assert events_counter("unreadable") == before + 1
    assert mirrored.reader().lag() == 0


def test_a_stream_without_mirrors_is_acknowledged_and_leaves_no_file(mirrored: Mirrored) -> None:
    mirrored.write([a_ranking(f"r{i}") for i in range(64)])
    monitor = mirrored.start()
    monitor.step(0)
    assert repr(monitor) == "<MirrorMonitor [0 open windows | 4 entries to acknowledge]>"

    mirrored.clock.now_s += SETTINGS.save_every_s
    monitor.step(0)

    assert repr(monitor) == "<MirrorMonitor [0 open windows | 0 entries to acknowledge]>"
    assert mirrored.reader().lag() == 0
    assert not mirrored.kept_in.exists()


def test_a_store_that_is_away_gets_every_rank_diff_when_it_is_back_even_after_a_kill(mirrored: Mirrored) -> None:
    def away(diff: RankDiff) -> None:
        raise StoreUnavailable("the control database could not keep evidence: locked")

    mirrored.write(ten_a_second(350))
    mirrored.clock.now_s += 35.0
    killed = mirrored.start(sink=away)
    mirrored.read_all(killed)
    assert (mirrored.told, mirrored.reader().lag()) == ([], 0)
    kept = load(mirrored.kept_in)
    assert kept is not None and len(kept.untold) == 3

    mirrored.read_all(mirrored.start())

    assert mirrored.counted() == ALL


def test_a_run_ends_when_told_to_with_everything_acknowledged(mirrored: Mirrored) -> None:
    mirrored.write(ten_a_second(150))
    mirrored.clock.now_s += 16.0
    stop, told = threading.Event(), threading.Event()

    def sink(diff: RankDiff) -> None:
        mirrored.told.append(diff)
        told.set()

    monitor = mirrored.start(sink=sink)
    running = threading.Thread(target=monitor.run, args=(stop,))
    running.start()
    assert told.wait(10)
    stop.set()
    running.join(10)

    assert not running.is_alive()
    assert repr(monitor).endswith("| 0 entries to acknowledge]>")
    again = mirrored.start()
    mirrored.read_all(again)
    mirrored.clock.now_s += 10.0
    again.step(0)
    assert mirrored.counted() == [(0, 100, 100), (WINDOW_MS, 50, 150)]


def test_a_damaged_snapshot_is_put_aside_for_empty_windows(mirrored: Mirrored) -> None:
    mirrored.kept_in.write_bytes(b"\x93 half a snapsh")
    mirrored.write(ten_a_second(100))
    mirrored.clock.now_s += 12.0

    mirrored.read_all(mirrored.start())

    assert mirrored.counted() == [(0, 100, 100)]


def test_gauges_show_the_newest_window(mirrored: Mirrored) -> None:
    mirrored.write(mirrors(43, 100, every_ms=100, error_share=0.3, experiment="shown"))
    mirrored.clock.now_s += 12.0

    mirrored.read_all(mirrored.start())

    (diff,) = mirrored.told
    labels = {"model": "codesearch", "experiment": "shown"}
    overlap = REGISTRY.get_sample_value("drift_rank_agreement", labels | {"measure": "overlap"})
    assert overlap == diff.window.estimates[0].mean
    assert REGISTRY.get_sample_value("drift_mirror_error_ratio", labels) == diff.window.failed / 100
    assert REGISTRY.get_sample_value("drift_mirrored_lists", labels) == diff.window.compared
    assert (REGISTRY.get_sample_value("drift_rank_diffs_total", labels | {"verdict": "failed"}) or 0) >= 1


def test_labels_stay_few_however_many_experiments_there_were() -> None:
    labels = {metrics.experiment_label(f"experiment-{i}") for i in range(500)}

    assert len(labels) <= metrics.MOST_EXPERIMENTS + 1
    assert "other" in labels
