"""RankingDataset: judged lists as one ragged matrix, whatever file or corpus they came from."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import ClassVar

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipelines.errors import DataRefused
from registry.contracts.features import FeatureView

Matrix = NDArray[np.float32]

_HEADER = b"sluice.dataset"
_DAMAGED = (ValueError, LookupError, TypeError, AttributeError, RecursionError, pa.ArrowException)
"""What pyarrow, numpy and we make of a table that is not as `save` wrote it."""


@dataclass(frozen=True, slots=True)
class JudgedList:
    """One query with its candidates, in the dataset's order.

    features: shape (candidates, columns); labels: shape (candidates,); text: what was asked, empty
    where only features are known.
    """

    query_id: str
    text: str
    item_ids: tuple[str, ...]
    features: Matrix
    labels: Matrix


@dataclass(frozen=True, slots=True)
class StoredRows:
    """What the feature store holds: values has shape (items, `row` columns of the view)."""

    item_ids: tuple[str, ...]
    values: Matrix


@dataclass(frozen=True, eq=False)
class RankingDataset:
    """Judged lists that lie one after the other.

    features: (candidates, columns) in the view's order, NaN for a missing value; labels:
    (candidates,), >= 0; offsets: int64 (lists + 1,), list i is candidates
    offsets[i]:offsets[i+1]; item_ids: one per candidate; query_ids and query_texts: one per list,
    texts empty as a whole where there are none.
    Raises DataRefused if the shapes disagree, a list is empty, a label is negative or no number,
    a feature is infinite, a query comes twice or there is none.
    """

    name: str
    view: FeatureView
    features: Matrix
    labels: Matrix
    offsets: NDArray[np.int64]
    query_ids: tuple[str, ...]
    item_ids: tuple[str, ...]
    query_texts: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        rows, lists = len(self.labels), len(self.query_ids)
        for rule, holds in {
            "features of shape (candidates, columns)": self.features.shape == (rows, len(self.view.columns)),
            "an item id per candidate": len(self.item_ids) == rows,
            "an offset per query and one more": self.offsets.shape == (lists + 1,),
            "a text per query, or none": len(self.query_texts) in (0, lists),
            "at least one list": lists > 0,
            "every query once": len(set(self.query_ids)) == lists,
            "finite labels >= 0": bool(np.isfinite(self.labels).all() and (self.labels >= 0).all()),
            "features that are numbers or NaN": not np.isinf(self.features).any(),
        }.items():
            if not holds:
                raise DataRefused(f"dataset {self.name!r}: expected {rule}")
        if self.offsets[0] != 0 or self.offsets[-1] != rows or (np.diff(self.offsets) < 1).any():
            raise DataRefused(f"dataset {self.name!r}: expected lists of at least one candidate that span all {rows}")

    def __len__(self) -> int:
        """How many lists."""
        return len(self.query_ids)

    def __repr__(self) -> str:
        return f"<RankingDataset {self.name} [{len(self)} lists | {len(self.labels)} candidates]>"

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the content, 64 hex characters; the name does not count."""
        total = hashlib.sha256(self.view.fingerprint.encode())
        for array in (self.features, self.labels, self.offsets):
            total.update(str(array.shape).encode())
            total.update(np.ascontiguousarray(array).data)
        for texts in (self.query_ids, self.item_ids, self.query_texts):
            total.update(msgspec.json.encode(texts))
        return total.hexdigest()

    def lists(self) -> Iterator[JudgedList]:
        """Every list, in order; arrays are views, not copies."""
        for i, query_id in enumerate(self.query_ids):
            rows = slice(int(self.offsets[i]), int(self.offsets[i + 1]))
            text = self.query_texts[i] if self.query_texts else ""
            yield JudgedList(query_id, text, self.item_ids[rows], self.features[rows], self.labels[rows])

    def take(self, lists: Sequence[int] | NDArray[np.int64]) -> "RankingDataset":
        """The dataset of these lists, in this order."""
        chosen = np.asarray(lists, dtype=np.int64)
        rows = rows_of_lists(self.offsets, chosen)
        return replace(
            self,
            features=self.features[rows],
            labels=self.labels[rows],
            offsets=np.concatenate([[0], np.cumsum(np.diff(self.offsets)[chosen])]).astype(np.int64),
            query_ids=tuple(self.query_ids[i] for i in chosen),
            item_ids=tuple(self.item_ids[i] for i in rows),
            query_texts=tuple(self.query_texts[i] for i in chosen) if self.query_texts else (),
        )

    def cut(self, share: float, seed: int) -> tuple["RankingDataset", "RankingDataset"]:
        """What is left, and a random `share` of the queries, at least one each.

        Raises DataRefused if there are fewer than two queries.
        """
        if len(self) < 2:
            raise DataRefused(f"dataset {self.name!r}: {len(self)} query cannot be cut: expected at least two")
        shuffled = np.random.default_rng(seed).permutation(len(self))
        count = min(max(1, round(share * len(self))), len(self) - 1)
        return self.take(np.sort(shuffled[count:])), self.take(np.sort(shuffled[:count]))

    def save(self, path: Path) -> None:
        """As Parquet, one row per candidate: query, text, item, label and a column per feature."""
        sizes = np.diff(self.offsets)
        header = {"name": self.name, "view": self.view.to_json(), "texts": bool(self.query_texts)}
        table = pa.table(
            {
                "query": _repeated(self.query_ids, sizes),
                "text": _repeated(self.query_texts or ("",) * len(self), sizes),
                "item": pa.array(self.item_ids, pa.string()).dictionary_encode(),
                "label": self.labels,
                **{f"feature:{column.name}": self.features[:, i] for i, column in enumerate(self.view.columns)},
            },
            metadata={_HEADER: msgspec.json.encode(header)},
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table, path, compression="zstd")

    @staticmethod
    def load(path: Path) -> "RankingDataset":
        """What `save` wrote. Raises DataRefused if the file is not one of ours."""
        try:
            table = pq.read_table(path, read_dictionary=["query", "text", "item"])
        except (OSError, ValueError, pa.ArrowException) as error:
            raise DataRefused(f"{path}: not a readable dataset ({error}): build it again") from error
        if _HEADER not in (table.schema.metadata or {}):
            raise DataRefused(f"{path}: Parquet without our header: load it as judged data instead")
        try:
            return RankingDataset._of_table(table)
        except _DAMAGED as error:
            raise DataRefused(f"{path}: damaged ({error}): build it again") from error

    @staticmethod
    def _of_table(table: pa.Table) -> "RankingDataset":
        """Raises one of _DAMAGED."""
        header = msgspec.json.decode(table.schema.metadata[_HEADER])
        query = table.column("query").combine_chunks()
        starts = np.flatnonzero(np.diff(query.indices.to_numpy(), prepend=-1))
        texts = _texts(table.column("text"))
        features = np.empty((table.num_rows, table.num_columns - 4), dtype=np.float32)
        for i in range(features.shape[1]):
            features[:, i] = table.column(4 + i).to_numpy()
        ids = _texts(table.column("query"))
        return RankingDataset(
            name=header["name"],
            view=FeatureView.from_json(header["view"]),
            features=features,
            labels=table.column("label").to_numpy(),
            offsets=np.append(starts, table.num_rows).astype(np.int64),
            query_ids=tuple(ids[i] for i in starts),
            item_ids=_texts(table.column("item")),
            query_texts=tuple(texts[i] for i in starts) if header["texts"] else (),
        )


