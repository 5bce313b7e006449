"""A replica: read all that waits, take a batch, score it, answer. One thread, no locks.

What other threads know (new plans, changed rows) arrives through the shelf's stock and a queue
of invalidations, both looked at between batches.
"""

import contextlib
import logging
import os
import selectors
import socket
import ssl
import threading
import time
from collections.abc import Callable, Hashable, Sequence

from registry.contracts.manifest import TensorSpec
from serving import metrics, tally
from serving.addresses import TcpAddress, parse_address
from serving.arena import attach
from serving.batch_times import BatchTimes
from serving.batching import BatchWindow, Pending
from serving.drain import DrainRule
from serving.elsewhere import RemoteQueues
from serving.execution import UNLOADED, Reply, Request, Started, refused, start_batch
from serving.features.tier import RowKeys
from serving.features.tiers import Tiers
from serving.frames import (
    BrokenFrame,
    FailedReply,
    FrameBuffer,
    Kind,
    PrefetchRequest,
    ScoreRequest,
    WorkerState,
    decode_arena,
    decode_cancel,
    encode_state,
)
from serving.priority import steps_behind
from serving.scoring import LoadedModel
from serving.shares import Shares
from serving.shelf import Shelf
from serving.statistics import encode_statistics
from serving.tensor_batch import batch_key, rows_of
from serving.tensor_frames import InferredReply, InferRequest
from serving.tls.channel import NOT_NOW, SHAKEN_WITHIN_S, WorkerTls

log = logging.getLogger(__name__)

RECEIVE_BYTES = 1 << 18
IDLE_S = 0.25
DEAF_S = (
    0.25  # after a connection that could not be taken: it waits meanwhile, and would make the loop turn for nothing
)


class _Connection:
    """One gateway. memory: its arena, once it has sent one. shaking_since_s: of a TLS connection whose handshake is
    not over; None once it is, and without TLS."""

    def __init__(self, channel: socket.socket, shaking_since_s: float | None = None) -> None:
        self.channel = channel
        self.shaking_since_s = shaking_since_s
        self.frames = FrameBuffer()
        self.outgoing = bytearray()
        self.closed = False
        self.greeted = False
        self.memory: memoryview | None = None


Waiting = Pending[Hashable, tuple[_Connection, Request]]


