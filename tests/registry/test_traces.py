"""Trace context, held against OpenTelemetry's own."""

import random

from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.trace import get_current_span
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from registry.contracts.traces import Trace, parse_traceparent, traceparent

VALID = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
HEX = "0123456789abcdef"


def theirs(header: str) -> Trace | None:
    """What OpenTelemetry reads of it."""
    context = TraceContextTextMapPropagator().extract({"traceparent": header})
    found = get_current_span(context).get_span_context()
    if not found.is_valid:
        return None
    return Trace(f"{found.trace_id:032x}", f"{found.span_id:016x}", found.trace_flags.sampled)


@st.composite
def nearly_headers(draw: st.DrawFn) -> str:
    """A valid header with a letter or two changed, cut, or something behind it."""
    text = list(VALID)
    for _ in range(draw(st.integers(0, 3))):
        text[draw(st.integers(0, len(text) - 1))] = draw(st.sampled_from(HEX + "-fgG "))
    kept = draw(st.integers(len(text) - 4, len(text)))
    return "".join(text[:kept]) + draw(st.sampled_from(["", "", "-", "-01", "x"]))


@given(nearly_headers())
def test_a_header_is_read_as_opentelemetry_reads_it(header: str) -> None:
    assert parse_traceparent(header.encode()) == theirs(header)


@given(st.binary(max_size=80))
def test_no_bytes_break_it(header: bytes) -> None:
    found = parse_traceparent(header)

    assert found is None or len(found.trace_id) == 32


@given(st.integers(1, 2**128 - 1), st.integers(1, 2**64 - 1), st.booleans())
def test_what_is_written_is_read_again(trace: int, span: int, sampled: bool) -> None:
    header = traceparent(f"{trace:032x}", f"{span:016x}", sampled)

    assert parse_traceparent(header.encode()) == Trace(f"{trace:032x}", f"{span:016x}", sampled)


@given(st.integers(1, 2**128 - 1), st.floats(0, 1))
def test_a_trace_is_drawn_by_its_id_alone_as_in_the_standard(trace: int, ratio: float) -> None:
    low56 = trace & ((1 << 56) - 1)

    assert Trace(f"{trace:032x}").drawn(ratio) == (low56 >= (1 - ratio) * 2**56)


def test_about_the_share_asked_for_is_drawn() -> None:
    source = random.Random(7)
    drawn = sum(Trace(f"{source.getrandbits(128):032x}").drawn(0.1) for _ in range(20_000))

    assert abs(drawn - 2000) < 4 * (20_000 * 0.09) ** 0.5  # four standard errors


def test_nothing_and_everything_can_be_asked_for() -> None:
    for digit in "0f":
        assert not Trace(digit * 32).drawn(0.0)
        assert Trace(digit * 32).drawn(1.0)
