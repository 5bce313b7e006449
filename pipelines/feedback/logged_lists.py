"""The lists of collected windows that one feature view can be trained or judged on, in memory as arrays.

Read a row group at a time; what does not fit in memory is left out by whole queries, chosen by hash, so that of a
query that is there all is there.
"""

from collections.abc import Collection, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipelines.archive.tables import hashes
from pipelines.dataset import RankingDataset
from pipelines.feedback.collection import Collected
from registry.contracts.features import FeatureView

Hashes = NDArray[np.uint64]
Ints = NDArray[np.int64]
Flags = NDArray[np.bool_]

VARIANT = "\x1f"  # before the number of a query's variant; no id has a control character
_COLUMNS = [
    "query", "answered_ms", "fingerprint", "unit", "version", "candidates", "items", "propensities", "clicks",
    "weights", "features",
]  # fmt: skip


class LeftOut(NamedTuple):
    """Lists that were not read: logged under another feature view; without whole rows of features that are no
    infinity; of queries that there was no room for."""

    other_view: int
    unusable: int
    not_sampled: int


class LoggedLists:
    """Lists as arrays, in the order of time.

    Of lists, shape (lists,): sizes; query, a number that `query_names` tells; variant, a number for the query with
    its `query` features, from 0 in the order in which they were first asked; units (hashes), candidates, versions.
    Of rows, shape (rows,): items, a number that `item_names` tells; clicks, weights, propensities; features:
    (rows, columns).
    """

    def __init__(self, tables: Sequence[pa.Table], view: FeatureView) -> None:
        table = pa.concat_tables(tables).combine_chunks()
        items = table["items"].combine_chunks()
        self.sizes = np.diff(items.offsets.to_numpy()).astype(np.int64)
        self.features = np.asarray(table["features"].combine_chunks().values.to_numpy(), dtype=np.float32)
        self.features = self.features.reshape(-1, len(view.columns))
        words = pc.dictionary_encode(items.values)
        self.items, self.item_names = words.indices.to_numpy().astype(np.int64), words.dictionary
        self.clicks = table["clicks"].combine_chunks().values.to_numpy(zero_copy_only=False)
        self.weights = table["weights"].combine_chunks().values.to_numpy().astype(np.float64)
        queries = pc.dictionary_encode(table["query"].combine_chunks())
        self.query, self.query_names = queries.indices.to_numpy().astype(np.int64), queries.dictionary
        starts = np.cumsum(self.sizes) - self.sizes
        asked = np.ascontiguousarray(self.features[starts][:, view.positions("query")])
        self.units = hashes(table["unit"])
        self.candidates = table["candidates"].to_numpy().astype(np.int64)
        self.versions = table["version"].to_numpy().astype(np.int64)
        self.propensities = table["propensities"].combine_chunks().values.to_numpy().astype(np.float64)
        _, alike = np.unique(asked.view(np.uint32), axis=0, return_inverse=True) if asked.size else (0, 0 * starts)
        self.variant = _renumbered(self.query * (int(np.max(alike, initial=0)) + 1) + np.ravel(alike))

    def __len__(self) -> int:
        return len(self.sizes)

    @property
    def offsets(self) -> Ints:
        """Shape (lists + 1,)."""
        return np.concatenate([[0], np.cumsum(self.sizes)]).astype(np.int64)

    def dataset(self, name: str, view: FeatureView) -> RankingDataset:
        """A list a variant, in the order of their numbers, its items in the order in which they were first shown.

        label: clicks over examination, see `pipelines.training.splits`. features: as logged last.
        """
        variant_of = np.repeat(self.variant, self.sizes)
        key = variant_of * len(self.item_names) + self.items
        pairs, first, pair = np.unique(key, return_index=True, return_inverse=True)
        last = np.zeros(len(pairs), dtype=np.int64)
        np.maximum.at(last, pair, np.arange(len(key)))
        clicks = np.bincount(pair, weights=self.clicks, minlength=len(pairs))
        looks = np.bincount(pair, weights=1 / self.weights, minlength=len(pairs))
        order = np.lexsort((first, variant_of[first]))
        variants, counts = np.unique(variant_of[first], return_counts=True)
        items = self.item_names.to_pylist()
        return RankingDataset(
            name=name,
            view=view,
            features=self.features[last[order]],
            labels=(clicks / looks)[order].astype(np.float32),
            offsets=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
            query_ids=self._query_ids(len(variants)),
            item_ids=tuple(items[i] for i in self.items[first[order]]),
        )

    def _query_ids(self, variants: int) -> tuple[str, ...]:
        """By variant; the second of a query and those after it are numbered."""
        names, seen = self.query_names.to_pylist(), dict[int, int]()
        query_of = np.zeros(variants, dtype=np.int64)
        query_of[self.variant] = self.query
        found = []
        for query in query_of.tolist():
            number = seen[query] = seen.get(query, 0) + 1
            found.append(names[query] if number == 1 else f"{names[query]}{VARIANT}{number}")
        return tuple(found)


