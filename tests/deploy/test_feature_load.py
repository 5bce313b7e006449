"""A file into a real Redis: whole, in parts, after a cut, and refused."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from deploy.features.ledger import LoadLedger
from deploy.features.load import LoadReport, load_file
from deploy.features.store import primaries
from pipelines.errors import DataRefused
from pipelines.sources.feature_files import MAX_PART_ROWS, FeatureFile
from registry.contracts.features import Column, FeatureView, row_key, unpack_rows
from tests.redis_cluster import running_cluster

VIEW = FeatureView(
    "articles", "article", (Column("age", default=-1.0), Column("match", "candidate"), Column("clicks", dtype="int16"))
)
COUNT = 2 * MAX_PART_ROWS + 1000
ITEMS = [f"article-{i}" for i in range(COUNT)]


class Cut(Exception):
    """What stands for a kill in the middle of a load."""


def a_file(folder: Path, clicks: Sequence[float | None] | None = None) -> Path:
    """COUNT rows; `age` is missing in each third one."""
    ages = np.where(np.arange(COUNT) % 3 == 0, np.nan, np.arange(COUNT)).astype(np.float32)
    table = pa.table({"item": ITEMS, "age": ages, "clicks": pa.array(clicks or [7.0] * COUNT, pa.float64())})
    pq.write_table(table, folder / "rows.parquet")
    return folder / "rows.parquet"


def load(
    client: redis.Redis | redis.RedisCluster,
    path: Path,
    updated_ms: int = 5,
    given_ms: bool = False,
    cut_after: int = COUNT + 1,
) -> LoadReport:
    """Loads the file, its marks beside it; cut off as soon as so many rows are in."""

    def on_rows(rows: int) -> None:
        if rows >= cut_after:
            raise Cut

    return load_file(client, VIEW, FeatureFile(path, VIEW), ledger_of(path), updated_ms, on_rows, given_ms)


def ledger_of(path: Path) -> LoadLedger:
    """Where the file's marks are."""
    return LoadLedger(path.parent / "loads", path, VIEW, "item")


def keys_in(client: redis.Redis) -> int:
    return sum(server.dbsize() for server in primaries(client))


def stored_rows(client: redis.Redis) -> list[bytes | None]:
    with client.pipeline(transaction=False) as pipeline:
        for item in ITEMS:
            pipeline.get(row_key(VIEW, item))
        return list(pipeline.execute())


def test_a_files_rows_are_in_redis_with_defaults_for_what_is_missing(redis_client: redis.Redis, tmp_path: Path):
    report = load(redis_client, a_file(tmp_path))

    assert (report.rows, report.resumed_rows) == (COUNT, 0)
    stored = unpack_rows(VIEW, stored_rows(redis_client))
    expected = np.where(np.arange(COUNT) % 3 == 0, -1.0, np.arange(COUNT))
    np.testing.assert_array_equal(stored.values, np.stack([expected, np.full(COUNT, 7.0)], axis=1))
    assert not list((tmp_path / "loads").iterdir())


def test_a_load_that_was_cut_off_goes_on_where_it_was(redis_client: redis.Redis, tmp_path: Path):
    path = a_file(tmp_path)
    with pytest.raises(Cut):
        load(redis_client, path, cut_after=MAX_PART_ROWS)
    there = keys_in(redis_client)
    assert MAX_PART_ROWS <= there < COUNT

    report = load(redis_client, path, updated_ms=99)

    assert report == LoadReport(COUNT, MAX_PART_ROWS, updated_ms=5, ignored=())
    assert keys_in(redis_client) == COUNT


def test_a_load_into_a_cluster_goes_on_when_its_dead_node_is_back(tmp_path: Path):
    path = a_file(tmp_path)
    with running_cluster() as cluster, cluster.client(retry=Retry(NoBackoff(), 1)) as client:
        last = row_key(VIEW, ITEMS[MAX_PART_ROWS - 1])
        dead = next(node for node in cluster.nodes if node is not cluster.owner(last))

        def kill_in_the_middle(rows: int) -> None:
            if rows >= MAX_PART_ROWS:
                dead.kill()

        with pytest.raises(redis.RedisError):
            load_file(client, VIEW, FeatureFile(path, VIEW), ledger_of(path), 5, kill_in_the_middle)
        dead.start()
        cluster.wait_until_ok()

        report = load(client, path, updated_ms=99)

        assert (report.rows, report.resumed_rows, report.updated_ms) == (COUNT, MAX_PART_ROWS, 5)
        assert client.get(row_key(VIEW, ITEMS[-1])) is not None


def test_a_load_starts_again_if_redis_was_emptied_or_another_time_is_asked_for(
    redis_client: redis.Redis, tmp_path: Path
):
    path = a_file(tmp_path)
    for changed in ("emptied", "time"):
        with pytest.raises(Cut):
            load(redis_client, path, cut_after=MAX_PART_ROWS)
        if changed == "emptied":
            redis_client.flushall()

        report = load(redis_client, path, updated_ms=99, given_ms=changed == "time")

        assert (report.rows, report.resumed_rows, report.updated_ms) == (COUNT, 0, 99)


def test_a_changed_file_starts_again(redis_client: redis.Redis, tmp_path: Path):
    with pytest.raises(Cut):
        load(redis_client, a_file(tmp_path), cut_after=MAX_PART_ROWS)

    assert load(redis_client, a_file(tmp_path, [8.0] * COUNT)).resumed_rows == 0


def test_a_value_that_does_not_fit_is_named_and_its_part_is_not_written(redis_client: redis.Redis, tmp_path: Path):
    wrong = MAX_PART_ROWS + 500
    clicks: list[float | None] = [7.0] * COUNT
    clicks[wrong] = 70_000.0
    clicks[wrong + 3] = 0.5

    expected = rf"rows.parquet, row {wrong + 1}, item 'article-{wrong}': column 'clicks': .* does not fit int16"
    with pytest.raises(DataRefused, match=expected):
        load(redis_client, a_file(tmp_path, clicks))

    assert keys_in(redis_client) == MAX_PART_ROWS
    assert redis_client.exists(row_key(VIEW, ITEMS[MAX_PART_ROWS - 1]))


def test_an_infinite_value_is_refused_where_none_is_missing(redis_client: redis.Redis, tmp_path: Path):
    with pytest.raises(DataRefused, match="row 1, item 'article-0': column 'clicks': a value is infinite"):
        load(redis_client, a_file(tmp_path, [np.inf] + [None] * (COUNT - 1)))

    assert keys_in(redis_client) == 0
