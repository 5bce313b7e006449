"""The event log's writing end: into the journal at once, into the stream soon, never in the way.

An event that is in the journal is not lost by a crash of this process; a shipper thread moves it
to the stream and releases it once the stream has it. A crash in between ships it twice, and
readers drop the repeat by its event id.
"""

import logging
import threading

from registry.contracts.events import Click, Event, Exposure, MirrorEvent, RankingEvent, encode_event, join_events
from registry.errors import EntryRefused, RegistryError
from registry.stream import StreamWriter
from serving import metrics
from serving.errors import EventLogFull
from serving.journal import Journal, JournalFull
from serving.tally import CounterTally

log = logging.getLogger(__name__)

EVENTS_AN_ENTRY = 64
ENTRY_BYTES = 512 << 10
RETRY_S = 0.25
_KINDS = {RankingEvent: "ranking", MirrorEvent: "mirror", Exposure: "exposure", Click: "click"}


class EventLog(threading.Thread):
    """Bounded by the journal; what does not fit is dropped and counted (rankings) or refused
    (feedback: nothing is acknowledged that could be lost).

    linger_s: how long the shipper waits for more events before it writes an entry.
    """

    def __init__(self, journal: Journal, stream: StreamWriter, linger_s: float = 0.05) -> None:
        super().__init__(name="event-log", daemon=True)
        self._journal, self._stream, self._linger_s = journal, stream, linger_s
        self._some = threading.Event()
        self._stop_asked = threading.Event()
        self._away = False
        for kind in ("ranking", "mirror"):
            metrics.EVENTS_DROPPED.labels(kind)  # from 0 on: of a first drop an alert would see no increase
        self._logged = {kind: CounterTally(metrics.EVENTS_LOGGED.labels(name)) for kind, name in _KINDS.items()}

    @property
    def backlog(self) -> int:
        """Events in the journal that the stream does not have yet."""
        return self._journal.backlog

    def ranked(self, event: RankingEvent) -> None:
        """Logs an answer. Never raises, never waits."""
        try:
            self._append(event)
        except JournalFull:
            metrics.EVENTS_DROPPED.labels("ranking").inc()

    def mirrored(self, event: MirrorEvent) -> None:
        """Logs a mirrored query, as `ranked` logs an answer."""
        try:
            self._append(event)
        except JournalFull:
            metrics.EVENTS_DROPPED.labels("mirror").inc()

    def feedback(self, events: list[Click | Exposure]) -> None:
        """Logs feedback that is about to be acknowledged.

        Raises EventLogFull if it cannot be kept; the client sends all of it again (event ids
        make that harmless).
        """
        try:
            for event in events:
                self._append(event)
        except JournalFull as full:
            reason = "the event journal is full, because the event stream has been away: send it again later"
            raise EventLogFull(reason) from full

    def run(self) -> None:
        """Ships until stopped."""
        metrics.JOURNAL_CAPACITY.set(self._journal.capacity_bytes)
        while not self._stop_asked.is_set():
            self._some.wait(1.0)
            self._some.clear()
            self._stop_asked.wait(self._linger_s)
            if not self.ship():
                self._stop_asked.wait(RETRY_S)
                self._some.set()
            metrics.JOURNAL_BYTES.set(self._journal.backlog_bytes)

    def stop(self) -> None:
        """Ends the thread and ships what is left, if the stream answers; the rest waits in the
        journal for the next start."""
        self._stop_asked.set()
        self._some.set()
        self.join()
        self.ship()
        self._journal.close()

    def ship(self) -> bool:
        """Moves everything to the stream. Returns False if it does not answer. What the stream will never take is
        dropped, counted and told, event by event: it would hold up all that come after it."""
        singly = 0
        while events := self._journal.peek(1 if singly else EVENTS_AN_ENTRY, ENTRY_BYTES):
            try:
                self._stream.append([join_events(events)])
            except EntryRefused as error:
                if len(events) > 1:
                    singly = len(events)
                    continue
                log.error("an event of %d bytes is dropped: %s", len(events[0]), error)
                metrics.EVENTS_DROPPED.labels("refused").inc()
                self._journal.release(1)
                singly = max(0, singly - 1)
                continue
            except RegistryError as error:
                if not self._away:
                    log.warning("the event stream is away, events stay in the journal: %s", error)
                self._away = True
                return False
            except Exception:  # of a client's own making: who never ships again holds events that were acknowledged
                if not self._away:
                    log.exception("the event stream's client failed, events stay in the journal")
                self._away = True
                return False
            self._journal.release(len(events))
            singly = max(0, singly - 1)
            metrics.EVENTS_SHIPPED.inc(len(events))
            self._away = False
        return True

    def _append(self, event: Event) -> None:
        self._journal.append(encode_event(event))
        self._logged[type(event)].inc()
        if not self._some.is_set():
            self._some.set()
