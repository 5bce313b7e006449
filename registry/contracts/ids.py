"""Names and ids, their rules, and the hash that every process agrees on.

A ranking id is the first link of the evidence chain. It carries its own time and model and a
keyed tag, so that any gateway can tell an id that this installation issued from one it did not,
without asking a store:

    6 bytes  issue time, ms since the epoch, big-endian (ids sort by time)
    4 bytes  model tag, see `model_tag`
    7 bytes  random
    8 bytes  BLAKE2b of the 17 bytes before, keyed with the installation's secret

as 50 hexadecimal digits. The tag is no secret for users, it only stops clicks
for rankings that never were.

A ranking's ids are read together: in C (`_ids.c`), where a compiler was at hand when Sluice was installed.
"""

import hashlib
import hmac
import random
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import NewType

import numpy as np
import xxhash
from numpy.typing import NDArray

from registry.contracts.errors import InvalidName

RankingId = NewType("RankingId", str)
EventId = NewType("EventId", str)
QueryId = NewType("QueryId", str)
ItemId = NewType("ItemId", str)
UnitId = NewType("UnitId", str)
ModelName = NewType("ModelName", str)
ModelVersion = NewType("ModelVersion", int)

MAX_ID_CHARS = 256
_MODEL_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
_RANKING_ID = re.compile(r"[0-9a-f]{50}")
_DIGEST: np.dtype[np.uint64] = np.dtype(">u8")  # the canonical form of a hash is big-endian
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


def _built() -> Callable[[list[str], int], tuple[bytes, bytes] | None] | None:
    """The C part, None where it was not built."""
    try:
        from registry.contracts._ids import join_ids
    except ImportError:
        return None
    return join_ids


_join_ids = _built()


def model_name(name: str) -> ModelName:
    """The name, if it may name a model.

    Raises InvalidName otherwise.

    >>> model_name("codesearch")
    'codesearch'
    """
    if not _MODEL_NAME.fullmatch(name):
        raise InvalidName(f"model={name!r}: expected 1 to 64 of a-z, 0-9, '-' and '_', starting with a letter or digit")
    return ModelName(name)


def check_id(field: str, value: str) -> str:
    """The value, if it may be an id of an item, unit, query or event.

    Raises InvalidName, naming the field, if it is empty, longer than 256 characters, holds a
    control character or is not encodable as UTF-8 (a lone surrogate).
    """
    if not value or len(value) > MAX_ID_CHARS or _CONTROL.search(value):
        raise InvalidName(f"{field}={value[:40]!r}: expected 1 to {MAX_ID_CHARS} characters without control characters")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise InvalidName(f"{field}: expected text that UTF-8 can encode") from error
    return value


def hash64(key: str | bytes) -> int:
    """XXH3, 64 bits, seed 0: the same number in every process and on every machine."""
    return xxhash.xxh3_64_intdigest(key.encode() if isinstance(key, str) else key)


def hashes_of(blob: bytes, count: int) -> NDArray[np.uint64]:
    """`hash64` of each of `count` keys joined by NUL. Shape (count,).

    >>> hashes_of(b"a\\x00b", 2).tolist() == [hash64("a"), hash64("b")]
    True
    """
    digests = b"".join(map(xxhash.xxh3_64_digest, blob.split(b"\x00")))
    return np.frombuffer(digests, _DIGEST, count).astype(np.uint64)


def join_ids(ids: list[str]) -> tuple[bytes, NDArray[np.uint64]] | None:
    """The ids joined by NUL, and `hash64` of each, if they plainly keep the rules of `check_id` and differ.

    None says nothing of them, only that a slower look has to be taken: where the C part was not built, at ids of more
    than 240 bytes, or of one hash. The hashes, shape (ids,), are read-only.

    >>> join_ids(["a", ""]) is None
    True
    """
    if _join_ids is None or (joined := _join_ids(ids, MAX_ID_CHARS)) is None:
        return None
    blob, hashes = joined
    return blob, np.frombuffer(hashes, np.uint64)


def model_tag(model: str) -> int:
    """32 bits that stand for a model's name inside a ranking id.

    >>> model_tag("codesearch") == model_tag("codesearch") != model_tag("other")
    True
    """
    return hash64(model) & 0xFFFFFFFF


@dataclass(frozen=True, slots=True)
class IssuedRanking:
    """What a genuine ranking id says of itself."""

    issued_ms: int
    model_tag: int


@dataclass(frozen=True, slots=True)
class RankingIds:
    """Issues ranking ids and recognises the ones this installation issued.

    secret: 16 to 64 bytes, the same for all gateways of an installation.
    """

    secret: bytes
    random: random.Random

    def __post_init__(self) -> None:
        if not 16 <= len(self.secret) <= 64:
            raise ValueError(f"ranking id secret has {len(self.secret)} bytes: expected 16 to 64")

    def issue(self, tag: int, now_ms: int) -> RankingId:
        """A new id for a ranking by the model with this tag, answered now."""
        head = now_ms.to_bytes(6, "big") + tag.to_bytes(4, "big") + self.random.getrandbits(56).to_bytes(7, "big")
        return RankingId((head + self._mac(head)).hex())

    def recognise(self, ranking_id: str) -> IssuedRanking:
        """When and for which model tag the id was issued.

        Raises InvalidName if this installation did not issue it.
        """
        if not _RANKING_ID.fullmatch(ranking_id):
            raise InvalidName(f"ranking_id={ranking_id[:60]!r}: expected the 50 digits of an answer's ranking_id")
        raw = bytes.fromhex(ranking_id)
        head, tag = raw[:17], raw[17:]
        if not hmac.compare_digest(tag, self._mac(head)):
            raise InvalidName(f"ranking_id={ranking_id!r}: no ranking of this installation has this id")
        return IssuedRanking(int.from_bytes(head[:6], "big"), int.from_bytes(head[6:10], "big"))

    def _mac(self, head: bytes) -> bytes:
        return hashlib.blake2b(head, digest_size=8, key=self.secret).digest()
