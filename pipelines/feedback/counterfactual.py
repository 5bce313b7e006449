"""What a challenger's click-NDCG would have been, from a log of other lists: IPS, SNIPS and doubly robust.

The log knows clicks on what was shown where it was shown. Under the position-based model a click at one position
speaks for another by the ratio of their examination, and an item that was shown by chance speaks for all lists in
which it was not, by the inverse of that chance. What was never shown, nothing speaks for: where the challenger's
first k have not been shown for their query in `least_support` of the cases, no figure is given at all.

Both policies are estimated in the same way from the same lists, so that what is wrong in both (examination, the
what else) goes out of the lift. Click-NDCG is no sum over clicks: a click is worth less beside others. But the
expected click-NDCG of a list is affine in the chance of each of its clicks, which are independent under the
model, so that unbiased estimates of the chances, put into it (`expected_ndcg`), give an unbiased estimate of it:
of the champion's own lists, what was seen.

- IPS: clicks by weight. SNIPS: each position divided by the mean weight of its exposures, which should be 1.
- DR: the model's estimate for every item, corrected by the weighted clicks where the item was shown. The model
  is fitted on the other units (cross-fitting). It is the one to be read: right if either half is.

The interval is clustered by unit. Examination is itself an estimate, from the same clicks, and so is the model of
relevance: where examination is also given without each of some groups of units
(`position_bias.harvest_without_each`), the whole estimate is made again without each group (delete-a-group
jackknife), and the interval is of its spread, with Student's t of one group less. Else examination is taken as known,
and the interval is too narrow where the two policies' lists differ much.

Sources: Li, Abbasi-Yadkori, Kveton, Muthukrishnan, Vinay & Wen, "Offline evaluation of ranking policies with click
models", KDD 2018; Swaminathan & Joachims, "The self-normalized estimator for counterfactual learning", NIPS 2015;
Dudík, Langford & Li, "Doubly robust policy evaluation and learning", ICML 2011; cross-fitting: Chernozhukov et
al., Econometrics J. 21(1), 2018.
"""

import hashlib
from dataclasses import dataclass
from statistics import NormalDist

import msgspec
import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import t as student

from pipelines.dataset import rows_of_lists
from pipelines.feedback.click_ndcg import clustered_error
from pipelines.feedback.position_bias import effective_size, jackknife_error
from registry.contracts.manifest import CLICK_NDCG, MetricDefinition

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
_AT_ONCE = 20_000  # lists whose expected click-NDCG is worked out together
NONE = -1  # no item: a list shorter than others


class CounterfactualRules(msgspec.Struct, frozen=True):
    """most_weight: a larger weight is cut. least_support: share of the challenger's first k that must have been
    shown. least_effective: clicks of equal weight that the challenger's estimate must be worth. alpha: chance that
    the interval leaves out the truth. folds: of cross-fitting. prior: looks that an item's prior counts as."""

    metric: MetricDefinition = CLICK_NDCG
    most_weight: float = 500.0
    least_support: float = 0.9
    least_effective: float = 100.0
    alpha: float = 0.05
    folds: int = 2
    prior: float = 5.0

    def __post_init__(self) -> None:
        for holds, rule in (
            (self.metric.gain == "linear", f"metric.gain={self.metric.gain!r}: expected linear, as clicks are counted"),
            (self.metric.empty_lists == "zero", "metric.empty_lists: expected zero, a session without a click stays"),
            (self.most_weight >= 1, f"most_weight={self.most_weight:g}: expected >= 1"),
            (0 < self.least_support <= 1, f"least_support={self.least_support:g}: expected 0 < share <= 1"),
            (self.least_effective >= 0, f"least_effective={self.least_effective:g}: expected >= 0"),
            (0 < self.alpha < 1, f"alpha={self.alpha:g}: expected 0 < chance < 1"),
            (self.folds >= 2, f"folds={self.folds}: expected >= 2"),
            (self.prior > 0, f"prior={self.prior:g}: expected > 0"),
        ):
            if not holds:
                raise ValueError(f"counterfactual.{rule}")


