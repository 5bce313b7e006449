"""Header fields: HPACK read by the `hpack` package, a block that repeats looked up; ours written plainly.

Sources: RFC 7541 (HPACK); gRPC over HTTP/2 (PROTOCOL-HTTP2.md).
"""

from collections.abc import Callable, Iterable
from typing import Generic, TypeVar

from hpack import Decoder, HPACKError, OversizedHeaderListError
from hpack.table import HeaderTable

from serving.gateway.grpc.frames import ConnectionBroken, Reason

Head = TypeVar("Head")

MAX_KNOWN = 64
_NO_INDEXING, _STATUS_200 = b"\x00", b"\x88"
_SIZE_UPDATE_MASK, _SIZE_UPDATE = 0xE0, 0x20  # how a block begins that changes the table's size (RFC 7541, 6.3)


class _WatchedTable(HeaderTable):
    """Knows whether a block added to it: until then the same bytes mean the same fields."""

    def __init__(self) -> None:
        super().__init__()
        self.changed = False

    def add(self, name: bytes, value: bytes) -> None:
        """See HeaderTable."""
        self.changed = True
        super().add(name, value)


class FieldReader(Generic[Head]):
    """The header blocks of one connection. understand: what is to be made of the fields, in lower case.

    A client of a few methods sends the same few bytes again and again: decoding and understanding
    them is done once.
    """

    def __init__(self, understand: Callable[[list[tuple[bytes, bytes]]], Head], max_bytes: int) -> None:
        self._understand = understand
        self._decoder = Decoder(max_header_list_size=max_bytes)
        self._table = _WatchedTable()
        self._decoder.header_table = self._table
        self._known: dict[bytes, Head] = {}

    def read(self, block: bytes) -> Head:
        """What the block's fields mean. Raises ConnectionBroken if they cannot be decoded."""
        known = self._known.get(block)
        if known is not None:
            return known
        self._table.changed = block[:1] != b"" and block[0] & _SIZE_UPDATE_MASK == _SIZE_UPDATE
        try:
            fields = [(bytes(name), bytes(value)) for name, value in self._decoder.decode(block, raw=True)]
        except OversizedHeaderListError as error:
            raise ConnectionBroken(Reason.ENHANCE_YOUR_CALM, str(error)) from error
        except HPACKError as error:
            raise ConnectionBroken(Reason.COMPRESSION_ERROR, str(error)) from error
        head = self._understand(fields)
        if self._table.changed or len(self._known) >= MAX_KNOWN:
            self._known.clear()
        if not self._table.changed:
            self._known[block] = head
        return head


def field_block(fields: Iterable[tuple[bytes, bytes]], status: bytes = b"") -> bytes:
    """Fields as literals that neither side has to remember; with status 200 in front, or another.

    >>> field_block([(b"grpc-status", b"0")])
    b'\\x00\\x0bgrpc-status\\x010'
    """
    parts = [] if not status else [_STATUS_200] if status == b"200" else [_literal(b":status", status)]
    parts += (_literal(name, value) for name, value in fields)
    return b"".join(parts)


def _literal(name: bytes, value: bytes) -> bytes:
    return b"".join((_NO_INDEXING, _length(len(name)), name, _length(len(value)), value))


def _length(number: int) -> bytes:
    """An integer with a prefix of seven bits (RFC 7541, 5.1)."""
    if number < 127:
        return bytes((number,))
    number -= 127
    rest = [127]
    while number >= 128:
        rest.append(number & 127 | 128)
        number >>= 7
    return bytes((*rest, number))
