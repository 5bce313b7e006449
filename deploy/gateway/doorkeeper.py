"""What doorkeeper is built from: in a gateway whole, in the controller tokens alone."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from threading import Event
from typing import Protocol

from deploy.settings import PlatformSettings
from deploy.wiring import redis_client
from registry.key_sheet import KeySheet, RedisKeyBoard
from registry.quotas import RedisLedger
from serving.identity.doorkeeper import Doorkeeper
from serving.identity.key_sets import KeySet, KeySetWatcher
from serving.identity.keys import KeyTable, KeyWatcher
from serving.identity.leases import Leases
from serving.identity.tokens import TokenVerifier
from serving.settings import IdentitySettings, QuotaSettings, parse_quotas

REDIS_TIMEOUT_S = 1.0


class Stoppable(Protocol):
    """A thread that ends when it is asked to."""

    def start(self) -> None: ...

    def stop(self) -> None: ...


@dataclass(frozen=True, slots=True)
class GatewayDoorkeeper:
    """threads: to be started before the gateway serves, and stopped after. looked: set when it is known which keys are
    good, as far as that can be known at a start."""

    doorkeeper: Doorkeeper
    threads: Sequence[Stoppable]
    looked: Event


def token_key_set(settings: PlatformSettings, process: str) -> KeySetWatcher | None:
    """Follows the keys of the issuer whose tokens are good; None if there is no such issuer. process: whose copy."""
    tokens = settings.tokens
    if not tokens.key_set:
        return None
    return KeySetWatcher(KeySet(tokens, settings.versions_folder / f"issuer-{process}.json"))


def token_verifier(settings: PlatformSettings, key_set: KeySetWatcher | None) -> TokenVerifier | None:
    """None if no token is good."""
    tokens = settings.tokens
    return TokenVerifier(tokens, key_set.key_set if key_set is not None else None) if tokens.used else None


def quota_settings(settings: PlatformSettings) -> QuotaSettings:
    """As told; before Redis says how many gateways there are, those of this machine count."""
    return replace(parse_quotas(settings.quotas), gateways=settings.gateways)


def gateway_doorkeeper(settings: PlatformSettings, process: str) -> GatewayDoorkeeper | None:
    """On the running loop; None where queries are open to everybody and have no quotas. process: this gateway's name
    among all."""
    quotas = quota_settings(settings)
    closed = settings.queries_need_keys
    if not closed and not quotas.lines:
        return None
    loop = asyncio.get_running_loop()
    name = f"gateway-{settings.replica}"
    mine = IdentitySettings(closed, settings.versions_folder / f"keys-{name}.json")
    leases = Leases(RedisLedger(redis_client(settings, quotas.timeout_s)), quotas, process)
    table, looked = KeyTable(), Event()
    threads: list[Stoppable] = [leases]
    key_set = token_key_set(settings, name) if closed else None
    doorkeeper = Doorkeeper(mine, quotas, table, token_verifier(settings, key_set) if closed else None, leases)

    def follow(sheet: KeySheet) -> None:
        table.follow(sheet)
        doorkeeper.forget()

    def follow_soon(sheet: KeySheet) -> None:
        loop.call_soon_threadsafe(follow, sheet)

    def forget_soon() -> None:
        loop.call_soon_threadsafe(doorkeeper.forget)

    if key_set is not None:
        key_set.key_set.changed = forget_soon
        threads.append(key_set)
    if closed:
        watcher = KeyWatcher(
            RedisKeyBoard(redis_client(settings, REDIS_TIMEOUT_S)),
            mine.sheet_copy,
            follow_soon,
            doorkeeper.drain_used,
            used_every_s=mine.used_every_s,
        )
        threads.append(watcher)
        looked = watcher.looked
    else:
        looked.set()
    return GatewayDoorkeeper(doorkeeper, threads, looked)
