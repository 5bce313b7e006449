"""The classifier two-sample test, list by list."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata
from threadpoolctl import threadpool_limits

from drift.moments import FloatArray

IntArray = NDArray[np.int64]
FeatureArray = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Lists:
    """rows: float32 (rows, features), nan where a value is missing, list after list. sizes: (lists,), at least 1.

    Raises ValueError if they do not fit.
    """

    rows: FeatureArray
    sizes: IntArray

    def __post_init__(self) -> None:
        if self.rows.ndim != 2 or int(self.sizes.sum()) != len(self.rows) or (self.sizes < 1).any():
            raise ValueError(f"{len(self.sizes)} lists of {int(self.sizes.sum())} rows: {self.rows.shape} were given")

    def __len__(self) -> int:
        return len(self.sizes)

    def take(self, places: IntArray) -> "Lists":
        """Those lists, in that order."""
        ends = np.cumsum(self.sizes)
        sizes = self.sizes[places]
        within = np.arange(int(sizes.sum())) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        return Lists(self.rows[np.repeat(ends[places] - sizes, sizes) + within], sizes)

    def fewer(self, most_rows: int, rng: np.random.Generator) -> "Lists":
        """All lists, of each at most so many rows, drawn."""
        order = np.lexsort([rng.random(len(self.rows)), np.repeat(np.arange(len(self)), self.sizes)])
        within = np.arange(len(self.rows)) - np.repeat(np.cumsum(self.sizes) - self.sizes, self.sizes)
        return Lists(self.rows[order[within < most_rows]], np.minimum(self.sizes, most_rows))

    def without(self, columns: Sequence[int]) -> "Lists":
        """All lists, those columns all missing."""
        rows = self.rows.copy()
        rows[:, list(columns)] = np.nan
        return Lists(rows, self.sizes)

    @staticmethod
    def join(parts: "Sequence[Lists]") -> "Lists":
        """All lists, part after part; at least one part."""
        return Lists(np.vstack([part.rows for part in parts]), np.concatenate([part.sizes for part in parts]))


@dataclass(frozen=True, slots=True)
class JointSettings:
    """folds: each holds lists out that the others are learnt from. most_lists: of each side, and most_rows of each
    list, drawn from those given. trees, leaves: of the classifier. permutations: that p-values are of, and so the
    smallest is 2 / (that + 1).
    """

    folds: int = 2
    most_lists: int = 800
    most_rows: int = 3
    trees: int = 25
    leaves: int = 6
    permutations: int = 999

    def __post_init__(self) -> None:
        for holds, key, rule in (
            (2 <= self.folds <= 20, "folds", "2 to 20"),
            (self.most_lists >= 2 * self.folds, "most_lists", "at least 2 a fold"),
            (self.most_rows >= 1, "most_rows", "at least 1"),
            (1 <= self.trees <= 1000, "trees", "1 to 1000"),
            (2 <= self.leaves <= 255, "leaves", "2 to 255"),
            (19 <= self.permutations <= 1_000_000, "permutations", "19 to 1000000"),
        ):
            if not holds:
                raise ValueError(f"joint.{key}={getattr(self, key)}: expected {rule}")


@dataclass(frozen=True, slots=True)
class ToldApart:
    """How well lists of two sides can be told apart. lists: of each side.

    auc: chance that of a list of each side the classifier, which saw neither, takes the right one for the current
    one; 0.5 is none. p_value: chance of at least that if both sides were the same, lists being independent.
    """

    auc: float
    p_value: float
    lists: int
    held_out: "tuple[HeldOut, ...]" = field(repr=False, default=())


@dataclass(frozen=True, slots=True)
class HeldOut:
    """A fold: a classifier and the lists that it was not learnt from. is_current: bool (lists,)."""

    classifier: "Classifier"
    lists: Lists
    is_current: NDArray[np.bool_]
    scores: FloatArray

    def auc(self, lists: Lists | None = None) -> float:
        """Of its lists, or of them as they are given."""
        scores = self.scores if lists is None else self.classifier.of_lists(lists)
        return auc(scores, self.is_current)


@dataclass(frozen=True, slots=True)
class _Columns:
    """What the trees are given: columns that vary, and of others whether a value is missing. Both (columns,), places.
    Where there is nothing, a column of zeros, which tells nothing: trees need one.
    """

    varying: IntArray
    holed: IntArray

    @staticmethod
    def of(rows: FeatureArray) -> "_Columns":
        known = np.isfinite(rows)
        least = np.where(known, rows, np.inf).min(axis=0)
        most = np.where(known, rows, -np.inf).max(axis=0)
        varies = least < most
        return _Columns(np.flatnonzero(varies), np.flatnonzero(~varies & known.any(axis=0) & ~known.all(axis=0)))

    def taken(self, rows: FeatureArray) -> FeatureArray:
        known = np.isfinite(rows[:, self.holed]).astype(np.float32)
        found = np.hstack([rows[:, self.varying], known])
        return found if found.shape[1] else np.zeros((len(rows), 1), dtype=np.float32)


class Classifier:
    """Gradient-boosted trees over rows, each list with the same weight; missing values are values too."""

    def __init__(self, lists: Lists, is_current: NDArray[np.bool_], settings: JointSettings, seed: int) -> None:
        from sklearn.ensemble import HistGradientBoostingClassifier

        self._trees = HistGradientBoostingClassifier(
            max_iter=settings.trees,
            max_leaf_nodes=settings.leaves,
            max_bins=31,
            min_samples_leaf=40,
            l2_regularization=1.0,
            early_stopping=False,
            random_state=seed,
        )
        self._of = _Columns.of(lists.rows)
        weights = np.repeat(float(lists.sizes.mean()) / lists.sizes, lists.sizes)
        with threadpool_limits(1):  # its threads wait for each other by spinning, which others' cores pay for
            self._trees.fit(self._of.taken(lists.rows), np.repeat(is_current, lists.sizes), sample_weight=weights)

    def of_lists(self, lists: Lists) -> FloatArray:
        """(lists,): the mean of its rows' log-odds of being current."""
        with threadpool_limits(1):
            odds = self._trees.decision_function(self._of.taken(lists.rows))
        sums: FloatArray = np.add.reduceat(odds, np.cumsum(lists.sizes) - lists.sizes)
        return sums / lists.sizes


