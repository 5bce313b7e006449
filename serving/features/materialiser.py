"""Writes rows into Redis under the keys and in the packing that every tier reads."""

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self

import numpy as np
import redis
from numpy.typing import NDArray

from registry.contracts.features import FeatureView, pack_rows, row_key
from serving.features.pace import ChunkPace
from serving.features.writing import write_chunk

ROWS_A_ROUND_TRIP = 500
UNANSWERED_BYTES = 256 << 10  # about what a Unix socket holds: with more, sending would block anyway


def write_rows(
    client: redis.Redis | redis.RedisCluster,
    view: FeatureView,
    item_ids: Sequence[str],
    values: NDArray[np.float32],
    updated_ms: int,
    on_rows: Callable[[int], None],
) -> None:
    """Stores one row per item, replacing older ones; readers see each row whole.

    values: float32 (items, `row` columns), NaN where a value is missing. on_rows: told after each
    round trip how many rows are in. Raises ContractError on values that the view cannot hold, and
    redis.RedisError; rows written by then stay, and writing them again is harmless.
    """
    for start in range(0, len(item_ids), ROWS_A_ROUND_TRIP):
        stop = min(start + ROWS_A_ROUND_TRIP, len(item_ids))
        rows = pack_rows(view, values[start:stop], updated_ms)
        keys = [row_key(view, item) for item in item_ids[start:stop]]
        write_chunk(client, keys, rows)
        on_rows(stop)


class RowWriter(Protocol):
    """Writes packed rows in bounded steps. A context: leaving it waits for what is still on its way,
    unless an error is the reason."""

    stored_rows: int
    """How many rows the store has confirmed, in the order of writing."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def write(self, item_ids: Sequence[str], rows: Sequence[bytes]) -> None:
        """Stores rows, as `pack_rows` makes them; may return before the last ones are confirmed.

        Raises redis.RedisError; then the rows after `stored_rows` may be in or not, and writing
        them again is harmless.
        """
        ...

    def drain(self) -> None:
        """Waits until everything is confirmed. Raises redis.RedisError."""
        ...


def row_writer(client: redis.Redis | redis.RedisCluster, view: FeatureView) -> RowWriter:
    """The writer that suits the store."""
    return ClusterRows(client, view) if isinstance(client, redis.RedisCluster) else RowPipeline(client, view)


class ClusterRows:
    """Writes packed rows into a cluster, a chunk at a time: each row is a command of its own there, all
    of a node's in one write, so that no node is held up by a chunk, and the next chunk waits for the
    slowest node. A `RowWriter`."""

    def __init__(self, client: redis.RedisCluster, view: FeatureView) -> None:
        self._client, self._view = client, view
        self.stored_rows = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass  # every chunk was confirmed before the next one

    def write(self, item_ids: Sequence[str], rows: Sequence[bytes]) -> None:
        """See `RowWriter`; returns when all rows are in."""
        for start in range(0, len(item_ids), ROWS_A_ROUND_TRIP):
            stop = min(start + ROWS_A_ROUND_TRIP, len(item_ids))
            write_chunk(self._client, [row_key(self._view, item) for item in item_ids[start:stop]], rows[start:stop])
            self.stored_rows += stop - start

    def drain(self) -> None:
        """See `RowWriter`; nothing is ever on its way."""


class RowPipeline:
    """Writes packed rows with several chunks on their way, so that Redis works while the next
    ones are made; at most `max_bytes` of them are unanswered, so that a slow Redis slows its writer.

    Chunks are as large as `pace` allows. A `RowWriter` for one server, not for a cluster: MSET there
    takes keys of one slot only.
    """

    def __init__(
        self,
        client: redis.Redis,
        view: FeatureView,
        pace: ChunkPace = ChunkPace(),  # noqa: B008 - immutable
        max_bytes: int = UNANSWERED_BYTES,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._pool, self._view, self._pace = client.connection_pool, view, pace
        self._max_bytes, self._clock = max_bytes, clock
        self._unanswered: deque[_Chunk] = deque()
        self._unanswered_bytes, self._idle_since_s = 0, 0.0
        self.chunk_rows = pace.min_rows
        """How many rows the next chunk has."""
        self.stored_rows = 0
        """How many rows Redis has confirmed, in the order of writing."""
        self.most_unanswered_bytes = 0
        """The most that was on its way at one time."""

    def __enter__(self) -> Self:
        self._connection = self._pool.get_connection()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None:
                self.drain()
        finally:
            if self._unanswered:
                self._connection.disconnect()  # type: ignore[no-untyped-call]  # its next user would read our answers
            self._pool.release(self._connection)

    def write(self, item_ids: Sequence[str], rows: Sequence[bytes]) -> None:
        """Sends rows, as `pack_rows` makes them; returns before the last ones are confirmed.

        Raises redis.RedisError; then the rows after `stored_rows` may be in or not, and writing
        them again is harmless.
        """
        for chunk in self._unanswered:
            chunk.timed = False  # answered while nobody listened: its time says nothing
        self._idle_since_s = self._clock()
        start = 0
        while start < len(item_ids):
            stop = min(start + self.chunk_rows, len(item_ids))
            words: list[str | bytes] = []
            for item, row in zip(item_ids[start:stop], rows[start:stop], strict=True):
                words += (row_key(self._view, item), row)
            packed = self._connection.pack_command("MSET", *words)  # type: ignore[no-untyped-call]
            size = sum(map(len, packed))
            while self._unanswered and self._unanswered_bytes + size > self._max_bytes:
                self._take_answer()
            self._connection.send_packed_command(packed)  # type: ignore[no-untyped-call]
            self._unanswered.append(_Chunk(stop - start, size, self._clock()))
            self._unanswered_bytes += size
            self.most_unanswered_bytes = max(self.most_unanswered_bytes, self._unanswered_bytes)
            start = stop

    def drain(self) -> None:
        """Waits until Redis has confirmed everything. Raises redis.RedisError."""
        while self._unanswered:
            self._take_answer()

    def _take_answer(self) -> None:
        answer = self._connection.read_response()
        now_s = self._clock()
        chunk = self._unanswered.popleft()
        self._unanswered_bytes -= chunk.bytes
        if answer not in (b"OK", "OK"):
            raise redis.ResponseError(f"MSET answered {answer!r}")
        self.stored_rows += chunk.rows
        if chunk.timed:
            # from when Redis could begin with it: it stood behind the chunks before
            self.chunk_rows = self._pace.next_rows(chunk.rows, now_s - max(chunk.sent_s, self._idle_since_s))
        self._idle_since_s = now_s


@dataclass(slots=True)
class _Chunk:
    rows: int
    bytes: int
    sent_s: float
    timed: bool = True