class Worker:
    """A replica at an address (`addresses`).

    replica: its name in states and logs. wall_ms: the clock that row ages are compared with.
    shares: how models share the device. draining: called when it is told to stop, before it drains.
    tls: who may connect over TCP; None: whoever reaches the port.
    """

    def __init__(
        self,
        replica: str,
        address: str,
        shelf: Shelf,
        tiers: Tiers,
        window: BatchWindow,
        clock: Callable[[], float] = time.monotonic,
        wall_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
        shares: Shares | None = None,
        draining: Callable[[], None] = lambda: None,
        drain: DrainRule | None = None,
        tls: WorkerTls | None = None,
    ) -> None:
        self._draining, self._drain_rule = draining, drain or DrainRule()
        self._drains, self._received_s = False, float("-inf")
        self._shares, self._times = shares or Shares(), BatchTimes()
        self._replica, self._shelf, self._tiers, self._window = replica, shelf, tiers, window
        self._clock, self._wall_ms = clock, wall_ms
        self._waiting: list[Waiting] = []
        self._elsewhere: RemoteQueues[_Connection] = RemoteQueues(window, self._times, clock, wall_ms, self.wake)
        self._under_way: tuple[list[Waiting], Started, float] | None = None
        self._received = bytearray(RECEIVE_BYTES)
        self._selector = selectors.DefaultSelector()
        self._connections: set[_Connection] = set()
        self._told_stock = shelf.stock
        self._told_executions = 0
        self._wake_reader, self._wake_writer = socket.socketpair()
        for end in (self._wake_reader, self._wake_writer):
            end.setblocking(False)
        self._selector.register(self._wake_reader, selectors.EVENT_READ, None)
        where = parse_address(address)
        self._tls = tls if isinstance(where, TcpAddress) else None
        self._listener = where.listen()
        self._deaf_until_s: float | None = None
        self._told_deaf = ""
        self._selector.register(self._listener, selectors.EVENT_READ, None)

    def wake(self) -> None:
        """Makes the loop look at the shelf; for other threads."""
        with contextlib.suppress(OSError):  # full: it has yet to look at the last wake; closed: it has ended
            self._wake_writer.send(b"!")

    def run(self, stop: threading.Event) -> None:
        """Serves until stopped, then drains and closes."""
        flush_at_s = self._clock()
        while not stop.is_set():
            if self._clock() >= flush_at_s:
                tally.flush()
                metrics.QUEUE.set(len(self._waiting))
                self._tell_statistics()
                self._give_up_handshakes()
                self._tiers.apply_changes()  # without queries they would pile up, and the first would wait for all
                flush_at_s = self._clock() + tally.FLUSH_EVERY_S
            self._listen_again()
            self._turn(0.0 if self._waiting or self._under_way else IDLE_S)
        self._drain()
        for connection in list(self._connections):
            connection.channel.setblocking(True)
            connection.channel.settimeout(1.0)
            while connection.outgoing and not connection.closed:
                self._flush(connection)
            self._close(connection)
        self._selector.close()
        self._wake_reader.close()
        self._wake_writer.close()

    def _drain(self) -> None:
        """Tells gateways to send no more, and answers what they had sent."""
        self._draining()
        if self._deaf_until_s is None:
            self._selector.unregister(self._listener)
        self._listener.close()
        self._drains, began_s = True, self._clock()
        for connection in list(self._connections):
            if connection.shaking_since_s is not None:
                self._close(connection)
            else:
                self._tell_state(connection)
        while self._connections:
            unanswered = len(self._waiting) + (self._under_way is not None)
            remote = self._elsewhere.unanswered
            if self._drain_rule.is_over(began_s, self._received_s, unanswered + remote, self._clock()):
                break
            self._turn(0.0 if unanswered else self._drain_rule.quiet_s / 4)
        while self._waiting:
            self._score_next()
        self._finish()
        while self._elsewhere:
            self._elsewhere.wait()
            self._answer_elsewhere()

    def _turn(self, wait_s: float) -> None:
        for key, ready in self._selector.select(wait_s):
            if key.fileobj is self._listener:
                self._accept()
            elif key.fileobj is self._wake_reader:
                self._wake_reader.recv(4096)
                self._tiers.apply_changes()
            elif key.data.shaking_since_s is not None:
                self._shake(key.data)
            else:
                if ready & selectors.EVENT_READ:
                    self._receive(key.data)
                if ready & selectors.EVENT_WRITE and not key.data.closed:
                    self._flush(key.data)
        if self._shelf.stock is not self._told_stock:
            self._told_stock = self._shelf.stock
            self._times.keep({*self._told_stock.slots, *self._told_stock.leaving})
            for connection in self._greeted():
                self._tell_state(connection)
        if self._elsewhere:
            self._answer_elsewhere()
        if self._waiting:
            self._score_next()
        else:
            self._finish()

    def _answer_elsewhere(self) -> None:
        self._tiers.apply_changes()
        self._answer(self._elsewhere.answers())

    def _answer(self, answers: Sequence[tuple[Waiting, Reply]]) -> None:
        for pending, reply in answers:
            self._reply(pending.payload[0], reply)
        for connection in {pending.payload[0] for pending, _ in answers}:
            self._flush(connection)

    def _accept(self) -> None:
        try:
            channel, _ = self._listener.accept()
        except OSError as error:  # no descriptor is left, mostly
            if str(error) != self._told_deaf:  # once, not four times a second
                self._told_deaf = str(error)
                log.error("cannot take connections, tries on: %s; if descriptors ran out, raise `ulimit -n`", error)
            self._selector.unregister(self._listener)
            self._deaf_until_s = self._clock() + DEAF_S
            return
        self._told_deaf = ""
        channel.setblocking(False)
        connection = _Connection(channel, None if self._tls is None else self._clock())
        self._connections.add(connection)
        self._selector.register(channel, selectors.EVENT_READ, connection)
        if self._tls is None:
            self._tell_state(connection)

    def _listen_again(self) -> None:
        if self._deaf_until_s is not None and self._clock() >= self._deaf_until_s:
            self._deaf_until_s = None
            self._selector.register(self._listener, selectors.EVENT_READ, None)

    def _shake(self, connection: _Connection) -> None:
        """One step of a handshake; who has come through it is told what is held here."""
        assert self._tls is not None
        events = selectors.EVENT_READ
        try:
            if not isinstance(connection.channel, ssl.SSLSocket):
                if not connection.channel.recv(1, socket.MSG_PEEK):  # a probe: is the port open?
                    self._close(connection)
                    return
                plain = connection.channel
                connection.channel, connection.greeted = self._tls.wrap(plain), True
                self._selector.unregister(plain)  # not before: who has hung up by now cannot be wrapped
                self._selector.register(connection.channel, events, connection)
            self._tls.shake(connection.channel)
            connection.shaking_since_s = None
        except NOT_NOW as wants:
            if isinstance(wants, ssl.SSLWantWriteError):
                events = selectors.EVENT_WRITE
        except OSError as error:  # PeerRefused, mostly
            log.warning("%s", error)
            self._close(connection)
            return
        self._selector.modify(connection.channel, events, connection)
        if connection.shaking_since_s is None:
            self._tell_state(connection)

    def _greeted(self) -> list[_Connection]:
        """Those that can be told something."""
        return [connection for connection in self._connections if connection.shaking_since_s is None]

    def _give_up_handshakes(self) -> None:
        """Closes connections that have been at it for too long: they would hold their descriptors for ever."""
        for connection in list(self._connections):
            since_s = connection.shaking_since_s
            if since_s is not None and self._clock() - since_s > SHAKEN_WITHIN_S:
                assert self._tls is not None
                log.warning("%s", self._tls.timed_out(connection.channel))
                self._close(connection)

    def _tell_state(self, connection: _Connection) -> None:
        state = self._told_stock.state(self._replica, os.getpid())
        if self._drains:  # without versions: no query to come finds it, those under way are answered
            state = WorkerState(state.replica, state.pid, False, ())
        connection.outgoing += encode_state(state)
        self._flush(connection)

    def _tell_statistics(self) -> None:
        """What every version has done, to every gateway, if it is news."""
        counted = [loaded.statistics for loaded in self._told_stock.slots.values()]
        executions = sum(one.executions for one in counted)
        if executions != self._told_executions:
            self._told_executions = executions
            for connection in self._greeted():
                connection.outgoing += encode_statistics(counted)
                self._flush(connection)

    def _receive(self, connection: _Connection) -> None:
        files: list[int] = []
        try:
            if connection.greeted:
                size = connection.channel.recv_into(self._received)
            else:
                connection.greeted = True
                data, files, _, _ = socket.recv_fds(connection.channel, RECEIVE_BYTES, 1)
                size = len(data)
                self._received[:size] = data
        except NOT_NOW:
            return
        except OSError:
            size = 0
        if not size:
            self._close(connection)
            return
        self._received_s = now_s = self._clock()
        try:
            for kind, body in connection.frames.feed(bytes(memoryview(self._received)[:size])):
                if kind is Kind.SCORE:
                    ranking = ScoreRequest.decode(body)
                    self._wait(connection, ranking, ranking.slot, ranking.candidates, now_s)
                elif kind is Kind.INFER:
                    self._take_tensors(connection, body, now_s)
                elif kind is Kind.CANCEL:
                    self._cancel(connection, decode_cancel(body))
                elif kind is Kind.PREFETCH:
                    named = PrefetchRequest.decode(body)
                    self._prefetch(named.slot, RowKeys(named.hashes, named.ids))
                elif kind is Kind.ARENA and files:
                    connection.memory = attach(files.pop(), decode_arena(body))
                else:
                    raise BrokenFrame(f"a gateway sent a {kind.name} frame")
        except (BrokenFrame, OSError, ValueError) as error:
            log.error("closed a gateway's connection: %s", error)
            self._close(connection)
        finally:
            for file in files:
                os.close(file)

    def _wait(self, connection: _Connection, request: Request, key: Hashable, rows: int, now_s: float) -> None:
        loaded = self._told_stock.at(request.slot)
        pending: Waiting = Pending(
            key=key,
            rows=rows,
            arrived_s=now_s,
            deadline_s=now_s + request.deadline_us / 1e6,
            payload=(connection, request),
            model=loaded.model if loaded is not None else "",
            slot=request.slot,
            priority=steps_behind(request.priority),
            alone=loaded is not None and not loaded.batchable,
        )
        if loaded is not None and loaded.calls is not None:
            self._elsewhere.add(pending, loaded)
        else:
            self._waiting.append(pending)

    def _take_tensors(self, connection: _Connection, body: bytes, now_s: float) -> None:
        stock = self._told_stock

        def specs_of(slot: int) -> Sequence[TensorSpec] | None:
            return held.inputs if (held := stock.at(slot)) is not None else None

        request = InferRequest.decode(body, specs_of, connection.memory)
        loaded = stock.at(request.slot)
        if loaded is None:
            self._reply(connection, FailedReply(request.number, 503, UNLOADED))
            self._flush(connection)
        else:
            key, rows = batch_key(loaded, request), rows_of(loaded, request)
            self._wait(connection, request, key, rows, now_s)

    def _prefetch(self, slot: int, keys: RowKeys) -> None:
        loaded = self._told_stock.at(slot)
        if isinstance(loaded, LoadedModel):  # else it was unloaded meanwhile: nothing to warm
            self._tiers.prefetch(loaded.view.fingerprint, keys)

    def _prefetch_waiting(self) -> None:
        """While the device works: the rows of those who did not find a place in the batch."""
        rows = 0
        for pending in self._waiting:
            request = pending.payload[1]
            rows += pending.rows
            if rows > self._window.max_candidates:  # of the batch after the next: too early
                return
            if isinstance(request, ScoreRequest):
                self._prefetch(request.slot, RowKeys(request.hashes, request.ids))

    def _cancel(self, connection: _Connection, number: int) -> None:
        """The caller left: what still waits is answered, because the gateway keeps its block until then."""
        for pending in self._waiting:
            if pending.payload[0] is connection and pending.payload[1].number == number:
                self._waiting.remove(pending)
                break
        else:
            if not self._elsewhere.cancel(connection, number):
                return  # it is being answered
        self._reply(connection, FailedReply(number, 499, "the caller left"))
        self._flush(connection)

    def _score_next(self) -> None:
        self._tiers.apply_changes()
        now_s = self._clock()
        batch = self._window.take(self._waiting, now_s, self._shares, self._times)
        self._waiting = batch.left
        if batch.taken:
            self._start(batch.taken, now_s)
        if batch.expired or batch.hopeless:
            self._answer(refused(batch, now_s, self._times))

    def _start(self, taken: list[Waiting], now_s: float) -> None:
        """Gives a batch to its version, and only then finishes the one before: the device goes on
        computing while the host prepares."""
        requests = [pending.payload[1] for pending in taken]
        queue_us = [(now_s - pending.arrived_s) * 1e6 for pending in taken]
        loaded = self._shelf.stock.at(requests[0].slot)
        timeout_s = max([pending.deadline_s for pending in taken]) - now_s
        started = start_batch(loaded, requests, queue_us, self._wall_ms(), timeout_s)
        self._shares.charge(taken[0].model, sum([pending.rows for pending in taken]))
        self._finish()
        self._under_way = (taken, started, now_s)
        if started.under_way:
            self._prefetch_waiting()
        else:
            self._finish()

    def _finish(self) -> None:
        """Answers the batch under way, if there is one."""
        if self._under_way is None:
            return
        taken, started, began_s = self._under_way
        self._under_way = None
        replies = started.finish()
        answering_s = self._clock()
        for pending, reply in zip(taken, replies, strict=True):
            self._reply(pending.payload[0], reply)
        ended_s = self._clock()
        if started.statistics is not None:
            done = len(replies) - [type(reply) for reply in replies].count(FailedReply)
            started.statistics.answered(len(taken), done, (ended_s - answering_s) * 1e6)
        self._times.of(taken[0].slot).observe(sum([pending.rows for pending in taken]), ended_s - began_s, ended_s)
        for connection in {pending.payload[0] for pending in taken}:
            self._flush(connection)

    @staticmethod
    def _reply(connection: _Connection, reply: Reply) -> None:
        if isinstance(reply, InferredReply):
            connection.outgoing += reply.encode(connection.memory)
        else:
            connection.outgoing += reply.encode()

    def _flush(self, connection: _Connection) -> None:
        if connection.closed or not connection.outgoing:
            return
        try:
            sent = connection.channel.send(connection.outgoing)
        except NOT_NOW:
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
            self._elsewhere.forget(connection)
            self._connections.discard(connection)
            with contextlib.suppress(KeyError, ValueError):  # it is not registered, or its descriptor is gone
                self._selector.unregister(connection.channel)
            connection.channel.close()
