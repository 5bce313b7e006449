"""System shared memory regions: tensors of clients on this host, read and written in place.

A region names bytes of a POSIX shared memory object. The book of them is a file that all gateways
of a machine share: one writes it under a lock, the others see by its revision that it changed.

Bytes go through `pread` and `pwrite`, not through a mapping: a client that shrinks its object would
kill a gateway that has it mapped (SIGBUS), and gets a refusal here. Each gateway opens an object when
it first needs it, so a client unlinks it only when it is done.

Source: Open Inference Protocol v2, system shared memory extension; shm_open(3).
"""

import contextlib
import fcntl
import logging
import os
import stat
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec

from registry.contracts.errors import UNDECODABLE, InvalidName
from registry.contracts.ids import check_id
from serving.errors import QueryRefused, RankingError, UnknownModel

log = logging.getLogger(__name__)

SHARED_MEMORY = Path("/dev/shm")
REGIONS_OFF = "shared memory regions are off: start the platform with SLUICE_SHARED_MEMORY_REGIONS=1"
MAX_REGIONS = 256
MAX_REGION_BYTES = 1 << 40
_HEAD = struct.Struct("<QI")  # revision, bytes of JSON
_REVISIONS = 1 << 64


class UnknownRegion(UnknownModel):
    """No region is registered under this name."""


class Region(msgspec.Struct, frozen=True):
    """offset, byte_size: of the region in the object. inode: of the object, so that another of the
    same key is not taken for it."""

    name: str
    key: str
    offset: int
    byte_size: int
    inode: int


class SharedObject:
    """An open shared memory object; closed when nobody holds it: a slice may outlive its registration."""

    def __init__(self, file: int) -> None:
        found = os.fstat(file)
        self.file, self.inode, self.size, self.mode = file, found.st_ino, found.st_size, found.st_mode

    def __del__(self) -> None:
        os.close(self.file)


@dataclass(frozen=True, slots=True)
class RegionSlice:
    """Bytes of a region, checked against its bounds. start: in the object."""

    field: str
    region: str
    shared: SharedObject
    start: int
    byte_size: int

    def read(self) -> bytes:
        """Its bytes now. Raises QueryRefused if the object has become shorter."""
        data = os.pread(self.shared.file, self.byte_size, self.start)
        if len(data) < self.byte_size:
            raise QueryRefused(f"{self.field}: the object of shared memory region {self.region!r} has shrunk")
        return data

    def write(self, data: bytes | memoryview) -> None:
        """Fills its beginning. Raises QueryRefused if it has no room."""
        if len(data) > self.byte_size:
            raise QueryRefused(
                f"{self.field}: shared_memory_byte_size={self.byte_size}, expected at least {len(data)} for the result"
            )
        if os.fstat(self.shared.file).st_size < self.start + len(data):  # pwrite would grow it again
            raise QueryRefused(f"{self.field}: the object of shared memory region {self.region!r} has shrunk")
        if os.pwrite(self.shared.file, data, self.start) < len(data):
            raise RankingError(f"{self.field}: shared memory region {self.region!r} took only part of the result")


