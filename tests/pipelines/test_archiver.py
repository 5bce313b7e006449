"""The archiver: exactly once on disk, through kills, a Redis that goes and a disk that refuses."""

import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from pipelines.archive.archiver import Archiver, should_flush
from pipelines.archive.files import Archive, WriteReport
from pipelines.settings import ArchiverSettings
from registry.contracts.events import Event, encode_event, join_events
from registry.errors import StoreUnavailable
from registry.stream import EVENT_STREAM, MemoryStream, RedisStream, StreamEntry
from tests.builders import NOW_MS, a_click, a_ranking
from tests.conftest import RedisServer

HOUR_MS = 3_600_000
AT_ONCE = ArchiverSettings(flush_entries=1)


def payload(*events: Event) -> bytes:
    return join_events([encode_event(event) for event in events])


def archived(archive: Archive) -> list[str]:
    rows = archive.rankings("codesearch", NOW_MS, NOW_MS + HOUR_MS, ["ranking_id"]).to_pylist()
    return [row["ranking_id"] for row in rows]


def wait_until(holds: Callable[[], bool]) -> None:
    """Looks again and again, for ten seconds at most."""
    pause = threading.Event()
    for _ in range(1000):
        if holds():
            return
        pause.wait(0.01)
    raise AssertionError("it never happened")


class FullDisk(Archive):
    """Refuses to write while the file `full` is there."""

    def write(self, entries: Sequence[StreamEntry]) -> WriteReport:
        if (self.folder / "full").exists():
            raise OSError(28, "No space left on device")
        return super().write(entries)


@pytest.fixture
def archive(tmp_path: Path) -> Archive:
    return Archive(tmp_path / "archive")


@pytest.mark.parametrize(
    ("buffered", "age_s", "due"),
    [
        ([], 99.0, False),
        ([10], 0.9, False),
        ([10], 1.0, True),
        ([10, 10, 10], 0.0, True),
        ([60, 40], 0.0, True),
    ],
    ids=["nothing", "young and small", "old", "many", "large"],
)
def test_a_batch_leaves_when_it_is_many_large_or_old(buffered: list[int], age_s: float, due: bool) -> None:
    settings = ArchiverSettings(flush_entries=3, flush_bytes=100, flush_age_s=1.0)

    assert should_flush(buffered, oldest_s=5.0, now_s=5.0 + age_s, settings=settings) is due


@pytest.mark.parametrize(
    ("field", "value"), [("flush_entries", 0), ("flush_bytes", 0), ("flush_age_s", 0.0), ("flush_age_s", 61.0)]
)
def test_settings_fail_at_start_naming_key_and_value(field: str, value: Any) -> None:
    with pytest.raises(ValueError, match=rf"^archiver\.{field}={value}: expected"):
        ArchiverSettings(**{field: value})


def test_a_round_waits_for_more_until_the_batch_is_old_enough(archive: Archive) -> None:
    now_s = [100.0]
    stream = MemoryStream()
    archiver = Archiver(stream.reader("archive", "a"), archive, ArchiverSettings(), clock=lambda: now_s[0])
    stream.append([payload(a_ranking("r1"))])

    archiver.step()
    assert archived(archive) == []
    assert repr(archiver).endswith("[READY | 1 entries buffered]>")

    now_s[0] += 1.0
    archiver.step()
    assert archived(archive) == ["r1"]


def test_what_is_on_disk_is_acknowledged_and_trimmed(archive: Archive) -> None:
    stream = MemoryStream()
    reader = stream.reader("archive", "a")
    archiver = Archiver(reader, archive, AT_ONCE)
    stream.append([payload(a_ranking("r1"), a_click("c1"))])

    archiver.step()

    assert archived(archive) == ["r1"]
    assert reader.lag() == 0
    assert stream.entries == {}


def test_a_stop_drains_what_can_be_read(archive: Archive) -> None:
    stream = MemoryStream()
    stream.append([payload(a_ranking(f"r{i:03}")) for i in range(200)])
    stop = threading.Event()
    stop.set()

    Archiver(stream.reader("archive", "a"), archive, ArchiverSettings()).run(stop)

    assert len(archived(archive)) == 200


