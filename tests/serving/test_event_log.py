"""The event log: everything arrives, in order, at least once, whatever the stream does."""

import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from prometheus_client import REGISTRY

from registry.contracts.events import Click, Event, Exposure, decode_events
from registry.errors import StoreUnavailable
from registry.stream import MemoryStream, StreamWriter
from serving.errors import EventLogFull
from serving.event_log import ENTRY_BYTES, EVENTS_AN_ENTRY, EventLog
from serving.journal import Journal
from tests.builders import a_click, a_ranking, an_exposure

PATIENCE_S = 10.0
Opened = Callable[[StreamWriter], EventLog]


class AwayStream:
    """A stream that does not answer until it is told to come back."""

    def __init__(self, writes_all_the_same: bool = False, error: Exception | None = None) -> None:
        self.behind, self.away, self.refused = MemoryStream(), True, threading.Event()
        self._writes_all_the_same = writes_all_the_same
        self._error = error or StoreUnavailable("Redis could not append events: connection refused")

    def append(self, payloads: Sequence[bytes]) -> None:
        if not self.away or self._writes_all_the_same:
            self.behind.append(payloads)
        if self.away:
            self.refused.set()
            raise self._error


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Opened]:
    """Makes event logs over one journal file, each giving it up for the next."""
    journals: list[Journal] = []

    def open_log(stream: StreamWriter) -> EventLog:
        for journal in journals:
            journal.close()
        journals[:] = [Journal(tmp_path / "events", 1 << 16)]
        return EventLog(journals[0], stream, linger_s=0.0)

    yield open_log
    for journal in journals:
        journal.close()


def arrived(stream: MemoryStream) -> list[Event]:
    """Everything in the stream, in its order."""
    return [event for entry in stream.entries.values() for event in decode_events(entry.payload)]


def dropped_rankings() -> float:
    return REGISTRY.get_sample_value("serving_events_dropped_total", {"kind": "ranking"}) or 0.0


def test_everything_logged_arrives_in_order(opened: Opened) -> None:
    stream = MemoryStream()
    log = opened(stream)
    events: list[Event] = []
    for i in range(50):
        ranking = a_ranking(f"r{i}")
        feedback: list[Click | Exposure] = [a_click(f"c{i}", f"r{i}"), an_exposure(f"x{i}", f"r{i}")]
        log.ranked(ranking)
        log.feedback(feedback)
        events += [ranking, *feedback]

    assert log.backlog == 150
    assert log.ship()
    assert arrived(stream) == events
    assert log.backlog == 0
    assert len(stream.entries) == -(-150 // EVENTS_AN_ENTRY)


def test_an_entry_of_large_events_is_cut_before_it_grows_too_large(tmp_path: Path) -> None:
    stream = MemoryStream()
    with Journal(tmp_path / "events", 8 * ENTRY_BYTES) as journal:
        log = EventLog(journal, stream)
        for i in range(10):
            log.ranked(a_ranking(f"r{i}", features=bytes(ENTRY_BYTES // 3)))
        log.ship()

    assert [len(decode_events(entry.payload)) for entry in stream.entries.values()] == [3, 3, 3, 1]


def test_the_thread_ships_what_is_logged_and_the_rest_when_it_is_stopped(tmp_path: Path) -> None:
    stream = MemoryStream()
    log = EventLog(Journal(tmp_path / "events", 1 << 16), stream, linger_s=0.0)
    reader = stream.reader("archive", "one")
    log.start()
    log.ranked(a_ranking("r1"))
    [entry] = reader.read(10, PATIENCE_S)
    assert decode_events(entry.payload) == [a_ranking("r1")]

    log.feedback([a_click("c1")])
    log.stop()

    assert arrived(stream) == [a_ranking("r1"), a_click("c1")]
    Journal(tmp_path / "events", 1 << 16).close()  # nobody owns it any more


@pytest.mark.parametrize("error", [None, AttributeError("a fault of the client's own")])
def test_the_thread_goes_on_by_itself_when_the_stream_is_back(tmp_path: Path, error: Exception | None) -> None:
    stream = AwayStream(error=error)
    log = EventLog(Journal(tmp_path / "events", 1 << 16), stream, linger_s=0.0)
    log.ranked(a_ranking("r1"))
    log.start()
    assert stream.refused.wait(PATIENCE_S)
    log.ranked(a_ranking("r2"))
    stream.away = False
    received: list[Event] = []
    reader = stream.behind.reader("archive", "one")

    while len(received) < 2:
        entries = reader.read(10, PATIENCE_S)
        assert entries
        received += [event for entry in entries for event in decode_events(entry.payload)]
    log.stop()

    assert received == [a_ranking("r1"), a_ranking("r2")]


def test_while_the_stream_is_away_nothing_is_lost(opened: Opened) -> None:
    stream = AwayStream()
    log = opened(stream)
    for i in range(100):
        log.ranked(a_ranking(f"r{i}"))
        assert not log.ship()
    assert log.backlog == 100

    stream.away = False

    assert log.ship()
    assert arrived(stream.behind) == [a_ranking(f"r{i}") for i in range(100)]


def test_what_one_process_left_the_next_one_ships(opened: Opened) -> None:
    opened(AwayStream()).feedback([a_click("c1"), a_click("c2")])
    stream = MemoryStream()

    assert opened(stream).ship()
    assert arrived(stream) == [a_click("c1"), a_click("c2")]


def test_a_crash_between_writing_and_releasing_repeats_events_and_loses_none(opened: Opened) -> None:
    stream = AwayStream(writes_all_the_same=True)
    log = opened(stream)
    log.feedback([a_click("c1"), a_click("c2")])
    assert not log.ship()

    stream.away = False
    again = opened(stream)
    again.feedback([a_click("c3")])
    assert again.ship()

    ids = [event.event_id for event in arrived(stream.behind)]
    assert ids == ["c1", "c2", "c1", "c2", "c3"]


def test_a_full_journal_drops_and_counts_rankings(opened: Opened) -> None:
    log = opened(AwayStream())
    before = dropped_rankings()
    for i in range(1000):
        log.ranked(a_ranking(f"r{i}"))

    assert 0 < log.backlog < 1000
    assert dropped_rankings() - before == 1000 - log.backlog


def test_a_full_journal_refuses_feedback_and_takes_it_again_when_there_is_room(opened: Opened) -> None:
    stream = AwayStream()
    log = opened(stream)
    before = dropped_rankings()
    while dropped_rankings() == before:
        log.ranked(a_ranking())
    with pytest.raises(EventLogFull, match="send it again later") as refused:
        log.feedback([a_click(f"c{i}") for i in range(10)])
    assert (refused.value.status, refused.value.retry_after_s) == (503, 1.0)

    stream.away = False
    log.ship()
    log.feedback([a_click(f"c{i}") for i in range(10)])
    log.ship()

    clicks = {event.event_id for event in arrived(stream.behind)} - {a_ranking().event_id}
    assert clicks == {f"c{i}" for i in range(10)}
