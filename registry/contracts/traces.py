"""Traces: which one a request belongs to (W3C trace context), and the spans that tell of it."""

import random
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

_TRACEPARENT = re.compile(rb"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_SAMPLED = 0x01
_NO_TRACE, _NO_SPAN = b"0" * 32, b"0" * 16
_DRAWN_DIGITS = 14  # the 56 random bits of a trace id

Kind = Literal["server", "client", "internal", "producer", "consumer"]
Value = str | int | float | bool


class Trace(NamedTuple):
    """trace_id: 32 hex digits. parent_id: the caller's span, 16 hex digits; empty: the trace begins here.
    sampled: what the caller decided, None if nobody has."""

    trace_id: str
    parent_id: str = ""
    sampled: bool | None = None

    def drawn(self, ratio: float) -> bool:
        """Whether it is among that share of traces, the same wherever it is asked.

        Source: OpenTelemetry, TraceState probability sampling: kept if the 56 random bits of the trace id (W3C Trace
        Context level 2) are not below the rejection threshold.

        >>> Trace("0" * 18 + "7" * 14).drawn(0.5), Trace("0" * 18 + "8" * 14).drawn(0.5)
        (False, True)
        """
        return int(self.trace_id[-_DRAWN_DIGITS:], 16) >= (1 - ratio) * (1 << 4 * _DRAWN_DIGITS)


def new_trace(source: random.Random) -> Trace:
    """One that begins here."""
    return Trace(f"{source.getrandbits(128) or 1:032x}")


UNTRACED = Trace("", sampled=False)
"""Of what nobody asked for by a request of its own."""


def parse_traceparent(header: bytes) -> Trace | None:
    """The caller's; None if there is none or it says nothing that can be followed.

    Of versions to come what this one knows is read, as the standard asks for.

    Source: https://www.w3.org/TR/trace-context/

    >>> parse_traceparent(b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")
    Trace(trace_id='4bf92f3577b34da6a3ce929d0e0e4736', parent_id='00f067aa0ba902b7', sampled=True)
    """
    found = _TRACEPARENT.fullmatch(header)
    if found is None:
        return None
    version, trace_id, parent_id, flags, more = found.groups()
    if version == b"ff" or (version == b"00" and more) or trace_id == _NO_TRACE or parent_id == _NO_SPAN:
        return None
    return Trace(trace_id.decode(), parent_id.decode(), bool(int(flags, 16) & _SAMPLED))


def traceparent(trace_id: str, span_id: str, sampled: bool) -> str:
    """The header for who is asked next."""
    return f"00-{trace_id}-{span_id}-{_SAMPLED if sampled else 0:02x}"


@dataclass(frozen=True, slots=True)
class Span:
    """trace_id, span_id, parent_id: hex digits, 32 and 16; parent_id is empty at the root. service: whose work it
    was. start_ns, end_ns: since the epoch. error: what went wrong; empty if nothing did."""

    trace_id: str
    span_id: str
    parent_id: str
    name: str
    kind: Kind
    service: str
    start_ns: int
    end_ns: int
    attributes: Mapping[str, Value] = field(default_factory=dict)
    error: str = ""
