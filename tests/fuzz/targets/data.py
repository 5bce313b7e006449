"""Data that a user brings: judged lists and features."""

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv as pc
import pyarrow.parquet as pq

from pipelines.errors import DataRefused
from pipelines.sources.feature_files import FeatureFile
from pipelines.sources.letor import load
from pipelines.sources.svmlight import read_svmlight
from registry.contracts.errors import ContractError
from registry.contracts.features import Column, FeatureView
from tests.fuzz.target import READ, Check, Opens, Target, refusal

VIEW = FeatureView("things", "thing", (Column("age"), Column("size", dtype="float16"), Column("asked", "query")))
LINES = b"2 qid:1 1:0.5 3:1e-3 # one\n0 qid:1 2:-7\n\n1 qid:2 1:1 2:2 3:3\n0 qid:2 1:0\n1 qid:3 1:4\n2 qid:4 1:4\n"


def _of(name: str, read: Callable[[Path], object]) -> Opens:
    @contextmanager
    def opens(folder: Path) -> Iterator[Check]:
        path = folder / name

        def check(data: bytes) -> str:
            path.write_bytes(data)
            try:
                read(path)
            except (DataRefused, ContractError) as error:
                return refusal(error)
            return READ

        yield check

    return opens


def _svmlight(path: Path) -> None:
    """Read in large blocks and in small ones it is the same."""
    whole = read_svmlight(path)
    pieces = read_svmlight(path, block_bytes=16)
    assert np.isfinite(whole.features).all()
    assert np.array_equal(whole.features, pieces.features)
    assert np.array_equal(whole.labels, pieces.labels)


def _feature_rows(path: Path) -> None:
    file = FeatureFile(path, VIEW)
    rows = sum(len(part.item_ids) for part in file.parts())
    assert file.rows in (None, rows)
    assert sum(len(part.item_ids) for part in file.parts(skip_rows=1)) == max(0, rows - 1)


def _table() -> pa.Table:
    return pa.table({"item": ["a", "b", "c"], "age": [1.5, None, 3.0], "size": [1, 2, 3], "else": [True, False, None]})


def _written(write: Callable[[pa.Table, io.BytesIO], object]) -> Callable[[], list[bytes]]:
    def seeds() -> list[bytes]:
        made = io.BytesIO()
        write(_table(), made)
        return [made.getvalue()]

    return seeds


def _arrow_stream(table: pa.Table, made: io.BytesIO) -> None:
    with pa.ipc.new_stream(made, table.schema) as writer:
        writer.write_table(table)


def _judged_parquet() -> list[bytes]:
    made = io.BytesIO()
    queries = [f"q{i // 3}" for i in range(18)]
    columns = {"query": queries, "item": [f"i{i % 3}" for i in range(18)], "label": [i % 3 for i in range(18)]}
    pq.write_table(pa.table(columns | {"age": np.arange(18.0)}), made)
    return [made.getvalue()]


def targets() -> list[Target]:
    """Text, Parquet, CSV and Arrow."""
    return [
        Target(
            "data.svmlight", _of("train.txt", _svmlight), lambda: [LINES, LINES.replace(b"\n", b"\r\n")], "lines", 0.5
        ),
        Target("data.judged_text", _of("train.txt", load), lambda: [LINES], "lines", 0.1),
        Target("data.judged_parquet", _of("train.parquet", load), _judged_parquet, share=0.05),
        Target("data.csv", _of("rows.csv", _feature_rows), _written(pc.write_csv), "lines", 0.1),
        Target("data.parquet", _of("rows.parquet", _feature_rows), _written(pq.write_table), share=0.05),
        Target("data.arrow", _of("rows.arrow", _feature_rows), _written(_arrow_stream), share=0.1),
    ]
