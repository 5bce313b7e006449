"""One client's connection: HTTP/2's frames, and which call each belongs to.

A peer that breaks HTTP/2 loses its connection; one that breaks gRPC gets a status. Memory that a
peer can claim is bounded: fields, messages, what has arrived in part, answers that wait, calls at once. A
peer that does not read is not read from; one that takes no answers, or lets a frame or a message trickle in, is cut
off.

Source: RFC 9113.
"""

import asyncio
import logging
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

from registry.contracts.traces import Trace
from serving.errors import Overloaded, QueryRefused, RankingError, TooSlow
from serving.gateway.grpc.calls import Call, Method, Status
from serving.gateway.grpc.exchange import STREAM_WINDOW, UNTAKEN, Exchange, StreamingExchange, UnaryExchange
from serving.gateway.grpc.fields import FieldReader
from serving.gateway.grpc.frames import (
    ACK,
    CONTINUATION,
    DEFAULT_WINDOW,
    END_HEADERS,
    END_STREAM,
    INITIAL_WINDOW_SIZE,
    MAX_CONCURRENT_STREAMS,
    MAX_FRAME_SIZE,
    MAX_HEADER_LIST_SIZE,
    PADDED,
    PING,
    PREFACE,
    SETTINGS,
    WITH_PRIORITY,
    ConnectionBroken,
    FrameReader,
    Reason,
    frame,
    go_away,
    read_number,
    read_settings,
    reset,
    settings_frame,
    window_update,
    without_padding,
)
from serving.gateway.grpc.heads import RequestHead
from serving.gateway.grpc.outbox import Outbox
from serving.settings import GrpcSettings

log = logging.getLogger(__name__)

FRAME_BYTES = 1 << 20
CONNECTION_WINDOW = 16 << 20
MAX_HEADER_PARTS = 8
RESETS = 1000
"""Calls that a client may take back before they are complete, beyond those that were answered: see CVE-2023-44487."""

_HTTP1 = (b"GET ", b"POST", b"HEAD", b"PUT ", b"OPTI")
_PLAIN_TEXT = (
    b"HTTP/1.1 400 Bad Request\r\ncontent-type: text/plain\r\nconnection: close\r\n\r\nthis port speaks gRPC (HTTP/2)\n"
)


@dataclass(frozen=True, slots=True)
class Service:
    """What all connections of a server share.

    understand: a request head from its fields. begin_trace: of a call that brings none. count: notes how a call ended.
    lost: called with a connection that is no more. admit: the method as whoever calls may have it; raises RankingError
    if the call need not be read at all.
    """

    settings: GrpcSettings
    understand: Callable[[list[tuple[bytes, bytes]]], RequestHead]
    begin_trace: Callable[[], Trace]
    count: Callable[[RequestHead, Status], None]
    lost: Callable[["Connection"], None]
    admit: Callable[[RequestHead, Method], Method]


