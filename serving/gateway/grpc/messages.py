"""gRPC's messages in a stream of bytes: a flag, a length, and that many bytes, perhaps compressed.

Source: gRPC over HTTP/2 (PROTOCOL-HTTP2.md). Its deflate is zlib's format, as HTTP's is.
"""

import asyncio
import struct
from typing import cast

from serving.compression import WORTH_A_THREAD_BYTES, compressed, unpacked_aside
from serving.errors import BodyTooLarge, QueryRefused

_PREFIX = struct.Struct(">BI")
ENCODINGS = (b"identity", b"gzip", b"deflate")
IDENTITY = b"identity"

KEEPING_BYTES = 512
"""What a message that waits takes beside its own bytes: a client may send, or ask for, nothing but empty ones."""

WORTH_A_PIECE_BYTES = 4096  # smaller ones are joined: an object for each would cost more than they do
READ_BYTES = 256 << 10  # at most, from a socket at once
MOST_PINNED = 2  # times what is held of a message, and one read

Received = tuple[int, bytes | memoryview]
"""The compressed-flag and the message as it travelled."""


class MessageBuffer:
    """Puts a stream's bytes together. max_bytes: of one message. held_bytes: of an unfinished one.

    >>> buffer, sent = MessageBuffer(100), memoryview(prefixed(b"hello"))
    >>> buffer.feed(sent[:3]), [bytes(message) for _, message in buffer.feed(sent[3:])]
    ([], [b'hello'])
    """

    __slots__ = ("_max_bytes", "_need", "_parts", "_pinned_bytes", "_read", "held_bytes")

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._parts: list[bytes | bytearray | memoryview] = []
        self._read: object = None  # what the newest view is of
        self._pinned_bytes = 0  # of all that views are of
        self.held_bytes, self._need = 0, _PREFIX.size

    def feed(self, part: memoryview) -> list[Received]:
        """The messages that are complete now; a view is of the bytes given.

        Raises BodyTooLarge before a message that is too long has arrived.
        """
        self.held_bytes += len(part)
        if self.held_bytes < self._need:
            self._keep(part)
            return []
        messages: list[Received] = []
        view, at = self._with_kept(part), 0
        while self.held_bytes >= self._need:
            flag, size = _PREFIX.unpack_from(view, at)
            if size > self._max_bytes:
                raise BodyTooLarge(f"body: {size} bytes, expected at most {self._max_bytes}")
            self._need = _PREFIX.size + size
            if self.held_bytes < self._need:
                break
            messages.append((flag, view[at + _PREFIX.size : at + self._need]))
            at += self._need
            self.held_bytes -= self._need
            self._need = _PREFIX.size
        if self.held_bytes:
            self._keep(view[at:])
        return messages

    def _keep(self, part: memoryview) -> None:
        """A view keeps all that was read with it: unless that is far more than it is itself, nothing is copied."""
        if len(part) < WORTH_A_PIECE_BYTES:
            if self._parts and isinstance(last := self._parts[-1], bytearray):
                last += part
            else:
                self._parts.append(bytearray(part))
        elif part.obj is self._read or self._may_pin(part):
            self._parts.append(part)
        else:
            self._parts.append(bytes(part))

    def _may_pin(self, part: memoryview) -> bool:
        read = cast(bytes, part.obj)
        pinned_bytes = self._pinned_bytes + len(read)
        if pinned_bytes > READ_BYTES + MOST_PINNED * self.held_bytes:
            return False
        self._read, self._pinned_bytes = read, pinned_bytes
        return True

    def _with_kept(self, part: memoryview) -> memoryview:
        """All that is held, in one piece; nothing is kept."""
        parts = self._parts
        if not parts:
            return part
        parts.append(part)
        whole = b"".join(parts)
        parts.clear()
        self._read, self._pinned_bytes = None, 0
        return memoryview(whole)


def unpinned(message: bytes | memoryview) -> bytes | memoryview:
    """The same bytes, copied if a view of them keeps far more.

    >>> read = memoryview(bytes(100_000))
    >>> type(unpinned(read[9:])).__name__, type(unpinned(read[:9])).__name__
    ('memoryview', 'bytes')
    """
    if isinstance(message, memoryview) and MOST_PINNED * len(message) < len(cast(bytes, message.obj)):
        return bytes(message)
    return message


async def unpacked(received: Received, encoding: bytes, max_bytes: int) -> bytes | memoryview:
    """The message itself. encoding: the call's `grpc-encoding`. max_bytes: decompressed.

    Raises QueryRefused if it cannot be decompressed, BodyTooLarge before more is.
    """
    flag, message = received
    if not flag:
        return message
    if flag != 1 or encoding == IDENTITY:
        raise QueryRefused("body: a message is marked as compressed, but grpc-encoding does not say how")
    return await unpacked_aside(bytes(message), encoding, max_bytes)


async def packed(message: bytes, encoding: bytes) -> bytes:
    """The message as it travels, prefix included."""
    if encoding == IDENTITY:
        return prefixed(message)
    if len(message) < WORTH_A_THREAD_BYTES:
        return prefixed(compressed(message, encoding), 1)
    return prefixed(await asyncio.to_thread(compressed, message, encoding), 1)


def prefixed(message: bytes, flag: int = 0) -> bytes:
    """The message after its flag and length."""
    return _PREFIX.pack(flag, len(message)) + message