@dataclass(frozen=True, slots=True)
class ClickLists:
    """Logged lists, one after the other, items in served order.

    queries, units: shape (lists,), numbers >= 0; items, clicks, shown_chance: shape (rows,), items numbers >= 0,
    shown_chance the probability that the item was shown in its list at all, see `shown_chance`.
    offsets: shape (lists + 1,). Raises ValueError if the shapes disagree or a chance is not in (0, 1].
    """

    queries: Ints
    units: Ints
    items: Ints
    clicks: NDArray[np.bool_]
    shown_chance: Floats
    offsets: Ints

    def __post_init__(self) -> None:
        lists, rows = len(self.queries), len(self.items)
        if len(self.units) != lists or self.offsets.shape != (lists + 1,) or self.offsets[-1] != rows:
            raise ValueError(f"expected a unit and an offset for each of the {lists} lists, the last offset {rows}")
        if not len(self.clicks) == len(self.shown_chance) == rows:
            raise ValueError(f"expected a click or none and a shown_chance for each of the {rows} rows")
        if not ((self.shown_chance > 0) & (self.shown_chance <= 1)).all():
            raise ValueError("shown_chance: expected 0 < probability <= 1")


class PolicyEstimate(msgspec.Struct, frozen=True):
    """One estimator's figures. champion, challenger: click-NDCG; lift: relative, with its interval low to high."""

    method: str
    champion: float
    challenger: float
    lift: float
    low: float
    high: float


class CounterfactualReport(msgspec.Struct, frozen=True):
    """What the log says of the challenger. Equal data give equal bytes.

    refused: why there are no estimates, empty if there are; then `doubly_robust` is the last of them.
    support: share of the challenger's first k that were shown for their query. effective: clicks of equal weight
    behind the challenger's IPS. clipped: share of its weights that were cut. logged: click-NDCG of the log itself.
    examination_known: the intervals take it so, else they are of the jackknife. data: SHA-256 of all that went in, 64
    digits.
    """

    estimates: tuple[PolicyEstimate, ...]
    refused: str
    support: float
    effective: float
    clipped: float
    logged: float
    lists: int
    units: int
    clicks: int
    metric: str
    rules: CounterfactualRules
    examination: tuple[float, ...]
    examination_known: bool
    data: str

    @property
    def doubly_robust(self) -> PolicyEstimate | None:
        """The one to be read, None if refused."""
        return self.estimates[-1] if self.estimates else None

    def encode(self) -> bytes:
        """Canonical JSON."""
        return msgspec.json.encode(self, order="deterministic")


def shown_chance(propensities: ArrayLike, offsets: ArrayLike, depth: int | Ints) -> Floats:
    """The probability that each shown item was shown in its list at all, over coin and swap. Shape (rows,).

    propensities: as logged, of lists of which less than half are explored; depth: `explore_depth` of their plan,
    or the candidates of each list where there were fewer, shape (lists,).
    An item from within the list leaves it if it changes places with one from beyond; one from beyond comes to any
    of the positions alike. Without a swap from beyond, whatever is shown would have been.

    >>> shown_chance([0.96, 0.96, 0.005], [0, 3], depth=7).round(4).tolist()
    [0.98, 0.98, 0.015]
    """
    chance, bounds = np.asarray(propensities, dtype=np.float64), np.asarray(offsets, dtype=np.int64)
    sizes = np.diff(bounds)
    list_of = np.repeat(np.arange(len(sizes)), sizes)
    low = chance < 0.5
    moved = np.bincount(list_of[low], minlength=len(sizes))
    if moved.max(initial=0) > 2:
        raise ValueError("over two items of a list have a propensity under 0.5: expected one swap a list at most")
    highest, lowest = np.zeros(len(sizes)), np.ones(len(sizes))
    np.maximum.at(highest, list_of[~low], chance[~low])
    np.minimum.at(lowest, list_of[low], chance[low])
    # ways to move a rank: with every rank within depth, and with every other shown one
    by_those_that_stay = (1 - highest) / np.maximum(depth - 1 + sizes - 1, 1)
    each = np.where(moved > 0, lowest / np.maximum(moved, 1), by_those_that_stay)
    beyond = np.maximum(depth - sizes, 0)
    came = low & (moved == 1)[list_of]
    found = np.where(came, chance * sizes[list_of], 1 - (each * beyond)[list_of])
    return np.clip(found, 1e-12, 1.0)


