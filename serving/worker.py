"""A replica: read all that waits, take a batch, score it, answer. One thread, no locks.

What other threads know (new plans, changed rows) arrives through the shelf's stock and a queue
of invalidations, both looked at between batches.
"""

import contextlib
import logging
import os
import selectors
import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path

from serving import tally
from serving.batch_times import BatchTimes
from serving.batching import BatchWindow, Pending
from serving.features.host import HostTier
from serving.frames import (
    BrokenFrame,
    FailedReply,
    FrameBuffer,
    Kind,
    RankedReply,
    ScoreRequest,
    encode_state,
)
from serving.scoring import LoadedModel, ScoreRefused, check, score_batch
from serving.shares import Shares
from serving.shelf import Shelf

log = logging.getLogger(__name__)

RECEIVE_BYTES = 1 << 20
IDLE_S = 0.25


class Tiers:
    """The host tiers of this process, one per feature view layout, and what changed under them."""

    def __init__(self) -> None:
        self._by_fingerprint: dict[str, tuple[str, HostTier]] = {}
        self._changes: deque[tuple[str, list[int]] | None] = deque()

    def of(self, view_name: str, fingerprint: str, make: Callable[[], HostTier]) -> HostTier:
        """The tier of a layout, made on first use. Called by the loading thread."""
        if fingerprint not in self._by_fingerprint:
            self._by_fingerprint = {**self._by_fingerprint, fingerprint: (view_name, make())}
        return self._by_fingerprint[fingerprint][1]

    def changed(self, view_name: str, hashes: list[int]) -> None:
        """Rows that another thread knows to have changed."""
        self._changes.append((view_name, hashes))

    def resync(self) -> None:
        """Changes may have been missed: forget everything."""
        self._changes.append(None)

    def apply_changes(self) -> None:
        """Between batches: makes the next lookup see what has changed."""
        while self._changes:
            change = self._changes.popleft()
            for name, tier in self._by_fingerprint.values():
                if change is None:
                    tier.clear()
                elif change[0] == name:
                    tier.drop(change[1])


class _Connection:
    """One gateway."""

    def __init__(self, channel: socket.socket) -> None:
        self.channel = channel
        self.frames = FrameBuffer()
        self.outgoing = bytearray()
        self.closed = False


