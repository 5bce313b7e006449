"""The event stream: gateways append, consumer groups read everything at least once.

Nothing is lost and nothing grows for ever:

- an entry stays with its consumer until it is acknowledged. A reader that starts under the name
  of one that died first gets what was never acknowledged; entries of consumers that do not come
  back are claimed when they have been idle for `claim_idle_s`. So readers must be idempotent.
- the writer never trims (`MAXLEN` would drop entries that nobody has read). `trim_acknowledged`
  drops what lies below the smallest unacknowledged entry of *all* groups, and only that. A group
  is known to Redis from its first read on, and starts with the oldest entry that is left; one
  that nobody reads any more holds entries back until it is removed (`XGROUP DESTROY`).
"""

import threading
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import redis

from registry.errors import StoreUnavailable
from registry.redis_errors import redis_errors, server_of

EVENT_STREAM = "sluice:events"
CLAIM_IDLE_S = 60.0
LAG_COUNTED = 1000
REPLICAS_MS = 1000
"""How long replicas may take to have what was appended."""
_FIELD = b"e"
_CLAIM_PAGE = 100

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class StreamEntry:
    """payload: see `contracts.events.join_events`. Ids ascend as `<ms>-<sequence>`; Kafka's are
    `<partition>-<offset>-<ms>` and ascend within a partition."""

    entry_id: str
    payload: bytes


class StreamWriter(Protocol):
    """Where events go."""

    def append(self, payloads: Sequence[bytes]) -> None:
        """Each payload as one entry, all or none, in one round trip.

        Raises StoreUnavailable; the entries may have been written all the same, so appending
        again can repeat them.
        """
        ...


class StreamReader(Protocol):
    """One consumer of a group. Not for several threads."""

    def read(self, max_entries: int, wait_s: float) -> list[StreamEntry]:
        """Up to max_entries, oldest first: what this consumer's name left unacknowledged, then
        what other consumers seem to have died with, then new ones.

        wait_s: how long to wait for the first entry; 0 does not wait. Empty if none came.
        Raises StoreUnavailable.
        """
        ...

    def acknowledge(self, entry_ids: Collection[str]) -> None:
        """These are done with, for the whole group.

        Raises StoreUnavailable: acknowledge again, this reader will not see them again.
        """
        ...

    def lag(self) -> int:
        """Entries the group has not acknowledged. Raises StoreUnavailable."""
        ...

    def is_past(self, moment_ms: int) -> bool:
        """Whether the group has acknowledged all that was appended before then, by the stream's clock.
        Raises StoreUnavailable."""
        ...

    def trim_acknowledged(self) -> int:
        """Drops what every group has acknowledged; how many that were. Raises StoreUnavailable."""
        ...


class RedisStream:
    """The writer on Redis Streams. client: returns bytes (`decode_responses` off).

    replicas: how many must have an entry, too, before it counts as written: a primary that dies takes with it what
    its replicas do not have. While fewer follow, nothing is appended.
    """

    def __init__(self, client: redis.Redis, name: str = EVENT_STREAM, replicas: int = 0) -> None:
        self._client, self._name, self._replicas = client, name, replicas
        self._in_doubt = False  # what was appended last did not reach the replicas

    def append(self, payloads: Sequence[bytes]) -> None:
        """See `StreamWriter`."""
        if self._in_doubt:  # not once more each time that it is tried
            self._find_primary()
            self._reach_replicas()
        self._append(payloads)
        if self._replicas and payloads:
            self._in_doubt = True
            self._reach_replicas()

    def _find_primary(self) -> None:
        """Lets a cluster's client learn who keeps the stream now: it follows redirections of commands that name a
        key, and WAIT names none, so a primary that died under it would be asked for ever."""
        with redis_errors("find who keeps the events"):
            self._client.exists(self._name)

    def _reach_replicas(self) -> None:
        with redis_errors("copy events to replicas"):
            client = server_of(self._client, self._name)
            with client.pipeline(transaction=False) as pipeline:
                pipeline.ping()  # WAIT is for what came before on this connection, whoever wrote it
                pipeline.execute_command("WAIT", self._replicas, REPLICAS_MS)  # type: ignore[no-untyped-call]
                _, reached = pipeline.execute()
        if reached < self._replicas:
            raise StoreUnavailable(
                f"{reached} replicas have the events, of {self._replicas}: start replicas of the primary that keeps "
                f"{self._name!r}, or lower SLUICE_EVENT_REPLICAS"
            )
        self._in_doubt = False

    def _append(self, payloads: Sequence[bytes]) -> None:
        if len(payloads) == 1:  # the usual case; one command is all or nothing by itself
            with redis_errors("append events"):
                self._client.xadd(self._name, {_FIELD: payloads[0]})
            return
        with redis_errors("append events"), self._client.pipeline(transaction=True) as pipeline:
            for payload in payloads:
                pipeline.xadd(self._name, {_FIELD: payload})
            pipeline.execute()

    def reader(self, group: str, consumer: str, claim_idle_s: float = CLAIM_IDLE_S) -> "RedisGroupReader":
        """A reader of this stream on the same client."""
        return RedisGroupReader(self._client, self._name, group, consumer, claim_idle_s)


