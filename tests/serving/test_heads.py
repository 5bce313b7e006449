"""What the short way takes for plain, and what it leaves to a full HTTP parser."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.gateway.heads import MAX_KNOWN, Heads

PLAIN = b"POST /rank HTTP/1.1\r\nHost: a\r\nContent-Length: 12\r\nX-Empty:\r\nContent-Type:  application/json "


def heads() -> Heads[str]:
    return Heads(lambda path: path if path == "/rank" else None)


def test_a_plain_head_is_read_and_remembered() -> None:
    known = heads()

    first, second = known.read(PLAIN), known.read(PLAIN)

    assert first is second
    assert first is not None
    assert (first.path, first.length) == ("/rank", 12)
    assert first.headers[b"content-type"] == b"application/json"
    assert first.headers[b"x-empty"] == b""


ELSEWHERE = {
    "another path": PLAIN.replace(b"/rank", b"/docs"),
    "another method": PLAIN.replace(b"POST", b"PUT"),
    "an escaped path": PLAIN.replace(b"/rank", b"/%72ank"),
    "an older protocol": PLAIN.replace(b"1.1", b"1.0"),
    "no length": PLAIN.replace(b"Content-Length", b"X-Length"),
    "two lengths": PLAIN + b"\r\nContent-Length: 13",
    "two equal lengths": PLAIN + b"\r\ncontent-length: 12",
    "a signed length": PLAIN.replace(b"12", b"+12"),
    "chunks": PLAIN + b"\r\nTransfer-Encoding: chunked",
    "a connection that closes": PLAIN + b"\r\nConnection: close",
    "an upgrade": PLAIN + b"\r\nUpgrade: h2c",
    "an expectation": PLAIN + b"\r\nExpect: 100-continue",
    "a folded line": PLAIN + b"\r\n folded: yes",
    "a space before the colon": PLAIN.replace(b"Content-Length:", b"Content-Length :"),
    "a bare line feed": PLAIN.replace(b"\r\nHost", b"\nHost"),
    "a line without a colon": PLAIN + b"\r\nnonsense",
    "a NUL": PLAIN + b"\r\nX-A: \x00",
}


@pytest.mark.parametrize("raw", ELSEWHERE.values(), ids=ELSEWHERE)
def test_what_could_be_understood_in_two_ways_is_left_to_the_full_parser(raw: bytes) -> None:
    known = heads()

    assert known.read(raw) is None
    assert known.read(raw) is None  # nor from memory


@given(st.binary(max_size=200))
def test_garbage_is_left_to_the_full_parser(raw: bytes) -> None:
    assert heads().read(raw) is None


def test_many_lines_of_a_head_that_fits_nowhere_are_looked_at_once() -> None:
    """Each line that could be matched in two ways would double the work: this one would not end."""
    lines = b"".join(b"\r\nX-%d: \t a" % number for number in range(300))

    assert heads().read(PLAIN + lines + b"\r\nX-Last: \x01") is None
    assert heads().read(PLAIN + lines) is not None


def test_ever_new_heads_cost_no_memory() -> None:
    known = heads()

    for number in range(3 * MAX_KNOWN):
        assert known.read(PLAIN + b"\r\nX-N: %d" % number) is not None

    assert len(known._known) <= MAX_KNOWN


def test_a_head_that_the_place_does_not_admit_is_left_to_the_full_parser() -> None:
    picky = Heads(lambda path: path, lambda path, headers: headers[b"host"] == b"a")

    assert picky.read(PLAIN) is not None
    assert picky.read(PLAIN.replace(b"Host: a", b"Host: b")) is None
