"""Shared memory regions: within bounds, within the folder, and known to every gateway."""

import itertools
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.errors import QueryRefused
from serving.regions import MAX_REGIONS, Regions, UnknownRegion

CONTENT = bytes(range(64))


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    folder = tmp_path / "shm"
    folder.mkdir()
    (folder / "object").write_bytes(CONTENT)
    return folder


@pytest.fixture
def regions(tmp_path: Path, shared: Path) -> Iterator[Regions]:
    regions = Regions(tmp_path / "regions", shared)
    yield regions
    regions.close()


@pytest.fixture
def others(tmp_path: Path, shared: Path) -> Iterator[Regions]:
    """Another gateway's."""
    regions = Regions(tmp_path / "regions", shared)
    yield regions
    regions.close()


def test_a_slice_reads_what_the_client_wrote_and_writes_what_it_reads(regions: Regions, shared: Path) -> None:
    regions.register("r", "/object", 16, 32)

    part = regions.slice("input 'x'", "r", 4, 8)
    assert part.read() == CONTENT[20:28]
    part.write(b"abc")

    assert (shared / "object").read_bytes() == CONTENT[:20] + b"abc" + CONTENT[23:]


@contextmanager
def a_region_of_32_bytes() -> Iterator[Regions]:
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "object").write_bytes(CONTENT)
        regions = Regions(Path(folder) / "regions", Path(folder))
        regions.register("r", "object", 16, 32)
        yield regions
        regions.close()


@given(st.integers(-5, 40), st.integers(-5, 40))
def test_a_slice_is_within_its_region_or_refused(offset: int, byte_size: int) -> None:
    with a_region_of_32_bytes() as regions:
        if offset >= 0 and byte_size >= 0 and offset + byte_size <= 32:
            assert (
                regions.slice("input 'x'", "r", offset, byte_size).read() == CONTENT[16:48][offset : offset + byte_size]
            )
        else:
            with pytest.raises(QueryRefused, match=r"input 'x'.*region 'r' has 32 bytes"):
                regions.slice("input 'x'", "r", offset, byte_size)


@pytest.mark.parametrize(
    "key", ["", "/", ".", "..", "../object", "/../object", "/a/object", "//object", "a\0b", "x" * 256, "é" * 128]
)
def test_a_key_names_something_in_the_folder_and_nothing_else(regions: Regions, key: str) -> None:
    with pytest.raises(QueryRefused, match=r"key=.*shm_open"):
        regions.register("r", key, 0, 8)