def explored_depth(propensities: ArrayLike, offsets: ArrayLike) -> int | None:
    """How many ranks could come to be shown, as explored lists tell; None where no item came from beyond.

    propensities, offsets: as for `shown_chance`. An item that came from beyond has the chance of one swap, and one that
    stayed lacks that of every swap that would have moved it: with each rank within depth, and each other shown one.

    >>> explored_depth([0.96, 0.96, 0.005], [0, 3])
    7
    """
    chance, bounds = np.asarray(propensities, dtype=np.float64), np.asarray(offsets, dtype=np.int64)
    sizes = np.diff(bounds)
    list_of = np.repeat(np.arange(len(sizes)), sizes)
    low = chance < 0.5
    came = (np.bincount(list_of[low], minlength=len(sizes)) == 1) & (sizes > 1)
    if not came.any():
        return None
    each, stays = np.ones(len(sizes)), np.zeros(len(sizes))
    np.minimum.at(each, list_of[low], chance[low])
    np.maximum.at(stays, list_of[~low], chance[~low])
    return int(np.rint((1 - stays[came]) / each[came] - sizes[came] + 2).max())


def counterfactual(
    log: ClickLists,
    champion: ArrayLike,
    challenger: ArrayLike,
    examination: ArrayLike,
    rules: CounterfactualRules,
    without_each: ArrayLike | None = None,
    reachable: float = 1.0,
) -> CounterfactualReport:
    """Click-NDCG of both policies on the log's lists.

    champion, challenger: shape (lists, width), each policy's list for the logged list's query, item numbers best
    first, `NONE` where it is shorter. examination: shape (positions,), for the longest list and the width at least.
    without_each: shape (groups, positions), examination without each of some groups of units in turn; a group is the
    units whose numbers leave the same rest by the number of groups. reachable: where the challenger's lists could be
    made of shown items only, the share of its first k that those are likely to be; support is taken times it.
    Raises ValueError if the shapes disagree or an examination is not > 0.
    """
    ours, theirs = (np.asarray(given, dtype=np.int64) for given in (champion, challenger))
    looked = np.asarray(examination, dtype=np.float64)
    longest = max(int(np.diff(log.offsets).max(initial=0)), *(given.shape[-1] for given in (ours, theirs)))
    if not ours.ndim == theirs.ndim == 2 or not len(ours) == len(theirs) == len(log.queries):
        raise ValueError(f"expected lists of champion and challenger of shape ({len(log.queries)}, width)")
    if len(looked) < longest or not (looked > 0).all():
        raise ValueError(f"examination: expected > 0 for {longest} positions, got {len(looked)}")
    replicates = np.empty((0, longest)) if without_each is None else np.asarray(without_each, dtype=np.float64)
    if replicates.ndim != 2 or len(replicates) == 1 or replicates.shape[1] < longest or not (replicates > 0).all():
        raise ValueError(f"without_each: expected 2 groups at least, > 0 for {longest} positions, {replicates.shape}")
    work = _Work(log, looked, rules)
    slots = work.slots(theirs[:, : rules.metric.k])
    support = reachable * (float(slots.known[slots.filled].mean()) if slots.filled.any() else 0.0)
    base, other = work.policy(ours), work.policy(theirs)
    effective = effective_size(other.weights[other.clicks > 0])
    refused = ""
    if support < rules.least_support:
        refused = (
            f"of the challenger's first {rules.metric.k}, {support:.1%} were shown for their query, limit "
            f"{rules.least_support:.0%}: explore more traffic, or deeper, and ask again"
        )
    elif effective < rules.least_effective:
        refused = (
            f"the challenger's weighted clicks are worth {effective:.0f}, limit {rules.least_effective:.0f}: ask again "
            "with more lists"
        )
    estimates = () if refused else work.estimates(base, other)
    if estimates and len(replicates):
        lifts = [
            [one.lift for one in _without(group, len(replicates), log, ours, theirs, looked, rules)]
            for group, looked in enumerate(replicates)
        ]
        errors = [jackknife_error(of_method) for of_method in zip(*lifts, strict=True)]
        quantile = float(student.ppf(1 - rules.alpha / 2, len(replicates) - 1))
        estimates = tuple(
            msgspec.structs.replace(one, low=one.lift - quantile * error, high=one.lift + quantile * error)
            for one, error in zip(estimates, errors, strict=True)
        )
    matched = other.weights > 0
    return CounterfactualReport(
        estimates=estimates,
        refused=refused,
        support=support,
        effective=effective,
        clipped=float(other.clipped[matched].mean()) if matched.any() else 0.0,
        logged=work.logged(),
        lists=len(log.queries),
        units=len(np.unique(log.units)),
        clicks=int(log.clicks.sum()),
        metric=rules.metric.digest,
        rules=rules,
        examination=tuple(looked.tolist()),
        examination_known=not len(replicates),
        data=_digest(log, ours, theirs, looked, replicates),
    )


