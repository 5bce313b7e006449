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
- Doubly robust (`doubly_robust`): what every item attracts by all of its looks and by items like it, corrected by what
  chance showed where that contradicts it. It is the one to be read: the others weigh single clicks by hundreds.

Intervals are clustered by unit. Those of IPS and SNIPS take examination as known, and are too narrow where the two
policies' lists differ much. That of the doubly robust estimate is of the spread of the whole estimate made again
without each of some groups of units (delete-a-group jackknife), with Student's t of one group less; where examination
is given without each group, too (`position_bias.harvest_along`), with that, for it is of the same clicks.

Sources: Li, Abbasi-Yadkori, Kveton, Muthukrishnan, Vinay & Wen, "Offline evaluation of ranking policies with click
models", KDD 2018; Swaminathan & Joachims, "The self-normalized estimator for counterfactual learning", NIPS 2015;
delete-a-group jackknife: Kott, J. Official Statistics 17(4), 2001.
"""

import hashlib
from dataclasses import dataclass
from statistics import NormalDist

import msgspec
import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import t as student

from pipelines.feedback.click_ndcg import clustered_error, expected_ndcg, ideal_dcg
from pipelines.feedback.doubly_robust import PairedPolicies
from pipelines.feedback.explored_lists import ClickLists
from pipelines.feedback.position_bias import effective_size, jackknife_error
from registry.contracts.manifest import CLICK_NDCG, MetricDefinition

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


class CounterfactualRules(msgspec.Struct, frozen=True):
    """most_weight: a larger weight is cut. least_support: share of the challenger's first k that must have been
    shown. least_effective: clicks of equal weight that the challenger's estimate must be worth. alpha: chance that
    the interval leaves out the truth. groups: of units, for the interval where examination is taken as known."""

    metric: MetricDefinition = CLICK_NDCG
    most_weight: float = 500.0
    least_support: float = 0.9
    least_effective: float = 100.0
    alpha: float = 0.05
    groups: int = 10

    def __post_init__(self) -> None:
        for holds, rule in (
            (self.metric.gain == "linear", f"metric.gain={self.metric.gain!r}: expected linear, as clicks are counted"),
            (self.metric.empty_lists == "zero", "metric.empty_lists: expected zero, a session without a click stays"),
            (self.most_weight >= 1, f"most_weight={self.most_weight:g}: expected >= 1"),
            (0 < self.least_support <= 1, f"least_support={self.least_support:g}: expected 0 < share <= 1"),
            (self.least_effective >= 0, f"least_effective={self.least_effective:g}: expected >= 0"),
            (0 < self.alpha < 1, f"alpha={self.alpha:g}: expected 0 < chance < 1"),
            (self.groups >= 2, f"groups={self.groups}: expected >= 2"),
        ):
            if not holds:
                raise ValueError(f"counterfactual.{rule}")


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
    behind the challenger's IPS. clipped: share of its weights that were cut. corrected: how much of the doubly robust
    lift is correction, 0 where the log does not contradict the model. logged: click-NDCG of the log itself.
    examination_known: all intervals take it so, not only those of IPS and SNIPS. data: SHA-256 of all that went in, 64
    digits.
    """

    estimates: tuple[PolicyEstimate, ...]
    refused: str
    support: float
    effective: float
    clipped: float
    corrected: float
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

    champion, challenger: shape (queries, width), each policy's list for the queries that the log numbers, item numbers
    best first, `NONE` where it is shorter. The first k are estimated; ranks below tell what items are like: give as
    many as chance reached. examination: shape (positions,), for the longest list and k at least.
    without_each: shape (groups, positions), examination without each of some groups of units in turn; a group is the
    units whose numbers leave the same rest by the number of groups. reachable: where the challenger's lists could be
    made of shown items only, the share of its first k that those are likely to be; support is taken times it.
    Raises ValueError if the shapes disagree or an examination is not > 0.
    """
    ours, theirs = (np.asarray(given, dtype=np.int64) for given in (champion, challenger))
    looked = np.asarray(examination, dtype=np.float64)
    queries, k = int(log.queries.max(initial=-1)) + 1, rules.metric.k
    longest = max(int(np.diff(log.offsets).max(initial=0)), *(min(k, given.shape[-1]) for given in (ours, theirs)))
    if not ours.ndim == theirs.ndim == 2 or not len(ours) == len(theirs) >= queries:
        raise ValueError(f"expected lists of champion and challenger of shape ({queries}, width), as many of both")
    if len(looked) < longest or not (looked > 0).all():
        raise ValueError(f"examination: expected > 0 for {longest} positions, got {len(looked)}")
    replicates = np.empty((0, longest)) if without_each is None else np.asarray(without_each, dtype=np.float64)
    if replicates.ndim != 2 or len(replicates) == 1 or replicates.shape[1] < longest or not (replicates > 0).all():
        raise ValueError(f"without_each: expected 2 groups at least, > 0 for {longest} positions, {replicates.shape}")
    work = _Work(log, looked, rules)
    base, other = (work.policy(of[:, :k]) for of in (ours, theirs))
    support = reachable * (float(other.known[other.filled].mean()) if other.filled.any() else 0.0)
    effective = effective_size(other.weights[other.clicks > 0])
    refused = ""
    if support < rules.least_support:
        refused = (
            f"of the challenger's first {k}, {support:.1%} were shown for their query, limit "
            f"{rules.least_support:.0%}: explore more traffic, or deeper, and ask again"
        )
    elif effective < rules.least_effective:
        refused = (
            f"the challenger's weighted clicks are worth {effective:.0f}, limit {rules.least_effective:.0f}: ask again "
            "with more lists"
        )
    estimates: tuple[PolicyEstimate, ...] = ()
    corrected = 0.0
    if not refused:
        read, corrected = _doubly_robust(log, ours, theirs, looked, replicates, rules)
        estimates = (*work.estimates(base, other), read)
    matched = other.weights > 0
    return CounterfactualReport(
        estimates=estimates,
        refused=refused,
        support=support,
        effective=effective,
        clipped=float(other.clipped[matched].mean()) if matched.any() else 0.0,
        corrected=corrected,
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


def _doubly_robust(
    log: ClickLists, ours: Ints, theirs: Ints, looked: Floats, replicates: Floats, rules: CounterfactualRules
) -> tuple[PolicyEstimate, float]:
    """With its interval, and how much of its lift is correction."""
    found = PairedPolicies(log, ours, theirs, rules.metric, rules.most_weight).lift(looked)
    whole = found.whole
    if len(replicates):
        group_of = log.units % len(replicates)
    else:
        units, unit_of = np.unique(log.units, return_inverse=True)
        replicates = np.tile(looked, (min(rules.groups, len(units)), 1))
        group_of = unit_of % len(replicates)
    half = float("nan")
    if len(replicates) > 1:
        error = jackknife_error(found.without_each(group_of, replicates))
        half = float(student.ppf(1 - rules.alpha / 2, len(replicates) - 1)) * error
    estimate = PolicyEstimate(
        "doubly_robust", whole.champion, whole.challenger, whole.lift, whole.lift - half, whole.lift + half
    )
    return estimate, whole.corrected


@dataclass(frozen=True, slots=True)
class _Policy:
    """A policy's list for each of the log's, all of shape (lists, width). filled: there is an item. known: it was
    shown for the query. weights: of the log's click for this position, 0 where the item was not shown in the list.
    plain: the same for its exposure alone."""

    filled: NDArray[np.bool_]
    known: NDArray[np.bool_]
    weights: Floats
    plain: Floats
    clicks: Floats
    clipped: NDArray[np.bool_]


class _Work:
    """The log, indexed by list and item."""

    def __init__(self, log: ClickLists, examination: Floats, rules: CounterfactualRules) -> None:
        self.log, self.examination, self.rules = log, examination, rules
        sizes = np.diff(log.offsets)
        self.list_of = np.repeat(np.arange(len(sizes)), sizes)
        self.position = np.arange(len(self.list_of)) - log.offsets[:-1][self.list_of]
        self.looked = examination[self.position]
        self.width = int(log.items.max(initial=0)) + 1
        self.rows = self.list_of * self.width + log.items
        self.order = np.argsort(self.rows, kind="stable")
        self.pairs = np.unique(log.queries[self.list_of] * self.width + log.items)
        self.unit_of = np.unique(log.units, return_inverse=True)[1]

    def policy(self, policy: Ints) -> _Policy:
        """policy: (queries, width)."""
        here = self.examination[: policy.shape[1]][None, :]
        there_is = (policy >= 0) & (policy < self.width)
        wanted = np.where(there_is, np.arange(len(policy))[:, None] * self.width + policy, -1)
        known = _find(self.pairs, np.arange(len(self.pairs)), wanted) >= 0
        queries = self.log.queries
        of_list = np.arange(len(queries))[:, None] * self.width + policy[queries]
        found = _find(self.rows, self.order, np.where(there_is[queries], of_list, -1))
        shown = found >= 0
        row = np.where(shown, found, 0)
        there = self.looked[row]
        whole = np.where(shown, here / (there * self.log.shown_chance[row]), 0.0)
        weights = np.minimum(whole, self.rules.most_weight)
        return _Policy(
            filled=(policy >= 0)[queries],
            known=known[queries],
            weights=weights,
            plain=weights * there / here,
            clicks=np.where(shown, self.log.clicks[row], 0.0),
            clipped=whole > self.rules.most_weight,
        )

    def logged(self) -> float:
        """Mean click-NDCG of the lists as they were shown."""
        discount = np.where(self.position < self.rules.metric.k, 1 / np.log2(self.position + 2), 0.0)
        lists = len(self.log.queries)
        reached = np.bincount(self.list_of, weights=discount * self.log.clicks, minlength=lists)
        clicked = np.bincount(self.list_of, weights=self.log.clicks, minlength=lists).astype(np.int64)
        ideal = ideal_dcg(int(clicked.max(initial=1)), self.rules.metric.k)[clicked]
        return float((reached / np.where(ideal > 0, ideal, 1.0)).mean()) if lists else float("nan")

    def estimates(self, base: _Policy, other: _Policy) -> tuple[PolicyEstimate, ...]:
        return tuple(
            self._estimate(method, *(expected_ndcg(of(each), self.rules.metric) for each in (base, other)))
            for method, of in (("ips", _ips), ("snips", _snips))
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