def test_a_full_disk_loses_nothing_and_reads_no_further(tmp_path: Path) -> None:
    archive = FullDisk(tmp_path)
    (tmp_path / "full").touch()
    stream = MemoryStream()
    reader = stream.reader("archive", "a")
    archiver = Archiver(reader, archive, ArchiverSettings(flush_entries=2))
    stream.append([payload(a_ranking(f"r{i}")) for i in range(5)])

    for _ in range(3):
        with pytest.raises(OSError, match="No space"):
            archiver.step()
    assert repr(archiver).endswith("2 entries buffered]>")
    assert reader.lag() == 5

    (tmp_path / "full").unlink()
    archiver.drain()
    assert archived(archive) == ["r0", "r1", "r2", "r3", "r4"]
    assert reader.lag() == 0


def test_the_loop_outlives_a_disk_that_refuses(tmp_path: Path) -> None:
    archive = FullDisk(tmp_path)
    (tmp_path / "full").touch()
    stream = MemoryStream()
    archiver = Archiver(stream.reader("archive", "a"), archive, AT_ONCE)
    stream.append([payload(a_ranking("r1"))])
    stop = threading.Event()
    loop = threading.Thread(target=archiver.run, args=(stop,))
    loop.start()
    try:
        wait_until(lambda: "FAILING" in repr(archiver))
        (tmp_path / "full").unlink()
        wait_until(lambda: archived(archive) == ["r1"])
        wait_until(lambda: "READY" in repr(archiver))
    finally:
        stop.set()
        loop.join()


def test_an_unreadable_entry_is_acknowledged_and_does_not_come_back(archive: Archive) -> None:
    stream = MemoryStream()
    reader = stream.reader("archive", "a")
    stream.append([b"garbage", payload(a_ranking("r1"))])

    Archiver(reader, archive, ArchiverSettings()).drain()

    assert archived(archive) == ["r1"]
    assert reader.lag() == 0
    assert len(list((archive.folder / "rejected").iterdir())) == 1


def test_a_redis_that_is_not_there_is_the_loops_business(archive: Archive, tmp_path: Path) -> None:
    nobody = redis.Redis(unix_socket_path=str(tmp_path / "none.sock"), retry=Retry(NoBackoff(), 0))
    archiver = Archiver(RedisStream(nobody).reader("archive", "a"), archive, AT_ONCE)

    with pytest.raises(StoreUnavailable):
        archiver.step()


KILLED_BETWEEN_WRITING_AND_ACKNOWLEDGING = """
import os, signal, sys, threading
from pathlib import Path
from typing import Any

import redis
from pipelines.archive.files import Archive
from pipelines.archive.archiver import Archiver
from pipelines.settings import ArchiverSettings
from registry.stream import RedisStream

class Killed(Archive):
    def write(self, entries):
        super().write(entries)
        os.kill(os.getpid(), signal.SIGKILL)

reader = RedisStream(redis.Redis(unix_socket_path=sys.argv[1])).reader("archive", "archiver-0")
Archiver(reader, Killed(Path(sys.argv[2])), ArchiverSettings(flush_entries=int(sys.argv[3]))).run(threading.Event())
"""


def test_kills_between_writing_and_acknowledging_leave_every_event_once(
    redis_server: RedisServer, server_client: redis.Redis, archive: Archive
) -> None:
    stream = RedisStream(server_client)
    stream.append([payload(a_ranking(f"r{i:02}"), a_click(f"c{i:02}", f"r{i:02}")) for i in range(30)])

    for flush_entries in (7, 11):  # another size, so that the batches are cut differently
        program = [sys.executable, "-c", KILLED_BETWEEN_WRITING_AND_ACKNOWLEDGING]
        arguments = [str(redis_server.socket), str(archive.folder), str(flush_entries)]
        assert subprocess.run([*program, *arguments], check=False).returncode == -signal.SIGKILL
    assert archived(archive) == [f"r{i:02}" for i in range(11)]

    reader = stream.reader("archive", "archiver-0")
    Archiver(reader, archive, ArchiverSettings()).drain()

    assert archived(archive) == [f"r{i:02}" for i in range(30)]
    assert len(archive.feedback("codesearch", NOW_MS, NOW_MS + HOUR_MS)) == 30
    assert reader.lag() == 0
    reader.trim_acknowledged()
    assert server_client.xlen(EVENT_STREAM) == 0
