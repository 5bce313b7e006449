"""Damaged bytes: what a valid input becomes when a disk, a network or somebody who means it has been at it.

Two ways: bytes are changed as bytes (bits, lengths, splices), or, where a form is known, the value behind them is
changed and written again, so that the damage passes the first parser and meets the next.
"""

import contextlib
import io
import json
import random
import re
import struct
import warnings
import zipfile
from collections.abc import Callable, Sequence
from typing import Any, Literal

import msgspec

Form = Literal["bytes", "json", "msgpack", "protobuf", "lines", "zip"]

MAX_BYTES = 1 << 16
"""Of an input: parsers' worst is superlinear or an allocation for a claim, and both show in less."""

_EDGES = (0, 1, 2, 7, 8, 15, 16, 31, 63, 64, 127, 128, 255, 256, 32767, 32768, 65535, 65536)
_NUMBERS = (*_EDGES, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**53, 2**63 - 1, 2**63, 2**64 - 1, 2**64, 10**30)
_TEXTS = (
    "",
    "0",
    "-1",
    "\x00",
    "\x7f",
    "a\nb",
    "ä",
    "\u2028",
    "\U0001f4a5",
    "\ud800",
    "..",
    "../x",
    "*",
    "%00",
    "1e999",
    "x" * 300,
)
_NESTED = "<nested>"  # and how deep
_WORDS = (
    *(b"NaN", b"-Infinity", b"1e400", b"-0", b"1" * 400, b"1e-400", b"0x10", b"null", b"true", b"[]", b"{}", b'""'),
    *(b'"\\ud800"', b"\xff\xfe", b"\x00", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"qid:", b":", b"#", b"\r\n", b"%"),
)


def mutated(data: bytes, others: Sequence[bytes], form: Form, rng: random.Random) -> bytes:
    """The input, changed once to some times. others: of the same kind, to splice with."""
    if form != "bytes" and rng.random() < 0.6:
        changed = _BY_FORM[form](data, rng)
        if changed is not None:
            return changed[:MAX_BYTES]
    for _ in range(rng.choice((1, 1, 1, 2, 2, 3, 5, 8))):
        data = rng.choice(_BYTEWISE)(data, others, rng)
    return data[:MAX_BYTES]


def _place(data: bytes, rng: random.Random) -> int:
    return rng.randrange(len(data)) if data else 0


def _flip(data: bytes, others: Sequence[bytes], rng: random.Random) -> bytes:
    if not data:
        return b"\x00"
    at = _place(data, rng)
    return data[:at] + bytes([data[at] ^ (1 << rng.randrange(8))]) + data[at + 1 :]


def _replace(data: bytes, others: Sequence[bytes], rng: random.Random) -> bytes:
    at = _place(data, rng)
    return data[:at] + bytes([rng.choice(_EDGES) & 0xFF if rng.random() < 0.5 else rng.randrange(256)]) + data[at + 1 :]


def _lie(data: bytes, others: Sequence[bytes], rng: random.Random) -> bytes:
    """A number where one may have stood: a length, a count, an offset."""
    size, codes = rng.choice(((2, "<H >H"), (4, "<I >I"), (8, "<Q >Q")))
    number = rng.choice((*_NUMBERS, len(data), len(data) + 1, max(0, len(data) - 1), rng.getrandbits(8 * size)))
    at = _place(data, rng)
    return data[:at] + struct.pack(rng.choice(codes.split()), number % (1 << 8 * size)) + data[at + size :]


def _nudge(data: bytes, others: Sequence[bytes], rng: random.Random) -> bytes:
    """A byte a little more or less: a length off by one."""
    if not data:
        return data
    at = _place(data, rng)
    return data[:at] + bytes([(data[at] + rng.choice((-2, -1, 1, 2))) & 0xFF]) + data[at + 1 :]


def _cut(data: bytes, others: Sequence[bytes], rng: random.Random) -> bytes:
    return data[: _place(data, rng)]


def _remove(data: bytes, others: Sequence[bytes], rng: random.Random) -> bytes:
    at = _place(data, rng)
    return data[:at] + data[at + rng.choice((1, 1, 2, 4, 8, 16, 64)) :]


def _repeat(data: bytes, others: Sequence[bytes], rng: random.Random) -> bytes:
    at = _place(data, rng)
    part = data[at : at + rng.choice((1, 2, 4, 8, 16, 64))]
    return data[:at] + part * rng.choice((2, 2, 3, 10, 300)) + data[at + len(part) :]


def _insert(data: bytes, others: Sequence[bytes], rng: random.Random) -> bytes:
    at = _place(data, rng)
    return data[:at] + (rng.choice(_WORDS) if rng.random() < 0.7 else rng.randbytes(rng.choice((1, 2, 8)))) + data[at:]


