"""The event stream on Kafka: the same two ends as `stream`, for fleets that have a Kafka.

Nothing is lost:

- an append is done when every in-sync replica has it (`acks=all`, idempotent producer) and the broker's delivery
  report says so; until then the events stay in the gateway's journal, which is the spool. An append that failed in
  part repeats what was written when it is tried again: at least once, as on Redis.
- a reader commits no offset by itself. `acknowledge` commits the smallest offset that is not done with, and beside
  it, in the commit's metadata, those above it that are: who takes over gets what was left open and nothing else.
  What does not fit there (`METADATA_BYTES`) comes again.
- a consumer that dies leaves its group after `session_s`, and others take its partitions. Rebalances are
  cooperative: a partition that stays with its reader is read on. What a reader holds of a partition that it lost
  is somebody else's: to acknowledge that does nothing.

How long events are kept is the topic's `retention.ms`, whoever has read them: `trim_acknowledged` does nothing. A
reader that is away for longer loses what went; that is logged as an error, with the count.

Import this only where Kafka is chosen: confluent-kafka is an extra.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from confluent_kafka import (
    TIMESTAMP_NOT_AVAILABLE,
    Consumer,
    KafkaError,
    KafkaException,
    Message,
    Producer,
    TopicPartition,
)

from registry.errors import EntryRefused, StoreUnavailable
from registry.kafka_messages import messages_of
from registry.stream import StreamEntry

log = logging.getLogger(__name__)
client_log = logging.getLogger(f"{__name__}.client")

DELIVERY_S = 5.0  # then an append has failed, and the journal keeps its events
ANSWER_S = 5.0  # of a broker to anything else
SESSION_S = 10.0
CLOSE_S = 10.0
SETTLE_S = 10.0  # the longest that a read without waiting waits for its partitions
PARTITIONS_S = 300.0  # how long the count of partitions is believed
QUEUED_KB = 16 << 10  # a reader's, fetched ahead
MESSAGE_BYTES = 8 << 20  # the topic's `max.message.bytes` decides; here nothing is refused that it would take
METADATA_BYTES = 4000  # brokers take 4096 (`offset.metadata.max.bytes`)
_REBALANCING = (KafkaError.REBALANCE_IN_PROGRESS, KafkaError.ILLEGAL_GENERATION, KafkaError.UNKNOWN_MEMBER_ID)
_TOO_LARGE = (KafkaError.MSG_SIZE_TOO_LARGE, KafkaError.RECORD_LIST_TOO_LARGE)
_AWAY = (KafkaError._ALL_BROKERS_DOWN, KafkaError._AUTHENTICATION, KafkaError._SSL, KafkaError._RESOLVE)


@contextmanager
def kafka_errors(what: str) -> Iterator[None]:
    """Raises StoreUnavailable, naming what was not done, where confluent-kafka would raise its own."""
    try:
        yield
    except KafkaException as error:
        raise StoreUnavailable(f"Kafka could not {what}: {_words(error.args[0])}") from error


class KafkaStream:
    """The writer. config: librdkafka's properties that say where the brokers are and who asks.

    compression: of batches, `none`, `lz4`, `zstd`, `snappy` or `gzip`. Not for several threads.
    """

    def __init__(
        self,
        config: Mapping[str, Any],
        topic: str,
        compression: str = "lz4",
        delivery_s: float = DELIVERY_S,
        session_s: float = SESSION_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._config, self._topic, self._compression = dict(config), topic, compression
        self._delivery_s, self._session_s, self._clock = delivery_s, session_s, clock
        self._producer: Producer | None = None
        self._partitions, self._counted_s = 0, float("-inf")

    def append(self, payloads: Sequence[bytes]) -> None:
        """See `StreamWriter`. Raises EntryRefused if the topic takes none so large."""
        if not payloads:
            return
        with kafka_errors("append events"):
            try:
                self._deliver(payloads)
            except KafkaException as error:
                self._counted_s = float("-inf")
                if error.args[0].fatal():
                    self._producer = None  # it will never send again; the next one begins anew
                if error.args[0].code() in _TOO_LARGE:
                    raise EntryRefused(
                        f"an entry is larger than the topic {self._topic!r} takes: raise its max.message.bytes"
                    ) from error
                raise

    def reader(self, group: str, consumer: str, claim_idle_s: float = 0.0) -> "KafkaGroupReader":
        """A reader of this topic. claim_idle_s: without a meaning here; a dead consumer's partitions are free after
        the session's time."""
        return KafkaGroupReader(self._config, self._topic, group, consumer, self._session_s)

    def _deliver(self, payloads: Sequence[bytes]) -> None:
        producer = self._producer = self._producer or self._new_producer()
        if self._clock() - self._counted_s >= PARTITIONS_S:
            self._partitions = len(_partitions(producer, self._topic))
            self._counted_s = self._clock()
        failed: list[KafkaError] = []
        waiting = 0

        def delivered(error: KafkaError | None, _: Message) -> None:
            nonlocal waiting
            waiting -= 1
            if error is not None:
                failed.append(error)

        try:
            for payload in payloads:
                for message in messages_of(payload, self._partitions):
                    producer.produce(
                        self._topic,
                        message.payload,
                        message.key,
                        message.partition,
                        on_delivery=delivered,
                        headers=list(message.headers),
                    )
                    waiting += 1
        except BufferError as error:
            raise KafkaException(KafkaError(KafkaError._QUEUE_FULL)) from error
        finally:
            # librdkafka gives each message up after `delivery_s` by itself
            left = producer.flush(self._delivery_s + 1.0) if waiting else 0
            if left:
                producer.purge()
                producer.flush(1.0)
        if failed or waiting:
            raise KafkaException(failed[0] if failed else KafkaError(KafkaError._MSG_TIMED_OUT))

    def _new_producer(self) -> Producer:
        return Producer(
            {
                **self._config,
                "enable.idempotence": True,
                "acks": "all",
                "linger.ms": 0,  # the shipper has waited for more already
                "compression.type": self._compression,
                "message.max.bytes": MESSAGE_BYTES,
                "message.timeout.ms": int(self._delivery_s * 1000),
                "queue.buffering.max.kbytes": 64 << 10,
                "log.connection.close": False,
            },
            logger=client_log,
        )


