"""API keys: who may do what with which models. A key is random and kept nowhere, only its SHA-256.

256 random bits need no slow hash: there is nothing to guess. A key is found by its first characters,
which are shown to tell keys apart, and then compared in constant time.

A key that is rotated keeps its id, and with it its place in histories and its quota; the text before is good for a
grace period, so that whoever uses it can change over without an outage.
"""

import base64
import hashlib
import hmac
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Protocol

import msgspec
import sqlalchemy as sql
from msgspec.structs import replace

from registry.database import insert_once, sql_errors
from registry.errors import KeyConflict, UnknownKey
from registry.key_sheet import MARK, KeySheet, SheetKey
from registry.principals import Principal
from registry.roles import Role
from registry.tables import api_keys

PREFIX_LETTERS = len(MARK) + 8
SECRET_BYTES = 32


class ApiKey(msgspec.Struct, frozen=True):
    """All that is known of a key. models: that it is good for; empty: all. prefix: how it begins.

    revoked_ms: None while it is good. expires_ms: when it ends by itself, None: never. rotated_ms: when it last got
    another text, None: it has its first. old_until_ms: how long the text before is good, None: there is none.
    requests_per_s, candidates_per_s: its quota, 0: the platform's default. line: whose quota it draws on, too; empty:
    the query says. revision: one more with every change.
    """

    id: str
    name: str
    prefix: str
    role: Role
    models: tuple[str, ...]
    created_ms: int
    created_by: str
    revoked_ms: int | None = None
    expires_ms: int | None = None
    rotated_ms: int | None = None
    old_prefix: str = ""
    old_until_ms: int | None = None
    requests_per_s: float = 0.0
    candidates_per_s: float = 0.0
    line: str = ""
    revision: int = 1

    def covers(self, model: str) -> bool:
        """Whether it is good for the model."""
        return not self.models or model in self.models

    def refusal(self, now_ms: int) -> str:
        """Why it is not good now; empty if it is."""
        if self.revoked_ms is not None:
            return f"API key {self.name!r} ({self.id}) was revoked: ask an admin for another"
        if self.expires_ms is not None and now_ms >= self.expires_ms:
            at = datetime.fromtimestamp(self.expires_ms / 1000, UTC).isoformat(timespec="seconds")
            return f"API key {self.name!r} ({self.id}) expired at {at}: ask an admin for another, or use its newer text"
        return ""

    @property
    def principal(self) -> Principal:
        """Whom it proves."""
        limits = (self.requests_per_s, self.candidates_per_s)
        return Principal(self.id, self.name, self.role, self.models, self.expires_ms, *limits, self.line)


def key_text(secret: bytes) -> str:
    """The key as its owner writes it. secret: `SECRET_BYTES` random ones.

    >>> key_text(bytes(32))
    'sluice_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA'
    """
    if len(secret) != SECRET_BYTES:
        raise ValueError(f"{len(secret)} bytes: expected {SECRET_BYTES}")
    return MARK + base64.urlsafe_b64encode(secret).decode().rstrip("=")


def make_key(
    text: str,
    name: str,
    role: Role,
    models: Iterable[str] = (),
    *,
    created_ms: int,
    created_by: str,
    expires_ms: int | None = None,
    requests_per_s: float = 0.0,
    candidates_per_s: float = 0.0,
    line: str = "",
) -> ApiKey:
    """What is to be known of the key. text: see `key_text`; its id follows from it."""
    return ApiKey(
        *(hash_of(text)[:16], name, text[:PREFIX_LETTERS], role, tuple(sorted(set(models))), created_ms, created_by),
        expires_ms=expires_ms,
        requests_per_s=requests_per_s,
        candidates_per_s=candidates_per_s,
        line=line,
    )


def hash_of(text: str) -> str:
    """What is kept of the key, 64 hex digits."""
    return hashlib.sha256(text.encode()).hexdigest()


class KeyRing(Protocol):
    """Every method may raise StoreUnavailable."""

    def add(self, key: ApiKey, text: str) -> None:
        """Makes the key good; nothing if it is there, revoked or not."""
        ...

    def find(self, text: str) -> ApiKey | None:
        """What is known of the key, None if it was never made; look at `ApiKey.refusal`. Found by the text that it
        had before it was rotated, it expires when that does."""
        ...

    def every(self) -> list[ApiKey]:
        """The oldest first, revoked ones too."""
        ...

    def revoke(self, key_id: str, now_ms: int) -> ApiKey:
        """Ends the key for good, both texts, once: a second time changes nothing. Raises UnknownKey."""
        ...

    def rotate(self, key_id: str, text: str, now_ms: int, grace_ms: int) -> ApiKey:
        """Gives the key another text; the one it has is good for so long. One before that is good no more.

        Raises UnknownKey, KeyConflict if it is revoked or expired.
        """
        ...

    def limit(self, key_id: str, requests_per_s: float, candidates_per_s: float) -> ApiKey:
        """Sets the key's quota. Raises UnknownKey."""
        ...

    def sheet(self) -> KeySheet:
        """Every key that is not revoked, for those who have to know a good one without asking here."""
        ...