def expected_ndcg(chances: Floats, metric: MetricDefinition) -> Floats:
    """Click-NDCG of lists whose items are clicked independently with these chances. Shape (lists,).

    chances: shape (lists, width), best position first. An estimate of a chance may lie outside of [0, 1]: the
    result is affine in each.

    >>> expected_ndcg(np.array([[1.0, 0.0], [0.0, 1.0], [0.5, 0.0]]), CLICK_NDCG).round(4).tolist()
    [1.0, 0.6309, 0.5]
    """
    parts = [_expected(chances[start : start + _AT_ONCE], metric) for start in range(0, len(chances), _AT_ONCE)]
    return np.concatenate([np.zeros(0), *parts])


def _expected(chances: Floats, metric: MetricDefinition) -> Floats:
    """What is clicked before a position, forwards, meets what a click is worth by that and what follows, backwards."""
    lists, width = chances.shape
    by_position = np.ascontiguousarray(chances.T)
    worth = np.broadcast_to((1.0 / _ideal(width, metric.k)[1:])[:, None], (width, lists))  # by clicks before
    worth_at = [worth]
    for chance in by_position[:0:-1]:
        worth = worth[:-1] + chance * (worth[1:] - worth[:-1])
        worth_at.append(worth)
    found = np.zeros(lists)
    before = np.ones((1, lists))  # how many of those before are clicked
    for position, chance in enumerate(by_position[: metric.k]):
        found += chance * (before * worth_at[width - 1 - position]).sum(axis=0) / np.log2(position + 2)
        moved = before * chance
        before = np.concatenate([before - moved, np.zeros((1, lists))])
        before[1:] += moved
    return found


@dataclass(frozen=True, slots=True)
class _Slots:
    """A policy's lists against the log, all of shape (lists, width). row: of the log, of the same list, where the
    item was shown in it, else -1. known: the item was shown for the query. filled: there is an item."""

    row: Ints
    known: NDArray[np.bool_]
    filled: NDArray[np.bool_]
    pair: Ints


@dataclass(frozen=True, slots=True)
class _Policy:
    """All of shape (lists, width). model: clicks expected. weights: of the log's click for this
    position, 0 where the item was not shown. plain: the same for its exposure alone. expected: clicks expected
    where it was shown."""

    filled: NDArray[np.bool_]
    model: Floats
    weights: Floats
    plain: Floats
    clicks: Floats
    expected: Floats
    clipped: NDArray[np.bool_]


