"""Rows fetched ahead by a thread with a real Redis behind it, and what a worker does with them."""

import threading
import time
from collections.abc import Callable

import numpy as np
import pytest
import redis
from prometheus_client import REGISTRY
from redis.connection import UnixDomainSocketConnection

from serving.features.host import HostTier
from serving.features.invalidation import InvalidationListener
from serving.features.materialiser import write_rows
from serving.features.prefetch import ROWS_A_ROUND_TRIP, Prefetcher
from serving.features.redis import RedisTier
from serving.features.suspects import CheckRule
from serving.features.tier import RowKeys, Rows
from serving.features.tiers import Tiers
from tests.conftest import RedisServer
from tests.serving.mortal_redis import a_mortal_redis
from tests.serving.workbench import PATIENCE_S
from tests.suites.tier_suite import DEFAULTS, STORED, VIEW, keys_of, store


def until(holds: Callable[[], bool]) -> None:
    gives_up_s = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < gives_up_s, "it did not come about"


def counted(outcome: str) -> float:
    return REGISTRY.get_sample_value("serving_prefetched_rows_total", {"outcome": outcome}) or 0.0


class Gate:
    """A store that answers when it is let to."""

    def __init__(self) -> None:
        self.open, self.asked = threading.Event(), threading.Event()

    def fetch(self, keys: RowKeys) -> Rows:
        """See `RowTier`."""
        self.asked.set()
        assert self.open.wait(PATIENCE_S)
        return Rows(np.zeros((len(keys), len(DEFAULTS)), np.float32), np.ones(len(keys), np.uint64))


def listener_of(tiers: Tiers, server_socket: str, allowed: threading.Event | None = None) -> InvalidationListener:
    def connect() -> UnixDomainSocketConnection:
        if allowed is not None and not allowed.is_set():
            raise OSError("not yet")
        return UnixDomainSocketConnection(  # type: ignore[abstract, no-untyped-call]
            path=server_socket, protocol=3, socket_timeout=2.0
        )

    return InvalidationListener(connect, tiers.changed, tiers.resync, retry_s=0.01)


def test_rows_fetched_ahead_are_hits(server_client: redis.Redis) -> None:
    store(server_client, STORED)
    woken = threading.Event()
    prefetcher = Prefetcher(fetched=woken.set)
    tiers = Tiers(prefetcher)
    redis_tier = RedisTier(server_client, VIEW)
    tier = tiers.of(VIEW.name, "f", lambda: HostTier(VIEW.name, redis_tier, 1024, DEFAULTS, ahead=redis_tier))
    prefetcher.start()

    tiers.prefetch("f", keys_of(*STORED, "nobody"))
    assert woken.wait(PATIENCE_S)
    assert tier.size == 0  # nothing happens in the middle of a batch
    tiers.apply_changes()
    assert tier.size == len(STORED) + 1
    server_client.flushall()

    rows = tier.fetch(keys_of("json.loads", "nobody"))
    assert rows.values.tolist() == [[12.25, 2.0], DEFAULTS.tolist()]
    prefetcher.stop()
    prefetcher.join(PATIENCE_S)
    assert not prefetcher.is_alive()


def test_rows_for_which_there_is_no_room_in_the_queue_are_dropped_and_counted() -> None:
    gate, prefetcher = Gate(), Prefetcher(most_waiting=2)
    tier = HostTier(VIEW.name, gate, 8192, DEFAULTS, ahead=gate)
    before = counted("dropped")
    prefetcher.start()
    items = [f"item-{i}" for i in range(3 * ROWS_A_ROUND_TRIP)]

    prefetcher.prefetch(tier, keys_of(*items))

    assert counted("dropped") - before == ROWS_A_ROUND_TRIP
    gate.open.set()
    prefetcher.stop()
    prefetcher.join(PATIENCE_S)
    prefetcher.hand_over()
    assert tier.size == 2 * ROWS_A_ROUND_TRIP


