"""The event stream on Kafka: brokers that go and come back, readers that die, partitions that change hands."""

import itertools
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, Producer

from drift.monitor import Monitor
from drift.settings import MonitorSettings, Rule
from drift.windows.judge import DriftVerdict
from pipelines.archive.archiver import Archiver
from pipelines.archive.files import Archive
from pipelines.settings import ArchiverSettings
from registry.contracts.events import Event, decode_events, encode_event, join_events
from registry.errors import EntryRefused, StoreUnavailable
from registry.kafka import METADATA_BYTES, KafkaGroupReader, KafkaStream, decode_done, encode_done
from registry.kafka_messages import messages_of, partition_of
from registry.stream import StreamEntry, StreamReader
from tests.builders import NOW_MS, a_click, a_ranking, an_exposure
from tests.drift.traffic import PROFILE, rankings
from tests.kafka_brokers import Brokers, running_brokers
from tests.suites.streams import Stream, StreamSuite, ids, payloads

PARTITIONS = 4  # the mock cluster's
PATIENCE = 600  # reads of a tenth of a second
TOPICS = (f"events-{number}" for number in itertools.count())


@pytest.fixture(scope="module")
def brokers() -> Iterator[Brokers]:
    with running_brokers() as running:
        yield running


@pytest.fixture
def opened() -> Iterator[list[KafkaGroupReader]]:
    """Readers that are closed in the end."""
    readers: list[KafkaGroupReader] = []
    yield readers
    for reader in readers:
        reader.close()


class Closed(KafkaStream):
    """Remembers its readers, to close them."""

    def __init__(self, brokers: Brokers, opened: list[KafkaGroupReader], topic: str | None = None) -> None:
        super().__init__(brokers.config, topic or next(TOPICS), delivery_s=2.0, session_s=6.0)
        self._opened = opened
        Producer(brokers.config).list_topics(self._topic, timeout=10)  # that makes it, on the mock cluster

    def reader(self, group: str, consumer: str, claim_idle_s: float = 0.0) -> KafkaGroupReader:
        reader = super().reader(group, consumer, claim_idle_s)
        self._opened.append(reader)
        return reader


def event_payload(*events: Event) -> bytes:
    return join_events([encode_event(event) for event in events])


def read_until(
    readers: list[KafkaGroupReader], done: Callable[[list[list[StreamEntry]]], bool]
) -> list[list[StreamEntry]]:
    """Reads with all of them in turn until it is done; what each got. While a group deals its partitions out, which
    takes a busy machine a while, its readers are told to read again."""
    found: list[list[StreamEntry]] = [[] for _ in readers]
    for _ in range(PATIENCE):
        for reader, mine in zip(readers, found, strict=True):
            with suppress(StoreUnavailable):
                mine += reader.read(100, 0.1 / len(readers))
        if done(found):
            return found
    raise AssertionError(f"it never happened: {readers}")


class TestKafkaStream(StreamSuite):
    @pytest.fixture
    def make_stream(self, brokers: Brokers, opened: list[KafkaGroupReader]) -> Callable[[], Stream]:
        return lambda: Closed(brokers, opened)

    def crash(self, reader: KafkaGroupReader) -> None:
        reader.close()  # commits nothing; a kill is `test_what_a_killed_reader_...`


@pytest.fixture
def stream(brokers: Brokers, opened: list[KafkaGroupReader]) -> Closed:
    return Closed(brokers, opened)


def test_a_payload_is_cut_by_ranking_and_every_chain_is_whole_and_in_order() -> None:
    events: list[Event] = []
    for number in range(40):
        name = f"r{number}"
        events += [a_ranking(name), an_exposure(f"x{number}", name), a_click(f"c{number}", name)]

    messages = messages_of(event_payload(*events), PARTITIONS)

    assert sorted(message.partition for message in messages) == [0, 1, 2, 3]
    for message in messages:
        inside = decode_events(message.payload)
        assert inside == [e for e in events if partition_of(e.ranking_id, PARTITIONS) == message.partition]