def tell_apart(reference: Lists, current: Lists, settings: JointSettings, seed: int) -> ToldApart:
    """The test. Raises ValueError if a side has fewer than two lists a fold, or they have other columns.

    Source: Lopez-Paz & Oquab, Revisiting classifier two-sample tests, ICLR 2017; by the area under the curve instead
    of the accuracy, which needs no threshold. Halves by default: one to learn from and one to ask, then the other way.
    """
    if reference.rows.shape[1] != current.rows.shape[1]:
        raise ValueError(f"{reference.rows.shape[1]} and {current.rows.shape[1]} columns: expected the same")
    fewest = min(len(reference), len(current), settings.most_lists)
    if fewest < 2 * settings.folds:
        raise ValueError(f"{len(reference)} and {len(current)} lists: expected at least {2 * settings.folds} of each")
    rng = np.random.default_rng(seed)
    drawn = [side.take(np.sort(rng.choice(len(side), fewest, replace=False))) for side in (reference, current)]
    sides = [side.fewer(settings.most_rows, rng) for side in drawn]
    lists, is_current = Lists.join(sides), np.repeat([False, True], fewest)
    fold_of = np.concatenate([rng.permutation(np.arange(fewest) % settings.folds) for _ in sides])
    held_out = []
    for fold in range(settings.folds):
        out, rest = np.flatnonzero(fold_of == fold), np.flatnonzero(fold_of != fold)
        classifier = Classifier(lists.take(rest), is_current[rest], settings, seed)
        there = lists.take(out)
        held_out.append(HeldOut(classifier, there, is_current[out], classifier.of_lists(there)))
    return ToldApart(mean_auc(held_out), _p_value(held_out, settings.permutations, rng), fewest, tuple(held_out))


def mean_auc(folds: Sequence[HeldOut]) -> float:
    """Over the folds: each has a classifier of its own, whose scores are not another's."""
    return float(np.mean([fold.auc() for fold in folds]))


def auc(scores: FloatArray, is_current: NDArray[np.bool_]) -> float:
    """Area under the receiver's curve; ties count half.

    >>> auc(np.array([1.0, 2.0, 2.0]), np.array([False, False, True]))
    0.75
    """
    positives = int(is_current.sum())
    pairs = positives * (len(is_current) - positives)
    return float((rankdata(scores)[is_current].sum() - positives * (positives + 1) / 2) / pairs)


def _p_value(folds: Sequence[HeldOut], permutations: int, rng: np.random.Generator) -> float:
    """Twice the mean of the folds' p-values, which holds whatever depends on what; each is exact.

    Given its classifier, a fold's held-out lists could change sides if there were no difference. Folds learn from each
    other's lists, so that their sum may not be permuted as one: that rejected 10 % of 300 tests with nothing to find
    at 5 %, with four folds.

    Source: Vovk & Wang, Combining p-values via averaging, Biometrika 107(4), 2020.
    """
    return min(1.0, 2.0 * float(np.mean([_fold_p_value(fold, permutations, rng) for fold in folds])))


def _fold_p_value(fold: HeldOut, permutations: int, rng: np.random.Generator) -> float:
    ranks, current = rankdata(fold.scores), int(fold.is_current.sum())
    shuffled = rng.permuted(np.tile(ranks, (permutations, 1)), axis=1)
    as_far = shuffled[:, :current].sum(axis=1) >= ranks[fold.is_current].sum() - 1e-9
    return float((1 + as_far.sum()) / (permutations + 1))
