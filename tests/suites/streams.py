"""What every event stream does: at least once for every group, and trimmed only when all are done."""

import threading
import time
from collections.abc import Callable
from typing import Any, Protocol

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from registry.stream import StreamEntry, StreamReader, StreamWriter


class Stream(StreamWriter, Protocol):
    """Both ends."""

    def reader(self, group: str, consumer: str, claim_idle_s: float = ...) -> StreamReader: ...


def payloads(entries: list[StreamEntry]) -> list[bytes]:
    return [entry.payload for entry in entries]


def ids(entries: list[StreamEntry]) -> list[str]:
    return [entry.entry_id for entry in entries]


class StreamSuite:
    """What holds wherever events are kept, for entries of which one reader at a time has any. Subclasses supply the
    fixture `make_stream`, which gives an empty one at every call."""

    def crash(self, reader: Any) -> None:
        """Makes the reader one that died. Where a reader is known by its name alone there is nothing to do."""

    @pytest.fixture
    def stream(self, make_stream: Callable[[], Stream]) -> Stream:
        return make_stream()

    def test_entries_arrive_in_order_and_unchanged(self, stream: Stream) -> None:
        stream.append([b"one", b"\x00\xff\r\n"])
        stream.append([b""])

        assert payloads(stream.reader("archive", "a").read(10, 0)) == [b"one", b"\x00\xff\r\n", b""]

    def test_appending_nothing_appends_nothing(self, stream: Stream) -> None:
        stream.append([])

        assert stream.reader("archive", "a").read(10, 0) == []

    def test_a_read_gives_no_more_than_asked_for(self, stream: Stream) -> None:
        stream.append([b"1", b"2", b"3"])
        reader = stream.reader("archive", "a")

        assert [payloads(reader.read(2, 0)) for _ in range(3)] == [[b"1", b"2"], [b"3"], []]

    def test_what_a_crashed_reader_did_not_acknowledge_comes_first_to_its_successor(self, stream: Stream) -> None:
        stream.append([b"1", b"2", b"3"])
        crashed = stream.reader("archive", "a")
        crashed.acknowledge(ids(crashed.read(3, 0))[1:2])
        self.crash(crashed)
        stream.append([b"4"])
        successor = stream.reader("archive", "a")

        assert [payloads(successor.read(1, 0)) for _ in range(4)] == [[b"1"], [b"3"], [b"4"], []]

    def test_a_reader_does_not_get_again_what_it_holds(self, stream: Stream) -> None:
        stream.append([b"1"])
        reader = stream.reader("archive", "a", claim_idle_s=0)
        reader.read(1, 0)

        assert reader.read(1, 0) == []

    def test_entries_of_a_consumer_that_does_not_come_back_are_claimed(self, stream: Stream) -> None:
        stream.append([b"1", b"2"])
        gone = stream.reader("archive", "gone")
        gone.read(2, 0)
        self.crash(gone)
        reader = stream.reader("archive", "b", claim_idle_s=0)

        assert payloads(reader.read(1, 0)) + payloads(reader.read(1, 0)) == [b"1", b"2"]

    def test_entries_of_a_consumer_at_work_are_left_to_it(self, stream: Stream) -> None:
        stream.append([b"1"])
        stream.reader("archive", "busy").read(1, 0)

        assert stream.reader("archive", "b", claim_idle_s=3600).read(1, 0) == []

    def test_a_waiting_reader_gets_what_is_appended_meanwhile(self, stream: Stream) -> None:
        reader, found = stream.reader("archive", "a"), list[StreamEntry]()
        waiting = threading.Thread(target=lambda: found.extend(reader.read(1, 20.0)))
        waiting.start()
        stream.append([b"1"])
        waiting.join(timeout=20)

        assert payloads(found) == [b"1"]

    def test_what_was_appended_is_past_once_the_group_has_acknowledged_it(self, stream: Stream) -> None:
        reader, later_ms = stream.reader("archive", "a"), int(time.time() * 1000) + 3_600_000
        assert reader.is_past(later_ms)
        stream.append([b"1", b"2"])
        assert not reader.is_past(later_ms)
        found = reader.read(1, 5.0)
        assert not reader.is_past(later_ms)
        reader.acknowledge(ids(found))
        assert not reader.is_past(later_ms)
        reader.acknowledge(ids(reader.read(1, 5.0)))
        assert reader.is_past(later_ms)

    def test_the_lag_counts_what_the_group_has_not_acknowledged(self, stream: Stream) -> None:
        reader = stream.reader("archive", "a")
        assert reader.lag() == 0
        stream.append([b"1", b"2", b"3"])
        assert reader.lag() == 3
        found = reader.read(2, 0)
        assert reader.lag() == 3
        reader.acknowledge(ids(found))
        assert reader.lag() == 1


