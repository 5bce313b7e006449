"""Rankings of one version added up at once: what a window takes in of them, in few passes over their features.

Sums are taken around a centre near the batch's own means, so that squares lose nothing to cancellation, and bins are
told by how many values reach each edge: a comparison an edge, in the features' own float32, and no sorting. Rows are
looked at in parts that stay in a core's cache, and whose counts fit a byte.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from drift.moments import FloatArray, Moments
from drift.windows.reference import Reference
from registry.contracts.events import Ranked

IntArray = NDArray[np.int64]
FeatureArray = NDArray[np.float32]
CountArray = NDArray[np.integer[Any]]
PART_ROWS = 255  # at most as many as a byte counts


@dataclass(frozen=True, slots=True)
class Batch:
    """What `Window` keeps sums of, of these rankings. pooled, blocks: (quantities,); bins: (binned, bins)."""

    pooled: Moments
    blocks: Moments
    bins: IntArray

    @staticmethod
    def of(rankings: Sequence[Ranked], reference: Reference) -> "Batch":
        """rankings: at least one, and all fit the reference."""
        row_bytes = 4 * reference.features
        shown = [len(ranking.features) // row_bytes for ranking in rankings]
        features = _Features(reference)
        for first, end in _parts(shown):
            joined = b"".join([ranking.features for ranking in rankings[first:end]])
            features.add(np.frombuffer(joined, dtype="<f4").reshape(-1, reference.features), shown[first:end])
        of_lists = _of_lists(rankings, reference)
        return Batch(
            pooled=_side_by_side(features.means(), of_lists.pooled, features.shares()),
            blocks=_side_by_side(features.blocks_of_means(), of_lists.blocks, features.blocks_of_shares()),
            bins=np.vstack([features.bins(), of_lists.bins]),
        )


def _parts(shown: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Lists, from and up to, of at most `PART_ROWS` rows together, or one longer one."""
    first = rows = 0
    for place, length in enumerate(shown):
        if place > first and rows + length > PART_ROWS:
            yield first, place
            first, rows = place, 0
        rows += length
    yield first, len(shown)


class _Features:
    """Sums over the features of shown items. All (features,) but `_reached`, (bins - 1, features).

    A list weighs the square of how many values it has in `_block_*`: see `window`.
    """

    def __init__(self, reference: Reference) -> None:
        columns = reference.features
        self._edges = reference.float_edges
        self._reached: IntArray = np.zeros(self._edges.shape, dtype=np.int64)
        self._centre: FloatArray | None = None
        self._rows = self._block_rows = 0.0
        self._present, self._sums, self._squares = np.zeros((3, columns))
        self._block_weight, self._block_sums, self._block_squares = np.zeros((3, columns))
        self._missing, self._missing_sums, self._missing_squares = np.zeros((3, columns))
        self._zeros, self._zero_sums, self._zero_squares = np.zeros((3, columns))

    def add(self, rows: FeatureArray, shown: Sequence[int]) -> None:
        """rows: (sum of shown, features), lists one after another."""
        lists = _Lists(shown)
        finite = np.isfinite(rows)
        whole = bool(finite.all())
        if not whole:
            rows = np.where(finite, rows, np.float32(np.nan))  # an infinite value is a missing one
        if self._centre is None:
            known = np.where(finite, rows, 0.0) if not whole else rows
            self._centre = known.sum(axis=0, dtype=np.float64) / np.maximum(finite.sum(axis=0), 1)
        apart = rows - self._centre
        if not whole:
            apart[~finite] = 0.0
        self._squares += np.einsum("ij,ij->j", apart, apart)
        self._rows += len(rows)
        self._block_rows += float((lists.lengths**2).sum())
        self._count_means(lists, lists.sums(apart), finite, whole)
        self._count_zeros(lists, lists.counts(rows == 0))
        self._count_bins(rows)

    def means(self) -> Moments:
        """Of all rows."""
        return self._around_centre(self._present, self._sums, self._squares)

    def blocks_of_means(self) -> Moments:
        """Of the lists' means."""
        return self._around_centre(self._block_weight, self._block_sums, self._block_squares)

    def shares(self) -> Moments:
        """Of indicators: of what is missing, then of what is zero."""
        mean = np.concatenate([self._missing, self._zeros]) / self._rows
        weight = np.full(len(mean), self._rows)
        return Moments(weight, mean, weight * mean * (1.0 - mean))

    def blocks_of_shares(self) -> Moments:
        """Of the lists' shares, in the same order."""
        sums = np.concatenate([self._missing_sums, self._zero_sums])
        squares = np.concatenate([self._missing_squares, self._zero_squares])
        return _moments(np.full(len(sums), self._block_rows), sums, squares)

    def bins(self) -> IntArray:
        """Values in each bin, (features, bins)."""
        bounds = [self._present.astype(np.int64), *self._reached, np.zeros(len(self._present), dtype=np.int64)]
        counts: IntArray = -np.diff(bounds, axis=0).T
        return counts

    def _count_means(self, lists: "_Lists", sums: FloatArray, finite: NDArray[np.bool_], whole: bool) -> None:
        self._sums += sums.sum(axis=0)
        lengths = lists.lengths[:, None]
        if whole:
            self._present += len(finite)
            means, weights = sums / lengths, lengths**2
            self._block_weight += weights.sum()
        else:
            sizes = lists.counts(finite).astype(np.float64)
            self._present += sizes.sum(axis=0)
            means, weights = sums / np.maximum(sizes, 1.0), sizes**2
            self._block_weight += weights.sum(axis=0)
            lacking = lengths - sizes
            self._missing += lacking.sum(axis=0)
            self._missing_sums += lists.lengths @ lacking  # share * length**2
            self._missing_squares += np.einsum("ij,ij->j", lacking, lacking)
        weighted = weights * means
        self._block_sums += weighted.sum(axis=0)
        self._block_squares += np.einsum("ij,ij->j", weighted, means)

    def _count_zeros(self, lists: "_Lists", counts: CountArray) -> None:
        zeros = counts.astype(np.float64)
        self._zeros += zeros.sum(axis=0)
        self._zero_sums += lists.lengths @ zeros
        self._zero_squares += np.einsum("ij,ij->j", zeros, zeros)

    def _count_bins(self, rows: FeatureArray) -> None:
        reaches = rows[:, None, :] >= self._edges
        self._reached += np.add.reduce(reaches.view(np.uint8), axis=0, dtype=_counter(len(rows)))

    def _around_centre(self, weight: FloatArray, sums: FloatArray, squares: FloatArray) -> Moments:
        assert self._centre is not None, "a batch has rankings"
        moments = _moments(weight, sums, squares)
        return Moments(weight, np.where(weight > 0, moments.mean + self._centre, 0.0), moments.spread)


