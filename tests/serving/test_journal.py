"""The journal against a queue, a kill and torn bytes."""

import shutil
import subprocess
import sys
import tempfile
from collections import deque
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from serving.journal import Journal, JournalFull, JournalInUse

HEADER_BYTES = 64
ENTRY_HEAD_BYTES = 16
EVERYTHING = 1 << 30


def entry_bytes(payload: bytes) -> int:
    return ENTRY_HEAD_BYTES + (len(payload) + 7) // 8 * 8


def contents(journal: Journal) -> list[bytes]:
    """All that is in the journal, oldest first."""
    return journal.peek(EVERYTHING, EVERYTHING)


class JournalAgainstQueue(RuleBasedStateMachine):
    """Whatever is appended, released and reopened, the journal holds what a queue would."""

    @initialize(capacity_bytes=st.integers(2, 40).map(lambda words: 8 * words))
    def open(self, capacity_bytes: int) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="sluice-journal-"))
        self.capacity_bytes = capacity_bytes
        self.journal = Journal(self.folder / "events", capacity_bytes)
        self.queue: deque[bytes] = deque()

    def teardown(self) -> None:
        if hasattr(self, "journal"):
            self.journal.close()
            shutil.rmtree(self.folder)

    @rule(payload=st.binary(max_size=60))
    def append(self, payload: bytes) -> None:
        try:
            self.journal.append(payload)
        except JournalFull:
            # a ring wastes less than one entry at its seam, and only if an entry is in the way
            longest = max(map(entry_bytes, [*self.queue, payload]))
            assert self.journal.backlog_bytes + entry_bytes(payload) + longest > self.capacity_bytes
            assert self.queue or entry_bytes(payload) > self.capacity_bytes
        else:
            self.queue.append(payload)

    @rule(entries=st.integers(0, 5))
    def release(self, entries: int) -> None:
        self.journal.release(entries)
        for _ in range(min(entries, len(self.queue))):
            self.queue.popleft()

    @rule()
    def reopen(self) -> None:
        self.journal.close()
        self.journal = Journal(self.folder / "events", capacity_bytes=EVERYTHING)  # the file's own size counts

    @rule(max_entries=st.integers(1, 4), max_bytes=st.integers(1, 100))
    def peek(self, max_entries: int, max_bytes: int) -> None:
        some = self.journal.peek(max_entries, max_bytes)

        assert some == list(self.queue)[: len(some)]
        assert min(1, len(self.queue)) <= len(some) <= max_entries
        assert sum(map(len, some[:-1])) < max_bytes

    @invariant()
    def holds_what_the_queue_holds(self) -> None:
        if hasattr(self, "journal"):
            assert contents(self.journal) == list(self.queue)
            assert self.journal.backlog == len(self.queue)
            least = sum(map(entry_bytes, self.queue))
            assert least <= self.journal.backlog_bytes <= self.capacity_bytes


JournalAgainstQueue.TestCase.settings = settings(max_examples=60, stateful_step_count=40)
TestJournalAgainstQueue = JournalAgainstQueue.TestCase


def test_a_full_journal_keeps_nothing_of_what_it_refuses(tmp_path: Path) -> None:
    with Journal(tmp_path / "events", 64) as journal:
        journal.append(b"first")
        with pytest.raises(JournalFull, match="64 bytes"):
            journal.append(b"x" * 40)

        assert contents(journal) == [b"first"]
        journal.release(1)
        journal.append(b"x" * 40)
        assert contents(journal) == [b"x" * 40]


def test_a_second_owner_is_refused_until_the_first_is_done(tmp_path: Path) -> None:
    with Journal(tmp_path / "events", 1024), pytest.raises(JournalInUse, match="belongs to a running process"):
        Journal(tmp_path / "events", 1024)

    Journal(tmp_path / "events", 1024).close()