class SharedStreamSuite(StreamSuite):
    """And where any reader of a group gets any entry, and readers trim."""

    def test_every_group_reads_everything_and_consumers_share_a_group(self, stream: Stream) -> None:
        stream.append([b"1", b"2"])
        first, second = stream.reader("archive", "a"), stream.reader("archive", "b")

        assert payloads(first.read(1, 0)) + payloads(second.read(5, 0)) == [b"1", b"2"]
        assert payloads(stream.reader("drift", "a").read(5, 0)) == [b"1", b"2"]

    def test_trimming_keeps_what_another_group_has_not_acknowledged(self, stream: Stream) -> None:
        stream.append([b"1", b"2", b"3"])
        archive, drift = stream.reader("archive", "a"), stream.reader("drift", "a")
        drift.acknowledge(ids(drift.read(1, 0)))
        drift.read(1, 0)
        archive.acknowledge(ids(archive.read(3, 0)))

        assert archive.trim_acknowledged() == 1
        assert payloads(stream.reader("late", "a").read(5, 0)) == [b"2", b"3"]
        assert payloads(stream.reader("drift", "a").read(5, 0)) == [b"2"]

    def test_trimming_keeps_what_nobody_has_read(self, stream: Stream) -> None:
        stream.append([b"1", b"2"])
        reader = stream.reader("archive", "a")
        assert reader.trim_acknowledged() == 0
        reader.acknowledge(ids(reader.read(1, 0)))

        assert reader.trim_acknowledged() == 1
        assert payloads(reader.read(5, 0)) == [b"2"]

    # the stream is made anew for each example, the fixture only says how
    @settings(
        max_examples=25,
        suppress_health_check=[HealthCheck.differing_executors, HealthCheck.function_scoped_fixture],
    )
    @given(
        steps=st.lists(
            st.tuples(
                st.sampled_from(["append", "read", "acknowledge", "crash", "trim"]),
                st.sampled_from([("archive", "a"), ("archive", "b"), ("drift", "a")]),
                st.integers(1, 3),
            ),
            max_size=30,
        )
    )
    def test_whoever_crashes_every_group_gets_every_entry(
        self, make_stream: Callable[[], Stream], steps: list[tuple[str, tuple[str, str], int]]
    ) -> None:
        stream = make_stream()
        names = [("archive", "a"), ("archive", "b"), ("drift", "a")]
        readers = {name: stream.reader(*name) for name in names}
        held: dict[tuple[str, str], list[StreamEntry]] = {name: readers[name].read(1, 0) for name in names}
        delivered: dict[str, set[bytes]] = {"archive": set(), "drift": set()}
        written = set()

        for step, (action, name, count) in enumerate(steps):
            if action == "append":
                fresh = [b"%d.%d" % (step, i) for i in range(count)]
                stream.append(fresh)
                written.update(fresh)
            elif action == "read":
                held[name] += readers[name].read(count, 0)
            elif action == "acknowledge":
                done, held[name] = held[name][:count], held[name][count:]
                readers[name].acknowledge(ids(done))
                delivered[name[0]].update(payloads(done))
            elif action == "crash":
                readers[name], held[name] = stream.reader(*name), []
            else:
                readers[name].trim_acknowledged()

        for name in names:
            last = stream.reader(*name)
            while rest := last.read(10, 0):
                delivered[name[0]].update(payloads(rest))
                last.acknowledge(ids(rest))
            assert name == ("archive", "a") or last.lag() == 0
        assert delivered == {"archive": written, "drift": written}
