"""Judged data that a user brings: LETOR/SVMLight text, LightGBM's pair of files, or Parquet.

A folder holds a train file and perhaps a validation and a test file; a file belongs to the split
that a part of its name says (`train.txt`, `rank.test`, `set1.valid.txt`, `vali.parquet`). MSLR's
folder of folds means its `Fold1`. Beside LightGBM's `rank.train`, `rank.train.query` holds the
sizes of the lists. What is missing is cut from train, by query.

Every column is stored per item: an item is a candidate of one query, with the id
`<query>:<candidate>`.
"""

from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipelines.dataset import DatasetSplits, RankingDataset
from pipelines.errors import DataRefused
from pipelines.sources.svmlight import read_svmlight
from registry.contracts.features import Column, FeatureView

SPLIT_NAMES = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "vali", "val", "dev"),
    "test": ("test", "testing"),
}
TEXT_SUFFIXES = ("txt", "dat", "svm", "svmlight", "libsvm", "letor")
CUT_SHARE = 0.15


@dataclass(frozen=True, slots=True)
class _Part:
    """One file: as a RankingDataset, but without a view."""

    names: tuple[str, ...]
    features: NDArray[np.float32]
    labels: NDArray[np.float32]
    offsets: NDArray[np.int64]
    query_ids: tuple[str, ...]
    item_ids: tuple[str, ...]
    from_text: bool


def load(path: Path, seed: int = 0) -> DatasetSplits:
    """The judged lists of a folder or a single file.

    seed: of the cut of validation and test from train where they have no file.
    Raises DataRefused naming file, line and rule.
    """
    name, files = _files(path)
    parts = _of_one_width({split: _read(file, split) for split, file in files.items()})
    view = _view(name, parts)
    found = {split: _dataset(f"{name}/{split}", view, part) for split, part in parts.items()}
    train = found["train"]
    test = found.get("test")
    if test is None:
        train, test = train.cut(CUT_SHARE, seed)
    validation = found.get("validation")
    if validation is None:
        train, validation = train.cut(CUT_SHARE, seed + 1)
    return DatasetSplits(train, validation, test)


def _files(path: Path) -> tuple[str, dict[str, Path]]:
    """The data's name, and which file is which split."""
    if path.is_file():
        return path.stem, {"train": path}
    if not path.is_dir():
        raise DataRefused(f"{path}: no such file or folder")
    files: dict[str, Path] = {}
    for file in sorted(path.iterdir()):
        split = _split_of(file)
        if split in files:
            raise DataRefused(f"{path}: {files[split].name} and {file.name} are both {split}: name one file or folder")
        if split:
            files[split] = file
    if "train" in files:
        return path.name, files
    if (path / "Fold1").is_dir():
        return f"{path.name}-Fold1", _files(path / "Fold1")[1]
    raise DataRefused(f"{path}: no train file: expected train.txt, rank.train, train.parquet or the like")


def _split_of(file: Path) -> str:
    """Empty if the file is no data."""
    *stem, last = file.name.lower().split(".")
    for split, names in SPLIT_NAMES.items():
        if last in names or (last in (*TEXT_SUFFIXES, "parquet") and set(stem) & set(names)):
            return split if file.is_file() else ""
    return ""


def _read(file: Path, split: str) -> _Part:
    return _read_parquet(file) if file.suffix == ".parquet" else _read_text(file, split)


def _read_text(file: Path, split: str) -> _Part:
    lines = read_svmlight(file)
    count = len(lines.labels)
    sizes_file = file.with_name(file.name + ".query")
    if lines.qids is not None:
        starts = np.flatnonzero(np.diff(lines.qids, prepend=lines.qids[0] - 1))
        query_ids = tuple(str(qid) for qid in lines.qids[starts])
        if len(set(query_ids)) < len(query_ids):
            twice, _ = Counter(query_ids).most_common(1)[0]
            raise DataRefused(f"{file}: the lines of qid {twice} do not stand together: sort the file by qid")
        offsets = np.append(starts, count).astype(np.int64)
    elif sizes_file.is_file():
        offsets = _offsets_of_sizes(sizes_file, file, count)
        query_ids = tuple(f"{split}-{i}" for i in range(1, len(offsets)))
    else:
        raise DataRefused(f"{file}: no qid in its lines and no {sizes_file.name} beside it: expected one of them")
    list_of = np.repeat(np.arange(len(query_ids)), np.diff(offsets))
    number = np.arange(count) - offsets[list_of] + 1
    item_ids = tuple(f"{query_ids[i]}:{n}" for i, n in zip(list_of.tolist(), number.tolist(), strict=True))
    names = tuple(f"f{i}" for i in range(1, lines.features.shape[1] + 1))
    return _Part(names, lines.features, lines.labels, offsets, query_ids, item_ids, from_text=True)


