"""Bodies in gzip and deflate: as tritonclient packs them, and never larger than agreed."""

import asyncio
import gzip
import tracemalloc
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.compression import IN_PLACE_BYTES, compressed, decompressed, unpacked_aside, wanted_encoding
from serving.errors import BodyTooLarge, QueryRefused, WrongContentType

LIMIT = 1 << 20


@given(st.binary(max_size=1000), st.sampled_from([b"gzip", b"deflate"]))
def test_unpacking_gives_back_what_was_packed(body: bytes, encoding: bytes) -> None:
    assert decompressed(compressed(body, encoding), encoding, LIMIT) == body


@given(st.binary(max_size=1000))
def test_the_encodings_are_those_of_the_standard_library(body: bytes) -> None:
    assert decompressed(gzip.compress(body, mtime=0), b"gzip", LIMIT) == body
    assert decompressed(zlib.compress(body), b"Deflate", LIMIT) == body
    assert gzip.decompress(compressed(body, b"gzip")) == body
    assert zlib.decompress(compressed(body, b"deflate")) == body


@pytest.mark.parametrize("encoding", [b"gzip", b"deflate"])
def test_a_bomb_is_refused_before_it_is_unpacked(encoding: bytes) -> None:
    bomb = compressed(bytes(100 << 20), encoding)
    tracemalloc.start()
    try:
        with pytest.raises(BodyTooLarge, match=f"more than {LIMIT} bytes after decompression"):
            decompressed(bomb, encoding, LIMIT)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert peak_bytes < 4 * LIMIT


@pytest.mark.parametrize(("size", "at_once"), [(0, True), (IN_PLACE_BYTES, True), (IN_PLACE_BYTES + 1, False)])
def test_whether_a_loop_waits_is_decided_by_what_comes_out(size: int, at_once: bool) -> None:
    async def scenario() -> tuple[bool, bytes]:
        unpacking = asyncio.create_task(unpacked_aside(compressed(bytes(size), b"gzip"), b"gzip", LIMIT))
        await asyncio.sleep(0)
        return unpacking.done(), await unpacking

    assert asyncio.run(scenario()) == (at_once, bytes(size))


def test_a_body_of_just_the_limit_passes() -> None:
    assert len(decompressed(compressed(bytes(LIMIT), b"gzip"), b"gzip", LIMIT)) == LIMIT


@pytest.mark.parametrize(
    ("body", "rule"),
    [
        (b"no gzip at all", "not in content-encoding gzip"),
        (b"", "ends too early"),
        (gzip.compress(b"abc", mtime=0)[:-4], "ends too early"),
        (gzip.compress(b"abc", mtime=0) + b"more", "something follows"),
        (zlib.compress(b"abc"), "not in content-encoding gzip"),
    ],
)
def test_a_body_that_is_not_what_it_says_is_refused(body: bytes, rule: str) -> None:
    with pytest.raises(QueryRefused, match=rule):
        decompressed(body, b"gzip", LIMIT)


def test_another_encoding_is_refused_naming_those_that_are_taken() -> None:
    with pytest.raises(WrongContentType, match="content-encoding=br: expected gzip or deflate"):
        decompressed(b"", b"br", LIMIT)


@pytest.mark.parametrize(
    ("accepted", "wanted"),
    [
        (b"gzip", b"gzip"),
        (b"Deflate", b"deflate"),
        (b"gzip;q=0.5", b"gzip"),
        (b"gzip;q=0", None),
        (b"gzip; q=0.00", None),
        (b"gzip, deflate, br", None),
        (b"identity", None),
        (b"*", None),
        (b"", None),
    ],
)
def test_only_a_client_that_names_one_encoding_gets_it(accepted: bytes, wanted: bytes | None) -> None:
    assert wanted_encoding(accepted) == wanted
