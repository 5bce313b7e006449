"""Request heads, read once: clients repeat them byte for byte, so most are looked up, not parsed.

Only what is plainly a POST with a declared length is read here. Everything that could be
understood in two ways (chunked or repeated lengths, folded lines, HTTP/1.0, Expect, Upgrade, a
connection that wants to close) is left to a full HTTP parser.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

Place = TypeVar("Place")

MAX_HEAD_BYTES = 8192
MAX_KNOWN = 1024
_HEAD = re.compile(
    rb"POST (/[!-$&-~]*) HTTP/1\.1"  # no '%': nobody wants to decode it twice
    # blanks before a value are part of it until it is stripped: with a place of their own there would be two ways
    # to match each, and 2**lines ways to find out that a head does not fit
    rb"((?:\r\n[!#$%&'*+.^_`|~0-9A-Za-z-]+:[\x20-\x7e\x80-\xff\t]*)*)"
)
_ELSEWHERE = (b"transfer-encoding", b"expect", b"upgrade", b"connection")


@dataclass(frozen=True, slots=True)
class Head(Generic[Place]):
    """place: what the path leads to. headers: names in lower case. length: of the body, in bytes."""

    place: Place
    path: str
    headers: dict[bytes, bytes]
    length: int


class Heads(Generic[Place]):
    """The heads seen before, and how to read one that was not.

    place_of: what a path leads to, None if nothing here. admits: whether a place takes requests with
    these headers. Bounded: an attacker with ever new heads costs a parse each, not memory.
    """

    def __init__(
        self,
        place_of: Callable[[str], Place | None],
        admits: Callable[[Place, dict[bytes, bytes]], bool] = lambda place, headers: True,
    ) -> None:
        self._place_of, self._admits = place_of, admits
        self._known: dict[bytes, Head[Place] | None] = {}

    def read(self, raw: bytes) -> Head[Place] | None:
        """The head in these bytes (without the empty line), None if it is for the full parser.

        >>> heads = Heads(lambda path: path if path == "/rank" else None)
        >>> heads.read(b"POST /rank HTTP/1.1\\r\\nContent-Length: 7").length
        7
        >>> heads.read(b"POST /rank HTTP/1.1\\r\\nTransfer-Encoding: chunked") is None
        True
        """
        try:
            return self._known[raw]
        except KeyError:
            head = self._parse(raw)
        if len(self._known) >= MAX_KNOWN:
            self._known.clear()
        self._known[raw] = head
        return head

    def _parse(self, raw: bytes) -> Head[Place] | None:
        matched = _HEAD.fullmatch(raw) if len(raw) <= MAX_HEAD_BYTES else None
        if matched is None:
            return None
        path = matched[1].decode("ascii")
        place = self._place_of(path)
        if place is None:
            return None
        headers: dict[bytes, bytes] = {}
        for line in matched[2].split(b"\r\n")[1:]:
            name, _, value = line.partition(b":")
            name = name.lower()
            if name in headers:
                return None
            headers[name] = value.strip(b" \t")
        if headers.pop(b"connection", b"keep-alive").lower() != b"keep-alive":
            return None
        length = headers.get(b"content-length", b"")
        if any(name in headers for name in _ELSEWHERE) or not length.isdigit() or len(length) > 18:
            return None
        return Head(place, path, headers, int(length)) if self._admits(place, headers) else None
