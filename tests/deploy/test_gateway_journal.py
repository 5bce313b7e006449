"""The journal of a gateway that starts: what stands in its way is a line that says what to do."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from deploy.errors import SluiceError
from deploy.gateway.left_journals import LeftJournals
from deploy.gateway.process import open_journal
from registry.contracts.events import decode_events
from registry.errors import StoreUnavailable
from registry.stream import MemoryStream
from serving.event_log import EventLog
from tests.builders import a_click

MORE_THAN_ANY_DISK = 1 << 60


def test_no_room_is_told_with_the_size_and_leaves_no_half_of_a_journal(tmp_path: Path) -> None:
    path = tmp_path / "journal" / "events"

    with pytest.raises(SluiceError, match=r"events, needs \d+ MB: .*; try: free some space") as refused:
        open_journal(path, MORE_THAN_ANY_DISK)

    assert refused.value.exit_code == 1
    assert path.stat().st_size == 0
    with open_journal(path, 1 << 16) as journal:  # there is room again
        assert journal.capacity_bytes == 1 << 16


def test_a_journal_of_a_running_gateway_is_left_alone(tmp_path: Path) -> None:
    with open_journal(tmp_path / "events", 1 << 16), pytest.raises(SluiceError, match="belongs to a running process"):
        open_journal(tmp_path / "events", 1 << 16)


class Away:
    """A stream that does not answer."""

    def append(self, payloads: Sequence[bytes]) -> None:
        raise StoreUnavailable("away")


def test_events_of_a_gateway_that_is_no_more_are_shipped_once_the_stream_is_there(tmp_path: Path) -> None:
    for number in range(4):
        with open_journal(tmp_path / f"gateway-{number}.journal", 1 << 16) as journal:
            EventLog(journal, Away()).feedback([a_click(f"c{number}")])
    stream = MemoryStream()

    with open_journal(tmp_path / "gateway-3.journal", 1 << 16):  # somebody's
        assert not LeftJournals(tmp_path, 1, Away()).ship()
        assert LeftJournals(tmp_path, 1, stream).ship()

    shipped = [event for entry in stream.entries.values() for event in decode_events(entry.payload)]
    assert shipped == [a_click("c1"), a_click("c2")]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["gateway-0.journal", "gateway-3.journal"]
