"""gRPC's messages in a stream of bytes: a flag, a length, and that many bytes, perhaps compressed.

Source: gRPC over HTTP/2 (PROTOCOL-HTTP2.md).
"""

import struct
import zlib

from serving.errors import BodyTooLarge, QueryRefused

_PREFIX = struct.Struct(">BI")
_GZIP, _ZLIB = 16 + zlib.MAX_WBITS, zlib.MAX_WBITS
WINDOW_BITS = {b"gzip": _GZIP, b"deflate": _ZLIB}  # gRPC's deflate is zlib's format
ENCODINGS = (b"identity", *WINDOW_BITS)
_LEVEL = 1  # tensors compress badly: more effort buys little


class MessageBuffer:
    """Puts a stream's bytes together. encoding: the client's `grpc-encoding`. max_bytes: of one
    message, on the wire and decompressed.

    >>> buffer = MessageBuffer(b"identity", 100)
    >>> buffer.feed(framed(b"hello")[:3]), [bytes(message) for message in buffer.feed(framed(b"hello")[3:])]
    ([], [b'hello'])
    """

    __slots__ = ("_encoding", "_max_bytes", "_need", "_parts", "held_bytes")

    def __init__(self, encoding: bytes, max_bytes: int) -> None:
        self._encoding, self._max_bytes = encoding, max_bytes
        self._parts: list[bytes | memoryview] = []
        self.held_bytes, self._need = 0, _PREFIX.size

    def feed(self, part: bytes | memoryview) -> list[bytes | memoryview]:
        """The messages that are complete now; a view is of the bytes given.

        Raises BodyTooLarge before a message that is too long has arrived, QueryRefused if it
        cannot be decompressed.
        """
        self._parts.append(part)
        self.held_bytes += len(part)
        if self.held_bytes < self._need:
            return []
        messages = []
        while self.held_bytes >= self._need:
            whole = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
            compressed, size = _PREFIX.unpack_from(whole)
            if size > self._max_bytes:
                raise BodyTooLarge(f"body: {size} bytes, expected at most {self._max_bytes}")
            self._need = _PREFIX.size + size
            self._parts = [whole]
            if len(whole) < self._need:
                break
            view = memoryview(whole)
            messages.append(self._plain(compressed, view[_PREFIX.size : self._need]))
            self._parts = [view[self._need :]]
            self.held_bytes -= self._need
            self._need = _PREFIX.size
        return messages

    def _plain(self, compressed: int, message: memoryview) -> bytes | memoryview:
        if not compressed:
            return message
        bits = WINDOW_BITS.get(self._encoding)
        if compressed != 1 or bits is None:
            raise QueryRefused("body: a message is marked as compressed, but the call's grpc-encoding says how not")
        return inflated(message, bits, self._max_bytes)


def inflated(message: memoryview, window_bits: int, max_bytes: int) -> bytes:
    """The message decompressed. Raises BodyTooLarge, holding little more than `max_bytes`, or QueryRefused."""
    inflater = zlib.decompressobj(window_bits)
    try:
        plain = inflater.decompress(message, max_bytes + 1)
    except zlib.error as error:
        raise QueryRefused(f"body: cannot be decompressed ({error})") from error
    if len(plain) > max_bytes:
        raise BodyTooLarge(f"body: more than {max_bytes} bytes once decompressed")
    if not inflater.eof or inflater.unused_data:
        raise QueryRefused("body: cannot be decompressed (it does not end where its compression ends)")
    return plain


def framed(message: bytes, encoding: bytes = b"identity") -> bytes:
    """The message as it travels."""
    bits = WINDOW_BITS.get(encoding)
    if bits is None:
        return _PREFIX.pack(0, len(message)) + message
    deflater = zlib.compressobj(_LEVEL, zlib.DEFLATED, bits)
    squeezed = deflater.compress(message) + deflater.flush()
    return _PREFIX.pack(1, len(squeezed)) + squeezed
