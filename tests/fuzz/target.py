"""A target: one parser of bytes from outside, valid examples for it, and the promise that it keeps."""

import re
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import msgspec

from tests.fuzz.mutation import Form

Check = Callable[[bytes], str]
"""Gives the input to the parser and says in a word what came of it. Whatever it raises is a defect."""

Opens = Callable[[Path], AbstractContextManager[Check]]
"""The check, with an empty folder for files that it needs."""

READ = "read"
_DETAILS = re.compile(r"'[^']*'|\"[^\"]*\"|`[^`]*`|[0-9]+")


@dataclass(frozen=True)
class Target:
    """name: room and parser. seeds: valid inputs. share: of all cases, beside the others'; small for what is slow."""

    name: str
    opens: Opens
    seeds: Callable[[], list[bytes]]
    form: Form = "bytes"
    share: float = 1.0


def pure(name: str, check: Check, seeds: Callable[[], list[bytes]], form: Form = "bytes", share: float = 1.0) -> Target:
    """A target that needs nothing beside its input."""
    return Target(name, lambda _: nullcontext(check), seeds, form, share)


def refusal(error: Exception) -> str:
    """What a refusal says, without what is particular to the input: two that differ in it met different rules.

    A refusal has words, and they can be told: over HTTP they become JSON.
    """
    words = str(error)
    assert words.strip(), f"a {type(error).__name__} without a word"
    msgspec.json.encode({"error": words})
    return f"{type(error).__name__}: {_DETAILS.sub('', words)[:120]}"


def reads(read: Callable[[bytes], object], refuses: type[Exception] | tuple[type[Exception], ...]) -> Check:
    """The input is read, or refused by one of these errors."""

    def check(data: bytes) -> str:
        try:
            read(data)
        except refuses as error:
            return refusal(error)
        return READ

    return check


def record(
    decode: Callable[[bytes], object],
    encode: Callable[[object], bytes],
    refuses: type[Exception] | tuple[type[Exception], ...],
) -> Check:
    """As `reads`; and what was read is what is read again from its own encoding."""

    def check(data: bytes) -> str:
        try:
            found = decode(data)
        except refuses as error:
            return refusal(error)
        written = encode(found)
        assert encode(decode(written)) == written, f"{found!r} does not come back from {written!r}"
        return READ

    return check