def test_headers_say_schema_and_trace_and_a_message_of_one_ranking_has_its_key() -> None:
    trace_id, ranking_id = "ab" * 16, "0" * 34 + "00112233445566ff"
    one = messages_of(event_payload(a_ranking(ranking_id, trace_id=trace_id), a_click("c", ranking_id)), PARTITIONS)
    two = messages_of(event_payload(a_click("c1", "r1"), a_click("c2", "r2")), 1)

    assert [(message.key, dict(message.headers)) for message in one] == [
        (
            ranking_id.encode(),
            {"sluice-schema": b"1", "traceparent": f"00-{trace_id}-00112233445566ff-00".encode()},
        )
    ]
    assert [(message.key, dict(message.headers)) for message in two] == [(None, {"sluice-schema": b"1"})]


@pytest.mark.parametrize("payload", [b"", b"garbage", event_payload()], ids=["nothing", "garbage", "no events"])
def test_what_holds_no_event_goes_on_unchanged_for_readers_to_set_aside(payload: bytes) -> None:
    assert [(message.partition, message.payload) for message in messages_of(payload, PARTITIONS)] == [(0, payload)]


@pytest.mark.parametrize("done", [set(), {5}, {5, 6, 7, 9}, set(range(5, 9000))])
def test_what_is_done_is_read_as_it_was_written(done: set[int]) -> None:
    assert decode_done(encode_done(done, 5), 5) == done


def test_what_finds_no_room_in_a_commit_is_left_out_and_somebody_elses_words_say_nothing() -> None:
    done = set(range(0, 4000, 2))
    text = encode_done(done, 0)

    assert len(text) <= METADATA_BYTES
    assert decode_done(text, 0) == set(sorted(done)[: len(decode_done(text, 0))])
    assert decode_done("written by another tool", 0) == set()


def test_a_group_of_two_readers_gets_each_entry_once_and_each_reader_whole_chains(stream: Closed) -> None:
    first, second = stream.reader("archive", "a"), stream.reader("archive", "b")
    read_until([first, second], lambda _: all("[[]" not in repr(reader) for reader in (first, second)))
    for number in range(30):
        stream.append([event_payload(a_ranking(f"r{number}"))])
        stream.append([event_payload(a_click(f"c{number}", f"r{number}"))])

    found = read_until([first, second], lambda got: sum(map(len, got)) >= 60)

    whole = [Counter(event.ranking_id for entry in mine for event in decode_events(entry.payload)) for mine in found]
    assert sum(map(len, found)) == 60
    assert set(whole[0]) | set(whole[1]) == {f"r{number}" for number in range(30)}
    assert {count for mine in whole for count in mine.values()} == {2}


def test_acknowledging_what_a_rebalance_took_away_does_nothing_to_its_new_reader(stream: Closed) -> None:
    first = stream.reader("archive", "a")
    stream.append([event_payload(a_ranking(f"r{number}")) for number in range(20)])
    [held] = read_until([first], lambda got: len(got[0]) == 20)
    second = stream.reader("archive", "b")
    _, taken = read_until([first, second], lambda got: bool(got[1]))

    first.acknowledge(ids(held))

    [rest] = read_until([second], lambda got: len(taken) + len(got[0]) == second.lag())  # all that is left is its own
    second.acknowledge(ids(taken + rest))
    assert second.lag() == 0


def test_entries_acknowledged_before_they_come_again_do_not_come_again(stream: Closed) -> None:
    stream.append([b"1", b"2", b"3"])
    before = stream.reader("drift", "a")
    first_two = ids(before.read(2, 0))
    before.close()
    again = stream.reader("drift", "a")
    again.acknowledge(first_two)

    assert payloads(again.read(5, 0)) == [b"3"]


def test_while_brokers_are_away_nothing_counts_as_written_and_afterwards_everything_is(
    opened: list[KafkaGroupReader],
) -> None:
    with running_brokers() as brokers:
        stream = Closed(brokers, opened)
        stream.append([b"before"])
        brokers.away()
        with pytest.raises(StoreUnavailable, match="Kafka could not append events"):
            stream.append([b"meanwhile"])
        brokers.back()
        for _ in range(10):
            try:
                stream.append([b"meanwhile"])
                break
            except StoreUnavailable:
                continue

        got = payloads(stream.reader("archive", "a").read(10, 0))
        opened.pop().close()

    assert got[0] == b"before"
    assert set(got[1:]) == {b"meanwhile"}  # once or more: readers drop repeats by event id


