"""Doors for tests: keys on a sheet, quotas in memory or on Redis."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from registry.api_keys import MemoryKeyRing, key_text, make_key
from registry.quotas import MemoryLedger, QuotaLedger
from registry.roles import Role
from serving.identity.doorkeeper import Doorkeeper
from serving.identity.keys import KeyTable
from serving.identity.leases import Leases
from serving.identity.tokens import TokenVerifier
from serving.settings import IdentitySettings, QuotaSettings
from tests.builders import NOW_MS


def a_text(number: int = 0) -> str:
    """A key's text."""
    return key_text(bytes([number]) * 32)


def bearer(text: str, **more: str) -> dict[bytes, bytes]:
    """A request's headers. more: `x_sluice_line` and so on."""
    told = {name.replace("_", "-").encode(): value.encode() for name, value in more.items()}
    return {b"authorization": b"Bearer " + text.encode()} | told


class Keys:
    """A ring whose sheet the table follows after every change."""

    def __init__(self) -> None:
        self.ring, self.table = MemoryKeyRing(), KeyTable()
        self.doorkeeper: Doorkeeper | None = None

    def make(self, number: int = 0, role: Role = "caller", models: Sequence[str] = (), **more: Any) -> str:
        """A key's id; its text is `a_text(number)`."""
        key = make_key(a_text(number), f"k{number}", role, models, created_ms=NOW_MS, created_by="ann", **more)
        self.ring.add(key, a_text(number))
        self.follow()
        return key.id

    def follow(self) -> None:
        """As when the watcher has seen a new sheet."""
        self.table.follow(self.ring.sheet())
        if self.doorkeeper is not None:
            self.doorkeeper.forget()


def a_doorkeeper(
    keys: Keys,
    closed: bool = True,
    quotas: QuotaSettings | None = None,
    leases: Leases | None = None,
    tokens: TokenVerifier | None = None,
    wall_ms: int = NOW_MS,
) -> Doorkeeper:
    """It remembers for five seconds, at a moment that does not pass."""
    settings = IdentitySettings(closed, Path("unused"))
    doorkeeper = Doorkeeper(settings, quotas or QuotaSettings(), keys.table, tokens, leases, lambda: wall_ms)
    keys.doorkeeper = doorkeeper
    return doorkeeper


@asynccontextmanager
async def running_leases(
    quotas: QuotaSettings | None = None, ledger: QuotaLedger | None = None, gateway: str = "g1"
) -> AsyncIterator[Leases]:
    """Leases whose thread runs."""
    leases = Leases(ledger or MemoryLedger(), quotas or QuotaSettings(), gateway)
    leases.start()
    try:
        yield leases
    finally:
        leases.stop()
        leases.join(10)