@dataclass(frozen=True, slots=True)
class _Kept:
    """A key with the hashes of its texts; old_hash: empty if there is no text before."""

    key: ApiKey
    hash: str
    old_hash: str = ""

    def by(self, hashed: str) -> ApiKey | None:
        """The key, if it has a text with this hash."""
        current = hmac.compare_digest(self.hash, hashed)
        old = bool(self.old_hash) & hmac.compare_digest(self.old_hash.ljust(64), hashed)
        return self.key if current else self._as_before() if old else None

    def rotated(self, text: str, now_ms: int, grace_ms: int) -> "_Kept":
        """With another text. Raises KeyConflict."""
        key = self.key
        if why := key.refusal(now_ms):
            raise KeyConflict(f"it cannot be rotated: {why}")
        changed = replace(
            key,
            prefix=text[:PREFIX_LETTERS],
            rotated_ms=now_ms,
            old_prefix=key.prefix,
            old_until_ms=now_ms + grace_ms if grace_ms else None,
            revision=key.revision + 1,
        )
        return _Kept(changed, hash_of(text), self.hash if grace_ms else "")

    def sheet_keys(self) -> Iterator[SheetKey]:
        """As gateways are to know it."""
        if self.key.revoked_ms is None:
            yield SheetKey(self.hash, self.key.principal)
            if self.old_hash:
                yield SheetKey(self.old_hash, self._as_before().principal)

    def _as_before(self) -> ApiKey:
        """As who uses the text before has it: it ends earlier."""
        ends = [ms for ms in (self.key.expires_ms, self.key.old_until_ms) if ms is not None]
        return replace(self.key, expires_ms=min(ends, default=0))


