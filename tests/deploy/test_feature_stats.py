"""What is stored, counted over a real Redis; what the tiers did, read from an exposition."""

import numpy as np
import redis
from prometheus_client import CollectorRegistry, Counter, generate_latest

from deploy.features.stats import SAMPLE_ROWS, serving_stats, store_stats
from registry.contracts.features import Column, FeatureView
from serving.features.materialiser import write_rows

NOW_MS = 1_767_225_600_000
OLD, NEW = (FeatureView("articles", "article", (Column("age", dtype=dtype),)) for dtype in ("float32", "float16"))
OTHER = FeatureView("shops", "shop", (Column("age"),))


def write(client: redis.Redis, view: FeatureView, first: int, last: int, age_s: float) -> None:
    items = [f"item:{i}" for i in range(first, last)]
    write_rows(client, view, items, np.ones((len(items), 1), np.float32), int(NOW_MS - age_s * 1000), lambda _: None)


def test_rows_ages_and_layouts_are_told_by_view(redis_client: redis.Redis):
    write(redis_client, OLD, 0, 2000, age_s=3600)
    write(redis_client, NEW, 2000, 4000, age_s=60)
    write(redis_client, OTHER, 0, 10, age_s=5)
    redis_client.set("something:else", "1")
    seen: list[tuple[int, int]] = []

    articles, shops = store_stats(redis_client, None, NOW_MS, lambda done, total: seen.append((done, total)))

    assert (articles.view, articles.rows, articles.sampled) == ("articles", 4000, SAMPLE_ROWS)
    assert (shops.view, shops.rows, shops.sampled, shops.layouts) == ("shops", 10, 10, {OTHER.fingerprint: 1.0})
    assert set(articles.layouts) == {OLD.fingerprint, NEW.fingerprint}
    assert 0.4 < articles.layouts[OLD.fingerprint] < 0.6
    assert (articles.age_s["p0"], articles.age_s["p100"], shops.age_s["p50"]) == (60.0, 3600.0, 5.0)
    assert 4000 * (8 + 8 + 2) < articles.bytes < 4000 * 300
    assert seen[-1] == (4011, 4011)


def test_one_view_alone_may_be_asked_for(redis_client: redis.Redis):
    write(redis_client, OLD, 0, 5, age_s=1)
    write(redis_client, OTHER, 0, 5, age_s=1)

    assert [found.view for found in store_stats(redis_client, "shops", NOW_MS, lambda *_: None)] == ["shops"]
    assert store_stats(redis_client, "nobody", NOW_MS, lambda *_: None) == []


def test_hits_misses_and_what_was_missing_come_from_the_metrics():
    registry = CollectorRegistry()
    lookups = Counter("serving_tier_lookups", "", ["view", "outcome"], registry=registry)
    lookups.labels("articles", "hit").inc(90)
    lookups.labels("articles", "miss").inc(10)
    Counter("serving_missing_rows", "", ["model"], registry=registry).labels("m").inc(3)
    Counter("serving_stale_rows", "", ["model"], registry=registry).labels("m").inc(4)
    Counter("serving_refused_rows", "", ["view"], registry=registry).labels("articles").inc(5)

    found = serving_stats(generate_latest(registry).decode())

    assert found.lookups == {"host": {"articles": {"hit": 90, "miss": 10}}}
    assert (found.missing, found.stale, found.refused) == ({"m": 3}, {"m": 4}, {"articles": 5})