def test_absent_brokers_are_named(opened: list[KafkaGroupReader]) -> None:
    with running_brokers(1) as brokers:
        gone = brokers
    stream = KafkaStream({**gone.config, "socket.connection.setup.timeout.ms": 1000}, "events", delivery_s=1.0)
    reader = stream.reader("archive", "a")
    opened.append(reader)

    with pytest.raises(StoreUnavailable, match="could not append events"):
        stream.append([b"1"])
    with pytest.raises(StoreUnavailable, match="could not count"):
        reader.lag()
    with pytest.raises(StoreUnavailable, match="could not read events"):
        for _ in range(PATIENCE):
            reader.read(1, 0.1)


def test_an_entry_that_no_topic_takes_is_refused_and_the_next_one_is_written(stream: Closed) -> None:
    with pytest.raises(EntryRefused, match=r"max\.message\.bytes"):
        stream.append([bytes(9 << 20)])
    stream.append([b"small"])

    assert payloads(stream.reader("archive", "a").read(1, 0)) == [b"small"]


def test_others_read_messages_with_headers_from_a_topic_by_the_ranking(stream: Closed, brokers: Brokers) -> None:
    topic = stream._topic
    stream.append([event_payload(a_ranking("r1"), a_click("c1", "r1"))])
    other = Consumer({**brokers.config, "group.id": "theirs", "auto.offset.reset": "earliest"})
    other.subscribe([topic])
    message = next(filter(None, (other.poll(0.1) for _ in range(PATIENCE))))
    other.close()

    assert message.key() == b"r1"
    assert message.partition() == partition_of("r1", PARTITIONS)
    assert dict(message.headers() or [])["sluice-schema"] == b"1"


def test_a_message_that_is_somebody_elses_is_read_as_it_is_and_those_around_it_arrive(
    stream: Closed, brokers: Brokers
) -> None:
    stream.append([b"before"])
    theirs = Producer(brokers.config)
    theirs.produce(stream._topic, None, b"tombstone", 0)
    assert theirs.flush(10) == 0
    stream.append([b"after"])

    assert payloads(stream.reader("archive", "a").read(10, 0)) == [b"before", b"", b"after"]


class Failing:
    """A consumer of which one call fails: `consume` raises, or an error comes as a message before what it gives.

    calls: that go well before.
    """

    def __init__(self, consumer: Consumer, raises: bool, calls: int) -> None:
        self._consumer, self._raises, self._calls = consumer, raises, calls

    def __getattr__(self, name: str) -> Any:
        return getattr(self._consumer, name)

    def consume(self, *of: Any) -> list[Message]:
        self._calls -= 1
        if self._calls != -1:
            return self._consumer.consume(*of)
        error = KafkaError(KafkaError._FAIL)
        if self._raises:
            raise KafkaException(error)
        return [Message(partition=0, error=error), *self._consumer.consume(*of)]


@pytest.mark.parametrize("calls", [0, 1])
@pytest.mark.parametrize("raises", [True, False], ids=["raised", "told"])
def test_an_error_among_entries_keeps_none_of_them_back(stream: Closed, raises: bool, calls: int) -> None:
    written = [b"%d" % number for number in range(8)]
    stream.append(written)
    reader = stream.reader("archive", "a")
    reader._consumer = Failing(reader._consumer, raises, calls)  # type: ignore[assignment]

    found: list[StreamEntry] = []
    for _ in range(PATIENCE):
        with suppress(StoreUnavailable):
            found += (got := reader.read(3, 0))
            reader.acknowledge(ids(got))
            if not got:
                break

    assert payloads(found) == written
    assert reader.lag() == 0


