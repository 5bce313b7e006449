"""Whether an archive can be read in one way only.

Readers of zip files find the entries differently. Python's zipfile takes the directory that lies before the end
record, torch's reader the one at the offset which that record tells; local headers, extra fields and zip64 records
leave them more to choose from. What was looked at by one is then not what the other loads. So an archive counts whose
bytes leave no choice: entries from the first byte on without a gap, each with a header that says what the directory
says, the directory, its end records, and nothing else. `zipfile` writes so, to whatever can be sought in.

Source: PKWARE APPNOTE 6.3.10, sections 4.3 and 4.5.3.
"""

import struct
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass

_LOCAL = struct.Struct("<4s5H3L2H")
_CENTRAL = struct.Struct("<4s6H3L5H2L")
_END = struct.Struct("<4s4H2LH")
_END64 = struct.Struct("<4sQ2H2L4Q")
_LOCATOR64 = struct.Struct("<4sLQL")
_MAX16, _MAX32 = 0xFFFF, 0xFFFFFFFF
_ZIP64_FIELD = 1
_PADDING_FIELD = int.from_bytes(b"FB", "little")  # torch's, by which weights lie aligned
_UTF8 = 1 << 11


@dataclass(frozen=True, slots=True)
class _Entry:
    name: str
    flags: int
    crc: int
    size_bytes: int
    at: int


def reads_one_way(program: bytes, archive: zipfile.ZipFile) -> bool:
    """Whether every reader finds what this one does. archive: of the same bytes; its entries are stored, not packed.

    Raises struct.error, ValueError or IndexError where the bytes end early or are garbage.
    """
    if (directory := _directory(program)) is None:
        return False
    start, stop, count = directory
    entries = list(_entries(program, start, stop))
    seen = [(one.filename, one.flag_bits, one.CRC, one.file_size, one.header_offset) for one in archive.infolist()]
    if seen != [(one.name, one.flags, one.crc, one.size_bytes, one.at) for one in entries] or len(entries) != count:
        return False
    at = 0
    for entry in entries:
        if entry.at != at or (size := _local_size(program, entry)) is None:
            return False
        at += size
    return at == start


def _directory(program: bytes) -> tuple[int, int, int] | None:
    """Where it starts and stops and how many entries it has; None if its end records do not follow at once."""
    end = len(program) - _END.size
    mark, *disks, here, count, size, start, comment = _END.unpack_from(program, end)
    if mark != b"PK\5\6" or any(disks) or here != count or comment:
        return None
    locator = end - _LOCATOR64.size
    if locator >= 0 and program[locator:].startswith(b"PK\6\7"):
        end = locator - _END64.size
        mark, length, _, _, *disks, here, count64, size64, start64 = _END64.unpack_from(program, end)
        as_short = (min(count64, _MAX16), min(size64, _MAX32), min(start64, _MAX32))
        if (
            (mark, length) != (b"PK\6\6", _END64.size - 12)
            or any(disks)
            or here != count64
            or as_short != (count, size, start)
            or _LOCATOR64.unpack_from(program, locator) != (b"PK\6\7", 0, end, 1)
        ):
            return None
        count, size, start = count64, size64, start64
    return (start, end, count) if start + size == end else None


def _entries(program: bytes, at: int, stop: int) -> Iterator[_Entry]:
    """Raises ValueError if one is not as zipfile writes it."""
    while at < stop:
        mark, _, _, flags, method, _, _, crc, *sizes, name_bytes, extra_bytes, comment, disk, _, _, start = (
            _CENTRAL.unpack_from(program, at)
        )
        if mark != b"PK\1\2" or flags & ~_UTF8 or method != zipfile.ZIP_STORED or comment or disk:
            raise ValueError(f"the directory's entry at {at} is not plain")
        at += _CENTRAL.size
        name = program[at : at + name_bytes].decode("utf-8" if flags else "ascii")
        at += name_bytes
        packed, size, start = _wide((*sizes, start), program[at : at + extra_bytes])
        at += extra_bytes
        if packed != size or "\0" in name:
            raise ValueError(f"the directory's entry {name!r} is not plain")
        yield _Entry(name, flags, crc, size, start)
    if at != stop:
        raise ValueError("the directory's last entry is cut off")


def _wide(short: tuple[int, ...], extra: bytes) -> tuple[int, ...]:
    """Two sizes and an offset as 64 bits where 32 are too few. Raises ValueError if the fields hold anything else."""
    fields = dict[int, bytes]()
    while extra:
        kind, size = struct.unpack_from("<2H", extra)
        if kind in fields or kind not in (_ZIP64_FIELD, _PADDING_FIELD) or len(extra) < 4 + size:
            raise ValueError(f"extra field {kind:#x}: expected one for zip64 and one of padding at most")
        fields[kind], extra = extra[4 : 4 + size], extra[4 + size :]
    too_few = [number for number, value in enumerate(short) if value == _MAX32]
    wide = struct.unpack(f"<{len(too_few)}Q", fields.get(_ZIP64_FIELD, b""))
    values = list(short)
    for number, value in zip(too_few, wide, strict=True):
        values[number] = value
    return tuple(values)


def _local_size(program: bytes, entry: _Entry) -> int | None:
    """Of its header and its bytes together, None if the header does not say what the directory does."""
    mark, _, flags, method, _, _, crc, packed, size, name_bytes, extra_bytes = _LOCAL.unpack_from(program, entry.at)
    name_at = entry.at + _LOCAL.size
    said = (mark, flags, method, crc, program[name_at : name_at + name_bytes])
    if said != (b"PK\3\4", entry.flags, zipfile.ZIP_STORED, entry.crc, entry.name.encode()):
        return None
    if {packed, size} - {entry.size_bytes, _MAX32}:  # the most that fits: it is in the header's extra field
        return None
    return _LOCAL.size + int(name_bytes) + int(extra_bytes) + entry.size_bytes
