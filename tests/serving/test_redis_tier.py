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
    def _server(self, server_client: redis.Redis) -> None:
        self.client = server_client

    def make_tier(self, rows: Mapping[str, Sequence[float]]) -> RedisTier:
        store(self.client, rows)
        return RedisTier(self.client, VIEW)

    def test_an_update_is_seen_by_the_next_fetch(self) -> None:
        tier = self.make_tier(STORED)
        tier.fetch(keys_of("item-1"))

        store(self.client, {"item-1": (5.0, 6.0)})

        assert tier.fetch(keys_of("item-1")).values.tolist() == [[5.0, 6.0]]

    @pytest.mark.parametrize("count", [256, 257, 4096, 4097, 10_000])
    def test_a_fetch_of_thousands_gives_every_row_in_its_place(self, count: int) -> None:
        tier = self.make_tier({f"item-{i}": (float(i), float(-i % 100)) for i in range(0, count, 2)})

        rows = tier.fetch(keys_of(*(f"item-{i}" for i in range(count))))

        assert rows.values[::2, 0].tolist() == list(range(0, count, 2))
        assert rows.updated_ms[::2].tolist() == [UPDATED_MS] * len(range(0, count, 2))
        assert not rows.updated_ms[1::2].any()

    def test_no_command_of_a_large_fetch_asks_for_more_than_a_chunk(self) -> None:
        tier = self.make_tier(STORED)
        with self.client.monitor() as monitor:
            tier.fetch(keys_of(*(f"item-{i}" for i in range(1000))))
            self.client.echo("asked")
            asked: list[int] = []
            while (words := monitor.next_command()["command"].split())[0] != "ECHO":
                if words[0] == "MGET":  # and not what a new connection says first
                    asked.append(len(words) - 1)

        assert asked == [256, 256, 256, 232]

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