def test_a_monitor_that_starts_again_goes_on_with_the_windows_it_kept(stream: Closed, tmp_path: Path) -> None:
    lists = rankings(31, 100, start_ms=NOW_MS, every_ms=100)
    stream.append([event_payload(*lists[:50])])
    settings = MonitorSettings(Rule(min_lists=50), window_s=10.0, lateness_s=2.0)
    now_s, told = NOW_MS / 1000 + 10.0, list[DriftVerdict]()

    def start(reader: StreamReader) -> Monitor:
        return Monitor(reader, lambda *_: PROFILE, told.append, settings, tmp_path / "snapshot", lambda: now_s)

    reader = stream.reader("monitor", "monitor-0")
    before = start(reader)
    while before.step(0):
        pass
    before.save()
    reader.close()
    stream.append([event_payload(*lists[50:])])
    now_s += 2.0
    again = start(stream.reader("monitor", "monitor-0"))
    while again.step(0):
        pass

    assert [verdict.lists for verdict in told] == [100]


class Unanswered(KafkaGroupReader):
    """At first nobody says where partitions end."""

    unanswered = 2

    def _ends(self, partition: int) -> tuple[int, int]:
        self.unanswered -= 1
        if self.unanswered >= 0:
            raise KafkaException(KafkaError(KafkaError._TIMED_OUT))
        return super()._ends(partition)


@pytest.mark.parametrize("wait_s", [0.0, 5.0])
def test_partitions_whose_place_nobody_told_are_read_from_there_once_somebody_does(
    stream: Closed, brokers: Brokers, opened: list[KafkaGroupReader], wait_s: float
) -> None:
    stream.append([b"1", b"2", b"3"])
    before = stream.reader("archive", "a")
    before.acknowledge(ids(before.read(1, 0)))
    before.close()
    reader = Unanswered(brokers.config, stream._topic, "archive", "a", session_s=6.0)
    opened.append(reader)

    with pytest.raises(StoreUnavailable, match="could not read events"):
        reader.read(10, wait_s)

    found = reader.read(10, wait_s)
    assert payloads(found) == [b"2", b"3"]
    reader.acknowledge(ids(found))
    assert reader.lag() == 0


KILLED_BETWEEN_WRITING_AND_ACKNOWLEDGING = """
import os, signal, sys, threading
from pathlib import Path

from pipelines.archive.archiver import Archiver
from pipelines.archive.files import Archive
from pipelines.settings import ArchiverSettings
from registry.kafka import KafkaStream

class Killed(Archive):
    def write(self, entries):
        super().write(entries)
        os.kill(os.getpid(), signal.SIGKILL)

reader = KafkaStream({"bootstrap.servers": sys.argv[1]}, sys.argv[2], session_s=6.0).reader("archiver", "archiver-0")
Archiver(reader, Killed(Path(sys.argv[3])), ArchiverSettings(flush_entries=7)).run(threading.Event())
"""


def test_an_archiver_killed_between_file_and_commit_leaves_every_event_once_beside_what_is_no_event(
    stream: Closed, brokers: Brokers, tmp_path: Path
) -> None:
    archive = Archive(tmp_path)
    names = [f"r{number:02}" for number in range(30)]
    stream.append([event_payload(a_ranking(name), a_click(f"c{name}", name)) for name in names[:15]])
    stream.append([b"poison"])
    stream.append([event_payload(a_ranking(name), a_click(f"c{name}", name)) for name in names[15:]])

    program = [sys.executable, "-c", KILLED_BETWEEN_WRITING_AND_ACKNOWLEDGING]
    killed = subprocess.run([*program, brokers.servers, stream._topic, str(tmp_path)], check=False, timeout=60)
    assert killed.returncode == -signal.SIGKILL
    before = archive.rankings("codesearch", NOW_MS, NOW_MS + 3_600_000, ["ranking_id"])
    assert 0 < len(before) <= 7

    reader = stream.reader("archiver", "archiver-0")
    archiver = Archiver(reader, archive, ArchiverSettings(flush_entries=11))
    for _ in range(PATIENCE):  # until the session of the one that was killed is over
        with suppress(StoreUnavailable):
            archiver.step()
            if reader.lag() == 0:
                break

    rankings = archive.rankings("codesearch", NOW_MS, NOW_MS + 3_600_000, ["ranking_id"])
    assert sorted(rankings["ranking_id"].to_pylist()) == names
    assert len(archive.feedback("codesearch", NOW_MS, NOW_MS + 3_600_000)) == 30
    assert len(list((tmp_path / "rejected").iterdir())) >= 1
    assert reader.lag() == 0
