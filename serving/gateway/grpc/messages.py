"""gRPC's messages in a stream of bytes: a flag, a length, and that many bytes, perhaps compressed.

Source: gRPC over HTTP/2 (PROTOCOL-HTTP2.md). Its deflate is zlib's format, as HTTP's is.
"""

import asyncio
import struct

from serving.compression import WORTH_A_THREAD_BYTES, compressed, unpacked_aside
from serving.errors import BodyTooLarge, QueryRefused

_PREFIX = struct.Struct(">BI")
ENCODINGS = (b"identity", b"gzip", b"deflate")
IDENTITY = b"identity"

KEEPING_BYTES = 512
"""What a message that waits takes beside its own bytes: a client may send, or ask for, nothing but empty ones."""

Received = tuple[int, bytes | memoryview]
"""The compressed-flag and the message as it travelled."""


class MessageBuffer:
    """Puts a stream's bytes together. max_bytes: of one message. held_bytes: of an unfinished one.

    >>> buffer = MessageBuffer(100)
    >>> buffer.feed(prefixed(b"hello")[:3]), [bytes(message) for _, message in buffer.feed(prefixed(b"hello")[3:])]
    ([], [b'hello'])
    """

    __slots__ = ("_max_bytes", "_need", "_parts", "held_bytes")

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._parts: list[bytes | memoryview] = []
        self.held_bytes, self._need = 0, _PREFIX.size

    def feed(self, part: bytes | memoryview) -> list[Received]:
        """The messages that are complete now; a view is of the bytes given.

        Raises BodyTooLarge before a message that is too long has arrived.
        """
        self._parts.append(part)
        self.held_bytes += len(part)
        if self.held_bytes < self._need:
            return []
        messages: list[Received] = []
        while self.held_bytes >= self._need:
            whole = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
            flag, size = _PREFIX.unpack_from(whole)
            if size > self._max_bytes:
                raise BodyTooLarge(f"body: {size} bytes, expected at most {self._max_bytes}")
            self._need = _PREFIX.size + size
            if len(whole) < self._need:
                self._parts = [whole]
                break
            view = memoryview(whole)
            messages.append((flag, view[_PREFIX.size : self._need]))
            self.held_bytes -= self._need
            self._parts = [view[self._need :]] if self.held_bytes else []
            self._need = _PREFIX.size
        return messages


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
