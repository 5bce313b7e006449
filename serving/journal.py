"""A bounded, crash-safe queue in a memory-mapped file.

Appending is a copy into memory, no system call; the pages belong to the kernel, so that what was
appended is there after a kill -9 of the process (not after a power cut: Redis' own log is for
that). One process owns a journal, guarded by a file lock.

    header, 64 bytes: two marks, written in turn
    mark: u64 turn | u64 sequence of the next entry to release | u64 its offset | u64 check
    entry: u32 length | u32 check | u64 sequence | payload, padded to 8 bytes

The file is a ring: an entry that does not fit before the end starts over at the front. Length 0
at an entry's place, a wrong check or a sequence out of step means that nothing follows. A mark torn
by a kill leaves the one before it, so that some entries come again.
"""

import fcntl
import mmap
import os
import struct
import threading
from pathlib import Path
from types import TracebackType

import xxhash

_LAYOUT = b"SLUICEJ2"  # part of a mark's check: marks of another layout do not count
_HEADER_BYTES = 64
_MARK = struct.Struct("<QQQ")
_MARK_CHECK = struct.Struct("<Q")
_ENTRY = struct.Struct("<IIQ")
_WRAP = 0xFFFFFFFF
_START_OVER_BYTES = 4 << 20


class JournalFull(Exception):
    """No room until older entries are released."""


class JournalInUse(Exception):
    """Another process owns the file."""