def test_a_link_is_not_followed_and_a_pipe_not_waited_for(regions: Regions, shared: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(CONTENT)
    (shared / "link").symlink_to(tmp_path / "secret")
    os.mkfifo(shared / "pipe")
    (shared / "folder").mkdir()

    for key in ("link", "pipe", "folder", "nothing", "\ud800"):
        with pytest.raises(QueryRefused, match="key="):
            regions.register("r", key, 0, 8)
    assert regions.status() == []


@pytest.mark.parametrize(
    ("name", "offset", "byte_size", "rule"),
    [
        ("r", 0, 65, "the object 'object' has 64 bytes"),
        ("r", 60, 5, "the object 'object' has 64 bytes"),
        ("r", -1, 8, "offset=-1"),
        ("r", 0, 0, "byte_size=0"),
        ("r", 0, 2**70, "byte_size="),
        ("", 0, 8, "region"),
        ("a\nb", 0, 8, "region"),
    ],
)
def test_a_region_is_within_its_object(regions: Regions, name: str, offset: int, byte_size: int, rule: str) -> None:
    with pytest.raises(QueryRefused, match=rule):
        regions.register(name, "object", offset, byte_size)


def test_a_name_is_registered_once_until_it_is_unregistered(regions: Regions) -> None:
    regions.register("r", "object", 0, 8)
    with pytest.raises(QueryRefused, match="region 'r': registered already"):
        regions.register("r", "object", 8, 8)

    regions.unregister("r")
    regions.register("r", "object", 8, 8)

    assert regions.slice("x", "r", 0, 8).read() == CONTENT[8:16]


def test_a_registration_reaches_every_gateway_and_so_does_its_end(regions: Regions, others: Regions) -> None:
    regions.register("a", "object", 0, 8)
    others.register("b", "/object", 8, 8)

    assert [one.name for one in regions.status()] == [one.name for one in others.status()] == ["a", "b"]
    assert others.slice("x", "a", 0, 8).read() == CONTENT[:8]
    assert regions.slice("x", "b", 0, 8).read() == CONTENT[8:16]

    others.unregister("a")
    with pytest.raises(QueryRefused, match=r"shared_memory_region='a' is not registered"):
        regions.slice("x", "a", 0, 8)

    regions.unregister()
    assert others.status() == []
    with pytest.raises(UnknownRegion, match="region 'b'"):
        others.status("b")


def test_a_region_registered_anew_is_the_new_one_to_every_gateway(regions: Regions, others: Regions) -> None:
    regions.register("r", "object", 0, 8)
    assert others.slice("x", "r", 0, 8).read() == CONTENT[:8]

    regions.unregister("r")
    regions.register("r", "object", 32, 16)

    assert others.slice("x", "r", 8, 8).read() == CONTENT[40:48]


def test_registrations_outlive_a_gateway(regions: Regions, tmp_path: Path, shared: Path) -> None:
    regions.register("r", "object", 0, 8)
    again = Regions(tmp_path / "regions", shared)

    assert again.slice("x", "r", 0, 8).read() == CONTENT[:8]
    again.close()


def test_an_object_made_anew_under_its_key_is_not_taken_for_the_old_one(
    regions: Regions, others: Regions, shared: Path
) -> None:
    regions.register("r", "object", 0, 8)
    (shared / "new").write_bytes(b"another!")
    (shared / "new").replace(shared / "object")

    with pytest.raises(QueryRefused, match=r"input 'x'.*register it again"):
        others.slice("input 'x'", "r", 0, 8)
    assert regions.slice("x", "r", 0, 8).read() == CONTENT[:8]


def test_an_object_that_shrinks_is_refused_and_does_not_grow_again(regions: Regions, shared: Path) -> None:
    regions.register("r", "object", 0, 64)
    part = regions.slice("input 'x'", "r", 0, 64)
    os.truncate(shared / "object", 10)

    with pytest.raises(QueryRefused, match=r"input 'x'.*'r' has shrunk"):
        part.read()
    with pytest.raises(QueryRefused, match="has shrunk"):
        part.write(bytes(64))
    assert (shared / "object").stat().st_size == 10


def test_a_result_that_does_not_fit_is_refused(regions: Regions, shared: Path) -> None:
    regions.register("r", "object", 0, 64)

    with pytest.raises(QueryRefused, match="output 's': shared_memory_byte_size=4, expected at least 5"):
        regions.slice("output 's'", "r", 0, 4).write(b"12345")
    assert (shared / "object").read_bytes() == CONTENT


def test_a_slice_outlives_its_registration(regions: Regions, shared: Path) -> None:
    """Its descriptor must not become that of something else while a query is under way."""
    regions.register("r", "object", 0, 8)
    part = regions.slice("output 's'", "r", 0, 8)
    regions.unregister()
    opened = [os.open(shared / f"file-{i}", os.O_RDWR | os.O_CREAT) for i in range(8)]

    part.write(b"answered")

    assert (shared / "object").read_bytes()[:8] == b"answered"
    assert all((shared / f"file-{i}").stat().st_size == 0 for i in range(8))
    for file in opened:
        os.close(file)


def test_regions_are_bounded(regions: Regions) -> None:
    for i in range(MAX_REGIONS):
        regions.register(f"r{i}", "object", 0, 8)

    with pytest.raises(QueryRefused, match=f"{MAX_REGIONS} regions are registered"):
        regions.register("one more", "object", 0, 8)


def test_a_damaged_book_is_an_empty_one(regions: Regions, others: Regions, tmp_path: Path) -> None:
    regions.register("r", "object", 0, 8)
    raw = bytearray((tmp_path / "regions").read_bytes())
    raw[0] += 1
    raw[20:] = itertools.repeat(0xFF, len(raw) - 20)
    (tmp_path / "regions").write_bytes(raw)

    assert others.status() == []
    others.register("r", "object", 0, 8)
    assert [one.name for one in regions.status()] == ["r"]
