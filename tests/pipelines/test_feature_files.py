"""Feature files of every kind give the same rows; what breaks a rule is named by row and column."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv as pc
import pyarrow.feather as feather
import pyarrow.parquet as pq
import pytest

from pipelines.errors import DataRefused
from pipelines.sources.feature_files import MAX_PART_ROWS, FeatureFile
from registry.contracts.features import Column, FeatureView

VIEW = FeatureView("articles", "article", (Column("age"), Column("match", "query"), Column("clicks", dtype="int16")))
COUNT = 40_000
TABLE = pa.table(
    {
        "clicks": pa.array([None if i % 5 == 0 else i % 1000 for i in range(COUNT)], pa.int64()),
        "title": ["not a feature"] * COUNT,
        "item": [f"article-{i}" for i in range(COUNT)],
        "age": pa.array(np.arange(COUNT) / 8, pa.float64()),
    }
)
EXPECTED = np.stack(
    [np.arange(COUNT) / 8, np.where(np.arange(COUNT) % 5 == 0, np.nan, np.arange(COUNT) % 1000)], axis=1
).astype(np.float32)


def write_table(table: pa.Table, path: Path) -> Path:
    """The table in the format that the name says."""
    match path.name.partition(".")[2]:
        case "parquet":
            pq.write_table(table, path, row_group_size=7000)
        case "csv":
            pc.write_csv(table, path)
        case "csv.gz":
            with pa.output_stream(path, compression="gzip") as sink:
                pc.write_csv(table, sink)
        case "feather":
            feather.write_feather(table, str(path))
        case "arrow":
            with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
                writer.write_table(table)
        case "arrows":
            with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
                writer.write_table(table, max_chunksize=9000)
    return path


KINDS = ["parquet", "csv", "csv.gz", "feather", "arrow", "arrows"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("skip", [0, 1, 6999, 7000, 25_001, COUNT])
def test_every_kind_gives_the_same_rows_from_any_row_on(tmp_path: Path, kind: str, skip: int):
    file = FeatureFile(write_table(TABLE, tmp_path / f"rows.{kind}"), VIEW)

    parts = list(file.parts(skip))

    assert [item for part in parts for item in part.item_ids] == TABLE["item"].to_pylist()[skip:]
    if parts:
        np.testing.assert_array_equal(np.concatenate([part.values for part in parts]), EXPECTED[skip:])
    assert [part.first_row for part in parts] == [
        skip + 1 + sum(len(part.item_ids) for part in parts[:i]) for i in range(len(parts))
    ]
    assert all(len(part.item_ids) <= MAX_PART_ROWS for part in parts)


def test_columns_that_the_view_lacks_are_told_and_left_out(tmp_path: Path):
    file = FeatureFile(write_table(TABLE, tmp_path / "rows.parquet"), VIEW)

    assert file.ignored == ["title"]
    assert file.rows == COUNT


@pytest.mark.parametrize("kind", KINDS)
def test_missing_columns_are_refused_by_name_before_any_row(tmp_path: Path, kind: str):
    path = write_table(TABLE.drop_columns(["age", "item"]), tmp_path / f"rows.{kind}")

    with pytest.raises(DataRefused, match=r"columns \['item', 'age'\] are missing: .*--item-column"):
        FeatureFile(path, VIEW)


def test_ids_may_be_whole_numbers_in_a_column_of_another_name(tmp_path: Path):
    table = TABLE.slice(0, 3).append_column("sku", pa.array([7, 8, 9]))

    file = FeatureFile(write_table(table, tmp_path / "rows.parquet"), VIEW, item_column="sku")

    assert next(iter(file.parts())).item_ids == ["7", "8", "9"]


@pytest.mark.parametrize("kind", ["parquet", "feather"])
def test_a_column_that_is_no_number_is_refused(tmp_path: Path, kind: str):
    table = TABLE.slice(0, 2).set_column(3, "age", pa.array(["old", "new"]))

    with pytest.raises(DataRefused, match=r"column 'age' is .*string: expected numbers or booleans"):
        FeatureFile(write_table(table, tmp_path / f"rows.{kind}"), VIEW)


def test_a_word_among_a_csvs_numbers_is_named_by_row_and_column(tmp_path: Path):
    path = tmp_path / "rows.csv"
    lines = [f"a{i},{i},1" for i in range(1, 500_000)] + ["b,old,1"]
    path.write_text("\n".join(["item,age,clicks", *lines]))

    with pytest.raises(DataRefused, match=r"row 500000, column 'age': .*invalid value 'old'"):
        list(FeatureFile(path, VIEW).parts())


def test_a_csv_line_that_is_too_short_is_refused(tmp_path: Path):
    path = tmp_path / "rows.csv"
    path.write_text("item,age,clicks\na,1,2\nb,1\n")

    with pytest.raises(DataRefused, match="Expected 3 columns, got 2"):
        list(FeatureFile(path, VIEW).parts())


@pytest.mark.parametrize("wrong", [None, "", "a\nb", "x" * 257])
def test_an_item_that_is_no_id_is_named_by_its_row(tmp_path: Path, wrong: str | None):
    table = TABLE.slice(0, 3).set_column(2, "item", pa.array(["a", "b", wrong]))

    with pytest.raises(DataRefused, match=r"rows.parquet, row 3: item="):
        list(FeatureFile(write_table(table, tmp_path / "rows.parquet"), VIEW).parts())


@pytest.mark.parametrize("name", ["rows.parquet", "rows.feather", "rows.csv"])
def test_a_file_of_another_kind_or_none_at_all_is_refused(tmp_path: Path, name: str):
    with pytest.raises(DataRefused, match="not a readable"):
        FeatureFile(tmp_path / name, VIEW)
    (tmp_path / name).write_bytes(b"\x00\xff" * 400)
    with pytest.raises(DataRefused):
        FeatureFile(tmp_path / name, VIEW)


def test_a_name_without_a_known_ending_is_refused(tmp_path: Path):
    with pytest.raises(DataRefused, match="expected a name that ends in"):
        FeatureFile(tmp_path / "rows.xlsx", VIEW)