@dataclass(frozen=True)
class DatasetSplits:
    """Train, validation and test lists of one view.

    whole: whether lists hold all of a query's candidates, not what was shown of them alone.
    Raises DataRefused if the views differ or a query is in two of them.
    """

    whole: ClassVar[bool] = True
    train: RankingDataset
    validation: RankingDataset
    test: RankingDataset

    def __post_init__(self) -> None:
        parts = (self.train, self.validation, self.test)
        if len({part.view.fingerprint for part in parts}) > 1:
            raise DataRefused(f"{self.train.name}: train, validation and test have different feature views")
        seen: set[str] = set()
        for part in parts:
            if twice := seen.intersection(part.query_ids):
                raise DataRefused(f"{part.name}: query {min(twice)!r} is in two splits: expected each in one")
            seen.update(part.query_ids)

    @property
    def view(self) -> FeatureView:
        return self.train.view

    def stored_rows(self) -> StoredRows:
        """The `row` columns of every item of the three, an item once."""
        columns = self.view.positions("row")
        first: dict[str, Matrix] = {}
        for part in (self.train, self.validation, self.test):
            for item_id, row in zip(part.item_ids, part.features[:, columns], strict=True):
                first.setdefault(item_id, row)
        return StoredRows(tuple(first), np.stack(list(first.values())))

    def save(self, folder: Path) -> None:
        """As three Parquet files."""
        self.train.save(folder / "train.parquet")
        self.validation.save(folder / "validation.parquet")
        self.test.save(folder / "test.parquet")

    @staticmethod
    def load(folder: Path) -> "DatasetSplits":
        """What `save` wrote. Raises DataRefused."""
        return DatasetSplits(
            RankingDataset.load(folder / "train.parquet"),
            RankingDataset.load(folder / "validation.parquet"),
            RankingDataset.load(folder / "test.parquet"),
        )


def rows_of_lists(offsets: NDArray[np.int64], lists: NDArray[np.int64]) -> NDArray[np.int64]:
    """The candidates of these lists, list after list.

    >>> rows_of_lists(np.array([0, 2, 5]), np.array([1, 0])).tolist()
    [2, 3, 4, 0, 1]
    """
    sizes = np.diff(offsets)[lists]
    starts = np.cumsum(sizes) - sizes
    rows: NDArray[np.int64] = np.arange(int(sizes.sum())) + np.repeat(offsets[lists] - starts, sizes)
    return rows


def _repeated(values: Sequence[str], times: NDArray[np.int64]) -> pa.DictionaryArray:
    codes = np.repeat(np.arange(len(values), dtype=np.int32), times)
    return pa.DictionaryArray.from_arrays(codes, pa.array(values, pa.string()))


def _texts(column: pa.ChunkedArray) -> tuple[str, ...]:
    """A dictionary column as texts that share their memory."""
    whole = column.combine_chunks()
    words = whole.dictionary.to_pylist()
    return tuple(words[i] for i in whole.indices.to_numpy())