class Connection(asyncio.Protocol):
    """See the module; the `Line` of its calls."""

    def __init__(self, service: Service) -> None:
        self.loop = asyncio.get_running_loop()
        self._service, self._settings = service, service.settings
        self.outbox = Outbox(self.write, self._answers_wait, service.settings.max_unsent_bytes)
        self._frames = FrameReader(FRAME_BYTES)
        self._fields = FieldReader(service.understand, service.settings.max_header_bytes)
        self._calls: dict[int, Exchange] = {}
        self._last = 0  # highest stream number begun
        self._begun = b""  # what there is of the preface
        self._greeted = False
        self._block: tuple[int, int, list[bytes]] | None = None  # stream, flags, parts of an unfinished header block
        self._unreturned_bytes = 0  # of the connection's window
        self._resets = 0
        self._draining = False
        self._out: list[bytes] = []
        self._transport: asyncio.Transport
        self._head_timer: asyncio.TimerHandle  # of the preface, later of a header block in parts
        self._unread_timer: asyncio.TimerHandle | None = None
        self._frame_due_s = math.inf  # when the frame that has come in part has to be here
        self._untaken_due_s = math.inf  # when of the answers that wait some more have to have gone
        self._taken_bytes = 0  # of the outbox, when we last looked
        self._look_s = min(self._settings.head_s, self._settings.body_s, self._settings.read_s)
        self._watch: asyncio.TimerHandle | None = None  # one timer for whatever is on its way or waits

    def __repr__(self) -> str:
        return f"<Connection [{'DRAINING | ' * self._draining}{len(self._calls)} calls]>"

    # asyncio's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See asyncio.Protocol."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is none by its class
        self._head_timer = self.loop.call_later(self._settings.head_s, self._transport.abort)
        told = {
            MAX_CONCURRENT_STREAMS: self._settings.max_streams,
            INITIAL_WINDOW_SIZE: STREAM_WINDOW,
            MAX_FRAME_SIZE: FRAME_BYTES,
            MAX_HEADER_LIST_SIZE: self._settings.max_header_bytes,
        }
        self.write(settings_frame(told) + window_update(0, CONNECTION_WINDOW - DEFAULT_WINDOW))

    def data_received(self, data: bytes) -> None:
        """See asyncio.Protocol."""
        try:
            if not self._greeted:
                data = self._without_preface(data)
            for kind, flags, number, payload in self._frames.feed(data):
                if self._block is not None and kind != CONTINUATION:
                    raise ConnectionBroken(Reason.PROTOCOL_ERROR, "a header block is interrupted")
                if kind <= CONTINUATION:  # the others are extensions, to be ignored
                    _HANDLERS[kind](self, flags, number, payload)
            if self._frames.waits:
                self._frame_due_s = self._due_s(self._frame_due_s, self._settings.head_s, len(data))
            else:
                self._frame_due_s = math.inf
        except ConnectionBroken as broken:
            log.info("a gRPC client broke HTTP/2: %s", broken)
            self._end(go_away(self._last, broken.reason, str(broken)))

    def pause_writing(self) -> None:
        """See asyncio.Protocol. Who does not read answers may not ask for more of them, and not for long."""
        self._transport.pause_reading()
        if self._unread_timer is None:
            self._unread_timer = self.loop.call_later(self._settings.read_s, self._transport.abort)

    def resume_writing(self) -> None:
        """See asyncio.Protocol."""
        if self._unread_timer is not None:
            self._unread_timer.cancel()
            self._unread_timer = None
        if not self._transport.is_closing():
            self._postpone()
            self._transport.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio.Protocol. Nobody waits for the answers of calls under way: they are cancelled."""
        self._head_timer.cancel()
        for timer in (self._unread_timer, self._watch):
            if timer is not None:
                timer.cancel()
        for call in list(self._calls.values()):
            call.gone()
        self._service.lost(self)

    # the server's side

    def drain(self) -> None:
        """No new calls from now on; closes when those under way are answered."""
        if not self._draining and not self._transport.is_closing():
            self._draining = True
            self.write(go_away(self._last, Reason.NO_ERROR))
            self._close_if_drained()

    def abort(self) -> None:
        """Closes now, whatever is under way."""
        self._transport.abort()

    # its calls' side

    def write(self, data: bytes) -> None:
        """See Line."""
        if not self._out:
            self.loop.call_soon(self._flush)
        self._out.append(data)

    def call_of(self, head: RequestHead) -> Call:
        """See Line."""
        deadline_s = None if head.timeout_s is None else self.loop.time() + head.timeout_s
        return Call(head.path, head.fields, deadline_s, self.loop.time, head.trace, self._service.begin_trace)

    def ended(self, exchange: Exchange, status: Status | None) -> None:
        """See Line."""
        del self._calls[exchange.number]
        if status is not None:
            self._resets = max(0, self._resets - 1)
            self._service.count(exchange.head, status)
        self._close_if_drained()

    # frames

    def _without_preface(self, data: bytes) -> bytes:
        self._begun += data
        begun = self._begun[: len(PREFACE)]
        if not PREFACE.startswith(begun):
            if begun.startswith(_HTTP1):
                self._end(_PLAIN_TEXT, alone=True)
                return b""
            raise ConnectionBroken(Reason.PROTOCOL_ERROR, "it does not begin with HTTP/2's preface")
        if len(begun) < len(PREFACE):
            return b""
        rest, self._begun = self._begun[len(PREFACE) :], b""
        self._greeted = True
        self._head_timer.cancel()
        return rest

    def _on_data(self, flags: int, number: int, payload: memoryview) -> None:
        size = len(payload)
        self._unreturned_bytes += size
        if flags & PADDED:
            payload = without_padding(flags, payload)
        call = self._calls.get(number)
        if call is None:
            self._check_begun(number)  # it may not know yet that we have done with it
        else:
            call.data(payload, size, flags & END_STREAM)
            call.due_s = self._due_s(call.due_s, self._settings.body_s, size) if call.receiving else math.inf
        if self._unreturned_bytes >= CONNECTION_WINDOW // 4:
            self._return_window(number)

    def _return_window(self, number: int) -> None:
        """Takes more from the peer, unless too much of what it sent has come to nothing yet."""
        self.write(window_update(0, self._unreturned_bytes))
        self._unreturned_bytes = 0
        limit = self._settings.max_receiving_bytes
        excess = sum(call.held_bytes for call in self._calls.values()) - limit
        if excess <= 0:
            return
        # this one first, which goes on; it may hold next to nothing, so then those that hold most
        for call in sorted(
            self._calls.values(), key=lambda call: (call.number == number, call.held_bytes), reverse=True
        ):
            excess -= call.held_bytes
            call.refuse(Overloaded(f"{limit} bytes of unfinished messages on one connection: slow down", 1.0))
            if excess <= 0:
                return

    def _on_headers(self, flags: int, number: int, payload: memoryview) -> None:
        block = without_padding(flags, payload)
        if flags & WITH_PRIORITY:
            if len(block) < 5:
                raise ConnectionBroken(Reason.FRAME_SIZE_ERROR, "a priority that is cut short")
            block = block[5:]
        if flags & END_HEADERS:
            self._on_block(flags, number, bytes(block))
        else:
            self._block = (number, flags, [bytes(block)])
            self._head_timer = self.loop.call_later(self._settings.head_s, self._transport.abort)

    def _on_continuation(self, flags: int, number: int, payload: memoryview) -> None:
        if self._block is None or self._block[0] != number:
            raise ConnectionBroken(Reason.PROTOCOL_ERROR, "a continuation of nothing")
        _, first_flags, parts = self._block
        parts.append(bytes(payload))
        if len(parts) > MAX_HEADER_PARTS:
            raise ConnectionBroken(Reason.ENHANCE_YOUR_CALM, "a header block in too many pieces")
        if flags & END_HEADERS:
            self._block = None
            self._head_timer.cancel()
            self._on_block(first_flags, number, b"".join(parts))

    def _on_block(self, flags: int, number: int, block: bytes) -> None:
        if len(block) > self._settings.max_header_bytes:
            raise ConnectionBroken(Reason.ENHANCE_YOUR_CALM, f"a header block of {len(block)} bytes")
        head = self._fields.read(block)  # even if nobody wants it: the table must follow
        last = flags & END_STREAM
        call = self._calls.get(number)
        if call is not None:
            if not last:
                raise ConnectionBroken(Reason.PROTOCOL_ERROR, "header fields in the middle of a stream")
            call.end()
        elif number % 2 == 0:
            raise ConnectionBroken(Reason.PROTOCOL_ERROR, f"a client's stream with number {number}")
        elif number > self._last:
            self._last = number
            if self._draining or len(self._calls) >= self._settings.max_streams:
                self.write(reset(number, Reason.REFUSED_STREAM))
            else:
                self._open(number, head, last)

    def _open(self, number: int, head: RequestHead, last: int) -> None:
        method = head.method
        call: Exchange
        if self.outbox.full:
            self._calls[number] = call = Exchange(self, number, head, 0)
            call.refuse(UNTAKEN)
            return
        if method is None:
            call = self._calls[number] = Exchange(self, number, head, 0)
            if head.http_status:
                call.reject(head.http_status)
            else:
                call.refuse(head.refusal or QueryRefused("not a call"))
            return
        try:
            method = self._service.admit(head, method)
        except RankingError as error:
            self._calls[number] = call = Exchange(self, number, head, 0)
            call.refuse(error)
            return
        if method.converse is not None:
            call = StreamingExchange(self, number, head, method, method.converse)
        else:
            call = UnaryExchange(self, number, head, method)
        self._calls[number] = call
        if last:
            call.end()
        elif call.receiving:
            call.due_s = self._due_s(math.inf, self._settings.body_s, 0)

    def _on_priority(self, flags: int, number: int, payload: memoryview) -> None:
        if len(payload) != 5 or number == 0:
            raise ConnectionBroken(Reason.FRAME_SIZE_ERROR, "a PRIORITY frame that is none")

    def _on_reset(self, flags: int, number: int, payload: memoryview) -> None:
        read_number(payload)
        call = self._calls.get(number)
        if call is None:
            self._check_begun(number)
            return
        if not call.begun:
            self._resets += 1
            if self._resets > RESETS:
                raise ConnectionBroken(Reason.ENHANCE_YOUR_CALM, "calls are taken back as fast as they are made")
        call.gone()

    def _on_settings(self, flags: int, number: int, payload: memoryview) -> None:
        if number != 0 or (flags & ACK and payload):
            raise ConnectionBroken(Reason.PROTOCOL_ERROR, "a SETTINGS frame that is none")
        if not flags & ACK:
            told = dict(read_settings(payload))
            self.outbox.agree(told.get(INITIAL_WINDOW_SIZE), told.get(MAX_FRAME_SIZE))
            self.write(frame(SETTINGS, ACK, 0, b""))

    def _on_push_promise(self, flags: int, number: int, payload: memoryview) -> None:
        raise ConnectionBroken(Reason.PROTOCOL_ERROR, "a client that pushes")

    def _on_ping(self, flags: int, number: int, payload: memoryview) -> None:
        if len(payload) != 8 or number != 0:
            raise ConnectionBroken(Reason.FRAME_SIZE_ERROR, "a PING frame that is none")
        if not flags & ACK:
            self.write(frame(PING, ACK, 0, bytes(payload)))

    def _on_go_away(self, flags: int, number: int, payload: memoryview) -> None:
        """It will not begin another call, and closes when it has its answers."""

    def _on_window_update(self, flags: int, number: int, payload: memoryview) -> None:
        more = read_number(payload)
        if more == 0:
            raise ConnectionBroken(Reason.PROTOCOL_ERROR, "a window that is widened by nothing")
        if number and number not in self._calls:
            self._check_begun(number)
        self.outbox.grant(number, more)

    def _check_begun(self, number: int) -> None:
        if number % 2 == 0 or number > self._last:
            raise ConnectionBroken(Reason.PROTOCOL_ERROR, f"stream {number} has not begun")

    # what trickles in, or does not go out

    def _answers_wait(self) -> None:
        """For the peer's windows, from now on."""
        self._untaken_due_s = self._due_s(math.inf, self._settings.read_s, 0)

    def _due_s(self, due_s: float, within_s: float, size: int) -> float:
        """When what is on its way has to be here, now that so much more of it has come; inf before: it begins now."""
        if self._watch is None:
            self._watch = self.loop.call_later(self._look_s, self._look)
        return self.loop.time() + within_s if due_s == math.inf else due_s + size / self._settings.bytes_a_s

    def _look(self) -> None:
        """Ends what is past its time, and looks again as long as anything may be on its way or wait."""
        self._watch = None
        if self._transport.is_closing():
            return
        if self._unread_timer is not None:
            self._postpone()
        now_s, settings = self.loop.time(), self._settings
        self._note_taken(now_s)
        if self._frame_due_s <= now_s:
            self._end_late("a frame did not arrive in time")
            return
        if self._untaken_due_s <= now_s:
            self._end_late("answers were not taken in time: read them, and widen the windows")
            return
        next_s = min(self._frame_due_s, self._untaken_due_s, now_s + self._look_s)
        for call in list(self._calls.values()):
            if not call.receiving:
                call.due_s = math.inf
            elif call.due_s == math.inf:  # we held it up so far
                call.due_s = now_s + settings.body_s
            elif call.due_s <= now_s:
                call.refuse(
                    TooSlow("the message did not arrive in time: send it at once, or in a stream of smaller ones")
                )
                continue
            next_s = min(next_s, call.due_s)
        if self._calls or self._frame_due_s < math.inf:
            self._watch = self.loop.call_at(next_s, self._look)

    def _note_taken(self, now_s: float) -> None:
        """Who takes answers at `bytes_a_s` has time; who took many more cannot save it up."""
        taken_bytes, self._taken_bytes = self.outbox.taken_bytes - self._taken_bytes, self.outbox.taken_bytes
        if not self.outbox.kept_bytes:
            self._untaken_due_s = math.inf
        else:
            earned_s = taken_bytes / self._settings.bytes_a_s
            self._untaken_due_s = min(self._untaken_due_s + earned_s, now_s + self._settings.read_s)

    def _end_late(self, why: str) -> None:
        log.info("a gRPC connection is closed: %s", why)
        self._end(go_away(self._last, Reason.ENHANCE_YOUR_CALM, why))
        self.loop.call_later(self._settings.head_s, self._transport.abort)  # nobody waits for it to read this

    def _postpone(self) -> None:
        """We do not read, or did not until now: what is on its way has all of its time from now on."""
        now_s = self.loop.time()
        if self._frame_due_s < math.inf:
            self._frame_due_s = max(self._frame_due_s, now_s + self._settings.head_s)
        if self._untaken_due_s < math.inf:  # what it grants we cannot know
            self._untaken_due_s = now_s + self._settings.read_s
        for call in self._calls.values():
            if call.due_s < math.inf:
                call.due_s = max(call.due_s, now_s + self._settings.body_s)

    # bytes

    def _flush(self) -> None:
        out, self._out = self._out, []
        if out and not self._transport.is_closing():
            self._transport.write(out[0] if len(out) == 1 else b"".join(out))

    def _end(self, last_words: bytes, alone: bool = False) -> None:
        """Closes after these bytes; alone: without what was to be sent before them."""
        self._out = [last_words] if alone else [*self._out, last_words]
        self._flush()
        self._transport.close()

    def _close_if_drained(self) -> None:
        if self._draining and not self._calls:
            self._end(b"")


_HANDLERS = (
    Connection._on_data,
    Connection._on_headers,
    Connection._on_priority,
    Connection._on_reset,
    Connection._on_settings,
    Connection._on_push_promise,
    Connection._on_ping,
    Connection._on_go_away,
    Connection._on_window_update,
    Connection._on_continuation,
)
