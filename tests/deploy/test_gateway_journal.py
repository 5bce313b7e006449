"""The journal of a gateway that starts: what stands in its way is a line that says what to do."""

from pathlib import Path

import pytest

from deploy.errors import SluiceError
from deploy.gateway.process import open_journal

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
