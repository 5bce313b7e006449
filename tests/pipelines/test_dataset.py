from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.dataset import DatasetSplits, RankingDataset
from pipelines.errors import DataRefused
from tests.pipelines.judged_data import VIEW, judged, splits


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    data = judged("some", 12, seed=3)
    data.features[0, 1] = np.nan

    data.save(tmp_path / "some.parquet")
    loaded = RankingDataset.load(tmp_path / "some.parquet")

    assert loaded.digest == data.digest
    assert (loaded.name, loaded.view, loaded.query_texts) == (data.name, data.view, data.query_texts)


def test_lists_without_texts_are_loaded_without(tmp_path: Path) -> None:
    data = replace(judged("some", 3, seed=3), query_texts=())

    data.save(tmp_path / "some.parquet")

    assert RankingDataset.load(tmp_path / "some.parquet").query_texts == ()


def test_the_digest_is_of_the_content_and_not_of_the_name() -> None:
    data = judged("some", 4, seed=3)
    other = data.labels.copy()
    other[0] += 1

    assert replace(data, name="other").digest == data.digest
    assert replace(data, labels=other).digest != data.digest
    assert replace(data, query_ids=data.query_ids[::-1]).digest != data.digest


def test_lists_are_the_candidates_between_offsets() -> None:
    data = judged("some", 5, seed=3)
    lists = list(data.lists())

    assert [one.query_id for one in lists] == list(data.query_ids)
    np.testing.assert_array_equal(np.concatenate([one.features for one in lists]), data.features)
    assert lists[1].item_ids == data.item_ids[data.offsets[1] : data.offsets[2]]


def test_taken_lists_are_the_same_lists() -> None:
    data = judged("some", 6, seed=3)
    every = list(data.lists())

    for given, taken in zip((4, 0), data.take([4, 0]).lists(), strict=True):
        assert taken.query_id == every[given].query_id
        assert taken.item_ids == every[given].item_ids
        np.testing.assert_array_equal(taken.labels, every[given].labels)


def test_a_cut_shares_out_every_query_once_and_follows_its_seed() -> None:
    data = judged("some", 20, seed=3)
    rest, cut = data.cut(0.25, seed=1)

    assert (len(rest), len(cut)) == (15, 5)
    assert sorted(rest.query_ids + cut.query_ids) == sorted(data.query_ids)
    assert data.cut(0.25, seed=1)[1].query_ids == cut.query_ids
    assert data.cut(0.25, seed=2)[1].query_ids != cut.query_ids


def test_stored_rows_hold_each_item_once_with_its_row_columns() -> None:
    parts = splits()
    stored = parts.stored_rows()

    assert sorted(stored.item_ids) == sorted(parts.train.item_ids + parts.validation.item_ids + parts.test.item_ids)
    assert stored.values[: len(parts.train.item_ids)].tolist() == parts.train.features[:, :1].tolist()


def test_splits_are_loaded_as_saved(tmp_path: Path) -> None:
    parts = splits()
    parts.save(tmp_path)
    loaded = DatasetSplits.load(tmp_path)

    assert loaded.test.digest == parts.test.digest
    assert loaded.view == VIEW


def test_a_query_in_two_splits_is_refused() -> None:
    parts = splits()

    with pytest.raises(DataRefused, match="in two splits"):
        DatasetSplits(parts.train, parts.validation, parts.train)


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"labels": np.array([-1.0, 1.0], np.float32)}, "labels >= 0"),
        ({"features": np.full((2, 3), np.inf, np.float32)}, "numbers or NaN"),
        ({"features": np.zeros((2, 2), np.float32)}, "columns"),
        ({"offsets": np.array([0, 0, 2])}, "offset per query"),
        ({"offsets": np.array([0, 0, 2]), "query_ids": ("a", "b"), "query_texts": ()}, "at least one candidate"),
        ({"offsets": np.array([0, 1, 2]), "query_ids": ("a", "a"), "query_texts": ()}, "every query once"),
    ],
)
def test_what_is_no_dataset_is_refused_with_the_rule(change: dict[str, Any], rule: str) -> None:
    data = RankingDataset(
        "some", VIEW, np.zeros((2, 3), np.float32), np.zeros(2, np.float32), np.array([0, 2]), ("a",), ("x", "y")
    )

    with pytest.raises(DataRefused, match=rule):
        replace(data, **change)


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text.parquet").write_text("no parquet")
    pq.write_table(pa.table({"query": ["a"]}), tmp_path / "foreign.parquet")

    with pytest.raises(DataRefused, match="build it again"):
        RankingDataset.load(tmp_path / "text.parquet")
    with pytest.raises(DataRefused, match="without our header"):
        RankingDataset.load(tmp_path / "foreign.parquet")