class Journal:
    """First in, first out; `append` by one thread, `peek` and `release` by another.

    capacity_bytes: of entries, fixed when the file is made.
    Raises JournalInUse; OSError if there is no room for it.
    """

    def __init__(self, path: Path, capacity_bytes: int) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._file)
            raise JournalInUse(f"{path} belongs to a running process") from error
        size = os.fstat(self._file).st_size
        fresh = size < _HEADER_BYTES + _ENTRY.size
        if fresh:
            size = _HEADER_BYTES + (capacity_bytes + 7) // 8 * 8
            try:
                os.posix_fallocate(self._file, 0, size)  # a full disk is an error now, not a crash later
            except OSError:
                os.ftruncate(self._file, 0)  # what there was room for would be taken for a small journal
                os.close(self._file)
                raise
        self._map = mmap.mmap(self._file, size)
        self._end = size // 8 * 8  # entries end at multiples of 8, also in a file that was cut
        self._lock = threading.Lock()
        self._turn, self._read_sequence, self._read_at = self._newest_mark()
        self._sequence, self._write_at = self._read_sequence, self._read_at
        self._recover()

    def __enter__(self) -> "Journal":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def capacity_bytes(self) -> int:
        """Bytes that fit in, headers included."""
        return self._end - _HEADER_BYTES

    @property
    def backlog_bytes(self) -> int:
        """Bytes appended and not released, headers included."""
        with self._lock:
            behind = self._write_at - self._read_at
            if behind > 0 or self._sequence == self._read_sequence:
                return behind
            return behind + self._end - _HEADER_BYTES

    @property
    def backlog(self) -> int:
        """Entries appended and not released."""
        return self._sequence - self._read_sequence

    def append(self, payload: bytes) -> None:
        """Keeps the payload. Raises JournalFull, and keeps nothing, if there is no room."""
        need = _ENTRY.size + (len(payload) + 7) // 8 * 8
        with self._lock:
            at, wraps = self._place(need)
            if wraps and self._write_at + _ENTRY.size <= self._end:
                _ENTRY.pack_into(self._map, self._write_at, _WRAP, 0, self._sequence)
            self._end_at(at + need)
            body = at + _ENTRY.size
            self._map[body : body + len(payload)] = payload
            _ENTRY.pack_into(self._map, at, len(payload), _check(payload, self._sequence), self._sequence)
            self._write_at = at + need
            self._sequence += 1

    def peek(self, max_entries: int, max_bytes: int) -> list[bytes]:
        """The oldest entries, without releasing them; at least one if there is any."""
        with self._lock:
            stop, at, sequence = self._sequence, self._read_at, self._read_sequence
        found: list[bytes] = []
        size = 0
        while sequence < stop and len(found) < max_entries and (not found or size < max_bytes):
            entry = self._entry(at, sequence)
            if entry is None:
                break
            payload, at = entry
            found.append(payload)
            size += len(payload)
            sequence += 1
        return found

    def release(self, entries: int) -> None:
        """Forgets the oldest entries: they are safe elsewhere."""
        with self._lock:
            at, sequence = self._read_at, self._read_sequence
            for _ in range(entries):
                behind = self._behind(at, sequence)
                if behind is None:
                    break
                at, sequence = behind[1], sequence + 1
            self._read_at, self._read_sequence = at, sequence
            if sequence == self._sequence and at > _START_OVER_BYTES:  # empty: the same few pages do again
                self._read_at = self._write_at = _HEADER_BYTES
            self._mark()

    def close(self) -> None:
        """Gives the file up; what is in it stays."""
        self._map.close()
        os.close(self._file)

    def _place(self, need: int) -> tuple[int, bool]:
        """Where an entry of `need` bytes goes, and whether that is past the ring's seam."""
        empty = self._sequence == self._read_sequence
        ahead = empty or self._write_at > self._read_at
        room = (self._end if ahead else self._read_at) - self._write_at
        if need <= room:
            return self._write_at, False
        if empty:  # nothing to keep in order: start over at the front, without a seam
            self._read_at = self._write_at = _HEADER_BYTES
            self._mark()
        limit = self._end if empty else self._read_at
        if ahead and need <= limit - _HEADER_BYTES:
            return _HEADER_BYTES, not empty
        raise JournalFull(f"all {self._end - _HEADER_BYTES} bytes are taken")

    def _end_at(self, at: int) -> None:
        """Nothing follows here: what lay behind an entry that was lost must not come back behind a new one."""
        limit = self._read_at if at <= self._read_at and self._sequence != self._read_sequence else self._end
        if at + _ENTRY.size <= limit:
            _ENTRY.pack_into(self._map, at, 0, 0, 0)

    def _entry(self, at: int, sequence: int) -> tuple[bytes, int] | None:
        """The payload of the entry with this sequence, and where the next one starts."""
        found = self._behind(at, sequence)
        if found is None:
            return None
        (body, stop, check), behind = found
        payload = self._map[body:stop]
        return (payload, behind) if check == _check(payload, sequence) else None

    def _behind(self, at: int, sequence: int) -> tuple[tuple[int, int, int], int] | None:
        """Where the payload of the entry lies, its check, and where the next one starts."""
        if at + _ENTRY.size > self._end:
            at = _HEADER_BYTES
        length, check, found = _ENTRY.unpack_from(self._map, at)
        if length == _WRAP and found == sequence:
            at = _HEADER_BYTES
            length, check, found = _ENTRY.unpack_from(self._map, at)
        body = at + _ENTRY.size
        if found != sequence or body + length > self._end:
            return None
        return (body, body + length, check), body + (length + 7) // 8 * 8

    def _mark(self) -> None:
        """Writes down where releasing has come to."""
        self._turn += 1
        mark = _MARK.pack(self._turn, self._read_sequence, self._read_at)
        at = self._turn % 2 * _HEADER_BYTES // 2
        self._map[at : at + _MARK.size] = mark
        _MARK_CHECK.pack_into(self._map, at + _MARK.size, xxhash.xxh3_64_intdigest(_LAYOUT + mark))

    def _newest_mark(self) -> tuple[int, int, int]:
        """Turn, sequence and offset; the start of an empty journal if there is no mark."""
        marks = [(0, 1, _HEADER_BYTES)]
        for at in (0, _HEADER_BYTES // 2):
            mark = self._map[at : at + _MARK.size]
            (check,) = _MARK_CHECK.unpack_from(self._map, at + _MARK.size)
            if check == xxhash.xxh3_64_intdigest(_LAYOUT + mark):
                marks.append(_MARK.unpack(mark))
        return max(marks)

    def _recover(self) -> None:
        """Finds the end of what an earlier owner appended."""
        while (entry := self._entry(self._write_at, self._sequence)) is not None:
            self._write_at, self._sequence = entry[1], self._sequence + 1


def _check(payload: bytes, sequence: int) -> int:
    return xxhash.xxh3_64_intdigest(payload, sequence & 0xFFFFFFFFFFFFFFFF) & 0xFFFFFFFF
