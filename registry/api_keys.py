"""API keys: who may do what with which models. A key is random and kept nowhere, only its SHA-256.

256 random bits need no slow hash: there is nothing to guess. A key is found by its first characters,
which are shown to tell keys apart, and then compared in constant time.
"""

import base64
import hashlib
import hmac
import threading
from collections.abc import Iterable
from typing import Protocol

import msgspec
import sqlalchemy as sql

from registry.database import insert_once, sql_errors
from registry.errors import UnknownKey
from registry.roles import Role
from registry.tables import api_keys

MARK = "sluice_"
PREFIX_LETTERS = len(MARK) + 8
SECRET_BYTES = 32


class ApiKey(msgspec.Struct, frozen=True):
    """All that is known of a key. models: that it is good for; empty: all. prefix: how it begins.

    revoked_ms: None while it is good.
    """

    id: str
    name: str
    prefix: str
    role: Role
    models: tuple[str, ...]
    created_ms: int
    created_by: str
    revoked_ms: int | None = None

    def covers(self, model: str) -> bool:
        """Whether it is good for the model."""
        return not self.models or model in self.models


def key_text(secret: bytes) -> str:
    """The key as its owner writes it. secret: `SECRET_BYTES` random ones.

    >>> key_text(bytes(32))
    'sluice_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA'
    """
    if len(secret) != SECRET_BYTES:
        raise ValueError(f"{len(secret)} bytes: expected {SECRET_BYTES}")
    return MARK + base64.urlsafe_b64encode(secret).decode().rstrip("=")


def make_key(
    text: str, name: str, role: Role, models: Iterable[str] = (), *, created_ms: int, created_by: str
) -> ApiKey:
    """What is to be known of the key. text: see `key_text`; its id follows from it."""
    return ApiKey(
        hash_of(text)[:16], name, text[:PREFIX_LETTERS], role, tuple(sorted(set(models))), created_ms, created_by
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
        """What is known of the key, None if it was never made; look at `revoked_ms`."""
        ...

    def every(self) -> list[ApiKey]:
        """The oldest first, revoked ones too."""
        ...

    def revoke(self, key_id: str, now_ms: int) -> ApiKey:
        """Ends the key for good, once: a second time changes nothing. Raises UnknownKey."""
        ...


class MemoryKeyRing:
    """Keys inside one process; safe for several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._keys: dict[str, ApiKey] = {}  # by hash

    def add(self, key: ApiKey, text: str) -> None:
        """See `KeyRing`."""
        with self._lock:
            self._keys.setdefault(hash_of(text), key)

    def find(self, text: str) -> ApiKey | None:
        """See `KeyRing`."""
        with self._lock:
            return self._keys.get(hash_of(text))

    def every(self) -> list[ApiKey]:
        """See `KeyRing`."""
        with self._lock:
            return sorted(self._keys.values(), key=lambda key: (key.created_ms, key.id))

    def revoke(self, key_id: str, now_ms: int) -> ApiKey:
        """See `KeyRing`."""
        with self._lock:
            for hashed, key in self._keys.items():
                if key.id == key_id:
                    revoked = key if key.revoked_ms is not None else msgspec.structs.replace(key, revoked_ms=now_ms)
                    self._keys[hashed] = revoked
                    return revoked
        raise unknown_key(key_id)


class SqlKeyRing:
    """Keys in the control database; safe for several processes. engine: of `database.open_database`."""

    def __init__(self, engine: sql.Engine) -> None:
        self._engine = engine

    def add(self, key: ApiKey, text: str) -> None:
        """See `KeyRing`."""
        row = msgspec.structs.asdict(key) | {"hash": hash_of(text), "models": " ".join(key.models)}
        with sql_errors("make an API key"), self._engine.begin() as connection:
            insert_once(connection, api_keys, row)

    def find(self, text: str) -> ApiKey | None:
        """See `KeyRing`."""
        query = sql.select(api_keys).where(api_keys.c.prefix == text[:PREFIX_LETTERS])
        with sql_errors("look up an API key"), self._engine.connect() as connection:
            rows = connection.execute(query).all()
        hashed = hash_of(text)
        return next((_key_of(row) for row in rows if hmac.compare_digest(row.hash, hashed)), None)

    def every(self) -> list[ApiKey]:
        """See `KeyRing`."""
        query = sql.select(api_keys).order_by(api_keys.c.created_ms, api_keys.c.id)
        with sql_errors("list the API keys"), self._engine.connect() as connection:
            return [_key_of(row) for row in connection.execute(query)]

    def revoke(self, key_id: str, now_ms: int) -> ApiKey:
        """See `KeyRing`."""
        good = (api_keys.c.id == key_id) & api_keys.c.revoked_ms.is_(None)
        with sql_errors("revoke an API key"), self._engine.begin() as connection:
            connection.execute(sql.update(api_keys).where(good).values(revoked_ms=now_ms))
            row = connection.execute(sql.select(api_keys).where(api_keys.c.id == key_id)).one_or_none()
        if row is None:
            raise unknown_key(key_id)
        return _key_of(row)


def unknown_key(key_id: str) -> UnknownKey:
    """The error of every ring for a key that it does not have."""
    return UnknownKey(f"there is no API key with id {key_id!r}: `sluice keys list` shows what there is")


def _key_of(row: sql.Row[tuple[object, ...]]) -> ApiKey:
    known = {str(name): value for name, value in row._mapping.items() if name != "hash"}
    return msgspec.convert(known | {"models": tuple(str(known["models"]).split())}, ApiKey)
