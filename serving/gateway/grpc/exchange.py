"""One call on its way: its messages in, its method's answer out, its status.

A call is told by its connection what arrives (`data`, `end`, `gone`), and tells it what to send.
"""

import asyncio
import logging
import math
from collections import deque
from collections.abc import Callable
from typing import Protocol

from serving.errors import DeadlineExceeded, Overloaded, QueryRefused, RankingError
from serving.gateway.grpc.calls import BUG, OK, Call, Converse, Method, Status
from serving.gateway.grpc.fields import field_block
from serving.gateway.grpc.frames import END_HEADERS, END_STREAM, HEADERS, Reason, frame, reset, window_update
from serving.gateway.grpc.heads import RequestHead
from serving.gateway.grpc.messages import (
    ENCODINGS,
    IDENTITY,
    KEEPING_BYTES,
    MessageBuffer,
    Received,
    packed,
    prefixed,
    unpacked,
    unpinned,
)
from serving.gateway.grpc.outbox import Outbox

log = logging.getLogger(__name__)

STREAM_WINDOW = 1 << 20
ROOM_FOR_MESSAGES = 1 << 20
"""Bytes of messages that a streaming call may have in either direction before one side has to wait."""

_CONTENT = (b"content-type", b"application/grpc")
_ACCEPTED = (b"grpc-accept-encoding", b",".join(ENCODINGS))
_OK_TRAILERS = field_block(OK.trailers())
_HEADS = {encoding: field_block([_CONTENT, (b"grpc-encoding", encoding)], b"200") for encoding in ENCODINGS}
_HEADS[IDENTITY] = field_block([_CONTENT], b"200")
_TOO_LATE = Status.of(DeadlineExceeded("the call's deadline passed"))
UNTAKEN = Overloaded("too many answers wait for this connection's HTTP/2 windows: take them, then ask for more", 1.0)


class Line(Protocol):
    """What a call needs of its connection."""

    outbox: Outbox
    loop: asyncio.AbstractEventLoop

    def write(self, data: bytes) -> None:
        """Goes out in this loop tick."""

    def call_of(self, head: RequestHead) -> Call:
        """What the method is handed."""

    def ended(self, exchange: "Exchange", status: Status | None) -> None:
        """The call is over and forgotten. status: None if nobody waits for one."""