def _splice(data: bytes, others: Sequence[bytes], rng: random.Random) -> bytes:
    other = rng.choice(others) if others else data
    return data[: _place(data, rng)] + other[_place(other, rng) :]


def _graft(data: bytes, others: Sequence[bytes], rng: random.Random) -> bytes:
    """A piece of another in the middle."""
    other = rng.choice(others) if others else data
    at, start = _place(data, rng), _place(other, rng)
    return data[:at] + other[start : start + rng.choice((1, 4, 16, 64))] + data[at + rng.choice((0, 1, 4, 16)) :]


_BYTEWISE: tuple[Callable[[bytes, Sequence[bytes], random.Random], bytes], ...] = (
    *(_flip, _flip, _replace, _lie, _nudge, _nudge, _cut, _remove, _repeat, _insert, _splice, _graft),
)


# values behind bytes


def _leaf(rng: random.Random) -> Any:
    """Something that stands where something else was meant to."""
    kind = rng.randrange(8)
    if kind == 0:
        return rng.choice((None, True, False))
    if kind <= 2:
        return rng.choice(_NUMBERS) * rng.choice((1, 1, -1))
    if kind == 3:
        return rng.choice((0.5, -0.0, 1e308, -1e308, 5e-324, 1e39, float("nan"), float("inf"), -float("inf")))
    if kind <= 5:
        return rng.choice(_TEXTS)
    if kind == 6:
        return rng.choice(([], {}, [[]], {"": {}}, [None], [0] * 300, {str(i): i for i in range(70)}))
    return f"{_NESTED}{rng.choice((3, 40, 900, 1100, 5000)):04}"


def _changed(value: Any, rng: random.Random, leaf: Callable[[random.Random], Any] = _leaf) -> Any:
    """The value with one place in it changed."""
    if isinstance(value, dict) and value and rng.random() < 0.9:
        value = dict(value)
        key = rng.choice(list(value))
        what = rng.randrange(12)
        if what == 0:
            del value[key]
        elif what == 1:
            value[rng.choice((*_TEXTS, "schema", "name"))] = value[key]
        elif what == 2:
            value[key] = value[rng.choice(list(value))]
        else:
            value[key] = _changed(value[key], rng, leaf)
        return value
    if isinstance(value, (list, tuple)) and value and rng.random() < 0.9:
        value = list(value)
        at = rng.randrange(len(value))
        what = rng.randrange(12)
        if what == 0:
            del value[at]
        elif what == 1:
            value[at:at] = [value[at]] * rng.choice((1, 1, 2, 70))
        elif what == 2:
            value[at] = rng.choice(value)
        elif what == 3:
            value.append(leaf(rng))
        else:
            value[at] = _changed(value[at], rng, leaf)
        return value
    if isinstance(value, bool):
        return not value if rng.random() < 0.5 else leaf(rng)
    if isinstance(value, (int, float)) and rng.random() < 0.4:
        return rng.choice((value + 1, value - 1, -value, value * 2, value * 1000, float(value) + 0.5))
    if isinstance(value, str) and value and rng.random() < 0.4:
        at = rng.randrange(len(value))
        return rng.choice((value[:at], value[:at] + rng.choice(_TEXTS) + value[at:], value * 2, value.swapcase()))
    if isinstance(value, bytes) and rng.random() < 0.8:
        return rng.choice(_BYTEWISE)(value, (), rng)
    return leaf(rng)


def _json(data: bytes, rng: random.Random) -> bytes | None:
    try:
        value = json.loads(data)
        for _ in range(rng.choice((1, 1, 1, 2, 3))):
            value = _changed(value, rng)
        text = json.dumps(value, ensure_ascii=rng.random() < 0.5)
    except (ValueError, RecursionError, OverflowError):
        return None
    if rng.random() < 0.05:  # the same name twice in an object
        text = re.sub(r'("[^"]+"): ', r"\1: null, \1: ", text, count=1)
    return re.sub(f'"{_NESTED}([0-9]{{4}})"', _nest, text).encode(errors="replace")


def _nest(found: re.Match[str]) -> str:
    """Deeper than what writes JSON can go: it is put into what was written."""
    return "[" * int(found[1]) + "]" * int(found[1])


def _msgpack(data: bytes, rng: random.Random) -> bytes | None:
    try:
        value = msgspec.msgpack.decode(data)
        for _ in range(rng.choice((1, 1, 1, 2, 3))):
            value = _changed(value, rng)
        raw = msgspec.msgpack.encode(value)
    except (msgspec.MsgspecError, ValueError, TypeError, RecursionError, OverflowError):
        return None
    nested = rb"[\xb0-\xbf]" + re.escape(_NESTED.encode()) + rb"([0-9]{4})"  # a short text, its length in front
    return re.sub(nested, lambda found: b"\x91" * int(found[1]) + b"\xc0", raw)


