"""The host slab over other tiers: remembers what it saw, absence too, and outlives its store."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pytest
import redis
from prometheus_client import REGISTRY

from registry.contracts.ids import hash64
from serving import tally
from serving.features.host import HostTier
from serving.features.memory import MemoryTier
from serving.features.redis import RedisTier
from serving.features.tier import RowKeys, Rows, RowTier
from tests.serving.mortal_redis import MortalRedis, a_mortal_redis
from tests.suites.tier_suite import DEFAULTS, STORED, UPDATED_MS, VIEW, TierSuite, keys_of, store


def in_memory(rows: Mapping[str, Sequence[float]]) -> MemoryTier:
    return MemoryTier(VIEW, {item: np.array(values, np.float32) for item, values in rows.items()}, UPDATED_MS)


def host_over(slow: RowTier, rows: int = 1024) -> HostTier:
    return HostTier(VIEW.name, slow, rows, DEFAULTS)


class TestMemoryTier(TierSuite):
    def make_tier(self, rows: Mapping[str, Sequence[float]]) -> MemoryTier:
        return in_memory(rows)


class TestHostTierOverMemory(TierSuite):
    def make_tier(self, rows: Mapping[str, Sequence[float]]) -> HostTier:
        return host_over(in_memory(rows))


class TestHostTierThatIsTooSmall(TierSuite):
    """Evicts all the time, and is right all the same."""

    def make_tier(self, rows: Mapping[str, Sequence[float]]) -> HostTier:
        return host_over(in_memory(rows), rows=16)


class TestHostTierOverHostTier(TierSuite):
    def make_tier(self, rows: Mapping[str, Sequence[float]]) -> HostTier:
        return host_over(host_over(in_memory(rows)), rows=16)


class TestHostTierOverRedis(TierSuite):
    @pytest.fixture(autouse=True)
    def _server(self, server_client: redis.Redis) -> None:
        self.client = server_client

    def make_tier(self, rows: Mapping[str, Sequence[float]]) -> HostTier:
        store(self.client, rows)
        return host_over(RedisTier(self.client, VIEW))

    def test_absence_is_remembered_until_an_update_pushes_it_out(self) -> None:
        tier = self.make_tier(STORED)
        tier.fetch(keys_of("newcomer"))
        store(self.client, {"newcomer": (5.0, 6.0)})
        assert tier.fetch(keys_of("newcomer")).updated_ms.tolist() == [0]

        tier.drop([hash64("newcomer")])

        assert tier.fetch(keys_of("newcomer")).values.tolist() == [[5.0, 6.0]]

    def test_a_drop_forgets_the_changed_row_and_keeps_the_others(self) -> None:
        tier = self.make_tier(STORED)
        tier.fetch(keys_of("item-1", "item-2"))
        store(self.client, {"item-1": (5.0, 6.0), "item-2": (7.0, 8.0)})

        tier.drop([hash64("item-1"), hash64("never seen")])

        assert tier.fetch(keys_of("item-1", "item-2")).values.tolist() == [[5.0, 6.0], [2.0, -2.0]]

    def test_hits_and_misses_are_counted(self) -> None:
        def lookups(outcome: str) -> float:
            labels = {"view": VIEW.name, "outcome": outcome}
            tally.flush()
            return REGISTRY.get_sample_value("serving_tier_lookups_total", labels) or 0.0

        tier = self.make_tier(STORED)
        hits, misses = lookups("hit"), lookups("miss")
        tier.fetch(keys_of("item-1", "item-2"))
        tier.fetch(keys_of("item-1", "item-2", "nobody"))

        assert (lookups("hit") - hits, lookups("miss") - misses) == (2, 3)


@pytest.fixture
def mortal_redis() -> Iterator[MortalRedis]:
    with a_mortal_redis() as server:
        yield server


def test_without_redis_hits_are_answered_the_rest_is_away_and_it_comes_back_by_itself(
    mortal_redis: MortalRedis,
) -> None:
    store(mortal_redis.client, STORED)
    now_s = 100.0
    tier = host_over(RedisTier(mortal_redis.client, VIEW, retry_after_s=0.5, clock=lambda: now_s))
    tier.fetch(keys_of("item-1", "item-2"))

    mortal_redis.kill()
    hits, mixed = tier.fetch(keys_of("item-1", "item-2")), tier.fetch(keys_of("item-1", "item-3"))

    assert (hits.values.tolist(), hits.away) == ([[1.0, -1.0], [2.0, -2.0]], False)
    assert (mixed.values.tolist(), mixed.away) == ([[1.0, -1.0], DEFAULTS.tolist()], True)
    assert mixed.updated_ms.tolist() == [UPDATED_MS, 0]

    mortal_redis.start()
    store(mortal_redis.client, STORED)
    now_s = 100.6
    back = tier.fetch(keys_of("item-1", "item-3"))

    assert (back.values.tolist(), back.away) == ([[1.0, -1.0], [3.0, -3.0]], False)


def test_what_was_away_under_a_tier_is_not_remembered_as_absent_above_it(mortal_redis: MortalRedis) -> None:
    store(mortal_redis.client, STORED)
    now_s = 100.0
    tier = host_over(host_over(RedisTier(mortal_redis.client, VIEW, retry_after_s=0.5, clock=lambda: now_s)))

    mortal_redis.kill()
    assert tier.fetch(keys_of("item-3")).away

    mortal_redis.start()
    store(mortal_redis.client, STORED)
    now_s = 100.6
    back = tier.fetch(keys_of("item-3"))

    assert (back.values.tolist(), back.away) == ([[3.0, -3.0]], False)


def test_a_restarted_redis_costs_no_degraded_answer(mortal_redis: MortalRedis) -> None:
    store(mortal_redis.client, STORED)
    tier = host_over(RedisTier(mortal_redis.client, VIEW))
    tier.fetch(keys_of("item-1"))

    mortal_redis.kill()
    mortal_redis.start()  # the pool still holds a connection to the dead one

    assert not tier.fetch(keys_of("item-2")).away


def test_a_row_that_is_missed_twice_in_a_batch_is_fetched_once() -> None:
    class Counting:
        def __init__(self) -> None:
            self.asked: list[bytes] = []

        def fetch(self, keys: RowKeys) -> Rows:
            self.asked += keys.ids()
            return in_memory(STORED).fetch(keys)

    slow = Counting()

    rows = host_over(slow).fetch(RowKeys.join([keys_of("item-1", "item-2"), keys_of("item-2", "item-1")]))

    assert sorted(slow.asked) == [b"item-1", b"item-2"]
    assert rows.values.tolist() == [[1.0, -1.0], [2.0, -2.0], [2.0, -2.0], [1.0, -1.0]]


def test_picked_keys_keep_their_names_when_they_are_joined() -> None:
    picked = keys_of("item-1", "item-2").pick(np.array([1]))

    assert RowKeys.join([picked, keys_of("item-3")]).ids() == [b"item-2", b"item-3"]