@dataclass(slots=True)
class _Place:
    """How far a partition is read. next: the offset that comes next; held: delivered, not done; done: above the
    smallest that is open; end: what was to be written next when that was asked last."""

    next: int
    done: set[int]
    end: int
    held: dict[int, None] = field(default_factory=dict)
    told: tuple[int, str] | None = None  # as committed last

    @property
    def open_from(self) -> int:
        return next(iter(self.held), self.next)

    def acknowledge(self, offset: int) -> None:
        self.held.pop(offset, None)
        if offset >= self.open_from:
            self.done.add(offset)

    def commit(self) -> tuple[int, str]:
        """The offset to commit, and its metadata."""
        floor = self.open_from
        self.done = {offset for offset in self.done if offset > floor or (offset == floor and not self.held)}
        return floor, encode_done(self.done, floor)


class KafkaGroupReader:
    """A consumer of a Kafka consumer group. It joins with the first read."""

    def __init__(
        self,
        config: Mapping[str, Any],
        topic: str,
        group: str,
        consumer: str,
        session_s: float = SESSION_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._topic, self._group, self._clock = topic, group, clock
        self._places: dict[int, _Place] = {}
        self._unplaced: set[int] = set()  # this reader's, and nobody has said yet from where on
        self._lost: set[int] = set()  # partitions that were this reader's
        self._early: dict[int, set[int]] = {}  # acknowledged before the partition came
        self._waiting: deque[Message] = deque()
        self._joined = False
        self._subscribed = False
        self._trouble = ""
        # who asks for offsets on a connection that waits for entries, waits with it
        self._asker = Consumer({**config, "group.id": group, "client.id": consumer}, logger=client_log)
        self._consumer = Consumer(
            {
                **config,
                "group.id": group,
                "client.id": consumer,
                "enable.auto.commit": False,
                "auto.offset.reset": "earliest",
                "partition.assignment.strategy": "cooperative-sticky",
                "session.timeout.ms": int(session_s * 1000),
                "heartbeat.interval.ms": int(session_s * 1000 / 10),
                "queued.max.messages.kbytes": QUEUED_KB,
                "log.connection.close": False,
                "socket.timeout.ms": 10_000,  # a broker that says nothing for longer is away
                "error_cb": self._note,
            },
            logger=client_log,
        )

    def __repr__(self) -> str:
        held = sum(len(place.held) for place in self._places.values())
        return f"<KafkaGroupReader {self._group} of {self._topic} [{sorted(self._places)} | {held} held]>"

    def read(self, max_entries: int, wait_s: float) -> list[StreamEntry]:
        """See `StreamReader`. The first read waits for the group's partitions; who waits not at all gets what the
        brokers have at this moment, and waits for that."""
        with kafka_errors("read events"):
            if not self._subscribed:
                self._consumer.subscribe([self._topic], self._assigned, self._revoked, self._revoked)
                self._subscribed = True
            if not self._join(max(SETTLE_S, wait_s)) and wait_s > 0:
                raise StoreUnavailable("Kafka has given this reader no partitions yet: read again")
            if wait_s <= 0:
                self._look()
            elif found := self._entries(self._fetch(max_entries, wait_s)):
                return found
            elif self._trouble:  # nothing may mean that nobody answers
                self._look()
                self._trouble = ""
            return self._rest(max_entries)

    def acknowledge(self, entry_ids: Collection[str]) -> None:
        """See `StreamReader`. Entries of a partition that another reader has by now are left to that."""
        for entry_id in entry_ids:
            partition, offset = _decode_id(entry_id)
            if (place := self._places.get(partition)) is not None:
                place.acknowledge(offset)
            elif partition not in self._lost:
                self._early.setdefault(partition, set()).add(offset)
        if entry_ids:
            with kafka_errors("acknowledge events"):
                self._commit()

    def lag(self) -> int:
        """See `StreamReader`; of all partitions, whoever reads them."""
        with kafka_errors("count waiting events"):
            return sum(
                max(0, high - floor - len(decode_done(place.metadata, floor)))
                for place, floor, high in self._committed(_partitions(self._asker, self._topic))
            )

    def is_past(self, moment_ms: int) -> bool:
        """See `StreamReader`; of all partitions, by the time that each message carries."""
        with kafka_errors("look for waiting events"):
            numbers = _partitions(self._asker, self._topic)
            asked = [TopicPartition(self._topic, number, moment_ms) for number in numbers]
            since = {place.partition: place.offset for place in self._asker.offsets_for_times(asked, timeout=ANSWER_S)}
            return all(
                floor >= (since[place.partition] if since[place.partition] >= 0 else high)  # or nothing is younger
                for place, floor, high in self._committed(numbers)
            )

    def trim_acknowledged(self) -> int:
        """Nothing: the topic's retention does it."""
        return 0

    def close(self) -> None:
        """Leaves the group, so that others need not wait for the session's end. Takes `CLOSE_S` at most: librdkafka
        waits for a rebalance under way, and who does not leave in time is as one that died."""
        closing = threading.Thread(target=self._consumer.close, name="kafka-close", daemon=True)
        closing.start()
        closing.join(CLOSE_S)
        if closing.is_alive():
            log.warning("%r did not leave its group within %g s: the session's end does it", self, CLOSE_S)

    def _join(self, patience_s: float) -> bool:
        """Waits for this reader's partitions, which may be none. Whether the group has dealt them out."""
        give_up_s = self._clock() + patience_s
        while not self._joined and self._clock() < give_up_s:
            self._poll(1, 0.05)
            if self._trouble:
                trouble, self._trouble = self._trouble, ""
                raise StoreUnavailable(f"Kafka could not read events: {trouble}")
        return self._joined

    def _look(self) -> None:
        """Asks how far there is something to read."""
        for partition, place in self._places.items():
            place.end = self._ends(partition)[1]

    def _rest(self, max_entries: int) -> list[StreamEntry]:
        """What is known to be there and has not come yet: who gets nothing has read everything."""
        patience_s = self._clock() + SETTLE_S
        found: list[StreamEntry] = []
        while len(found) < max_entries and (
            self._unplaced or any(place.next < place.end for place in self._places.values())
        ):
            try:
                found += self._entries(self._fetch(max_entries - len(found), 0.02))
            except KafkaException as error:
                if not found:
                    raise
                log.warning("Kafka gave %d entries before it could not go on: %s", len(found), _words(error.args[0]))
                break
            if self._clock() >= patience_s:
                if not found:
                    raise StoreUnavailable("Kafka keeps back entries that it has: read again")
                break
        return found

    def _fetch(self, max_entries: int, wait_s: float) -> list[Message]:
        """What waits here, else what comes. Raises KafkaException while partitions are without their place."""
        if self._unplaced:
            self._place(self._unplaced, seek=True)
        if not self._waiting:
            self._poll(max_entries, wait_s)
        return [self._waiting.popleft() for _ in range(min(max_entries, len(self._waiting)))]

    def _poll(self, max_entries: int, wait_s: float) -> None:
        """Puts what comes first, and what came with it, to what waits. Serves rebalances meanwhile.

        Whatever Kafka has handed over waits here before anything else may fail: it does not come again.
        """
        if (first := self._consumer.poll(wait_s)) is None:
            return
        self._waiting.append(first)
        if max_entries > 1:
            rest = self._consumer.consume(max_entries - 1, 0)
            self._waiting.extend(rest)  # which a rebalance in `consume` may have made anew

    def _entries(self, messages: Sequence[Message]) -> list[StreamEntry]:
        """Raises KafkaException if there are errors and no entries; beside entries, errors are logged."""
        found: list[StreamEntry] = []
        errors: list[KafkaError] = []
        for message in messages:
            if (error := message.error()) is not None:
                errors.append(error)
                continue
            partition, offset = message.partition(), message.offset()
            if partition is None or offset is None or (place := self._places.get(partition)) is None:
                continue  # of a partition that went to somebody else
            place.next = offset + 1
            if offset in place.done:
                continue
            place.held[offset] = None
            kind, made_ms = message.timestamp()
            found.append(
                StreamEntry(
                    f"{partition}-{offset}-{0 if kind == TIMESTAMP_NOT_AVAILABLE else made_ms}",
                    message.value() or b"",  # nothing is nobody's event: readers reject what does not decode
                )
            )
        if errors and not found:
            raise KafkaException(errors[0])
        for error in errors:
            log.warning("Kafka gave an error beside %d entries: %s", len(found), _words(error))
        return found

    def _commit(self) -> None:
        changed = {p: told for p, place in self._places.items() if (told := place.commit()) != place.told}
        if not changed:
            return
        offsets = [TopicPartition(self._topic, p, offset, metadata) for p, (offset, metadata) in changed.items()]
        try:
            refused = [place.error for place in self._consumer.commit(offsets=offsets, asynchronous=False) or []]
            if error := next(filter(None, refused), None):
                raise KafkaException(error)
        except KafkaException as error:
            if error.args[0].code() in _REBALANCING:  # only a poll lets the group go on
                self._poll(1, 0.1)
            raise
        for partition, told in changed.items():
            self._places[partition].told = told

    def _assigned(self, _: Consumer, partitions: list[TopicPartition]) -> None:
        """Raises nothing: confluent-kafka would assign the partitions all the same. The next read tries again."""
        self._joined = True
        self._unplaced |= (numbers := {told.partition for told in partitions})
        try:
            self._place(numbers, seek=False)
        except KafkaException as error:
            log.warning("Kafka did not say where to read %r on: %s", self, _words(error.args[0]))

    def _place(self, numbers: Collection[int], seek: bool) -> None:
        """Asks from where on partitions are to be read. seek: they are read already, from wherever that was."""
        wanted = [TopicPartition(self._topic, number) for number in sorted(numbers)]
        for told in self._consumer.committed(wanted, timeout=ANSWER_S) if wanted else []:
            if told.error is not None:
                raise KafkaException(told.error)
            low, end = self._ends(told.partition)
            floor = max(low, told.offset)
            if seek:
                self._consumer.seek(TopicPartition(self._topic, told.partition, floor))
                self._waiting = deque(message for message in self._waiting if message.partition() != told.partition)
            if 0 <= told.offset < low:
                log.error(
                    "%d entries of partition %d were deleted before the group %r had read them: "
                    "raise the topic's retention.ms, or let readers rest for less",
                    *(low - told.offset, told.partition, self._group),
                )
            done = decode_done(told.metadata, floor) | self._early.pop(told.partition, set())
            self._places[told.partition] = _Place(floor, {offset for offset in done if offset >= floor}, end)
            self._lost.discard(told.partition)
            self._unplaced.discard(told.partition)

    def _revoked(self, _: Consumer, partitions: list[TopicPartition]) -> None:
        gone = {place.partition for place in partitions}
        for partition in gone:
            self._places.pop(partition, None)
        self._unplaced -= gone
        self._lost |= gone
        self._waiting = deque(message for message in self._waiting if message.partition() not in gone)

    def _committed(self, partitions: Iterable[int]) -> Iterator[tuple[TopicPartition, int, int]]:
        """What the group has committed, the first offset that it has not, and the next to be written."""
        wanted = [TopicPartition(self._topic, number) for number in partitions]
        for place in self._asker.committed(wanted, timeout=ANSWER_S):
            low, high = self._ends(place.partition)
            yield place, max(low, place.offset), high

    def _ends(self, partition: int) -> tuple[int, int]:
        """The first offset that is kept, and the next to be written."""
        ends = self._asker.get_watermark_offsets(TopicPartition(self._topic, partition), timeout=ANSWER_S)
        if ends is None:
            raise KafkaException(KafkaError(KafkaError._TIMED_OUT))
        low, high = ends
        return max(low, 0), max(high, 0)

    def _note(self, error: KafkaError) -> None:
        if error.code() in _AWAY or error.fatal():
            self._trouble = _words(error)


def encode_done(done: Collection[int], floor: int) -> str:
    """Offsets from floor on as ranges of their distances, as many as fit into a commit's metadata.

    >>> encode_done({12, 13, 14, 17}, floor=10)
    '2-4,7'
    """
    ranges: list[list[int]] = []
    for distance in sorted(offset - floor for offset in done):
        if ranges and ranges[-1][1] == distance - 1:
            ranges[-1][1] = distance
        else:
            ranges.append([distance, distance])
    text, room = [], METADATA_BYTES
    for first, last in ranges:
        part = f"{first}-{last}" if last > first else str(first)
        room -= len(part) + 1
        if room < 0:
            break
        text.append(part)
    return ",".join(text)


def decode_done(metadata: str | None, floor: int) -> set[int]:
    """What `encode_done` wrote; nothing, where somebody else wrote.

    >>> sorted(decode_done("2-4,7", floor=10))
    [12, 13, 14, 17]
    """
    done: set[int] = set()
    try:
        for part in filter(None, (metadata or "").split(",")):
            first, _, last = part.partition("-")
            done.update(range(floor + int(first), floor + int(last or first) + 1))
    except ValueError:
        return set()
    return done


def _partitions(client: Producer | Consumer, topic: str) -> list[int]:
    """The topic's partitions. Raises KafkaException if there is no such topic, or nobody answers."""
    found = client.list_topics(topic, timeout=ANSWER_S).topics[topic]
    if found.error is not None:
        raise KafkaException(found.error)
    return sorted(found.partitions)


def _decode_id(entry_id: str) -> tuple[int, int]:
    partition, offset, _ = entry_id.split("-")
    return int(partition), int(offset)


def _words(error: KafkaError) -> str:
    if error.code() in (KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC):
        return f"{error.str()}; create the topic first"
    return str(error.str())
