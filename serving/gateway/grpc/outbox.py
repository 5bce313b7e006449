"""What a connection has yet to send: frames joined once per loop tick, message bytes within the
windows that the peer grants.

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


class Outgoing:
    """One stream's side of it. window: bytes that the peer still takes. unsent_bytes: waiting for it.

    sent: called when all there was to send has gone, after each `send`.
    """

    __slots__ = ("closing", "number", "sent", "unsent", "unsent_bytes", "window")

    def __init__(self, number: int, window: int, sent: Callable[[], None]) -> None:
        self.number, self.window, self.sent = number, window, sent
        self.unsent: deque[memoryview] = deque()
        self.unsent_bytes = 0
        self.closing = b""  # what follows when everything is sent: the frame that ends the stream

    @property
    def idle(self) -> bool:
        """Nothing waits."""
        return not self.unsent and not self.closing


class Outbox:
    """Sends for all streams of a connection.

    >>> written = []
    >>> outbox = Outbox(written.append)
    >>> stream = outbox.open(1, sent=lambda: None)
    >>> outbox.send(stream, b"", bytes(70_000), b"(end)")
    >>> sum(map(len, written)), stream.unsent_bytes  # four frames' heads and the default window
    (65571, 4465)
    >>> outbox.grant(0, 10_000); outbox.grant(1, 10_000)
    >>> written[-1][-5:], stream.idle
    (b'(end)', True)
    """

    def __init__(self, write: Callable[[bytes], None]) -> None:
        self._write = write
        self._window = DEFAULT_WINDOW
        self._initial_window = DEFAULT_WINDOW
        self._frame_bytes = MIN_FRAME_BYTES
        self._streams: dict[int, Outgoing] = {}

    def open(self, number: int, sent: Callable[[], None]) -> Outgoing:
        """A stream that may be sent to."""
        stream = self._streams[number] = Outgoing(number, self._initial_window, sent)
        return stream

    def close(self, number: int) -> None:
        """Forgets the stream, and what it has not sent."""
        self._streams.pop(number, None)

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
        stream.unsent.append(memoryview(message))
        stream.unsent_bytes += size
        stream.closing = closing
        self._pump(stream)

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
            waiting = stream.unsent[0]
            size = min(len(waiting), self._window, stream.window, self._frame_bytes)
            if size <= 0 < len(waiting):
                break
            self._window -= size
            stream.window -= size
            stream.unsent_bytes -= size
            frames.append(frame(DATA, 0, stream.number, bytes(waiting[:size])))
            if size < len(waiting):
                stream.unsent[0] = waiting[size:]
            else:
                stream.unsent.popleft()
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
