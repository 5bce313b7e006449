"""Until when the archive is complete: said only of what nothing can come for any more."""

from pathlib import Path

import pytest

from pipelines.archive.archiver import Archiver
from pipelines.archive.completeness import CALM_MS, FILE, complete_until
from pipelines.archive.files import Archive
from pipelines.settings import ArchiverSettings
from registry.contracts.events import encode_event, join_events
from registry.stream import MemoryStream
from tests.builders import NOW_MS, a_ranking

HOUSEKEEPING_S = 6.0


class Platform:
    """A stream and its archiver, on one clock."""

    def __init__(self, folder: Path) -> None:
        self.now_ms = NOW_MS
        self.stream = MemoryStream(wall_ms=lambda: self.now_ms)
        self.archive = Archive(folder / "archive")
        self.archiver = Archiver(
            self.stream.reader("archiver", "a"),
            self.archive,
            ArchiverSettings(flush_age_s=60.0),
            clock=lambda: self.now_ms / 1000,
            wall_ms=lambda: self.now_ms,
        )

    def answered(self, ago_ms: int = 0) -> None:
        event = a_ranking(f"r{self.now_ms}", answered_ms=self.now_ms - ago_ms)
        self.stream.append([join_events([encode_event(event)])])

    def goes_on(self, seconds: float) -> int | None:
        """So much later, after a round of the archiver's: until when it says that the archive is complete."""
        self.now_ms += int(seconds * 1000)
        self.archiver.step()
        return complete_until(self.archive.folder)


@pytest.fixture
def platform(tmp_path: Path) -> Platform:
    return Platform(tmp_path)


def test_nobody_has_said_anything(platform: Platform) -> None:
    assert complete_until(platform.archive.folder) is None
    platform.archive.folder.mkdir()
    (platform.archive.folder / FILE).write_text("{")
    assert complete_until(platform.archive.folder) is None


def test_an_archive_without_traffic_goes_with_the_clock(platform: Platform) -> None:
    for _ in range(3):
        assert platform.goes_on(HOUSEKEEPING_S) == platform.now_ms - CALM_MS


def test_what_is_buffered_is_not_in_the_archive(platform: Platform) -> None:
    said = platform.goes_on(0)
    platform.answered()
    for _ in range(4):
        said, before = platform.goes_on(HOUSEKEEPING_S), said
    assert said == before, "an entry waits, and is older than what is said"

    platform.archiver.flush()
    assert platform.goes_on(HOUSEKEEPING_S) == platform.now_ms - CALM_MS, (
        "it came in time, however long it was buffered"
    )


def test_nothing_is_said_while_events_come_late(platform: Platform) -> None:
    said = platform.goes_on(0)
    for _ in range(3):
        platform.answered(ago_ms=3_600_000)
        platform.archiver.step()
        platform.archiver.flush()
        assert platform.goes_on(HOUSEKEEPING_S) == said

    platform.goes_on(CALM_MS / 1000)
    assert platform.goes_on(HOUSEKEEPING_S) == platform.now_ms - CALM_MS


def test_nothing_is_said_after_a_disk_that_was_full_until_all_is_well_for_a_while(
    platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    said = platform.goes_on(0)
    platform.answered()
    platform.archiver.step()
    with monkeypatch.context() as patch:
        patch.setattr(Archive, "write", full)
        assert not platform.archiver._attempt(platform.archiver.flush)  # as `run` does

    platform.archiver.flush()
    assert platform.goes_on(HOUSEKEEPING_S) == said
    assert platform.goes_on(CALM_MS / 1000) == platform.now_ms - CALM_MS


def test_a_clock_that_was_set_back_takes_the_word_back(platform: Platform) -> None:
    platform.goes_on(0)
    platform.now_ms -= 7_200_000
    platform.archiver._housekeeping_s = float("-inf")  # its own clock is monotonic
    assert platform.goes_on(0) == platform.now_ms - CALM_MS