class MemoryKeyRing:
    """Keys inside one process; safe for several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: dict[str, _Kept] = {}  # by id

    def add(self, key: ApiKey, text: str) -> None:
        """See `KeyRing`."""
        with self._lock:
            self._kept.setdefault(key.id, _Kept(key, hash_of(text)))

    def find(self, text: str) -> ApiKey | None:
        """See `KeyRing`."""
        hashed = hash_of(text)
        with self._lock:
            return next((found for kept in self._kept.values() if (found := kept.by(hashed)) is not None), None)

    def every(self) -> list[ApiKey]:
        """See `KeyRing`."""
        with self._lock:
            return sorted((kept.key for kept in self._kept.values()), key=lambda key: (key.created_ms, key.id))

    def revoke(self, key_id: str, now_ms: int) -> ApiKey:
        """See `KeyRing`."""
        with self._lock:
            kept = self._of(key_id)
            if kept.key.revoked_ms is None:
                revoked = replace(kept.key, revoked_ms=now_ms, revision=kept.key.revision + 1)
                kept = self._kept[key_id] = _Kept(revoked, kept.hash, kept.old_hash)
            return kept.key

    def rotate(self, key_id: str, text: str, now_ms: int, grace_ms: int) -> ApiKey:
        """See `KeyRing`."""
        with self._lock:
            kept = self._kept[key_id] = self._of(key_id).rotated(text, now_ms, grace_ms)
            return kept.key

    def limit(self, key_id: str, requests_per_s: float, candidates_per_s: float) -> ApiKey:
        """See `KeyRing`."""
        with self._lock:
            kept = self._of(key_id)
            limits = {"requests_per_s": requests_per_s, "candidates_per_s": candidates_per_s}
            changed = replace(kept.key, **limits, revision=kept.key.revision + 1)
            self._kept[key_id] = _Kept(changed, kept.hash, kept.old_hash)
            return changed

    def sheet(self) -> KeySheet:
        """See `KeyRing`."""
        with self._lock:
            return _sheet_of(self._kept.values())

    def _of(self, key_id: str) -> _Kept:
        kept = self._kept.get(key_id)
        if kept is None:
            raise unknown_key(key_id)
        return kept


class SqlKeyRing:
    """Keys in the control database; safe for several processes. engine: of `database.open_database`."""

    def __init__(self, engine: sql.Engine) -> None:
        self._engine = engine

    def add(self, key: ApiKey, text: str) -> None:
        """See `KeyRing`."""
        with sql_errors("make an API key"), self._engine.begin() as connection:
            insert_once(connection, api_keys, _row_of(_Kept(key, hash_of(text))))

    def find(self, text: str) -> ApiKey | None:
        """See `KeyRing`."""
        prefix = text[:PREFIX_LETTERS]
        query = sql.select(api_keys).where((api_keys.c.prefix == prefix) | (api_keys.c.old_prefix == prefix))
        with sql_errors("look up an API key"), self._engine.connect() as connection:
            rows = connection.execute(query).all()
        hashed = hash_of(text)
        return next((found for row in rows if (found := _kept_of(row).by(hashed)) is not None), None)

    def every(self) -> list[ApiKey]:
        """See `KeyRing`."""
        query = sql.select(api_keys).order_by(api_keys.c.created_ms, api_keys.c.id)
        with sql_errors("list the API keys"), self._engine.connect() as connection:
            return [_kept_of(row).key for row in connection.execute(query)]

    def revoke(self, key_id: str, now_ms: int) -> ApiKey:
        """See `KeyRing`."""
        good = (api_keys.c.id == key_id) & api_keys.c.revoked_ms.is_(None)
        change = {"revoked_ms": now_ms, "revision": api_keys.c.revision + 1}
        return self._change("revoke an API key", key_id, sql.update(api_keys).where(good).values(change))

    def rotate(self, key_id: str, text: str, now_ms: int, grace_ms: int) -> ApiKey:
        """See `KeyRing`."""
        with sql_errors("rotate an API key"), self._engine.begin() as connection:
            row = connection.execute(
                sql.select(api_keys).where(api_keys.c.id == key_id).with_for_update()
            ).one_or_none()
            if row is None:
                raise unknown_key(key_id)
            kept = _kept_of(row).rotated(text, now_ms, grace_ms)
            unchanged = (api_keys.c.id == key_id) & (api_keys.c.revision == row.revision)
            if connection.execute(sql.update(api_keys).where(unchanged).values(_row_of(kept))).rowcount != 1:
                raise KeyConflict(f"API key {key_id!r} was changed meanwhile: look at it again, then repeat the change")
        return kept.key

    def limit(self, key_id: str, requests_per_s: float, candidates_per_s: float) -> ApiKey:
        """See `KeyRing`."""
        change = {
            "requests_per_s": requests_per_s,
            "candidates_per_s": candidates_per_s,
            "revision": api_keys.c.revision + 1,
        }
        statement = sql.update(api_keys).where(api_keys.c.id == key_id).values(change)
        return self._change("limit an API key", key_id, statement)

    def sheet(self) -> KeySheet:
        """See `KeyRing`."""
        with sql_errors("list the API keys"), self._engine.connect() as connection:
            return _sheet_of([_kept_of(row) for row in connection.execute(sql.select(api_keys))])

    def _change(self, what: str, key_id: str, statement: sql.Update) -> ApiKey:
        with sql_errors(what), self._engine.begin() as connection:
            connection.execute(statement)
            row = connection.execute(sql.select(api_keys).where(api_keys.c.id == key_id)).one_or_none()
        if row is None:
            raise unknown_key(key_id)
        return _kept_of(row).key


def unknown_key(key_id: str) -> UnknownKey:
    """The error of every ring for a key that it does not have."""
    return UnknownKey(f"there is no API key with id {key_id!r}: `sluice keys list` shows what there is")


def _sheet_of(every: Iterable[_Kept]) -> KeySheet:
    """Rows are never deleted and each change counts one up, so that the sum tells which of two sheets is newer."""
    kept = sorted(every, key=lambda one: one.key.id)
    return KeySheet(sum(one.key.revision for one in kept), tuple(key for one in kept for key in one.sheet_keys()))


def _row_of(kept: _Kept) -> dict[str, Any]:
    told = msgspec.structs.asdict(kept.key)
    return told | {"hash": kept.hash, "old_hash": kept.old_hash, "models": " ".join(kept.key.models)}


def _kept_of(row: sql.Row[Any]) -> _Kept:
    known = {str(name): value for name, value in row._mapping.items() if name not in ("hash", "old_hash")}
    return _Kept(
        msgspec.convert(known | {"models": tuple(str(known["models"]).split())}, ApiKey), row.hash, row.old_hash
    )