def test_a_store_that_is_away_leaves_nothing_behind(absent_redis: redis.Redis) -> None:
    away, prefetcher = RedisTier(absent_redis, VIEW), Prefetcher()
    tier = HostTier(VIEW.name, away, 64, DEFAULTS, ahead=away)
    before = counted("away")
    prefetcher.start()

    prefetcher.prefetch(tier, keys_of("item-1"))
    prefetcher.stop()
    prefetcher.join(PATIENCE_S)
    prefetcher.hand_over()

    assert counted("away") - before == 1
    assert tier.size == 0
    assert tier.lease(keys_of("item-1")) is not None


def test_a_row_that_was_absent_is_seen_once_it_is_created(
    redis_server: RedisServer, server_client: redis.Redis
) -> None:
    tiers = Tiers()
    tier = tiers.of(VIEW.name, "f", lambda: HostTier(VIEW.name, RedisTier(server_client, VIEW), 64, DEFAULTS))
    listener = listener_of(tiers, str(redis_server.socket))
    listener.start()
    assert listener.listening.wait(PATIENCE_S)
    tiers.apply_changes()
    assert tier.fetch(keys_of("newcomer")).updated_ms.tolist() == [0]
    assert tier.size == 1  # its absence is held

    store(server_client, {"newcomer": (5.0, 6.0)})

    def seen() -> bool:
        tiers.apply_changes()
        return tier.fetch(keys_of("newcomer")).values.tolist() == [[5.0, 6.0]]

    until(seen)
    listener.stop()
    listener.join(PATIENCE_S)


def test_absences_are_bounded_as_rows_are(server_client: redis.Redis) -> None:
    tier = HostTier(VIEW.name, RedisTier(server_client, VIEW), 64, DEFAULTS)

    for i in range(20):
        tier.fetch(keys_of(*(f"nobody-{i}-{j}" for j in range(50))))

    assert tier.size <= 64


@pytest.mark.parametrize("seed", range(2))
def test_a_redis_that_comes_back_is_not_asked_for_everything_at_once(seed: int) -> None:
    items = [f"item-{i}" for i in range(2000)]
    random, rate = np.random.default_rng(seed), 4000

    def write(client: redis.Redis, value: float) -> None:
        values = np.full((len(items), 2), value, dtype=np.float32)
        write_rows(client, VIEW, items, values, int(value), on_rows=lambda _: None)

    def asked() -> int:
        """Rows that the server was asked for since it started."""
        info = server.client.info("stats")
        return int(info["keyspace_hits"]) + int(info["keyspace_misses"])

    with a_mortal_redis() as server:
        write(server.client, 1.0)
        tiers, allowed = Tiers(), threading.Event()
        source = RedisTier(server.client, VIEW, retry_after_s=0.0)
        rule = CheckRule(rows_per_s=rate, within_s=PATIENCE_S)
        tier = tiers.of(VIEW.name, "f", lambda: HostTier(VIEW.name, source, 8192, DEFAULTS, rule=rule))
        tier.fetch(keys_of(*items))
        allowed.set()
        listener = listener_of(tiers, str(server.socket), allowed)
        listener.start()
        assert listener.listening.wait(PATIENCE_S)
        tiers.apply_changes()

        allowed.clear()
        server.kill()
        until(lambda: not listener.listening.is_set())
        server.start()
        write(server.client, 2.0)  # nobody is told
        began_s, untold = time.monotonic(), asked()
        allowed.set()
        assert listener.listening.wait(PATIENCE_S)

        right: set[int] = set()

        def under_load() -> bool:
            tiers.apply_changes()
            chosen = random.integers(0, len(items), 100)
            rows = tier.fetch(keys_of(*(items[i] for i in chosen)))
            right.update(chosen[rows.updated_ms == 2].tolist())
            assert asked() - untold <= (time.monotonic() - began_s) * rate
            return len(right) == len(items)

        until(under_load)
        rows = tier.fetch(keys_of(*items))

        assert rows.values.tolist() == [[2.0, 2.0]] * len(items)
        assert rows.unchecked is None
        assert asked() - untold == len(items)  # each once
        mget = server.client.info("commandstats")["cmdstat_mget"]
        assert mget["calls"] >= len(items) / 100  # in many small portions
        listener.stop()
        listener.join(PATIENCE_S)
