"""The event log from journal to archive, crashed at any byte, in any order: nothing acknowledged is lost, and nothing
is there twice for who reads.

A crash of the writer leaves its memory-mapped file as it was at that byte: the page cache is the kernel's. It is made
here by copying the file's bytes as they were before an append, with any part of what the append wrote on top.
"""

import contextlib
import shutil
import tempfile
from pathlib import Path

from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from pipelines.archive.archiver import Archiver
from pipelines.archive.files import Archive
from pipelines.settings import ArchiverSettings
from registry.contracts.events import Click
from registry.errors import StoreUnavailable
from registry.stream import MemoryStream, StreamReader
from serving.errors import EventLogFull
from serving.event_log import EventLog
from serving.journal import Journal
from tests.builders import NOW_MS, a_click, a_ranking

MODEL = "codesearch"
JOURNAL_BYTES = 1 << 14
DAY_MS = 86_400_000


class Stream(MemoryStream):
    """A stream that may be away, or takes what it is given and does not say so."""

    def __init__(self) -> None:
        super().__init__()
        self.fate = "well"

    def append(self, payloads: "list[bytes] | tuple[bytes, ...]") -> None:  # type: ignore[override]
        """See `StreamWriter`."""
        if self.fate == "away":
            raise StoreUnavailable("Redis does not answer")
        super().append(payloads)
        if self.fate == "unsaid":
            raise StoreUnavailable("Redis was cut off before it answered")


class KilledReader:
    """A reader whose process ends before it acknowledges."""

    def __init__(self, inner: StreamReader) -> None:
        self._inner = inner

    def __getattr__(self, name: str) -> object:
        return getattr(self._inner, name)

    def acknowledge(self, entry_ids: object) -> None:
        """The last thing that is tried."""
        raise StoreUnavailable("killed")


class WritersShippersAndArchivers(RuleBasedStateMachine):
    """One gateway's journal, the stream, and archivers that come and go."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="sluice-events-"))
        self.path = self.folder / "journal"
        self.stream, self.archive = Stream(), Archive(self.folder / "archive")
        self.log = self.opened()
        self.number = 0
        self.kept: set[str] = set()  # answered, or acknowledged to a client
        self.unsure: set[str] = set()  # under way when the process ended: there or not, as nobody was told
        self.clicks: list[Click] = []

    def opened(self) -> EventLog:
        self.journal = Journal(self.path, JOURNAL_BYTES)
        return EventLog(self.journal, self.stream)

    def archiver(self, reader: StreamReader) -> Archiver:
        return Archiver(reader, self.archive, ArchiverSettings(flush_entries=1))

    def reader(self) -> StreamReader:
        return self.stream.reader("archiver", "archiver-0")

    def teardown(self) -> None:
        self.stream.fate = "well"
        assert self.log.ship()
        self.archiver(self.reader()).drain()
        there = self.archived()
        assert sorted(there) == sorted(set(there)), "an event is there twice"
        assert self.kept <= set(there), f"lost: {self.kept - set(there)}"
        assert set(there) <= self.kept | self.unsure
        for _, hour in self.archive.uncompacted(NOW_MS + DAY_MS):
            self.archive.compact(MODEL, hour)
        assert sorted(self.archived()) == sorted(there)
        self.journal.close()
        shutil.rmtree(self.folder)

    def archived(self) -> list[str]:
        """Ids of all that a reader finds."""
        times = (0, NOW_MS + DAY_MS)
        rankings = self.archive.rankings(MODEL, *times, ["ranking_id"])["ranking_id"].to_pylist()
        return rankings + self.archive.feedback(MODEL, *times, ["event_id"])["event_id"].to_pylist()

    def next_click(self, size: int) -> Click:
        self.number += 1
        return a_click(f"c{self.number}", item="x" * size, received_ms=NOW_MS + self.number)

    @rule(items=st.integers(1, 40))
    def a_query_is_answered(self, items: int) -> None:
        """Never refused; what does not fit is dropped and counted, and then the answer is not held to be kept."""
        self.number += 1
        name = f"r{self.number}"
        before = self.journal.backlog
        self.log.ranked(a_ranking(name, tuple(f"i{at}" for at in range(items)), answered_ms=NOW_MS + self.number))
        if self.journal.backlog > before:
            self.kept.add(name)

    @rule(sizes=st.lists(st.integers(1, 200), min_size=1, max_size=4))
    def feedback_comes(self, sizes: list[int]) -> None:
        """Acknowledged as a whole, or refused and perhaps kept in part: the client sends it again."""
        events = [self.next_click(size) for size in sizes]
        self.clicks += events
        try:
            self.log.feedback(list(events))
        except EventLogFull:
            self.unsure.update(one.event_id for one in events)
        else:
            self.kept.update(one.event_id for one in events)

    @rule(data=st.data())
    def feedback_comes_again(self, data: st.DataObject) -> None:
        """A client that heard nothing sends the same once more."""
        if not self.clicks:
            return
        again = data.draw(st.sampled_from(self.clicks))
        try:
            self.log.feedback([again])
        except EventLogFull:
            self.unsure.add(again.event_id)
        else:
            self.kept.add(again.event_id)

    @rule(fate=st.sampled_from(["well", "well", "away", "unsaid"]))
    def events_are_shipped(self, fate: str) -> None:
        self.stream.fate = fate
        assert self.log.ship() == (fate == "well" or not self.journal.backlog)
        self.stream.fate = "well"

    @rule(data=st.data(), size=st.integers(1, 200))
    def the_writer_is_killed_at_any_byte(self, data: st.DataObject, size: int) -> None:
        """While it appends a click that nobody was told is kept."""
        click = self.next_click(size)
        before = self.path.read_bytes()
        try:
            self.log.feedback([click])
        except EventLogFull:
            self.unsure.add(click.event_id)
            return
        after = self.path.read_bytes()
        changed = [at for at in range(len(before)) if before[at] != after[at]]
        written = data.draw(st.integers(0, len(changed)))  # so many, from the front or from the back
        torn = bytearray(before)
        for at in changed[:written] if data.draw(st.booleans()) else changed[len(changed) - written :]:
            torn[at] = after[at]
        self.unsure.add(click.event_id)
        self.journal.close()
        self.path.write_bytes(torn)
        self.log = self.opened()

    @rule()
    def the_writer_starts_anew(self) -> None:
        self.journal.close()
        self.log = self.opened()

    @rule(how=st.sampled_from(["well", "well", "killed before it acknowledged"]))
    def the_archiver_works(self, how: str) -> None:
        reader = self.reader()
        if how == "well":
            self.archiver(reader).drain()
            return
        with contextlib.suppress(StoreUnavailable):
            self.archiver(KilledReader(reader)).drain()  # type: ignore[arg-type]

    @rule()
    def the_stream_is_trimmed(self) -> None:
        self.reader().trim_acknowledged()

    @rule()
    def an_hour_is_compacted(self) -> None:
        for _, hour in self.archive.uncompacted(NOW_MS + DAY_MS):
            self.archive.compact(MODEL, hour)

    @invariant()
    def nothing_is_there_that_nobody_sent_and_nothing_twice(self) -> None:
        there = self.archived()
        assert len(there) == len(set(there))
        assert set(there) <= self.kept | self.unsure


def test_no_crash_and_no_order_loses_or_doubles_an_event() -> None:
    run_state_machine_as_test(
        WritersShippersAndArchivers,
        settings=settings(max_examples=30, stateful_step_count=30, deadline=None, phases=[Phase.generate]),
    )