class Worker:
    """A replica behind a Unix socket.

    replica: its name in states and logs. wall_ms: the clock that row ages are compared with.
    """

    def __init__(
        self,
        replica: str,
        socket_path: str,
        shelf: Shelf,
        tiers: Tiers,
        window: BatchWindow,
        clock: Callable[[], float] = time.monotonic,
        wall_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
        shares: Shares | None = None,
    ) -> None:
        self._shares, self._times = shares or Shares(), BatchTimes()
        self._replica, self._shelf, self._tiers, self._window = replica, shelf, tiers, window
        self._clock, self._wall_ms = clock, wall_ms
        self._waiting: list[Pending[int, tuple[_Connection, ScoreRequest]]] = []
        self._selector = selectors.DefaultSelector()
        self._connections: set[_Connection] = set()
        self._told_stock = shelf.stock
        self._wake_reader, self._wake_writer = socket.socketpair()
        for end in (self._wake_reader, self._wake_writer):
            end.setblocking(False)
        self._selector.register(self._wake_reader, selectors.EVENT_READ, None)
        self._listener = _listen(socket_path)
        self._selector.register(self._listener, selectors.EVENT_READ, None)

    def wake(self) -> None:
        """Makes the loop look at the shelf; for other threads."""
        with contextlib.suppress(OSError):  # full: it has yet to look at the last wake; closed: it has ended
            self._wake_writer.send(b"!")

    def run(self, stop: threading.Event) -> None:
        """Serves until stopped, then answers what waits and closes."""
        flush_at_s = self._clock()
        while not stop.is_set():
            if self._clock() >= flush_at_s:
                tally.flush()
                flush_at_s = self._clock() + tally.FLUSH_EVERY_S
            self._turn(0.0 if self._waiting else IDLE_S)
        self._selector.unregister(self._listener)
        self._listener.close()
        while self._waiting:  # nothing more is read: a busy gateway would keep it here for ever
            self._score_next()
        for connection in list(self._connections):
            connection.channel.setblocking(True)
            connection.channel.settimeout(1.0)
            while connection.outgoing and not connection.closed:
                self._flush(connection)
            self._close(connection)
        self._selector.close()
        self._wake_reader.close()
        self._wake_writer.close()

    def _turn(self, wait_s: float) -> None:
        for key, ready in self._selector.select(wait_s):
            if key.fileobj is self._listener:
                self._accept()
            elif key.fileobj is self._wake_reader:
                self._wake_reader.recv(4096)
            else:
                if ready & selectors.EVENT_READ:
                    self._receive(key.data)
                if ready & selectors.EVENT_WRITE and not key.data.closed:
                    self._flush(key.data)
        if self._shelf.stock is not self._told_stock:
            self._told_stock = self._shelf.stock
            for connection in list(self._connections):
                self._tell_state(connection)
        if self._waiting:
            self._score_next()

    def _accept(self) -> None:
        channel, _ = self._listener.accept()
        channel.setblocking(False)
        connection = _Connection(channel)
        self._connections.add(connection)
        self._selector.register(channel, selectors.EVENT_READ, connection)
        self._tell_state(connection)

    def _tell_state(self, connection: _Connection) -> None:
        connection.outgoing += encode_state(self._told_stock.state(self._replica, os.getpid()))
        self._flush(connection)

    def _receive(self, connection: _Connection) -> None:
        try:
            received = connection.channel.recv(RECEIVE_BYTES)
        except BlockingIOError:
            return
        except OSError:
            received = b""
        if not received:
            self._close(connection)
            return
        now_s, slots = self._clock(), self._shelf.stock.slots
        try:
            for kind, body in connection.frames.feed(received):
                if kind is not Kind.SCORE:
                    raise BrokenFrame(f"a gateway sent a {kind.name} frame")
                request = ScoreRequest.decode(body)
                self._waiting.append(
                    Pending(
                        key=request.slot,
                        rows=request.candidates,
                        arrived_s=now_s,
                        deadline_s=now_s + request.deadline_us / 1e6,
                        payload=(connection, request),
                        model=slots[request.slot].model if request.slot in slots else "",
                    )
                )
        except BrokenFrame as error:
            log.error("closed a gateway's connection: %s", error)
            self._close(connection)

    def _score_next(self) -> None:
        self._tiers.apply_changes()
        now_s = self._clock()
        batch = self._window.take(self._waiting, now_s, self._shares, self._times)
        self._waiting = batch.left
        for late in batch.expired:
            connection, request = late.payload
            self._reply(connection, FailedReply(request.number, 504, "the deadline passed in the worker's queue"))
        for hopeless in batch.hopeless:
            connection, request = hopeless.payload
            self._reply(connection, FailedReply(request.number, 504, _too_late(hopeless, now_s, self._times)))
        if batch.taken:
            self._score(self._shelf.stock.slots.get(batch.taken[0].key), batch.taken, now_s)
            rows = sum([pending.rows for pending in batch.taken])
            ended_s = self._clock()
            self._shares.charge(batch.taken[0].model, rows)
            self._times.of(batch.taken[0].key).observe(rows, ended_s - now_s, ended_s)
        for connection in {pending.payload[0] for pending in (*batch.taken, *batch.expired, *batch.hopeless)}:
            self._flush(connection)

    def _score(
        self, loaded: LoadedModel | None, live: list[Pending[int, tuple[_Connection, ScoreRequest]]], now_s: float
    ) -> None:
        """Answers every query of a batch, one way or the other: the worker never dies of a query."""
        fitting: list[Pending[int, tuple[_Connection, ScoreRequest]]] = []
        for pending in live:
            connection, request = pending.payload
            try:
                if loaded is None:
                    self._reply(connection, FailedReply(request.number, 503, "the version was unloaded"))
                else:
                    check(loaded, request)
                    fitting.append(pending)
            except ScoreRefused as refused:
                self._reply(connection, FailedReply(request.number, 400, str(refused)))
        if loaded is None or not fitting:
            return
        for pending, reply in zip(fitting, self._ranked(loaded, fitting, now_s), strict=True):
            self._reply(pending.payload[0], reply)

    def _ranked(
        self, loaded: LoadedModel, fitting: list[Pending[int, tuple[_Connection, ScoreRequest]]], now_s: float
    ) -> list[RankedReply | FailedReply]:
        """Scores together; if that fails, one by one, so that a poisonous query fails alone."""
        requests = [pending.payload[1] for pending in fitting]
        queue_us = [(now_s - pending.arrived_s) * 1e6 for pending in fitting]
        loaded.batch_candidates.observe(sum(request.candidates for request in requests))
        try:
            return score_batch(loaded, requests, queue_us, self._wall_ms())
        except Exception as error:  # a program may raise anything; the next batch may be fine
            if len(fitting) > 1:
                return [self._ranked(loaded, [pending], now_s)[0] for pending in fitting]
            log.exception("a query of %s@%d failed", loaded.model, loaded.version)
            return [FailedReply(requests[0].number, 500, f"{loaded.model}@{loaded.version} failed: {error}")]

    @staticmethod
    def _reply(connection: _Connection, reply: RankedReply | FailedReply) -> None:
        connection.outgoing += reply.encode()

    def _flush(self, connection: _Connection) -> None:
        if connection.closed or not connection.outgoing:
            return
        try:
            sent = connection.channel.send(connection.outgoing)
        except BlockingIOError:
            sent = 0
        except OSError:
            self._close(connection)
            return
        del connection.outgoing[:sent]
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if connection.outgoing else 0)
        if self._selector.get_key(connection.channel).events != events:
            self._selector.modify(connection.channel, events, connection)

    def _close(self, connection: _Connection) -> None:
        if not connection.closed:
            connection.closed = True
            self._waiting = [pending for pending in self._waiting if pending.payload[0] is not connection]
            self._connections.discard(connection)
            self._selector.unregister(connection.channel)
            connection.channel.close()


def _too_late(pending: Pending[int, tuple[_Connection, ScoreRequest]], now_s: float, times: BatchTimes) -> str:
    expected_ms = times.of(pending.key).expected_s(pending.rows, now_s) * 1000
    return (
        f"deadline_ms: {(pending.deadline_s - now_s) * 1000:.1f} ms were left in the worker's queue, "
        f"{pending.rows} rows take {expected_ms:.1f} ms"
    )


def _listen(socket_path: str) -> socket.socket:
    """A listening socket that only this user may open; takes the place of a dead worker's."""
    Path(socket_path).unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o177)
    try:
        listener.bind(socket_path)
    finally:
        os.umask(before)
    listener.listen(128)
    listener.setblocking(False)
    return listener