class RedisGroupReader:
    """A consumer of a Redis consumer group, which is made on first use and again after a wipe.

    client: returns bytes; its socket timeout must be longer than any `wait_s`.
    """

    def __init__(
        self,
        client: redis.Redis,
        stream: str,
        group: str,
        consumer: str,
        claim_idle_s: float = CLAIM_IDLE_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._client, self._stream, self._group, self._consumer = client, stream, group, consumer
        self._claim_idle_s, self._clock = claim_idle_s, clock
        self._own_after: str | None = "0-0"  # None: everything left unacknowledged was delivered again
        self._claim_from: bytes = b"0-0"
        self._claim_at_s = float("-inf")
        self._held: set[str] = set()

    def read(self, max_entries: int, wait_s: float) -> list[StreamEntry]:
        """See `StreamReader`."""
        try:
            with redis_errors("read events"):
                found = self._own(max_entries) or self._claimed(max_entries) or self._new(max_entries, wait_s)
        except StoreUnavailable:
            self._own_after = "0-0"  # entries may be ours by now without having arrived
            raise
        self._held.update(entry.entry_id for entry in found)
        return found

    def acknowledge(self, entry_ids: Collection[str]) -> None:
        """See `StreamReader`."""
        if not entry_ids:
            return
        with redis_errors("acknowledge events"):
            self._client.xack(self._stream, self._group, *entry_ids)
        self._held.difference_update(entry_ids)

    def lag(self) -> int:
        """Pending entries plus those never delivered.

        Redis 6.2 keeps no such number, so undelivered entries are counted up to `LAG_COUNTED`;
        past that the answer is the stream's length, which is no less and also counts entries
        that wait for `trim_acknowledged`.
        """
        with redis_errors("count waiting events"):
            mine = self._mine()
            pending, delivered = (mine["pending"], mine["last-delivered-id"]) if mine else (0, b"0-0")
            undelivered = int(self._client.eval(_COUNT_AFTER, 1, self._stream, b"(" + delivered, LAG_COUNTED))
            if undelivered >= LAG_COUNTED:
                return int(self._client.xlen(self._stream))
        return int(pending) + undelivered

    def is_past(self, moment_ms: int) -> bool:
        """See `StreamReader`; entries are named after the time at which they were appended."""
        with redis_errors("look for waiting events"):
            mine = self._mine()
            floor = self._floor(mine) if mine else (0, 0)
            return floor >= (moment_ms, 0) or not self._client.xrange(
                self._stream, _encode_id(floor), f"({moment_ms}-0", count=1
            )

    def trim_acknowledged(self) -> int:
        """See `StreamReader`."""
        with redis_errors("trim events"):
            floors = [self._floor(group) for group in self._groups()]
            if not floors:
                return 0
            return int(self._client.xtrim(self._stream, minid=_encode_id(min(floors)), approximate=False))

    def _floor(self, group: dict[str, Any]) -> tuple[int, int]:
        """The smallest id that the group has not acknowledged, delivered or not.

        The group was looked at before its pending entries: what is delivered in between lies
        above either.
        """
        if group["pending"]:
            smallest = self._client.xpending(self._stream, group["name"])["min"]
            if smallest is not None:
                return _decode_id(smallest)
        ms, sequence = _decode_id(group["last-delivered-id"])
        return ms, sequence + 1

    def _mine(self) -> dict[str, Any] | None:
        return next((group for group in self._groups() if group["name"] == self._group.encode()), None)

    def _groups(self) -> list[dict[str, Any]]:
        try:
            return self._client.xinfo_groups(self._stream)
        except redis.ResponseError as error:
            if str(error) == "no such key":  # nothing was appended or read yet
                return []
            raise

    def _own(self, max_entries: int) -> list[StreamEntry]:
        while self._own_after is not None:
            rows = self._read_group(self._own_after, max_entries, None)
            self._own_after = rows[-1][0].decode() if rows else None
            if found := self._not_held(self._entries(rows)):
                return found
        return []

    def _claimed(self, max_entries: int) -> list[StreamEntry]:
        while self._clock() >= self._claim_at_s:
            self._claim_from, rows, *_ = self._in_group(
                lambda: self._client.xautoclaim(
                    self._stream,
                    self._group,
                    self._consumer,
                    min_idle_time=int(self._claim_idle_s * 1000),
                    start_id=self._claim_from,
                    count=min(max_entries, _CLAIM_PAGE),
                )
            )
            if self._claim_from == b"0-0":
                self._claim_at_s = self._clock() + max(self._claim_idle_s / 2, 1.0)
            if found := self._not_held(self._entries(rows)):
                return found
        return []

    def _new(self, max_entries: int, wait_s: float) -> list[StreamEntry]:
        block_ms = max(1, int(wait_s * 1000)) if wait_s > 0 else None  # 0 would wait for ever
        return self._entries(self._read_group(">", max_entries, block_ms))

    def _read_group(self, after: str, max_entries: int, block_ms: int | None) -> list[Any]:
        streams: Any = self._in_group(
            lambda: self._client.xreadgroup(
                self._group, self._consumer, {self._stream: after}, count=max_entries, block=block_ms
            )
        )
        if isinstance(streams, dict):  # RESP3; RESP2 answers pairs
            streams = [(name, pages[0]) for name, pages in streams.items()]
        return list(streams[0][1]) if streams else []

    def _entries(self, rows: Sequence[Any]) -> list[StreamEntry]:
        """The rows as entries; what is gone from the stream is left out and acknowledged."""
        gone = [row[0] for row in rows if row[0] is not None and not row[1]]
        if gone:
            self._client.xack(self._stream, self._group, *gone)
        # one without our field is somebody else's: readers reject what does not decode, and would die of a KeyError
        return [StreamEntry(row[0].decode(), row[1].get(_FIELD, b"")) for row in rows if row[1]]

    def _not_held(self, entries: Sequence[StreamEntry]) -> list[StreamEntry]:
        """Those delivered before, to whomever, that this reader does not have in hand."""
        return [entry for entry in entries if entry.entry_id not in self._held]

    def _in_group(self, command: Callable[[], T]) -> T:
        """The command, after making the group if Redis does not know it (the first use, or a wipe)."""
        try:
            return command()
        except redis.ResponseError as error:
            if not str(error).startswith("NOGROUP"):
                raise
        try:
            self._client.xgroup_create(self._stream, self._group, "0", mkstream=True)
        except redis.ResponseError as error:
            if not str(error).startswith("BUSYGROUP"):  # another consumer was quicker
                raise
        return command()


# counted by the server, a page at a time: the payloads need not travel to be counted
_COUNT_AFTER = """
local after, counted = ARGV[1], 0
while counted < tonumber(ARGV[2]) do
  local page = redis.call('XRANGE', KEYS[1], after, '+', 'COUNT', 100)
  counted = counted + #page
  if #page < 100 then break end
  after = '(' .. page[#page][1]
end
return counted
"""


def _decode_id(entry_id: bytes) -> tuple[int, int]:
    ms, sequence = entry_id.split(b"-")
    return int(ms), int(sequence)


def _encode_id(entry_id: tuple[int, int]) -> str:
    return f"{entry_id[0]}-{entry_id[1]}"


@dataclass(slots=True)
class _Delivery:
    consumer: str
    at_s: float


@dataclass(slots=True)
class _Group:
    delivered: int = 0  # the last sequence given to any consumer
    pending: dict[int, _Delivery] = field(default_factory=dict)


class MemoryStream:
    """A stream inside one process; safe for several threads. appended_ms: when each entry was, by wall_ms."""

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        wall_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        self.changed = threading.Condition()
        self.clock, self._wall_ms = clock, wall_ms
        self.entries: dict[int, StreamEntry] = {}
        self.appended_ms: dict[int, int] = {}
        self.groups: dict[str, _Group] = {}
        self._written = 0

    def append(self, payloads: Sequence[bytes]) -> None:
        """See `StreamWriter`."""
        with self.changed:
            for payload in payloads:
                self._written += 1
                self.entries[self._written] = StreamEntry(f"{self._written}-0", bytes(payload))
                self.appended_ms[self._written] = self._wall_ms()
            self.changed.notify_all()

    def reader(self, group: str, consumer: str, claim_idle_s: float = CLAIM_IDLE_S) -> "MemoryGroupReader":
        """A reader in the group, which is made if need be."""
        return MemoryGroupReader(self, group, consumer, claim_idle_s)


class MemoryGroupReader:
    """A consumer of a MemoryStream."""

    def __init__(self, stream: MemoryStream, group: str, consumer: str, claim_idle_s: float) -> None:
        self._stream, self._consumer, self._claim_idle_s = stream, consumer, claim_idle_s
        self._name = group
        self._held: set[int] = set()

    def read(self, max_entries: int, wait_s: float) -> list[StreamEntry]:
        """See `StreamReader`."""
        with self._stream.changed:
            self._stream.changed.wait_for(lambda: bool(self._next(1)), timeout=max(wait_s, 0.0))
            group, now_s = self._group(), self._stream.clock()
            found = self._next(max_entries)
            for sequence in found:
                group.pending[sequence] = _Delivery(self._consumer, now_s)
                group.delivered = max(group.delivered, sequence)
            self._held.update(found)
            return [self._stream.entries[sequence] for sequence in found]

    def acknowledge(self, entry_ids: Collection[str]) -> None:
        """See `StreamReader`."""
        with self._stream.changed:
            for sequence in [int(entry_id.removesuffix("-0")) for entry_id in entry_ids]:
                self._group().pending.pop(sequence, None)
                self._held.discard(sequence)

    def lag(self) -> int:
        """See `StreamReader`; exact."""
        with self._stream.changed:
            return len(self._open())

    def is_past(self, moment_ms: int) -> bool:
        """See `StreamReader`."""
        with self._stream.changed:
            return not any(self._stream.appended_ms[sequence] < moment_ms for sequence in self._open())

    def trim_acknowledged(self) -> int:
        """See `StreamReader`."""
        with self._stream.changed:
            self._group()
            floor = min(min(group.pending, default=group.delivered + 1) for group in self._stream.groups.values())
            trimmed = [sequence for sequence in self._stream.entries if sequence < floor]
            for sequence in trimmed:
                del self._stream.entries[sequence], self._stream.appended_ms[sequence]
            return len(trimmed)

    def _open(self) -> list[int]:
        """What the group has not acknowledged, delivered or not."""
        group = self._group()
        return [*group.pending, *(sequence for sequence in self._stream.entries if sequence > group.delivered)]

    def _group(self) -> _Group:
        return self._stream.groups.setdefault(self._name, _Group())

    def _next(self, max_entries: int) -> list[int]:
        group, now_s = self._group(), self._stream.clock()
        left_behind = [
            sequence
            for sequence, delivery in sorted(group.pending.items())
            if sequence not in self._held
            and (delivery.consumer == self._consumer or now_s - delivery.at_s >= self._claim_idle_s)
        ]
        if left_behind:
            return left_behind[:max_entries]
        return [sequence for sequence in self._stream.entries if sequence > group.delivered][:max_entries]
