"""Chunks as large as Redis likes them, several on their way, never too many bytes."""

import numpy as np
import pytest
import redis
from hypothesis import given
from hypothesis import strategies as st

from registry.contracts.features import Column, FeatureView, pack_rows, row_key, unpack_rows
from serving.features.materialiser import RowPipeline
from serving.features.pace import ChunkPace

VIEW = FeatureView("articles", "article", (Column("age"), Column("clicks", dtype="int16"), Column("match", "query")))
ITEMS = [f"article-{i}" for i in range(3000)]
VALUES = np.stack([np.arange(3000) / 7, np.arange(3000)], axis=1).astype(np.float32)


def test_a_fast_redis_gets_larger_chunks_and_a_slow_one_smaller():
    pace = ChunkPace(target_s=0.01, min_rows=10, max_rows=1000)

    assert pace.next_rows(100, took_s=0.001) == 200
    assert pace.next_rows(100, took_s=0.020) == 50
    assert pace.next_rows(100, took_s=9.0) == 25
    assert pace.next_rows(100, took_s=0.011) == 100


@given(rows=st.integers(10, 1000), took_s=st.floats(0, 1e6))
def test_a_chunk_stays_within_its_bounds(rows: int, took_s: float):
    assert 10 <= ChunkPace(min_rows=10, max_rows=1000).next_rows(rows, took_s) <= 1000


@given(cost_s=st.floats(1e-6, 1e-3))
def test_the_pace_settles_near_its_target(cost_s: float):
    pace, rows = ChunkPace(target_s=0.005, min_rows=1, max_rows=10_000), 20
    for _ in range(30):
        rows = pace.next_rows(rows, took_s=rows * cost_s)

    assert rows == 10_000 or 0.003 < rows * cost_s < 0.0075


@pytest.mark.parametrize("wrong", [{"target_s": 0.0}, {"min_rows": 0}, {"min_rows": 9, "max_rows": 8}])
def test_a_pace_that_cannot_be_kept_is_refused(wrong: dict[str, float]):
    with pytest.raises(ValueError, match="expected target_s > 0"):
        ChunkPace(**wrong)  # type: ignore[arg-type]


def test_rows_written_through_the_pipeline_are_those_that_tiers_read(server_client: redis.Redis):
    with RowPipeline(server_client, VIEW) as pipeline:
        pipeline.write(ITEMS[:1000], pack_rows(VIEW, VALUES[:1000], updated_ms=5))
        pipeline.write(ITEMS[1000:], pack_rows(VIEW, VALUES[1000:], updated_ms=5))

    assert pipeline.stored_rows == 3000
    stored = unpack_rows(VIEW, server_client.mget([row_key(VIEW, item) for item in ITEMS]))  # type: ignore[arg-type]
    np.testing.assert_array_equal(stored.values, VALUES)
    assert set(stored.updated_ms.tolist()) == {5}


def test_what_is_on_its_way_never_passes_the_limit(server_client: redis.Redis):
    pace = ChunkPace(min_rows=20, max_rows=40)
    with RowPipeline(server_client, VIEW, pace, max_bytes=8192) as pipeline:
        pipeline.write(ITEMS, pack_rows(VIEW, VALUES, updated_ms=5))

    assert 4096 < pipeline.most_unanswered_bytes <= 8192
    assert server_client.dbsize() == 3000


def test_a_chunk_larger_than_the_limit_goes_alone(server_client: redis.Redis):
    with RowPipeline(server_client, VIEW, ChunkPace(min_rows=100, max_rows=100), max_bytes=1) as pipeline:
        pipeline.write(ITEMS, pack_rows(VIEW, VALUES, updated_ms=5))

    assert pipeline.stored_rows == 3000


def test_chunks_grow_by_what_the_clock_says_of_redis(server_client: redis.Redis):
    standing = RowPipeline(server_client, VIEW, ChunkPace(min_rows=20, max_rows=160), max_bytes=2048, clock=lambda: 0.0)
    with standing:
        standing.write(ITEMS, pack_rows(VIEW, VALUES, updated_ms=5))

    assert standing.chunk_rows == 160


def test_a_refused_write_says_so_and_leaves_the_connection_clean(server_client: redis.Redis):
    server_client.config_set("maxmemory", 1)
    try:
        with (
            pytest.raises(redis.RedisError, match="maxmemory"),
            RowPipeline(server_client, VIEW, max_bytes=4096) as pipeline,
        ):
            pipeline.write(ITEMS, pack_rows(VIEW, VALUES, updated_ms=5))
    finally:
        server_client.config_set("maxmemory", 0)

    assert pipeline.stored_rows == 0
    assert server_client.ping() is True
    assert server_client.dbsize() == 0


def test_a_redis_that_is_away_is_told_at_once(absent_redis: redis.Redis):
    with pytest.raises(redis.ConnectionError), RowPipeline(absent_redis, VIEW) as pipeline:
        pipeline.write(ITEMS[:1], pack_rows(VIEW, VALUES[:1], updated_ms=5))
