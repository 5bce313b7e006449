"""Rows in a real Redis."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
import redis
from prometheus_client import REGISTRY
from redis.backoff import NoBackoff
from redis.retry import Retry

from registry.contracts.features import Column, FeatureView, row_key
from serving.features.redis import RedisTier
from serving.features.tier import TierAway
from tests.suites.tier_suite import STORED, UPDATED_MS, VIEW, TierSuite, keys_of, store


def refused_rows() -> float:
    return REGISTRY.get_sample_value("serving_refused_rows_total", {"view": VIEW.name}) or 0.0


class TestRedisTier(TierSuite):
    @pytest.fixture(autouse=True)
    def _server(self, redis_client: redis.Redis) -> None:
        self.client = redis_client

    def make_tier(self, rows: Mapping[str, Sequence[float]]) -> RedisTier:
        store(self.client, rows)
        return RedisTier(self.client, VIEW)

    def test_an_update_is_seen_by_the_next_fetch(self) -> None:
        tier = self.make_tier(STORED)
        tier.fetch(keys_of("item-1"))

        store(self.client, {"item-1": (5.0, 6.0)})

        assert tier.fetch(keys_of("item-1")).values.tolist() == [[5.0, 6.0]]

    def test_a_row_written_for_another_layout_is_a_counted_miss_and_spoils_no_other(self) -> None:
        tier = self.make_tier(STORED)
        swapped = FeatureView(VIEW.name, VIEW.entity, (Column("depth"), Column("length", dtype="int16")))
        store(self.client, {"item-1": (5.0, 6.0)}, swapped)
        refused_before = refused_rows()

        rows = tier.fetch(keys_of("item-0", "item-1", "item-2"))

        assert rows.values.tolist() == [[0.0, 0.0], [1.5, -3.0], [2.0, -2.0]]
        assert rows.updated_ms.tolist() == [UPDATED_MS, 0, UPDATED_MS]
        assert refused_rows() - refused_before == 1

    @pytest.mark.parametrize("garbage", [b"", b"short", b"x" * 1000])
    def test_bytes_that_are_no_row_are_a_counted_miss(self, garbage: bytes) -> None:
        tier = self.make_tier(STORED)
        self.client.set(row_key(VIEW, "item-1"), garbage)
        refused_before = refused_rows()

        assert tier.fetch(keys_of("item-1")).updated_ms.tolist() == [0]
        assert refused_rows() - refused_before == 1


def test_an_absent_redis_is_asked_again_only_after_a_while(tmp_path: Path) -> None:
    asked: list[float] = []

    class Connection(redis.UnixDomainSocketConnection):
        def connect(self) -> None:
            asked.append(now_s)
            super().connect()  # type: ignore[no-untyped-call]

    pool = redis.ConnectionPool(Connection, path=str(tmp_path / "nobody.sock"), retry=Retry(NoBackoff(), 0))
    now_s = 0.0
    tier = RedisTier(redis.Redis(connection_pool=pool), VIEW, retry_after_s=0.5, clock=lambda: now_s)
    for moment_s in (10.0, 10.1, 10.49, 10.5, 10.6, 11.1):
        now_s = moment_s
        with pytest.raises(TierAway):
            tier.fetch(keys_of("item-1"))

    assert asked == [10.0, 10.5, 11.1]
