"""The key sheet: every good API key as gateways need to know it, on a board in Redis.

A gateway asks no database whether a key is good: it looks at the sheet, four times a second, keeps a copy on disk, and
goes on with the last one it has when Redis and the control plane are gone. The sheet is whole: a key that is not on it
is not good, which is how a key is revoked. It holds hashes of 256 random bits, from which no key can be made.
"""

import hashlib
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, cast

import msgspec
import redis

from registry.contracts.errors import UNDECODABLE, ContractError
from registry.principals import Principal
from registry.redis_errors import redis_errors

MARK = "sluice_"
"""How every API key begins."""
SHEET_KEY = "sluice:keys"
USED_KEY = "sluice:keys:used"


class SheetKey(msgspec.Struct, frozen=True):
    """hash: SHA-256 of a key's text, 64 hex digits. A key that was rotated is there twice for a while."""

    hash: str
    principal: Principal


class KeySheet(msgspec.Struct, frozen=True):
    """revision: of two sheets of one database, the newer has the larger one."""

    revision: int
    keys: tuple[SheetKey, ...] = ()

    def encode(self) -> bytes:
        """JSON."""
        return msgspec.json.encode(self)

    @staticmethod
    def decode(raw: bytes) -> "KeySheet":
        """Raises ContractError."""
        try:
            return msgspec.json.decode(raw, type=KeySheet)
        except UNDECODABLE as error:
            raise ContractError(f"not a key sheet: {error}") from error


@dataclass(frozen=True, slots=True)
class PostedSheet:
    """tag: of just this content."""

    tag: str
    sheet: KeySheet


class KeyBoard(Protocol):
    """The newest sheet, and when each key was last used. Every method may raise StoreUnavailable."""

    def publish(self, sheet: KeySheet, force: bool = False) -> bool:
        """Shows the sheet, unless one of a higher revision is there; whether it is there now. force: also then, of a
        database that was restored from a copy."""
        ...

    def read(self, known: str = "") -> PostedSheet | None:
        """The sheet; None if there is none, or it has the tag `known`. Raises ContractError if it is none."""
        ...

    def tag(self) -> str:
        """Of the sheet that is there; empty if there is none."""
        ...

    def note_used(self, used_ms: Mapping[str, int]) -> None:
        """By key id, since the epoch."""
        ...

    def used_ms(self) -> dict[str, int]:
        """When each key was last used, by id; of keys never used nothing."""
        ...


def tag_of(raw: bytes) -> str:
    """See `PostedSheet`."""
    return hashlib.sha256(raw).hexdigest()[:32]


class MemoryKeyBoard:
    """A board inside one process; safe for several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._posted: PostedSheet | None = None
        self._used_ms: dict[str, int] = {}

    def publish(self, sheet: KeySheet, force: bool = False) -> bool:
        """See `KeyBoard`."""
        with self._lock:
            if not force and self._posted is not None and self._posted.sheet.revision > sheet.revision:
                return False
            self._posted = PostedSheet(tag_of(sheet.encode()), sheet)
            return True

    def read(self, known: str = "") -> PostedSheet | None:
        """See `KeyBoard`."""
        posted = self._posted
        return None if posted is None or posted.tag == known else posted

    def tag(self) -> str:
        """See `KeyBoard`."""
        return self._posted.tag if self._posted else ""

    def note_used(self, used_ms: Mapping[str, int]) -> None:
        """See `KeyBoard`."""
        with self._lock:
            self._used_ms.update(used_ms)

    def used_ms(self) -> dict[str, int]:
        """See `KeyBoard`."""
        with self._lock:
            return dict(self._used_ms)


class RedisKeyBoard:
    """On Redis. client: returns bytes (`decode_responses` off)."""

    def __init__(self, client: redis.Redis) -> None:
        self._client = client

    def publish(self, sheet: KeySheet, force: bool = False) -> bool:
        """See `KeyBoard`."""
        raw = sheet.encode()
        with redis_errors("publish the key sheet"):
            told = (sheet.revision, tag_of(raw), raw, int(force))
            return bool(self._client.eval(_PUBLISH, 1, SHEET_KEY, *told))

    def read(self, known: str = "") -> PostedSheet | None:
        """See `KeyBoard`."""
        if self.tag() in ("", known):
            return None
        with redis_errors("read the key sheet"):
            tag, raw = cast(list[bytes | None], self._client.hmget(SHEET_KEY, ["tag", "sheet"]))
        if tag is None or raw is None:
            return None
        return PostedSheet(tag.decode(), KeySheet.decode(raw))

    def tag(self) -> str:
        """See `KeyBoard`."""
        with redis_errors("read the key sheet"):
            found = cast(bytes | None, self._client.hget(SHEET_KEY, "tag"))
        return found.decode(errors="replace") if found else ""

    def note_used(self, used_ms: Mapping[str, int]) -> None:
        """See `KeyBoard`."""
        with redis_errors("note when keys were used"):
            self._client.hset(USED_KEY, mapping={key: str(ms) for key, ms in used_ms.items()})

    def used_ms(self) -> dict[str, int]:
        """See `KeyBoard`."""
        with redis_errors("read when keys were used"):
            found = cast(dict[bytes, bytes], self._client.hgetall(USED_KEY))
        return {key.decode(): int(ms) for key, ms in found.items() if ms.isdigit()}


# a script runs alone: nobody publishes between looking and writing
_PUBLISH = """
local there = tonumber(redis.call('HGET', KEYS[1], 'revision') or '') or 0
if ARGV[4] == '0' and there > tonumber(ARGV[1]) then
  return 0
end
redis.call('HSET', KEYS[1], 'revision', ARGV[1], 'tag', ARGV[2], 'sheet', ARGV[3])
return 1
"""