class _Lists:
    """How rows lie in lists. lengths: (lists,)."""

    def __init__(self, shown: Sequence[int]) -> None:
        self.lengths: FloatArray = np.array(shown, dtype=np.float64)
        self._alike = shown[0] if shown.count(shown[0]) == len(shown) else 0
        self._starts: IntArray = np.cumsum([0, *shown[:-1]])
        self._counter = _counter(max(shown))

    def sums(self, values: FloatArray) -> FloatArray:
        """(rows, columns) into (lists, columns)."""
        sums: FloatArray
        if self._alike:  # several times as fast
            sums = values.reshape(-1, self._alike, values.shape[1]).sum(axis=1)
        else:
            sums = np.add.reduceat(values, self._starts, axis=0)
        return sums

    def counts(self, marks: NDArray[np.bool_]) -> CountArray:
        """How many of each list's rows are marked, (lists, columns)."""
        ones = marks.view(np.uint8)
        counts: CountArray
        if self._alike:
            counts = np.add.reduce(ones.reshape(-1, self._alike, ones.shape[1]), axis=1, dtype=self._counter)
        else:
            counts = np.add.reduceat(ones, self._starts, axis=0, dtype=self._counter)
        return counts


def _counter(most: int) -> type[np.uint8] | type[np.int64]:
    return np.uint8 if most <= PART_ROWS else np.int64


def _moments(weight: FloatArray, sums: FloatArray, squares: FloatArray) -> Moments:
    """Of weighted sums of values and of their squares."""
    mean = sums / np.where(weight > 0, weight, 1.0)
    return Moments(weight, mean, np.maximum(squares - sums * mean, 0.0))


def _of_lists(rankings: Sequence[Ranked], reference: Reference) -> Batch:
    """What an event says of all its candidates: margin, entropy and scores."""
    told = np.array([(one.margin, one.entropy, one.score_mean, one.score_std, one.candidates) for one in rankings])
    sound = np.isfinite(told).all(axis=1, keepdims=True)  # one list's nan would spoil the window
    told = np.where(sound, told, 0.0)
    values, candidates = told[:, :3], told[:, 4]
    sizes = np.column_stack([sound, sound, candidates])
    inside = np.column_stack([np.zeros((len(told), 2)), told[:, 3] ** 2])
    return Batch(
        pooled=Moments.of(values, sizes, inside),
        blocks=Moments.of(values, sizes**2),
        bins=_bin_counts(values[:, :2], np.repeat(sound, 2, axis=1), reference.edges[reference.features :]),
    )


def _bin_counts(values: FloatArray, present: NDArray[np.bool_], edges: FloatArray) -> IntArray:
    """values, present: (n, quantities); edges: (quantities, bins - 1). Returns (quantities, bins)."""
    reached = (values[:, :, None] >= edges) & present[:, :, None]
    bounds = [present.sum(axis=0)[:, None], reached.sum(axis=0), np.zeros((len(edges), 1), dtype=np.int64)]
    counts: IntArray = -np.diff(np.hstack(bounds), axis=1)
    return counts


def _side_by_side(means: Moments, of_lists: Moments, shares: Moments) -> Moments:
    """In the order of a reference's quantities."""
    parts = (means, of_lists, shares)
    return Moments(
        weight=np.concatenate([part.weight for part in parts]),
        mean=np.concatenate([part.mean for part in parts]),
        spread=np.concatenate([part.spread for part in parts]),
    )