class Regions:
    """book: the file with the registrations. folder: where shared memory objects are."""

    def __init__(self, book: Path, folder: Path = SHARED_MEMORY) -> None:
        self._folder = folder
        self._book = os.open(book, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._revision = -1
        self._regions: dict[str, Region] = {}
        self._objects: dict[str, SharedObject] = {}

    def close(self) -> None:
        """Lets go of everything; registrations stay."""
        self._objects.clear()
        os.close(self._book)

    def register(self, name: str, key: str, offset: int, byte_size: int) -> None:
        """Registers part of an object. Raises QueryRefused naming the field and the rule."""
        try:
            check_id("region", name)
        except InvalidName as error:
            raise QueryRefused(str(error)) from error
        if offset < 0:
            raise QueryRefused(f"offset={offset}: expected 0 or more")
        if not 1 <= byte_size <= MAX_REGION_BYTES:
            raise QueryRefused(f"byte_size={byte_size}: expected 1 to {MAX_REGION_BYTES}")
        shared = self._open(key)
        if offset + byte_size > shared.size:
            raise QueryRefused(f"byte_size={byte_size} at offset={offset}: the object {key!r} has {shared.size} bytes")
        with self._changing() as regions:
            if name in regions:
                raise QueryRefused(f"region {name!r}: registered already, unregister it first")
            if len(regions) >= MAX_REGIONS:
                raise QueryRefused(f"region {name!r}: {MAX_REGIONS} regions are registered, unregister one first")
            regions[name] = Region(name, key, offset, byte_size, shared.inode)
        self._objects[name] = shared

    def unregister(self, name: str | None = None) -> None:
        """Forgets the region, or all of them. One that is not registered is forgotten already."""
        with self._changing() as regions:
            if name is None:
                regions.clear()
            else:
                regions.pop(name, None)

    def status(self, name: str | None = None) -> list[Region]:
        """The region, or all of them by name. Raises UnknownRegion."""
        self._follow()
        if name is None:
            return [region for _, region in sorted(self._regions.items())]
        return [self._region(f"region {name[:64]!r}", name)]

    def slice(self, field: str, name: str, offset: int, byte_size: int) -> RegionSlice:
        """Part of a region. field: what to call it in errors. offset: in the region.

        Raises QueryRefused, naming field and rule, if there is no such region or part.
        """
        self._follow()
        region = self._regions.get(name)
        if region is None:
            raise QueryRefused(f"{field}: shared_memory_region={name[:64]!r} is not registered")
        if offset < 0 or byte_size < 0 or offset + byte_size > region.byte_size:
            raise QueryRefused(
                f"{field}: shared_memory_offset={offset} and shared_memory_byte_size={byte_size}, "
                f"but region {name!r} has {region.byte_size} bytes"
            )
        try:
            shared = self._object(region)
        except QueryRefused as error:
            raise QueryRefused(f"{field}: shared_memory_region={name!r}: {error}") from error
        return RegionSlice(field, name, shared, region.offset + offset, byte_size)

    def _region(self, field: str, name: str) -> Region:
        region = self._regions.get(name)
        if region is None:
            raise UnknownRegion(f"{field}: no such shared memory region is registered")
        return region

    def _object(self, region: Region) -> SharedObject:
        """What the region is part of, opened on first use in this process."""
        shared = self._objects.get(region.name)
        if shared is None:
            shared = self._open(region.key)
            if shared.inode != region.inode:
                raise QueryRefused(f"key={region.key!r}: made anew since it was registered, register it again")
            self._objects[region.name] = shared
        return shared

    def _open(self, key: str) -> SharedObject:
        """The object with this key: a name in the folder and nothing else."""
        name = key.removeprefix("/")
        if not name or "/" in name or "\x00" in name or name in (".", "..") or len(name.encode(errors="replace")) > 255:
            raise QueryRefused(f"key={key[:64]!r}: expected the name of a shared memory object, as for shm_open")
        try:
            # a link or a pipe of that name is not followed and not waited for
            file = os.open(self._folder / name, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except (OSError, UnicodeEncodeError) as error:
            raise QueryRefused(f"key={key[:64]!r}: the object cannot be opened ({error})") from error
        shared = SharedObject(file)
        if not stat.S_ISREG(shared.mode):
            raise QueryRefused(f"key={key[:64]!r}: expected a shared memory object, not a device, pipe or socket")
        return shared

    @contextlib.contextmanager
    def _changing(self) -> Iterator[dict[str, Region]]:
        """The registrations, to be changed by one process at a time."""
        fcntl.flock(self._book, fcntl.LOCK_EX)
        try:
            self._load()
            regions = dict(self._regions)
            yield regions
            text = msgspec.json.encode(list(regions.values()))
            os.pwrite(self._book, _HEAD.pack((self._revision + 1) % _REVISIONS, len(text)) + text, 0)
        finally:
            fcntl.flock(self._book, fcntl.LOCK_UN)
        self._follow()

    def _follow(self) -> None:
        """Reads the book again if another revision is in it."""
        head = os.pread(self._book, _HEAD.size, 0)
        if len(head) == _HEAD.size and _HEAD.unpack(head)[0] == self._revision:
            return
        fcntl.flock(self._book, fcntl.LOCK_SH)
        try:
            self._load()
        finally:
            fcntl.flock(self._book, fcntl.LOCK_UN)

    def _load(self) -> None:
        """Under the lock."""
        head = os.pread(self._book, _HEAD.size, 0)
        revision, size = _HEAD.unpack(head) if len(head) == _HEAD.size else (0, 0)
        if revision == self._revision:
            return
        # a damaged head may claim anything: what is read is bounded by what is there
        there = os.fstat(self._book).st_size - _HEAD.size
        text = os.pread(self._book, min(size, there), _HEAD.size) if size else b"[]"
        try:
            regions = msgspec.json.decode(text, type=list[Region])
        except UNDECODABLE:
            log.error("the book of shared memory regions is damaged and taken for empty: clients must register again")
            regions = []
        known, self._regions, self._revision = self._regions, {region.name: region for region in regions}, revision
        self._objects = {
            name: shared for name, shared in self._objects.items() if known.get(name) == self._regions.get(name)
        }