def read_lists(
    windows: Sequence[Collected],
    view: FeatureView,
    since_ms: int,
    until_ms: int,
    most_rows: int,
    seed: int = 0,
    only: Collection[str] | None = None,
) -> tuple[LoggedLists | None, LeftOut]:
    """The lists answered in since_ms <= t < until_ms, None if there is none that can be used.

    windows: oldest first. most_rows: shown items at most, about. seed: of which queries those are. only: the queries
    that are wanted, None for all; others are not counted.
    """
    room = min(1.0, most_rows / max(1, sum(window.record.rows for window in windows)))
    other_view = unusable = not_sampled = 0
    kept: list[pa.Table] = []
    for window in windows:
        for table in window.tables(_COLUMNS):
            if only is not None:
                table = table.filter(pc.is_in(table["query"], pa.array(sorted(only), pa.string())))
            at_ms = table["answered_ms"].to_numpy()
            table = table.filter(pa.array((at_ms >= since_ms) & (at_ms < until_ms)))
            mine = pc.equal(table["fingerprint"], view.fingerprint).to_numpy()
            other_view += int((~mine).sum())
            table = table.filter(pa.array(mine))
            usable = _usable(table, len(view.columns))
            unusable += int((~usable).sum())
            table = table.filter(pa.array(usable))
            inside = _fraction(_mixed(hashes(table["query"]), seed, salt=0)) < room
            not_sampled += int((~inside).sum())
            kept.append(table.filter(pa.array(inside)))
    if not any(map(len, kept)):
        return None, LeftOut(other_view, unusable, not_sampled)
    return LoggedLists(kept, view), LeftOut(other_view, unusable, not_sampled)


def queries_of(windows: Sequence[Collected], view: FeatureView) -> list[str]:
    """The queries with a list that was logged under the view, each once, in order of their names."""
    found: set[str] = set()
    for window in windows:
        for table in window.tables(["query", "fingerprint"]):
            mine = table.filter(pc.equal(table["fingerprint"], view.fingerprint))
            found.update(mine["query"].unique().to_pylist())
    return sorted(found)


def chance_of(names: Sequence[str], seed: int, salt: int) -> NDArray[np.float64]:
    """A number in [0, 1) for each name, even over names, another for another seed and salt. Same shape."""
    return _fraction(_mixed(hashes(pa.array(list(names), pa.string())), seed, salt))


def _usable(table: pa.Table, columns: int) -> Flags:
    """Which lists have a whole row of features, none of them infinite, for each item. Shape (lists,)."""
    features = table["features"].combine_chunks()
    sizes = pc.list_value_length(table["items"].combine_chunks()).to_numpy()
    lengths = pc.list_value_length(features).to_numpy()
    finite = np.ones(len(table), dtype=bool)
    infinite = np.flatnonzero(np.isinf(features.flatten().to_numpy()))
    finite[np.searchsorted(np.cumsum(lengths), infinite, side="right")] = False
    return np.asarray(finite & (lengths == sizes * columns) & (sizes > 0), dtype=bool)


def _mixed(keys: Hashes, seed: int, salt: int) -> Hashes:
    """Numbers that are even over 64 bits and differ by seed and salt. Same shape.

    Source: the finaliser of SplitMix64: Steele, Lea & Flood, OOPSLA 2014.
    """
    begin = (seed * 8 + salt + 1) * 0x9E3779B97F4A7C15 % 2**64
    mixed = keys + np.uint64(begin)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(mixed ^ (mixed >> np.uint64(31)), dtype=np.uint64)


def _fraction(mixed: Hashes) -> NDArray[np.float64]:
    """Even in [0, 1). Same shape."""
    return np.asarray((mixed >> np.uint64(11)) * 2.0**-53, dtype=np.float64)


def _renumbered(values: Ints) -> Ints:
    """Numbers from 0 in the order in which values first come. Same shape."""
    _, first, number = np.unique(values, return_index=True, return_inverse=True)
    rank = np.empty(len(first), dtype=np.int64)
    rank[np.argsort(first)] = np.arange(len(first))
    return rank[number]
