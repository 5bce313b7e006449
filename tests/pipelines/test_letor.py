from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.datasets import load_svmlight_file

from pipelines.errors import DataRefused
from pipelines.sources.letor import load
from pipelines.sources.svmlight import read_svmlight

LIGHTGBM = Path(__file__).parents[3] / "shared" / "data" / "lightgbm-lambdarank"


def judged_lines(queries: range, start: int = 1) -> str:
    return "".join(f"{q % 3} qid:{q} {start}:0.5 3:{n}\n" for q in queries for n in range(4))


def test_a_line_is_label_query_features_and_comment(tmp_path: Path) -> None:
    file = tmp_path / "some.txt"
    file.write_text("# made by hand\n2 qid:10 1:0.5 3:1e-2 # doc 7\n\n0 qid:10 2:-3\r\n1 qid:11\n")

    lines = read_svmlight(file)

    assert lines.labels.tolist() == [2, 0, 1]
    assert lines.qids is not None and lines.qids.tolist() == [10, 10, 11]
    np.testing.assert_array_equal(lines.features, np.array([[0.5, 0, 1e-2], [0, -3, 0], [0, 0, 0]], dtype=np.float32))


@given(block_bytes=st.integers(1, 200))
def test_the_size_of_blocks_changes_nothing(block_bytes: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    file = tmp_path_factory.mktemp("letor") / "some.txt"
    file.write_text(judged_lines(range(5)))

    np.testing.assert_array_equal(read_svmlight(file, block_bytes).features, read_svmlight(file).features)


def test_it_reads_what_sklearn_reads(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    file = tmp_path / "some.txt"
    pairs = [" ".join(f"{i + 1}:{rng.normal():.6g}" for i in np.flatnonzero(rng.random(20) < 0.4)) for _ in range(50)]
    file.write_text("".join(f"{rng.integers(0, 5)} qid:{n // 7} {line}\n" for n, line in enumerate(pairs)))

    features, labels, qids = load_svmlight_file(str(file), query_id=True, zero_based=False)
    lines = read_svmlight(file)

    np.testing.assert_array_equal(lines.features, features.toarray().astype(np.float32))
    np.testing.assert_array_equal(lines.labels, labels)
    np.testing.assert_array_equal(lines.qids, qids)


def test_values_that_float32_does_not_hold_are_missing_as_in_istella(tmp_path: Path) -> None:
    file = tmp_path / "some.txt"
    file.write_text("1 qid:1 1:1.7976931348623157E308 2:nan 3:7\n")

    assert read_svmlight(file).features.tolist() == [[0, 0, 7]]


@pytest.mark.parametrize(
    ("line", "rule"),
    [
        ("1 qid:2 1:0.5 2", "expected `label qid:ID"),
        ("1 qid:2 1:0.5 : 2", "expected `label qid:ID"),
        ("1 qid:2 1:2:3", "feature 1 is '2:3'"),
        ("1 qid:two 1:0.5", "expected `label qid:ID"),
        ("-1 qid:2 1:0.5", "label '-1'"),
        ("good qid:2 1:0.5", "label 'good'"),
        ("1 qid:2 0:0.5", "feature index 0"),
        ("1 qid:2 1000000:0.5", "feature index 1000000"),
        ("1e300 qid:2 1:0.5", "label '1e300'"),
        ("1 qid:9007199254740993 1:0.5", "qid 9007199254740993"),
        (f"1 qid:{'1' * 5000} 1:0.5", "qid 1111"),
        (f"1 qid:2 {'1' * 5000}:0.5", "feature index 1111"),
        ("1 qid:2 1:high", "feature 1 is 'high'"),
        ("1 1:0.5", "all or none"),
    ],
)
def test_a_broken_line_is_named_with_its_rule(tmp_path: Path, line: str, rule: str) -> None:
    file = tmp_path / "some.txt"
    file.write_text(f"# first\n1 qid:1 1:0.5\n{line}\n1 qid:3 1:0.5\n")

    with pytest.raises(DataRefused) as refusal:
        read_svmlight(file)

    assert str(refusal.value).startswith(f"{file}:3: ")
    assert rule in str(refusal.value)


def test_a_broken_line_in_a_later_block_has_its_own_number(tmp_path: Path) -> None:
    file = tmp_path / "some.txt"
    file.write_text(judged_lines(range(5)) + "oh\n")

    with pytest.raises(DataRefused, match=r"some\.txt:21: "):
        read_svmlight(file, block_bytes=40)


def test_a_folder_of_three_files_keeps_its_splits(tmp_path: Path) -> None:
    (tmp_path / "train.txt").write_text(judged_lines(range(1, 4)))
    (tmp_path / "vali.txt").write_text(judged_lines(range(4, 6)))
    (tmp_path / "test.txt").write_text(judged_lines(range(6, 7)) + "1 qid:9 5:1\n")

    splits = load(tmp_path)

    assert splits.train.query_ids == ("1", "2", "3")
    assert splits.validation.query_ids == ("4", "5")
    assert splits.test.item_ids[-2:] == ("6:4", "9:1")
    assert [column.name for column in splits.view.columns] == ["f1", "f2", "f3", "f4", "f5"]
    assert {column.source for column in splits.view.columns} == {"row"}


def test_the_folder_of_mslr_means_its_first_fold(tmp_path: Path) -> None:
    for fold, queries in (("Fold1", range(1, 6)), ("Fold2", range(11, 16))):
        (tmp_path / fold).mkdir()
        (tmp_path / fold / "train.txt").write_text(judged_lines(queries))

    splits = load(tmp_path)

    assert set(splits.train.query_ids + splits.validation.query_ids + splits.test.query_ids) == set("12345")


def test_missing_splits_are_cut_by_query(tmp_path: Path) -> None:
    file = tmp_path / "some.svm"
    file.write_text(judged_lines(range(20)))

    splits = load(file, seed=4)

    assert (len(splits.train), len(splits.validation), len(splits.test)) == (14, 3, 3)
    assert load(file, seed=4).test.query_ids == splits.test.query_ids
    assert load(file, seed=5).test.query_ids != splits.test.query_ids


def test_two_train_files_are_refused(tmp_path: Path) -> None:
    for name in ("set1.train.txt", "set2.train.txt"):
        (tmp_path / name).write_text(judged_lines(range(3)))

    with pytest.raises(DataRefused, match=r"set1.train.txt and set2.train.txt are both train"):
        load(tmp_path)


def test_lines_of_a_query_that_stand_apart_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "some.txt"
    file.write_text(judged_lines(range(3)) + judged_lines(range(1, 2)))

    with pytest.raises(DataRefused, match="qid 1 do not stand together"):
        load(file)


@pytest.mark.parametrize(("sizes", "rule"), [("4\n3\n", "7 candidates"), ("4\nmany\n", "query:2: 'many'")])
def test_list_sizes_that_do_not_fit_are_refused(tmp_path: Path, sizes: str, rule: str) -> None:
    (tmp_path / "rank.train").write_text("1 1:0.5\n" * 8)
    (tmp_path / "rank.train.query").write_text(sizes)

    with pytest.raises(DataRefused, match=rule):
        load(tmp_path)


def test_no_qid_and_no_sizes_are_refused(tmp_path: Path) -> None:
    (tmp_path / "rank.train").write_text("1 1:0.5\n")

    with pytest.raises(DataRefused, match=r"no rank.train.query beside it"):
        load(tmp_path)


def test_no_such_folder_and_no_train_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataRefused, match="no such file"):
        load(tmp_path / "absent")
    with pytest.raises(DataRefused, match="no train file"):
        load(tmp_path)


def test_parquet_groups_rows_by_query_wherever_they_stand(tmp_path: Path) -> None:
    file = tmp_path / "train.parquet"
    table = {"query": [f"q{n % 4}" for n in range(12)], "item": [f"i{n // 4}" for n in range(12)], "label": [1] * 12}
    pq.write_table(pa.table(table | {"price": [None, *range(1, 12)], "stock": [True] * 12}), file)

    splits = load(file)
    lists = [one for part in (splits.train, splits.validation, splits.test) for one in part.lists()]
    first = next(one for one in lists if one.query_id == "q0")

    assert sorted(one.query_id for one in lists) == ["q0", "q1", "q2", "q3"]
    assert first.item_ids == ("q0:i0", "q0:i1", "q0:i2")
    np.testing.assert_array_equal(first.features, [[np.nan, 1], [4, 1], [8, 1]])


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"label": None}, "no column 'label'"),
        ({"price": ["a", "b"]}, "column 'price' is string"),
        ({"item": ["x", "x"]}, "comes twice"),
        ({"query": ["q", None]}, "missing values"),
    ],
)
def test_parquet_that_breaks_a_rule_is_refused(tmp_path: Path, change: dict[str, Any], rule: str) -> None:
    columns = {"query": ["q", "q"], "item": ["x", "y"], "label": [1, 0], "price": [1.0, 2.0]} | change
    file = tmp_path / "some.parquet"
    pq.write_table(pa.table({name: values for name, values in columns.items() if values}), file)

    with pytest.raises(DataRefused, match=rule):
        load(file)


def test_splits_with_other_columns_are_refused(tmp_path: Path) -> None:
    columns = {"query": ["q", "r"], "item": ["x", "y"], "label": [1, 0]}
    pq.write_table(pa.table(columns | {"price": [1.0, 2.0], "age": [1.0, 2.0]}), tmp_path / "train.parquet")
    pq.write_table(pa.table(columns | {"price": [1.0, 2.0]}), tmp_path / "test.parquet")

    with pytest.raises(DataRefused, match="other feature columns"):
        load(tmp_path)


@pytest.mark.skipif(not LIGHTGBM.is_dir(), reason="shared data folder is not beside the repository")
def test_lightgbms_pair_of_files_is_read_whole() -> None:
    splits = load(LIGHTGBM)

    assert len(splits.train) + len(splits.validation) == 201
    assert len(splits.train.labels) + len(splits.validation.labels) == 3005
    assert (len(splits.test), splits.test.features.shape) == (50, (768, 300))
    assert splits.test.item_ids[0] == "test-1:1"