class _Work:
    """The log, indexed, with the model of relevance fitted on it."""

    def __init__(self, log: ClickLists, examination: Floats, rules: CounterfactualRules) -> None:
        self.log, self.examination, self.rules = log, examination, rules
        sizes = np.diff(log.offsets)
        self.list_of = np.repeat(np.arange(len(sizes)), sizes)
        self.position = np.arange(len(self.list_of)) - log.offsets[:-1][self.list_of]
        self.looked = examination[self.position]
        self.width = int(log.items.max(initial=0)) + 1
        self.rows = self.list_of * self.width + log.items
        self.order = np.argsort(self.rows, kind="stable")
        self.pairs, self.pair = np.unique(log.queries[self.list_of] * self.width + log.items, return_inverse=True)
        self.unit_of = np.unique(log.units, return_inverse=True)[1]
        self.fold_of = self.unit_of % rules.folds
        self.relevance = self._fit()

    def _fit(self) -> Floats:
        """Attraction of every pair as the units of the other folds tell it; a last one for pairs never shown.
        Shape (folds, pairs + 1)."""
        size, folds = len(self.pairs), self.rules.folds
        fold = self.fold_of[self.list_of]
        cell = fold * size + self.pair
        clicks = np.bincount(cell, weights=self.log.clicks, minlength=folds * size).reshape(folds, size)
        looks = np.bincount(cell, weights=self.looked, minlength=folds * size).reshape(folds, size)
        # rankers put alike items alike, so an item's prior is by where it usually stands; those that only chance
        # brought into a list are a kind of their own, as are those never shown
        times = np.bincount(self.pair, minlength=size)
        usual = np.rint(np.bincount(self.pair, weights=self.position, minlength=size) / times).astype(np.int64) + 1
        likely = np.zeros(size)
        np.maximum.at(likely, self.pair, self.log.shown_chance)
        usual[likely < 0.5] = 0
        looked_at = np.bincount(usual, weights=looks.sum(axis=0))
        by_place = np.bincount(usual, weights=clicks.sum(axis=0)) / np.maximum(looked_at, 1e-12)
        prior = by_place[usual]
        rest_clicks, rest_looks = clicks.sum(axis=0) - clicks, looks.sum(axis=0) - looks
        found = (rest_clicks + self.rules.prior * prior) / (rest_looks + self.rules.prior)
        seldom = by_place[looked_at > 0]
        lowest = float(by_place[0] if (usual == 0).any() else seldom[-1]) if len(seldom) else 0.0
        whole = np.column_stack([found, np.full(folds, lowest)])
        return np.asarray(np.clip(whole, 0.0, 1.0), dtype=np.float64)

    def slots(self, policy: Ints) -> _Slots:
        filled = (policy >= 0) & (policy < self.width)
        lists = np.arange(len(policy))[:, None]
        row = _find(self.rows, self.order, np.where(filled, lists * self.width + policy, -1))
        wanted = np.where(filled, self.log.queries[:, None] * self.width + policy, -1)
        pair = _find(self.pairs, np.arange(len(self.pairs)), wanted)
        return _Slots(row, pair >= 0, policy >= 0, pair)

    def policy(self, policy: Ints) -> _Policy:
        slots = self.slots(policy)
        here = self.examination[: policy.shape[1]][None, :]
        relevance = self.relevance[self.fold_of[:, None], slots.pair] * slots.filled
        model = here * relevance
        shown = slots.row >= 0
        row = np.where(shown, slots.row, 0)
        there = self.looked[row]
        whole = np.where(shown, here / (there * self.log.shown_chance[row]), 0.0)
        weights = np.minimum(whole, self.rules.most_weight)
        return _Policy(
            filled=slots.filled,
            model=model,
            weights=weights,
            plain=weights * there / here,
            clicks=np.where(shown, self.log.clicks[row], 0.0),
            expected=there * relevance,
            clipped=whole > self.rules.most_weight,
        )

    def logged(self) -> float:
        """Mean click-NDCG of the lists as they were shown."""
        discount = np.where(self.position < self.rules.metric.k, 1 / np.log2(self.position + 2), 0.0)
        lists = len(self.log.queries)
        reached = np.bincount(self.list_of, weights=discount * self.log.clicks, minlength=lists)
        clicked = np.bincount(self.list_of, weights=self.log.clicks, minlength=lists).astype(np.int64)
        ideal = _ideal(int(clicked.max(initial=1)), self.rules.metric.k)[clicked]
        return float((reached / np.where(ideal > 0, ideal, 1.0)).mean()) if lists else float("nan")

    def estimates(self, base: _Policy, other: _Policy) -> tuple[PolicyEstimate, ...]:
        return tuple(
            self._estimate(method, *(expected_ndcg(of(each), self.rules.metric) for each in (base, other)))
            for method, of in (("ips", _ips), ("snips", _snips), ("doubly_robust", _doubly_robust))
        )

    def _estimate(self, method: str, base: Floats, other: Floats) -> PolicyEstimate:
        """From what each list adds, shape (lists,), by the delta method for a ratio of means."""
        champion, challenger = float(base.mean()), float(other.mean())
        if champion <= 0:
            return PolicyEstimate(method, champion, challenger, *(float("nan"),) * 3)
        lift = challenger / champion - 1
        error = clustered_error((other - (1 + lift) * base) / champion, self.unit_of)
        half = float("nan") if error is None else NormalDist().inv_cdf(1 - self.rules.alpha / 2) * error
        return PolicyEstimate(method, champion, challenger, lift, lift - half, lift + half)