class Exchange:
    """What unary and streaming calls share."""

    def __init__(self, line: Line, number: int, head: RequestHead, max_bytes: int) -> None:
        self.number, self.head = number, head
        self._line = line
        self._task: asyncio.Task[None] | None = None
        self._take_back: Callable[[], None] | None = None  # in a task's place
        self._max_bytes = max_bytes
        self._buffer = MessageBuffer(max_bytes)
        self._outgoing = line.outbox.open(number, self._sent)
        self._unreturned_bytes = 0  # of the stream's window
        self.due_s = math.inf  # when what is on its way has to be here; the connection's
        self._client_done = False
        self._answering = False  # our head has gone
        self._status: Status | None = None  # once it is decided
        self._over = False

    @property
    def held_bytes(self) -> int:
        """Received, and not yet worked on."""
        return self._buffer.held_bytes

    @property
    def receiving(self) -> bool:
        """Whether the client owes the rest of a message, and may send it."""
        return not self._client_done and self._status is None

    def data(self, payload: memoryview, size: int, last: int) -> None:
        """A DATA frame, or part of one. size: with its padding. last: not 0 if nothing will follow."""
        if self._client_done:
            self._line.write(reset(self.number, Reason.STREAM_CLOSED))
            self.gone()
            return
        try:
            for message in self._buffer.feed(payload):
                self._received(message)
        except RankingError as error:
            self.refuse(error)
            return
        self._unreturned_bytes += size
        if last:
            self.end()
        elif self._unreturned_bytes >= STREAM_WINDOW // 2:
            self._return_window()

    def end(self) -> None:
        """The client has sent all that it will."""
        self._client_done = True
        if self._status is None:
            try:
                if self._buffer.held_bytes:
                    raise QueryRefused("body: part of a message")
                self._received_all()
            except RankingError as error:
                self.refuse(error)

    def gone(self) -> None:
        """Nobody waits for an answer any more."""
        self._stop()
        self._forget(None)

    def refuse(self, error: RankingError) -> None:
        """Ends the call for something that its method has no say in."""
        self._stop()
        self._finish(Status.of(error))

    @property
    def begun(self) -> bool:
        """Whether its method has been asked."""
        return self._task is not None or self._take_back is not None

    def _stop(self) -> None:
        task, take_back = self._task, self._take_back
        self._task = self._take_back = None
        if task is not None:
            task.cancel()
        elif take_back is not None:
            take_back()

    def reject(self, http_status: bytes) -> None:
        """Ends what is no gRPC call."""
        self._status = Status.of(QueryRefused("not a gRPC call"))
        self._line.write(frame(HEADERS, END_HEADERS | END_STREAM, self.number, field_block([], http_status)))
        self._all_sent()

    def _received(self, message: Received) -> None:
        raise NotImplementedError

    def _received_all(self) -> None:
        raise NotImplementedError

    def _room(self) -> bool:
        """Whether the client may send more."""
        return True

    def _sent(self) -> None:
        """The outbox holds nothing more of this call."""
        if self._status is not None:
            self._all_sent()

    def _return_window(self) -> None:
        if self._unreturned_bytes >= STREAM_WINDOW // 2 and self._room() and not self._client_done:
            self._line.write(window_update(self.number, self._unreturned_bytes))
            self._unreturned_bytes = 0

    def _head(self, hints: tuple[tuple[bytes, bytes], ...] = ()) -> bytes:
        """The frame that our first message follows; empty after that. hints: fields beside those of gRPC."""
        if self._answering:
            return b""
        self._answering = True
        block = _HEADS[self.head.answer_encoding]
        return frame(HEADERS, END_HEADERS, self.number, block + field_block(hints) if hints else block)

    def _failed(self, error: Exception, call: Call) -> None:
        noted = {"trace_id": call.trace.trace_id, "path": call.path}
        if not isinstance(error, RankingError):
            log.error("a bug answered with INTERNAL", exc_info=error, extra=noted)
            self._finish(BUG)
            return
        if error.status >= 500:
            log.warning("%s: %s", Status.of(error).code.name, error, extra=noted)
        self._finish(Status.of(error))

    def _finish(self, status: Status) -> None:
        """The status, after what has not been sent yet."""
        if self._status is not None or self._over:
            return
        self._status = status
        if self._answering:
            block = field_block(status.trailers())
        else:
            block = field_block([_CONTENT, _ACCEPTED, *status.trailers()], b"200")
        last = frame(HEADERS, END_HEADERS | END_STREAM, self.number, block)
        if self._outgoing.idle:
            self._line.write(last)
            self._all_sent()
        else:
            self._outgoing.closing = last

    def _all_sent(self) -> None:
        if not self._client_done:  # whatever it still has to say changes nothing
            self._line.write(reset(self.number, Reason.NO_ERROR))
        self._forget(self._status)

    def _forget(self, status: Status | None) -> None:
        if self._over:
            return
        self._over = True
        self._line.outbox.close(self.number)
        # both lead back to here: without them all is freed now, not by the collector
        self._task, self._outgoing.sent = None, _nothing
        self._line.ended(self, status)


