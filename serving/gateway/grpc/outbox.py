"""What a connection has yet to send: frames joined once per loop tick, message bytes within the
windows that the peer grants. Who grants none may have so much of it wait, and no more.

No I/O: `write` takes bytes, and says nothing.
"""

from collections import deque
from collections.abc import Callable

from serving.gateway.grpc.frames import (
    DATA,
    DEFAULT_WINDOW,
    MAX_WINDOW,
    MIN_FRAME_BYTES,
    ConnectionBroken,
    Reason,
    frame,
)
from serving.gateway.grpc.messages import KEEPING_BYTES


class Outgoing:
    """One stream's side of it. window: bytes that the peer still takes. kept_bytes: the memory of what waits for it.

    sent: called when all there was to send has gone, after each `send`.
    """

    __slots__ = ("at", "closing", "kept_bytes", "number", "sent", "unsent", "window")

    def __init__(self, number: int, window: int, sent: Callable[[], None]) -> None:
        self.number, self.window, self.sent = number, window, sent
        self.unsent: deque[bytes] = deque()
        self.at = 0  # how much of the first has gone; it is kept whole until all of it has
        self.kept_bytes = 0
        self.closing = b""  # what follows when everything is sent: the frame that ends the stream

    @property
    def idle(self) -> bool:
        """Nothing waits."""
        return not self.unsent and not self.closing


class Outbox:
    """Sends for all streams of a connection.

    waits: called when bytes begin to wait for a window, and none did before. max_bytes: see `full`.
    kept_bytes: the memory of all that waits. taken_bytes: that waited, or were too many for one frame, and have gone.

    >>> written = []
    >>> outbox = Outbox(written.append, waits=lambda: None, max_bytes=1 << 20)
    >>> stream = outbox.open(1, sent=lambda: None)
    >>> outbox.send(stream, b"", bytes(70_000), b"(end)")
    >>> sum(map(len, written)), outbox.taken_bytes  # four frames' heads and the default window
    (65571, 65535)
    >>> outbox.kept_bytes, outbox.full
    (70512, False)
    >>> outbox.grant(0, 10_000); outbox.grant(1, 10_000)
    >>> written[-1][-5:], stream.idle
    (b'(end)', True)
    """

    def __init__(self, write: Callable[[bytes], None], waits: Callable[[], None], max_bytes: int) -> None:
        self._write, self._waits, self._max_bytes = write, waits, max_bytes
        self.kept_bytes = self.taken_bytes = 0
        self._window = DEFAULT_WINDOW
        self._initial_window = DEFAULT_WINDOW
        self._frame_bytes = MIN_FRAME_BYTES
        self._streams: dict[int, Outgoing] = {}

    @property
    def full(self) -> bool:
        """Whether so much waits that the peer has to take some of it before it is given more."""
        return self.kept_bytes >= self._max_bytes

    def open(self, number: int, sent: Callable[[], None]) -> Outgoing:
        """A stream that may be sent to."""
        stream = self._streams[number] = Outgoing(number, self._initial_window, sent)
        return stream

    def close(self, number: int) -> None:
        """Forgets the stream, and what it has not sent."""
        stream = self._streams.pop(number, None)
        if stream is not None:
            self.kept_bytes -= stream.kept_bytes

    def send(self, stream: Outgoing, head: bytes, message: bytes, closing: bytes = b"") -> None:
        """Frames that go at once, bytes that go as the windows allow, a frame that goes after them."""
        size = len(message)
        if size <= self._window and size <= stream.window and size <= self._frame_bytes and stream.idle:
            self._window -= size
            stream.window -= size
            self._write(b"".join((head, frame(DATA, 0, stream.number, message), closing)))
            stream.sent()
            return
        if head:
            self._write(head)
        first = not self.kept_bytes
        stream.unsent.append(message)
        stream.kept_bytes += size + KEEPING_BYTES
        self.kept_bytes += size + KEEPING_BYTES
        stream.closing = closing
        self._pump(stream)
        if first and self.kept_bytes:
            self._waits()

    def grant(self, number: int, more: int) -> None:
        """The peer's WINDOW_UPDATE. Raises ConnectionBroken if a window becomes impossible."""
        if number == 0:
            self._window = _widened(self._window, more)
            for waiting in [stream for stream in self._streams.values() if not stream.idle]:
                self._pump(waiting)
        elif stream := self._streams.get(number):
            stream.window = _widened(stream.window, more)
            if not stream.idle:
                self._pump(stream)

    def agree(self, initial_window: int | None, frame_bytes: int | None) -> None:
        """The peer's settings. A new initial window moves the windows of open streams, too (RFC 9113, 6.9.2)."""
        if frame_bytes is not None:
            self._frame_bytes = frame_bytes
        if initial_window is not None:
            moved, self._initial_window = initial_window - self._initial_window, initial_window
            for stream in list(self._streams.values()):
                stream.window = _widened(stream.window, moved)
                if not stream.idle:
                    self._pump(stream)

    def _pump(self, stream: Outgoing) -> None:
        frames = []
        while stream.unsent:
            message, at = stream.unsent[0], stream.at
            left = len(message) - at
            size = min(left, self._window, stream.window, self._frame_bytes)
            if size <= 0 < left:
                break
            self._window -= size
            stream.window -= size
            self.taken_bytes += size
            frames.append(frame(DATA, 0, stream.number, message[at : at + size]))
            if size < left:
                stream.at = at + size
            else:
                stream.unsent.popleft()
                stream.at = 0
                stream.kept_bytes -= len(message) + KEEPING_BYTES
                self.kept_bytes -= len(message) + KEEPING_BYTES
        done = not stream.unsent
        if done:
            frames.append(stream.closing)
            stream.closing = b""
        if frames:
            self._write(b"".join(frames))
        if done:
            stream.sent()


def _widened(window: int, more: int) -> int:
    if window + more > MAX_WINDOW:
        raise ConnectionBroken(Reason.FLOW_CONTROL_ERROR, f"a window of {window + more} bytes")
    return window + more