def _ips(policy: _Policy) -> Floats:
    return np.asarray(policy.weights * policy.clicks, dtype=np.float64)


def _snips(policy: _Policy) -> Floats:
    mean_weight = policy.plain.sum(axis=0) / np.maximum(policy.filled.sum(axis=0), 1)
    return policy.weights * policy.clicks / np.where(mean_weight > 0, mean_weight, 1.0)


def _doubly_robust(policy: _Policy) -> Floats:
    return policy.model + policy.weights * (policy.clicks - policy.expected)


def _without(
    group: int, groups: int, log: ClickLists, ours: Ints, theirs: Ints, looked: Floats, rules: CounterfactualRules
) -> tuple[PolicyEstimate, ...]:
    """The estimates from the lists of all other groups of units, with examination as they tell it."""
    kept = np.flatnonzero(log.units % groups != group)
    rows = rows_of_lists(log.offsets, kept)
    rest = ClickLists(
        queries=log.queries[kept],
        units=log.units[kept],
        items=log.items[rows],
        clicks=log.clicks[rows],
        shown_chance=log.shown_chance[rows],
        offsets=np.concatenate([[0], np.cumsum(np.diff(log.offsets)[kept])]).astype(np.int64),
    )
    work = _Work(rest, looked, rules)
    return work.estimates(work.policy(ours[kept]), work.policy(theirs[kept]))


def _ideal(clicks: int, k: int) -> Floats:
    """DCG of so many clicks at the top. Shape (clicks + 1,)."""
    ranks = np.arange(clicks)
    return np.concatenate([[0.0], np.cumsum(np.where(ranks < k, 1 / np.log2(ranks + 2), 0.0))])


def _find(keys: Ints, order: Ints, wanted: Ints) -> Ints:
    """Where each wanted number stands among the keys, -1 if it does not. order: sorts the keys."""
    row = np.append(order, -1)[np.searchsorted(keys, wanted, sorter=order)]
    return np.asarray(np.where(np.append(keys, -2)[row] == wanted, row, -1), dtype=np.int64)


def _digest(log: ClickLists, *arrays: NDArray[np.generic]) -> str:
    total = hashlib.sha256()
    logged = (log.queries, log.units, log.items, log.clicks, log.shown_chance, log.offsets)
    for array in (*logged, *arrays):
        total.update(f"{array.dtype}{array.shape}".encode())
        total.update(np.ascontiguousarray(array).data)
    return total.hexdigest()
