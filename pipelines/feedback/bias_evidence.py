"""What a window says of position bias, gathered hour by hour, and the estimator that it bears.

Three are tried, in the order of what they take for granted:

- `swaps`: explored lists. An item that a version ranked third stood third or, by chance, elsewhere. Strata are the
  ranks that a version gave in lists of one length, so that counts add up over hours and take no memory to speak of.
- `rankers`: several versions put the same item of the same query at different positions. Over a sample of queries.
- `regression_em`: attraction explained by the logged features. Needs nothing, and is as good as the features.

The first whose examination is known well enough is taken: its relative error, over groups of units (delete-a-group
jackknife), is at most `most_error` at each of the first `depth` positions, and of swaps at least as many clicks stand
behind each as scatter by that. Where none is, nothing is debiased, and it is said why: labels that are wrong by an
unknown factor would be taken for better than clicks. Of harvested ones examination is smoothed along positions.

Positions below those with an estimate take the last one's: what is clicked there weighs too little, as where a
weight is clipped, not too much.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from math import ceil
from typing import Literal, NamedTuple

import msgspec
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipelines.archive.tables import hashes
from pipelines.feedback.cleaning import Impressions
from pipelines.feedback.position_bias import (
    ClickCounts,
    PositionBias,
    counts_of,
    harvest_along,
    jackknife_error,
    joined_positions,
    ranks_before_exploration,
    regression_em,
)

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Hashes = NDArray[np.uint64]
Floats32 = NDArray[np.float32]

Method = Literal["swaps", "rankers", "regression_em", "none"]
_EM_GROUPS = 5  # a divisor of the groups: each refit is a whole regression
_EM_ROWS = 50_000
_EM_PRODUCTS = 1e9  # rows times columns squared: 0.2 s of one core a round, of which a fit takes some 50
_BUCKETS = 1 << 16
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


class BiasRules(msgspec.Struct, frozen=True):
    """depth: positions that must be known. most_error: relative standard error of the worst of them, at most.
    least_clicks: fewer say nothing. groups: of units, for the errors. sampled_rows: shown items of sampled queries
    kept in memory, with their features. most_weight: inverse examination is cut there, see `debiased_labels`."""

    depth: int = 10
    most_error: float = 0.3
    least_clicks: int = 100
    groups: int = 20
    sampled_rows: int = 200_000
    most_weight: float = 10.0

    def __post_init__(self) -> None:
        for holds, rule in (
            (self.depth >= 1, f"depth={self.depth}: expected >= 1"),
            (self.most_error > 0, f"most_error={self.most_error:g}: expected > 0"),
            (self.least_clicks >= 1, f"least_clicks={self.least_clicks}: expected >= 1"),
            (
                self.groups >= 10 and self.groups % _EM_GROUPS == 0,
                f"groups={self.groups}: expected a multiple of {_EM_GROUPS}, 10 at least",
            ),
            (self.sampled_rows >= 1000, f"sampled_rows={self.sampled_rows}: expected >= 1000"),
            (self.most_weight >= 1, f"most_weight={self.most_weight:g}: expected >= 1"),
        ):
            if not holds:
                raise ValueError(f"bias.{rule}")


class BiasReport(msgspec.Struct, frozen=True):
    """Position bias as estimated, and how.

    method: `none` if labels are clicks as they came; then `why` says so. examination: by position, the first is 1;
    1 everywhere for `none`. errors: standard errors. without_each: examination without each group of units in turn
    (units whose number leaves that rest by the number of groups). rejected: methods tried before, and why not.
    """

    method: Method
    why: str
    examination: tuple[float, ...]
    errors: tuple[float, ...]
    without_each: tuple[tuple[float, ...], ...]
    rejected: dict[str, str]
    clicks: int
    impressions: int

    def examined(self, positions: int) -> Floats:
        """Examination of so many positions. Shape (positions,)."""
        return _stretched(np.array([self.examination]), positions).reshape(positions)

    def examined_without_each(self, positions: int) -> Floats | None:
        """Shape (groups, positions), None where nothing was estimated."""
        return _stretched(np.array(self.without_each), positions) if self.without_each else None


class BiasEvidence:
    """Takes the kept lists of one hour after the other."""

    def __init__(self, rules: BiasRules) -> None:
        self._rules = rules
        self._reach = 2 * rules.depth  # positions and ranks that are counted
        self._swaps: dict[tuple[int, int], _RankCounts] = {}
        self._no_swaps = ""
        self._explored = self._clicks = self._impressions = self._longest = 0
        self._versions: set[int] = set()
        self._sample = _Sample(rules.sampled_rows)

    def add(
        self,
        lists: Impressions,
        queries: Hashes,
        units: Hashes,
        features: Callable[[int], Floats32],
        prints: Hashes,
    ) -> None:
        """queries, units: hashes, prints: of the feature view, all of shape (lists,). features: of a list by its
        number, shape (items, columns); without columns where none were logged."""
        sizes = np.diff(lists.offsets)
        self._clicks += int(lists.clicks.sum())
        self._impressions += len(lists.clicks)
        self._explored += int(lists.explored.sum())
        self._longest = max(self._longest, int(sizes.max(initial=0)))
        self._versions.update(np.unique(lists.versions).tolist())
        groups = group_of(units, self._rules.groups)
        self._count_ranks(lists, groups, sizes)
        self._sample.add(lists, queries, groups, features, prints)

    def report(self) -> BiasReport:
        """The estimate that the lists bear."""
        rejected: dict[str, str] = {}
        depth = min(self._rules.depth, self._longest)
        ways: tuple[tuple[Method, Callable[[int], _Estimate]], ...] = (
            ("swaps", self._by_swaps),
            ("rankers", self._by_rankers),
            ("regression_em", self._by_regression),
        )
        if self._clicks < self._rules.least_clicks:
            why = f"{self._clicks} clicks, expected {self._rules.least_clicks} at least: collect a longer window"
            return self._none(why, rejected)
        for method, estimate in ways:
            try:
                found = estimate(depth)
                errors = _errors(found.without_each)
                self._check(found, errors, depth)
            except ValueError as error:
                rejected[method] = str(error)
                continue
            return BiasReport(
                method=method,
                why="",
                examination=tuple(found.examination.tolist()),
                errors=tuple(errors.tolist()),
                without_each=tuple(tuple(one.tolist()) for one in found.without_each),
                rejected=rejected,
                clicks=self._clicks,
                impressions=self._impressions,
            )
        return self._none("no estimator is sure enough: explore more traffic, or collect a longer window", rejected)

    def _check(self, found: "_Estimate", errors: Floats, depth: int) -> None:
        """Raises ValueError, saying what is missing, unless the estimate is good enough for so many positions."""
        if len(found.examination) < depth:
            raise ValueError(f"{len(found.examination)} of {depth} positions can be told")
        needed = ceil(1 / self._rules.most_error**2)  # counts scatter by their root, however alike the groups are
        if found.moved is not None and found.moved[:depth].min() < needed:
            least = int(np.argmin(found.moved[:depth]))
            count = f"{found.moved[least]:.0f} clicks on items that chance moved there"
            raise ValueError(f"position {least + 1}: {count}, expected {needed}")
        worst = int(np.argmax(errors[:depth] / found.examination[:depth]))
        if not errors[worst] <= self._rules.most_error * found.examination[worst]:
            raise ValueError(
                f"position {worst + 1}: examination {found.examination[worst]:.3f} +- {errors[worst]:.3f}, limit "
                f"{self._rules.most_error:.0%}"
            )

    def _none(self, why: str, rejected: dict[str, str]) -> BiasReport:
        size = max(1, min(self._rules.depth, self._longest))
        return BiasReport("none", why, (1.0,) * size, (0.0,) * size, (), rejected, self._clicks, self._impressions)

    def _count_ranks(self, lists: Impressions, groups: Ints, sizes: Ints) -> None:
        try:
            ranks = ranks_before_exploration(lists.propensities, lists.offsets)
        except ValueError as error:
            self._no_swaps = str(error)
            return
        list_of, looked_at = lists.list_of, np.minimum(sizes, self._reach)  # longer lists are alike so far
        near = (ranks <= self._reach) & (lists.positions <= self._reach)
        for version, size in sorted(set(zip(lists.versions.tolist(), looked_at.tolist(), strict=True))):
            rows = near & ((lists.versions == version) & (looked_at == size))[list_of]
            counts = self._swaps.setdefault((version, size), _RankCounts(self._rules.groups, size))
            counts.add(
                groups[list_of[rows]], ranks[rows], lists.positions[rows], lists.clicks[rows], lists.propensities[rows]
            )

    def _by_swaps(self, depth: int) -> "_Estimate":
        if self._no_swaps:
            raise ValueError(self._no_swaps)
        if not self._explored:
            raise ValueError("no list was explored")
        every = list(self._swaps.values())

        def without(group: int | None) -> ClickCounts:
            parts = [counts.without(group, min(self._longest, self._reach)) for counts in every]
            return ClickCounts(
                np.concatenate([part.impressions for part in parts]), np.concatenate([part.clicks for part in parts])
            )

        width = min(self._longest, self._reach)
        moved = np.sum([counts.moved_clicks(width) for counts in every], axis=0)
        return _harvested([without(group) for group in (None, *range(self._rules.groups))])._replace(moved=moved)

    def _by_rankers(self, depth: int) -> "_Estimate":
        if len(self._versions) < 2:
            raise ValueError("one version answered")
        rows = self._sample.rows()
        near = rows.positions <= depth
        _, pair = np.unique(rows.pairs, return_inverse=True)

        def without(group: int) -> ClickCounts:
            rest = near & (rows.groups != group)
            return counts_of(pair[rest], rows.positions[rest], rows.clicks[rest])

        whole = counts_of(pair[near], rows.positions[near], rows.clicks[near])
        return _harvested([whole, *map(without, range(self._rules.groups))])

    def _by_regression(self, depth: int) -> "_Estimate":
        rows = self._sample.rows_with_features(_EM_ROWS)
        inside = rows.positions <= depth
        features, positions, clicks = rows.features[inside], rows.positions[inside], rows.clicks[inside]
        groups = rows.groups[inside] % _EM_GROUPS

        def fitted(rest: NDArray[np.bool_]) -> PositionBias:
            found = regression_em(features[rest], positions[rest], clicks[rest])
            if not found.converged:
                raise ValueError(f"not at rest after {found.iterations} rounds")
            return found

        whole = fitted(np.ones(len(clicks), dtype=bool))
        return _Estimate(
            whole.examination, np.stack([fitted(groups != group).examination for group in range(_EM_GROUPS)])
        )


def group_of(units: Hashes, groups: int) -> Ints:
    """Which group of units each is in, from the hashes of their names. Same shape."""
    return (units % np.uint64(groups)).astype(np.int64)


class _Estimate(NamedTuple):
    """examination: (positions,); without_each: (groups, positions). moved: clicks at each position on items that stand
    there by chance, where that is what the estimate is of."""

    examination: Floats
    without_each: Floats
    moved: Floats | None = None


class _RankCounts:
    """Sums of weights, of their squares, and of clicks by weight: by group, rank before exploration and position."""

    def __init__(self, groups: int, size: int) -> None:
        self._size = size
        self._sums = np.zeros((3, groups, size + 1, size))

    def add(self, groups: Ints, ranks: Ints, positions: Ints, clicks: NDArray[np.bool_], chance: Floats) -> None:
        cell = (groups * (self._size + 1) + ranks) * self._size + positions - 1
        weight = 1.0 / chance
        for sums, values in zip(self._sums, (weight, weight**2, weight * clicks), strict=True):
            sums += np.bincount(cell, weights=values, minlength=sums.size).reshape(sums.shape)

    def moved_clicks(self, width: int) -> Floats:
        """At each position, on items of another rank. Shape (width,)."""
        clicks = self.without(None, width).clicks
        at = np.arange(self._size)
        clicks[at + 1, at] = 0.0
        return np.asarray(clicks.sum(axis=0), dtype=np.float64)

    def without(self, group: int | None, width: int) -> ClickCounts:
        """Of the other groups; padded to so many positions."""
        kept = [one for one in range(self._sums.shape[1]) if one != group]
        weights, squares, clicked = self._sums[:, kept].sum(axis=1)
        effective = weights**2 / np.maximum(squares, 1e-300)
        padding = ((0, 0), (0, width - self._size))
        return ClickCounts(
            np.pad(effective, padding), np.pad(effective * clicked / np.maximum(weights, 1e-300), padding)
        )


class _SampledList(NamedTuple):
    """bucket: of its query, from 0 to `_BUCKETS`. print: of the feature view. pairs, positions, clicks: (items,)."""

    bucket: int
    print: int
    group: int
    pairs: Hashes
    positions: Ints
    clicks: NDArray[np.bool_]
    features: Floats32


class _Rows(NamedTuple):
    """Shown items of lists, all of shape (rows,); features: (rows, columns)."""

    pairs: Hashes
    positions: Ints
    clicks: NDArray[np.bool_]
    groups: Ints
    features: Floats32


class _Sample:
    """All lists of as many queries, chosen by their hash, as there is room for."""

    def __init__(self, most_rows: int) -> None:
        self._most_rows = most_rows
        self._below = _BUCKETS  # queries whose bucket is smaller are kept
        self._lists: list[_SampledList] = []
        self._rows = 0

    def add(
        self,
        lists: Impressions,
        queries: Hashes,
        groups: Ints,
        features: Callable[[int], Floats32],
        prints: Hashes,
    ) -> None:
        buckets = (queries >> np.uint64(48)).astype(np.int64)
        for i in np.flatnonzero(buckets < self._below).tolist():
            rows = slice(int(lists.offsets[i]), int(lists.offsets[i + 1]))
            items = hashes(pa.array(lists.item_ids[lists.items[rows]].tolist(), pa.string()))
            self._lists.append(
                _SampledList(
                    bucket=int(buckets[i]),
                    print=int(prints[i]),
                    group=int(groups[i]),
                    pairs=(queries[i : i + 1] * _GOLDEN) ^ items,
                    positions=lists.positions[rows],
                    clicks=lists.clicks[rows],
                    features=features(i).copy(),
                )
            )
            self._rows += len(items)
            while self._rows > self._most_rows and self._below > 1:
                self._below //= 2
                self._lists = [one for one in self._lists if one.bucket < self._below]
                self._rows = sum(len(one.clicks) for one in self._lists)

    def rows(self) -> _Rows:
        """Raises ValueError if there is none."""
        return _rows_of(self._lists)

    def rows_with_features(self, most: int) -> _Rows:
        """Of the feature view that most lists were logged with; so many at most. Raises ValueError if there is none."""
        usable = [one for one in self._lists if one.features.shape[1] and np.isfinite(one.features).all()]
        prints = Counter((one.print, one.features.shape[1]) for one in usable)
        if not prints:
            raise ValueError("no features were logged")
        best = max(prints, key=lambda one: (prints[one], one))
        mine = sorted((one for one in usable if (one.print, one.features.shape[1]) == best), key=lambda one: one.bucket)
        most = min(most, int(_EM_PRODUCTS / best[1] ** 2))
        ends = np.cumsum([len(one.clicks) for one in mine])
        return _rows_of(mine[: max(1, int(np.searchsorted(ends, most, side="right")))])


def _rows_of(lists: Sequence[_SampledList]) -> _Rows:
    if not lists:
        raise ValueError("no list was sampled")
    wide = {one.features.shape[1] for one in lists}
    rows = sum(len(one.clicks) for one in lists)
    return _Rows(
        pairs=np.concatenate([one.pairs for one in lists]),
        positions=np.concatenate([one.positions for one in lists]),
        clicks=np.concatenate([one.clicks for one in lists]),
        groups=np.repeat([one.group for one in lists], [len(one.clicks) for one in lists]),
        features=np.concatenate([one.features for one in lists]) if len(wide) == 1 else np.zeros((rows, 0), np.float32),
    )


def _harvested(counts: Sequence[ClickCounts]) -> _Estimate:
    """Examination by the first counts, and by each of the others, of the positions that all of them can tell, along
    positions."""
    depth = counts[0].impressions.shape[1]
    while (joined := min(joined_positions(_first(one, depth)) for one in counts)) < depth:
        depth = joined
    whole, *others = (_first(one, depth) for one in counts)
    return _Estimate(*harvest_along(whole, others))


def _first(counts: ClickCounts, positions: int) -> ClickCounts:
    return ClickCounts(counts.impressions[:, :positions], counts.clicks[:, :positions])


def _errors(without_each: Floats) -> Floats:
    return np.array([jackknife_error(values) for values in without_each.T])


def _stretched(examination: Floats, positions: int) -> Floats:
    """The last one's for the positions below. Shape (rows, positions)."""
    place = np.minimum(np.arange(positions), examination.shape[1] - 1)
    return np.asarray(examination[:, place], dtype=np.float64)