@pytest.mark.parametrize("flipped", [0, 5, 9, 16, 23])
def test_a_torn_last_entry_is_dropped_and_the_earlier_ones_stay(tmp_path: Path, flipped: int) -> None:
    path = tmp_path / "events"
    with Journal(path, 1024) as journal:
        for payload in (b"one", b"two", b"the last"):
            journal.append(payload)
    torn = bytearray(path.read_bytes())
    torn[HEADER_BYTES + entry_bytes(b"one") + entry_bytes(b"two") + flipped] ^= 0xFF
    path.write_bytes(torn)

    with Journal(path, 1024) as journal:
        assert contents(journal) == [b"one", b"two"]
        journal.append(b"three")
    with Journal(path, 1024) as journal:
        assert contents(journal) == [b"one", b"two", b"three"]


@pytest.mark.parametrize("flipped", range(HEADER_BYTES))
def test_a_torn_mark_repeats_entries_and_loses_none(tmp_path: Path, flipped: int) -> None:
    path = tmp_path / "events"
    payloads = [f"event {i}".encode() for i in range(6)]
    with Journal(path, 1024) as journal:
        for payload in payloads:
            journal.append(payload)
        journal.release(2)
        journal.release(1)
    torn = bytearray(path.read_bytes())
    torn[flipped] ^= 0xFF
    path.write_bytes(torn)

    with Journal(path, 1024) as journal:
        assert contents(journal) in (payloads[3:], payloads[2:])


def test_a_file_that_is_no_journal_becomes_an_empty_one(tmp_path: Path) -> None:
    (tmp_path / "events").write_bytes(bytes(range(256)) * 16)

    with Journal(tmp_path / "events", 1024) as journal:
        assert contents(journal) == []
        journal.append(b"first")
        assert contents(journal) == [b"first"]


APPENDS_FOR_EVER = """
import sys
from pathlib import Path
from serving.journal import Journal, JournalFull
journal = Journal(Path(sys.argv[1]), 1 << 16)
for number in range(1 << 30):
    payload = b"%d " % number * (number % 50 + 1)
    try:
        journal.append(payload)
    except JournalFull:
        journal.release(20)
        journal.append(payload)
    print(number, flush=True)
"""


@pytest.mark.parametrize("appends", [1, 400, 3000])
def test_what_a_killed_process_appended_is_there(tmp_path: Path, appends: int) -> None:
    command = [sys.executable, "-c", APPENDS_FOR_EVER, str(tmp_path / "events")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        reported = [int(next(child.stdout)) for _ in range(appends)]
        child.kill()
        reported += [int(line) for line in child.stdout if line.endswith("\n")]

    with Journal(tmp_path / "events", 1 << 16) as journal:
        found = [int(payload.split()[0]) for payload in contents(journal)]

    assert all(after == before + 1 for before, after in pairwise(found))
    assert found[-1] in (reported[-1], reported[-1] + 1)
    assert len(found) > 20 or found[0] == 0


def test_what_lay_behind_a_damaged_entry_does_not_come_back_behind_a_new_one(tmp_path: Path) -> None:
    path = tmp_path / "events"
    with Journal(path, 4096) as journal:
        for payload in (b"first...", b"second..", b"third..."):
            journal.append(payload)
    raw = bytearray(path.read_bytes())
    raw[HEADER_BYTES + entry_bytes(b"first...") + ENTRY_HEAD_BYTES] ^= 1
    path.write_bytes(raw)

    with Journal(path, 4096) as journal:
        assert contents(journal) == [b"first..."]
        journal.append(b"fourth..")

    with Journal(path, 4096) as journal:
        assert contents(journal) == [b"first...", b"fourth.."]


@pytest.mark.parametrize("cut_bytes", range(1, 9))
def test_a_journal_in_a_file_that_was_cut_holds_no_more_than_fits(tmp_path: Path, cut_bytes: int) -> None:
    path = tmp_path / "events"
    with Journal(path, 160) as journal:
        journal.append(b"x" * 60)
        journal.append(b"y" * 60)
    path.write_bytes(path.read_bytes()[:-cut_bytes])

    with Journal(path, 160) as journal:
        assert contents(journal)[0] == b"x" * 60
        assert journal.backlog_bytes <= journal.capacity_bytes
        journal.release(2)
        journal.append(b"z" * 100)
        assert contents(journal) == [b"z" * 100]