def _lines(data: bytes, rng: random.Random) -> bytes | None:
    """Text by lines and words."""
    lines = data.split(b"\n")
    at = rng.randrange(len(lines))
    what = rng.randrange(6)
    if what == 0:
        del lines[at]
    elif what == 1:
        lines[at:at] = [lines[at]] * rng.choice((1, 2, 50))
    elif what == 2:
        lines[at], lines[0] = lines[0], lines[at]
    else:
        words = re.split(rb"([ \t:,;=]+)", lines[at])
        place = rng.randrange(len(words))
        words[place] = rng.choice(
            (*_WORDS, str(rng.choice(_NUMBERS)).encode(), words[place] * 2, b"", rng.choice(words))
        )
        lines[at] = b"".join(words)
    return rng.choice((b"\n", b"\n", b"\n", b"\r\n")).join(lines)


def _protobuf(data: bytes, rng: random.Random) -> bytes | None:
    fields = _fields_of(data)
    if not fields:
        return None
    at = rng.randrange(len(fields))
    number, wire, content = fields[at]
    what = rng.randrange(8)
    if what == 0:
        del fields[at]
    elif what == 1:
        fields[at:at] = [fields[at]] * rng.choice((1, 1, 3, 70))
    elif what == 2:
        fields[at] = (rng.choice((number + 1, max(1, number - 1), 15, 16, 2**29 - 1)), wire, content)
    elif what == 3:
        fields[at] = (number, rng.randrange(6), content)
    elif wire == 2:
        inner = _protobuf(content, rng) if rng.random() < 0.6 else None
        fields[at] = (number, 2, rng.choice(_BYTEWISE)(content, (), rng) if inner is None else inner)
    else:
        fields[at] = (number, wire, _varint(rng.choice(_NUMBERS) % 2**64) if wire == 0 else rng.randbytes(len(content)))
    return b"".join(
        _varint(number << 3 | wire) + (_varint(len(content)) if wire == 2 else b"") + content
        for number, wire, content in fields
    )


def _fields_of(data: bytes) -> list[tuple[int, int, bytes]] | None:
    """Number, wire type and content of each field; None if it is no message."""
    fields, at = [], 0
    while at < len(data):
        tag, at = _read_varint(data, at)
        wire, start = tag & 7, at
        if wire == 0:
            _, at = _read_varint(data, at)
        elif wire == 2:
            size, start = _read_varint(data, at)
            at = start + size
        elif wire in (1, 5):
            at += 8 if wire == 1 else 4
        else:
            return None
        if at > len(data) or not tag >> 3:
            return None
        fields.append((tag >> 3, wire, data[start:at]))
    return fields


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    number = shift = 0
    while at < len(data) and shift < 70:
        number |= (data[at] & 0x7F) << shift
        at += 1
        if data[at - 1] < 0x80:
            break
        shift += 7
    return number, at


def _varint(number: int) -> bytes:
    parts = []
    while number >= 0x80:
        parts.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes((*parts, number))


def _zip(data: bytes, rng: random.Random) -> bytes | None:
    """An archive whose entries are renamed, changed, packed, doubled, left out or swollen."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as given:
            entries = [(one.filename, given.read(one)) for one in given.infolist()]
    except Exception:
        return None
    if not entries:
        return None
    at = rng.randrange(len(entries))
    name, content = entries[at]
    packing = zipfile.ZIP_STORED
    what = rng.randrange(9)
    if what == 0:
        del entries[at]
    elif what == 1:
        entries.append(entries[at])
    elif what == 2:
        entries[at] = (rng.choice((name + "x", "../" + name, "/" + name, name.upper(), "a/" + name, "\x00")), content)
    elif what == 3:
        packing = rng.choice((zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA))
    elif what == 4:
        entries[at], packing = (name, bytes(rng.choice((1 << 16, 1 << 22)))), zipfile.ZIP_DEFLATED
    elif what == 5:
        entries[at] = (name, entries[rng.randrange(len(entries))][1])
    else:
        changed = _json(content, rng)
        entries[at] = (name, rng.choice(_BYTEWISE)(content, (), rng) if changed is None else changed)
    made = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(made, "w", packing) as archive:
        warnings.simplefilter("ignore")  # of names that are there twice
        for one in entries:
            with contextlib.suppress(ValueError, IndexError):  # a name that cannot be written
                archive.writestr(*one)
    return made.getvalue()


_BY_FORM: dict[Form, Callable[[bytes, random.Random], bytes | None]] = {
    "json": _json,
    "msgpack": _msgpack,
    "protobuf": _protobuf,
    "lines": _lines,
    "zip": _zip,
}
