"""A call as its method sees it, and the statuses that end it.

Sources: gRPC over HTTP/2 (PROTOCOL-HTTP2.md); the table of errors in `serving.errors`.
"""

import math
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Protocol
from urllib.parse import quote

from registry.contracts.traces import Trace
from serving import metrics
from serving.errors import DeadlineExceeded, RankingError

MAX_STATUS_BYTES = 4096
_PRINTABLE = "".join(map(chr, range(0x20, 0x7F))).replace("%", "")
_CUT_ESCAPE = re.compile("%.?$")


class Code(IntEnum):
    """gRPC's status codes, as far as we use them."""

    OK = 0
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    UNAUTHENTICATED = 16


_CODES = {
    401: Code.UNAUTHENTICATED,
    403: Code.PERMISSION_DENIED,
    404: Code.NOT_FOUND,
    405: Code.UNIMPLEMENTED,
    408: Code.DEADLINE_EXCEEDED,
    429: Code.RESOURCE_EXHAUSTED,
    501: Code.UNIMPLEMENTED,
    503: Code.UNAVAILABLE,
    504: Code.DEADLINE_EXCEEDED,
}


@dataclass(frozen=True, slots=True)
class Status:
    """How a call ends. fields: trailing metadata beside code and message."""

    code: Code
    message: str
    fields: tuple[tuple[bytes, bytes], ...] = ()

    @staticmethod
    def of(error: RankingError) -> "Status":
        """The status that an error becomes; the message is what HTTP says, too.

        >>> Status.of(DeadlineExceeded("too late")).code.name
        'DEADLINE_EXCEEDED'
        """
        code = _CODES.get(error.status, Code.INVALID_ARGUMENT if error.status < 500 else Code.INTERNAL)
        after_s = error.retry_after_s
        hints = () if after_s is None else ((b"retry-after", b"%d" % max(1, math.ceil(after_s))),)
        return Status(code, str(error), hints)

    def trailers(self) -> list[tuple[bytes, bytes]]:
        """As header fields."""
        return [
            (b"grpc-status", b"%d" % self.code),
            *([(b"grpc-message", percent_encoded(self.message))] if self.message else []),
            *self.fields,
        ]


OK = Status(Code.OK, "")
BUG = Status(Code.INTERNAL, "internal error, see the gateway's log")


def percent_encoded(message: str) -> bytes:
    """A status message as a header's value; cut where a client's limit on headers would be in danger.

    >>> percent_encoded("100 % of 3 µs")
    b'100 %25 of 3 %C2%B5s'
    """
    encoded = quote(message[:MAX_STATUS_BYTES], safe=_PRINTABLE, errors="replace")
    if len(encoded) > MAX_STATUS_BYTES:
        encoded = _CUT_ESCAPE.sub("", encoded[:MAX_STATUS_BYTES])
    return encoded.encode("ascii")


class Call:
    """One call. fields: its metadata. deadline_s: by `clock`, None if the client set none.

    trace: the caller's, or begun when somebody asks. hints: what its method has to say in the
    answer's initial metadata; of unary calls.
    """

    __slots__ = ("_begin_trace", "_trace", "clock", "deadline_s", "fields", "hints", "path")

    def __init__(
        self,
        path: str,
        fields: Mapping[bytes, bytes],
        deadline_s: float | None,
        clock: Callable[[], float],
        trace: Trace | None,
        begin_trace: Callable[[], Trace],
    ) -> None:
        self.path, self.fields, self.deadline_s, self.clock = path, fields, deadline_s, clock
        self._trace, self._begin_trace = trace, begin_trace
        self.hints: tuple[tuple[bytes, bytes], ...] = ()

    @property
    def trace(self) -> Trace:
        """The one it belongs to."""
        if self._trace is None:
            self._trace = self._begin_trace()
        return self._trace

    def deadline_ms(self, asked_ms: int | None, default_ms: int, limit_ms: int) -> int:
        """How long the answer may take: what the request asks for and the call's deadline allow, at
        most `limit_ms`, or the default if neither says anything.

        Raises DeadlineExceeded if there is no time left.
        """
        if self.deadline_s is None:
            return default_ms if asked_ms is None else asked_ms
        left_ms = int((self.deadline_s - self.clock()) * 1000)
        if left_ms < 1:
            metrics.DEADLINES.labels("gateway").inc()
            raise DeadlineExceeded("the call's deadline passed before it was begun")
        return min(left_ms, limit_ms if asked_ms is None else asked_ms)


class Conversation(Protocol):
    """A streaming call's messages."""

    async def receive(self) -> bytes | memoryview | None:
        """The client's next message; None if there will be no more. Raises RankingError if it is none."""
        ...

    async def send(self, message: bytes) -> None:
        """Returns when there is room for another."""
        ...


Answer = Callable[[Call, bytes | memoryview], Awaitable[bytes]]
Done = Callable[[bytes | Exception], None]
Begin = Callable[[Call, bytes | memoryview, Done], Callable[[], None] | None]
Converse = Callable[[Call, Conversation], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Method:
    """What a path leads to: one of `answer` and `converse`. max_bytes: of a message from the client.

    Both raise RankingError for what the client did or must know.
    open: whether everybody may call it, also where queries need a key.
    asked_once: whether `converse` takes one message and no more.
    begin: a shorter way for some of what `answer` answers, without a coroutine: calls its third
    argument once, later, with the answer or why there is none, and returns how to take the call
    back; returns None for what must go the long way.
    """

    path: str
    max_bytes: int
    answer: Answer | None = None
    begin: Begin | None = None
    converse: Converse | None = None
    open: bool = False
    asked_once: bool = False


Methods = Mapping[str, Method]