class UnaryExchange(Exchange):
    """One message in, one out."""

    def __init__(self, line: Line, number: int, head: RequestHead, method: Method) -> None:
        super().__init__(line, number, head, method.max_bytes)
        self._method = method
        self._message: Received | None = None

    @property
    def held_bytes(self) -> int:
        """See Exchange. A message waits for the end of its stream, too."""
        return self._buffer.held_bytes + (0 if self._message is None else len(self._message[1]))

    def _received(self, message: Received) -> None:
        if self._message is not None:
            raise QueryRefused("body: more than one message")
        self._message = message

    def _received_all(self) -> None:
        received, self._message = self._message, None
        if received is None:
            raise QueryRefused("body: no message")
        call, begin = self._line.call_of(self.head), self._method.begin
        if begin is not None and not received[0] and self.head.answer_encoding == IDENTITY:
            self._take_back = begin(call, received[1], lambda result: self._done(call, result))
            if self._take_back is not None:
                return
        self._task = self._line.loop.create_task(self._run(call, received))

    def _done(self, call: Call, result: bytes | Exception) -> None:
        """What was begun without a coroutine is done."""
        self._take_back = None  # it leads back to here: without it the message is freed now, not by the collector
        if isinstance(result, Exception):
            self._failed(result, call)
        else:
            self._send(call, prefixed(result))

    async def _run(self, call: Call, received: Received) -> None:
        head, answer = self.head, self._method.answer
        assert answer is not None
        try:
            flag, message = received
            if flag:
                message = await unpacked(received, head.encoding, self._max_bytes)
            answered = await answer(call, message)
            plain = head.answer_encoding == IDENTITY
            sent = prefixed(answered) if plain else await packed(answered, head.answer_encoding)
        except Exception as error:
            self._failed(error, call)
        else:
            self._send(call, sent)

    def _send(self, call: Call, message: bytes) -> None:
        if self._line.outbox.full:
            self._finish(Status.of(UNTAKEN))
        elif not self._over and self._status is None:
            self._status = OK
            last = frame(HEADERS, END_HEADERS | END_STREAM, self.number, _OK_TRAILERS)
            self._line.outbox.send(self._outgoing, self._head(call.hints), message, last)


class StreamingExchange(Exchange):
    """Messages in, messages out, in any order; a `Conversation`."""

    def __init__(self, line: Line, number: int, head: RequestHead, method: Method, converse: Converse) -> None:
        super().__init__(line, number, head, method.max_bytes)
        self._asked_once = method.asked_once
        self._asked = False
        self._waiting: deque[Received] = deque()
        self._waiting_bytes = 0
        self._arrival: asyncio.Future[None] | None = None
        self._departure: asyncio.Future[None] | None = None
        self._task = line.loop.create_task(self._run(converse))

    @property
    def held_bytes(self) -> int:
        """See Exchange."""
        return self._buffer.held_bytes + self._waiting_bytes

    @property
    def receiving(self) -> bool:
        """See Exchange. Between messages it may be silent for as long as it likes."""
        return super().receiving and self._buffer.held_bytes > 0 and self._room()

    async def receive(self) -> bytes | memoryview | None:
        """See Conversation."""
        while not self._waiting:
            if self._client_done:
                return None
            self._arrival = self._line.loop.create_future()
            await self._arrival
        received = self._waiting.popleft()
        self._waiting_bytes -= len(received[1]) + KEEPING_BYTES
        self._return_window()
        return await unpacked(received, self.head.encoding, self._max_bytes)

    async def send(self, message: bytes) -> None:
        """See Conversation."""
        sent = await packed(message, self.head.answer_encoding)
        if self._over or self._status is not None:
            return
        if self._line.outbox.full:
            self.refuse(UNTAKEN)
            return
        self._line.outbox.send(self._outgoing, self._head(), sent)
        while self._outgoing.kept_bytes > ROOM_FOR_MESSAGES:
            self._departure = self._line.loop.create_future()
            await self._departure

    def _room(self) -> bool:
        return self._waiting_bytes < ROOM_FOR_MESSAGES

    def _received(self, message: Received) -> None:
        if self._asked and self._asked_once:
            raise QueryRefused("body: more than one message")
        self._asked = True
        if self._waiting:  # many may wait for long
            message = message[0], unpinned(message[1])
        self._waiting.append(message)
        self._waiting_bytes += len(message[1]) + KEEPING_BYTES
        _wake(self._arrival)

    def _received_all(self) -> None:
        _wake(self._arrival)

    def _sent(self) -> None:
        _wake(self._departure)
        super()._sent()

    async def _run(self, converse: Converse) -> None:
        call = self._line.call_of(self.head)
        try:
            async with asyncio.timeout_at(call.deadline_s):
                await converse(call, self)
        except TimeoutError:
            self._finish(_TOO_LATE)
        except Exception as error:
            self._failed(error, call)
        else:
            self._finish(OK)


def _nothing() -> None:
    pass


def _wake(sleeper: "asyncio.Future[None] | None") -> None:
    if sleeper is not None and not sleeper.done():
        sleeper.set_result(None)