def _offsets_of_sizes(sizes_file: Path, file: Path, count: int) -> NDArray[np.int64]:
    sizes = []
    for number, line in enumerate(sizes_file.read_text().splitlines(), start=1):
        if not line.strip().isdecimal() or int(line) < 1:
            raise DataRefused(f"{sizes_file}:{number}: {line[:40]!r}: expected the size of a list, >= 1")
        sizes.append(int(line))
    if sum(sizes) != count:
        raise DataRefused(f"{sizes_file}: its lists have {sum(sizes)} candidates, {file.name} has {count}")
    return np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)


def _read_parquet(file: Path) -> _Part:
    try:
        return _of_table(file, pq.read_table(file))
    except (OSError, ValueError, pa.ArrowException) as error:
        raise DataRefused(f"{file}: not readable as Parquet ({error})") from error


def _of_table(file: Path, table: pa.Table) -> _Part:
    """Raises DataRefused; of damaged texts and numbers also what pyarrow raises."""
    if absent := [name for name in ("query", "item", "label") if name not in table.column_names]:
        raise DataRefused(f"{file}: no column {absent[0]!r}: expected query, item, label and one per feature")
    names = tuple(name for name in table.column_names if name not in ("query", "item", "label"))
    for name in ("label", *names):
        kind = table.schema.field(name).type
        if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)):
            raise DataRefused(f"{file}: column {name!r} is {kind}: expected numbers")
    for name in ("query", "item", "label"):
        if table.column(name).null_count:
            raise DataRefused(f"{file}: column {name!r} has missing values: expected none")
    query = pc.cast(table.column("query"), pa.string()).combine_chunks().dictionary_encode()
    codes = query.indices.to_numpy()
    order = np.argsort(codes, kind="stable")  # lists in order of first appearance, wherever their rows are
    query_ids = tuple(query.dictionary.to_pylist())
    items = pc.cast(table.column("item"), pa.string()).to_pylist()
    item_ids = tuple(f"{query_ids[codes[i]]}:{items[i]}" for i in order.tolist())
    if len(set(item_ids)) < len(item_ids):
        raise DataRefused(f"{file}: an item comes twice in the list of one query: expected it once")
    features = np.empty((table.num_rows, len(names)), dtype=np.float32)
    for i, name in enumerate(names):
        features[:, i] = _numbers(table.column(name))[order]
    offsets = np.concatenate([[0], np.cumsum(np.bincount(codes))]).astype(np.int64)
    labels = _numbers(table.column("label"))[order]
    return _Part(names, features, labels, offsets, query_ids, item_ids, from_text=False)


def _numbers(column: pa.ChunkedArray) -> NDArray[np.float32]:
    """NaN where a value is missing."""
    return np.asarray(pc.cast(column, pa.float64()).to_numpy(), dtype=np.float32)


def _of_one_width(parts: dict[str, _Part]) -> dict[str, _Part]:
    """Text names no feature that is 0 throughout its file, so another split may have more columns."""
    widest = max((part.names for part in parts.values()), key=len)
    return {
        split: replace(part, names=widest, features=np.pad(part.features, ((0, 0), (0, len(widest) - len(part.names)))))
        if part.from_text and len(part.names) < len(widest) and widest[: len(part.names)] == part.names
        else part
        for split, part in parts.items()
    }


def _view(name: str, parts: dict[str, _Part]) -> FeatureView:
    names = parts["train"].names
    for split, part in parts.items():
        if part.names != names:
            raise DataRefused(f"{name}: {split} has other feature columns than train: expected the same, in order")
    return FeatureView(_view_name(name), "candidate", tuple(Column(column) for column in names))


def _view_name(name: str) -> str:
    """Part of every Redis key: letters, digits, '-' and '_' only."""
    return "".join(char if char.isascii() and (char.isalnum() or char in "-_") else "-" for char in name)[:64]


def _dataset(name: str, view: FeatureView, part: _Part) -> RankingDataset:
    return RankingDataset(name, view, part.features, part.labels, part.offsets, part.query_ids, part.item_ids)
