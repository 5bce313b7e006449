"""The archiver process: from the event stream into the archive, nothing lost, nothing twice.

An entry is acknowledged only once its events are on disk; a crash in between delivers it again,
and the archive's readers see each event once. That makes at-least-once exactly once.
"""

import logging
import threading
import time
from collections.abc import Callable, Sequence

from pipelines import metrics
from pipelines.archive.completeness import Calm, say_complete
from pipelines.archive.files import Archive, WriteReport
from pipelines.settings import ArchiverSettings
from registry.errors import RegistryError
from registry.stream import StreamEntry, StreamReader

log = logging.getLogger(__name__)

READ_ENTRIES = 64  # one may have half a megabyte, and bytes are counted only once they are here
READ_WAIT_S = 0.2  # also how long a stop may go unnoticed
READ_EVERY_S = 0.1  # a read costs the same for one entry as for many: let some come together
RETRY_S = 0.5
HOUSEKEEPING_S = 5.0


def should_flush(buffered: Sequence[int], oldest_s: float, now_s: float, settings: ArchiverSettings) -> bool:
    """Whether it is time to write what is buffered.

    buffered: bytes of each entry; oldest_s: when the first of them came, by the clock of now_s.

    >>> should_flush([100], oldest_s=7.0, now_s=8.0, settings=ArchiverSettings(flush_age_s=1.0))
    True
    """
    return bool(buffered) and (
        len(buffered) >= settings.flush_entries
        or sum(buffered) >= settings.flush_bytes
        or now_s - oldest_s >= settings.flush_age_s
    )


class Archiver:
    """One consumer of the event stream. clock: seconds, monotonic; wall_ms: the clock of the events."""

    def __init__(
        self,
        reader: StreamReader,
        archive: Archive,
        settings: ArchiverSettings,
        clock: Callable[[], float] = time.monotonic,
        wall_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        self._reader, self._archive, self._settings, self._clock = reader, archive, settings, clock
        self._wall_ms, self._calm = wall_ms, Calm()
        self._buffer: list[StreamEntry] = []
        self._oldest_s = 0.0
        self._housekeeping_s = float("-inf")
        self._failing = False
        self._more = False  # the last read brought as much as it may: there is more, or was

    def __repr__(self) -> str:
        state = "FAILING" if self._failing else "READY"
        return f"<Archiver {self._archive.folder} [{state} | {len(self._buffer)} entries buffered]>"

    def run(self, stop: threading.Event) -> None:
        """Archives until stopped, then what can be read at once; the rest waits in the stream.

        While stream or disk do not answer it keeps what it holds, reads no more than a batch
        ahead, and tries again.
        """
        while not stop.is_set():
            if not self._attempt(self.step):
                stop.wait(RETRY_S)
            elif not self._more:
                stop.wait(READ_EVERY_S)
        self._attempt(self.drain)

    def step(self) -> None:
        """One round: read, and write if it is time. Raises RegistryError or OSError; nothing is
        lost, and the next round tries again."""
        if not self._is_due():
            self._read(READ_WAIT_S)
        if self._is_due():
            self.flush()
        if self._clock() - self._housekeeping_s >= HOUSEKEEPING_S:
            self._reader.trim_acknowledged()
            metrics.ARCHIVE_LAG.set(self._reader.lag())
            if (until_ms := self._calm.complete_until(self._reader, self._wall_ms())) is not None:
                say_complete(self._archive.folder, until_ms)
            self._housekeeping_s = self._clock()

    def drain(self) -> None:
        """Writes all that is buffered or can be read without waiting. Raises as `step`."""
        self.flush()
        while self._read(wait_s=0.0):
            self.flush()

    def flush(self) -> None:
        """Writes the buffer, then acknowledges it. Raises as `step`."""
        if not self._buffer:
            return
        with metrics.ARCHIVE_FLUSH_SECONDS.time():
            report = self._archive.write(self._buffer)
            self._reader.acknowledge([entry.entry_id for entry in self._buffer])
        self._buffer = []
        now_ms, waited_ms = self._wall_ms(), int((self._clock() - self._oldest_s) * 1000)
        self._calm.came(report.oldest_ms, now_ms - waited_ms, now_ms)
        _count(report)

    def _read(self, wait_s: float) -> bool:
        room = self._settings.flush_entries - len(self._buffer)
        most = min(room, READ_ENTRIES)
        found = self._reader.read(most, wait_s)
        self._more = len(found) == most
        if found and not self._buffer:
            self._oldest_s = self._clock()
        self._buffer.extend(found)
        return bool(found)

    def _is_due(self) -> bool:
        sizes = [len(entry.payload) for entry in self._buffer]
        return should_flush(sizes, self._oldest_s, self._clock(), self._settings)

    def _attempt(self, action: Callable[[], None]) -> bool:
        try:
            action()
        except (RegistryError, OSError) as error:
            metrics.ARCHIVE_FAILURES.inc()
            self._calm.failed(self._wall_ms())
            if not self._failing:
                log.warning("archiving waits, events stay in the stream: %s", error)
            self._failing = True
            return False
        if self._failing:
            log.info("archiving goes on")
        self._failing = False
        return True


def _count(report: WriteReport) -> None:
    metrics.ARCHIVED.labels("ranking").inc(report.rankings)
    metrics.ARCHIVED.labels("feedback").inc(report.feedback)
    metrics.ARCHIVED.labels("mirror").inc(report.mirrors)
    metrics.ARCHIVE_DUPLICATES.inc(report.duplicates)
    metrics.ARCHIVE_REJECTED.inc(report.rejected)
    if report.rejected:
        log.error("%d events could not be read; see archive/rejected", report.rejected)
