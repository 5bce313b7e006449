"""Position bias: how likely users are to look at a position, from clicks; and labels freed of it.

The position-based model: P(click at k) = examination[k] * attraction(query, item). Only ratios of examination
can be told from clicks, so it is 1 at the first position. Two estimators:

- `harvest` needs no model of relevance: it compares the clicks of the same items at two positions, where chance
  (an explored swap) or several rankers put them. It is unbiased, and needs many lists.
- `regression_em` explains attraction by features and needs no exploration; it is as good as the features tell
  relevance, and wrong where position and features cannot be told apart (one ranker that never errs).

Sources: Wang, Golbandi, Bendersky, Metzler & Najork, "Position bias estimation for unbiased learning to rank in
personal search", WSDM 2018; Agarwal, Zaitsev, Wang, Li, Najork & Joachims, "Estimating position bias without
intrusive interventions", WSDM 2019.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import minimize
from scipy.stats import f as f_distribution
from threadpoolctl import threadpool_limits

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

BEYOND = 0  # the rank of an item that exploration brought in from below what is shown
_LEAST = 1e-4  # a probability of the model is never nearer to 0 or 1


@dataclass(frozen=True, slots=True)
class PositionBias:
    """examination: shape (positions,), the first is 1, > 0. iterations: that it took. converged: whether it came
    to rest before its limit. impressions: shape (positions,), what the estimate of each stands on."""

    examination: Floats
    iterations: int
    converged: bool
    impressions: Ints


@dataclass(frozen=True, slots=True)
class ClickCounts:
    """Impressions and clicks of strata at positions, both of shape (strata, positions).

    A stratum holds items that are exchangeable before chance puts them somewhere: one item of one query, or all
    items that a ranker ranked third. impressions: effective, where propensities differ (Kish).
    """

    impressions: Floats
    clicks: Floats

    @property
    def rates(self) -> Floats:
        """Clicks per impression, 0 where there is none."""
        return self.clicks / np.maximum(self.impressions, 1e-12)


def counts_of(
    strata: ArrayLike, positions: ArrayLike, clicks: ArrayLike, propensities: ArrayLike | None = None
) -> ClickCounts:
    """Counts by stratum and position. All of shape (rows,).

    strata: numbers >= 0. positions: from 1. propensities: with which each item came to stand there, in (0, 1];
    rows weigh their inverse, so that inside a cell items count alike that chance treated differently.
    Raises ValueError if the shapes differ or a number is out of its range.
    """
    groups, places = np.asarray(strata, dtype=np.int64), np.asarray(positions, dtype=np.int64)
    clicked = np.asarray(clicks, dtype=np.float64)
    chance = np.ones(len(groups)) if propensities is None else np.asarray(propensities, dtype=np.float64)
    if not groups.shape == places.shape == clicked.shape == chance.shape or groups.ndim != 1:
        raise ValueError("strata, positions, clicks and propensities: expected the same shape (rows,)")
    if not len(groups) or places.min() < 1 or groups.min() < 0 or not ((chance > 0) & (chance <= 1)).all():
        raise ValueError("expected rows, with strata >= 0, positions >= 1 and propensities in (0, 1]")
    _, stratum = np.unique(groups, return_inverse=True)
    shape = (int(stratum.max()) + 1, int(places.max()))
    cell = stratum * shape[1] + places - 1

    def total(values: Floats) -> Floats:
        return np.bincount(cell, weights=values, minlength=shape[0] * shape[1]).astype(np.float64).reshape(shape)

    weight = 1.0 / chance
    weights, squares = total(weight), total(weight**2)
    effective = weights**2 / np.maximum(squares, 1e-300)
    return ClickCounts(effective, effective * total(weight * clicked) / np.maximum(weights, 1e-300))


def ranks_before_exploration(propensities: ArrayLike, offsets: ArrayLike) -> Ints:
    """The rank that each shown item had before its list was explored, from 1; `BEYOND` if it was not shown then.

    propensities: shape (rows,), as logged, of lists of which less than half are explored: then an item that stands
    where it does by a swap has a propensity under a half, and no other. Two of them changed places; one alone came
    from beyond. offsets: shape (lists + 1,).

    >>> ranks_before_exploration([0.9, 0.1, 0.1, 0.9, 0.1], [0, 3, 5]).tolist()
    [1, 3, 2, 1, 0]
    """
    chance, bounds = np.asarray(propensities, dtype=np.float64), np.asarray(offsets, dtype=np.int64)
    sizes = np.diff(bounds)
    list_of = np.repeat(np.arange(len(sizes)), sizes)
    ranks = np.arange(len(chance)) - bounds[:-1][list_of] + 1
    moved = np.flatnonzero(chance < 0.5)
    many = np.bincount(list_of[moved], minlength=len(sizes))
    if many.max(initial=0) > 2:
        raise ValueError("over two items of a list have a propensity under 0.5: expected one swap a list at most")
    alone = moved[many[list_of[moved]] == 1]
    pairs = moved[many[list_of[moved]] == 2].reshape(-1, 2)
    found: Ints = ranks.astype(np.int64)
    found[pairs] = found[pairs[:, ::-1]]
    found[alone] = BEYOND
    return found


def harvest(counts: ClickCounts, method: Literal["all_pairs", "adjacent"] = "all_pairs") -> PositionBias:
    """Intervention harvesting: examination from items that stood at two positions.

    A pair of positions is held together by the strata seen at both; its clicks at either are those of the same
    items, so their ratio is that of the examination. `adjacent` chains the ratios of neighbours; `all_pairs`
    fits one examination to all pairs, each with an attraction of its own, and is less noisy far down.
    A stratum weighs the harmonic mean of its impressions at the two, as Mantel & Haenszel (1959) weigh strata (the
    paper weighs all alike, for strata of few impressions each).
    Raises ValueError if some position shares no stratum with those before it, or has no clicks to compare.
    """
    here, there = _interventions(counts)
    impressions = counts.impressions.sum(axis=0).astype(np.int64)
    if len(impressions) == 1:
        return PositionBias(np.ones(1), 0, True, impressions)
    _check_joined(here)
    if method == "adjacent":
        steps = np.arange(len(impressions) - 1)
        reached, before = here[steps + 1, steps], here[steps, steps + 1]
        if (reached <= 0).any() or (before <= 0).any():
            where = int(np.flatnonzero((reached <= 0) | (before <= 0))[0])
            raise ValueError(
                f"positions {where + 1} and {where + 2}: no clicks on items that stood at both: explore more lists, "
                "or use all_pairs"
            )
        return PositionBias(np.cumprod(np.append(1.0, reached / before)), 1, True, impressions)
    return _all_pairs(here, there, impressions)


def harvest_without_each(
    strata: ArrayLike,
    positions: ArrayLike,
    clicks: ArrayLike,
    units: ArrayLike,
    groups: int = 10,
    method: Literal["all_pairs", "adjacent"] = "all_pairs",
) -> Floats:
    """Examination as harvested without each group of units in turn: how far it may be off. Shape (groups, positions).

    All of shape (rows,), as for `counts_of`, of equal propensity inside a stratum; units: numbers, of which those
    of equal rest by `groups` are a group. The spread of what is computed from them is `jackknife_error`'s.
    Raises ValueError as `harvest`, or if groups < 2.

    Source: delete-a-group jackknife: Kott, J. Official Statistics 17(4), 2001.
    """
    if groups < 2:
        raise ValueError(f"groups={groups}: expected >= 2")
    strata, positions, clicks = (np.asarray(given) for given in (strata, positions, clicks))
    group_of = np.asarray(units, dtype=np.int64) % groups
    found = []
    for group in range(groups):
        rest = group_of != group
        found.append(harvest(counts_of(strata[rest], positions[rest], clicks[rest]), method).examination)
    if len({len(examination) for examination in found}) > 1:
        raise ValueError("a position is seen by one group of units only: expected every position in every group")
    return np.stack(found)


def smoothed(examination: ArrayLike, without_each: ArrayLike) -> tuple[Floats, Floats]:
    """Examination, whole and without each group, as a power of the position as far as nothing speaks against it.

    examination: shape (positions,), the first is 1; without_each: (groups, positions), of `harvest_without_each`.
    Far down few clicks tell a position's examination (twenty are 22 % off by chance), and weights multiply that.
    Attention falls smoothly, so all positions together tell it better: logarithms are fitted by a line through the
    first. Where they lie off it by more than chance does in one case of a hundred, each keeps its distance by the part
    of its variance that is not chance.
    Raises ValueError if the shapes differ or an examination is not > 0.

    Source: examination as a power of the position: Joachims, Swaminathan & Schnabel, WSDM 2017; distances kept by
    the method of moments: DerSimonian & Laird, Controlled Clin. Trials 7(3), 1986.

    >>> whole, _ = smoothed([1.0, 0.49, 0.36, 0.24], [[1.0, 0.4, 0.4, 0.2], [1.0, 0.6, 0.2, 0.3]])
    >>> whole.round(2).tolist()
    [1.0, 0.49, 0.33, 0.24]
    """
    found, others = np.asarray(examination, dtype=np.float64), np.asarray(without_each, dtype=np.float64)
    if found.ndim != 1 or others.ndim != 2 or others.shape[1] != len(found) or len(others) < 2:
        raise ValueError(f"{found.shape}, {others.shape}: expected (positions,) and (groups, positions)")
    if not ((found > 0).all() and (others > 0).all()):
        raise ValueError("examination: expected > 0 at every position")
    if len(found) < 3:
        return found.copy(), others.copy()
    logs = np.log(np.vstack([found, others]))[:, 1:]
    place = np.log(np.arange(2, len(found) + 1))
    groups, free = len(others), len(place) - 1
    variance = np.maximum((groups - 1) / groups * ((logs[1:] - logs[1:].mean(axis=0)) ** 2).sum(axis=0), 1e-12)
    weights = 1 / variance
    squares = float(weights @ (logs[0] - place * _slope_through_first(place, weights, logs[0])) ** 2)
    own = 0.0  # variance that is no chance
    if squares > free * f_distribution.ppf(0.99, free, groups - 1):
        own = (squares - free) / float(weights.sum() - (weights**2 @ place**2) / (weights @ place**2))
    weights = 1 / (variance + own)
    line = np.outer([_slope_through_first(place, weights, each) for each in logs], place)
    drawn = line + own / (variance + own) * (logs - line)
    both = np.exp(np.column_stack([np.zeros(groups + 1), drawn]))
    return both[0], both[1:]


def _slope_through_first(place: Floats, weights: Floats, values: Floats) -> float:
    return float((weights * place) @ values / (weights @ place**2))


def jackknife_error(without_each: ArrayLike) -> float:
    """Standard error of a figure that was computed without each of some groups in turn. Shape (groups,), >= 2.

    >>> jackknife_error([1.0, 3.0])
    1.0
    """
    values = np.asarray(without_each, dtype=np.float64)
    return float(np.sqrt((len(values) - 1) / len(values) * ((values - values.mean()) ** 2).sum()))


def regression_em(
    features: ArrayLike,
    positions: ArrayLike,
    clicks: ArrayLike,
    *,
    most_iterations: int = 300,
    tolerance: float = 1e-4,
    ridge: float = 1.0,
) -> PositionBias:
    """Regression EM: examination, with attraction explained by features.

    features: shape (rows, columns), finite; without a column every item attracts alike. positions, clicks: (rows,).
    tolerance: it rests when no examination moves by more between rounds. ridge: penalty on the (standardised)
    coefficients.

    Each round, a click that did not happen is split into not seen and not wanted (E); examination becomes the
    mean of what was seen, attraction one Newton step of a logistic regression on what was wanted (M). The paper
    draws binary labels and grows trees; here the labels are their expectations and the regression linear, so
    that equal data give equal results.
    Raises ValueError if shapes differ, or a position has no impression.
    """
    matrix = np.asarray(features, dtype=np.float64)
    places, clicked = np.asarray(positions, dtype=np.int64), np.asarray(clicks, dtype=bool)
    if matrix.ndim != 2 or not len(matrix) == len(places) == len(clicked) > 0 or not np.isfinite(matrix).all():
        raise ValueError("expected finite features (rows, columns) with as many positions and clicks, one at least")
    impressions = np.bincount(places - 1) if places.min() >= 1 else np.zeros(1, dtype=np.int64)
    if (impressions == 0).any():
        raise ValueError("positions: expected whole numbers from 1, each of them with an impression")
    deviation = matrix.std(axis=0)
    design = np.column_stack([np.ones(len(matrix)), (matrix - matrix.mean(axis=0)) / np.where(deviation, deviation, 1)])
    share = np.bincount(places - 1, weights=clicked) / impressions
    examination = np.clip(share / share.max(initial=_LEAST), 0.1, 1.0)
    with threadpool_limits(1, user_api="blas"):
        return _rounds(design, places, clicked, impressions, examination, most_iterations, tolerance, ridge)


def _rounds(
    design: Floats,
    places: Ints,
    clicked: NDArray[np.bool_],
    impressions: Ints,
    examination: Floats,
    most_iterations: int,
    tolerance: float,
    ridge: float,
) -> PositionBias:
    coefficients = np.zeros(design.shape[1])
    for done in range(1, most_iterations + 1):
        attraction = _logistic(design @ coefficients)
        looked = examination[places - 1]
        no_click = np.maximum(1 - looked * attraction, _LEAST)
        seen = np.where(clicked, 1.0, looked * (1 - attraction) / no_click)
        wanted = np.where(clicked, 1.0, (1 - looked) * attraction / no_click)
        before = examination / examination[0]
        examination = np.clip(np.bincount(places - 1, weights=seen) / impressions, _LEAST, 1 - _LEAST)
        coefficients = _newton(design, coefficients, wanted, ridge)
        if np.abs(examination / examination[0] - before).max() < tolerance:
            return PositionBias(examination / examination[0], done, True, impressions)
    return PositionBias(examination / examination[0], most_iterations, False, impressions)


@dataclass(frozen=True, slots=True)
class DebiasedLabels:
    """labels: shape (rows,), unbiased for attraction where nothing was clipped: clicks times weights.
    weights: (rows,), inverse examination, at most the limit. effective: how many impressions of equal weight
    the weighted clicks are worth. clipped: share of rows whose weight was cut."""

    labels: Floats
    weights: Floats
    effective: float
    clipped: float


def debiased_labels(
    clicks: ArrayLike, positions: ArrayLike, examination: ArrayLike, most_weight: float = 10.0
) -> DebiasedLabels:
    """Clicks weighted by how unlikely it was that their position was looked at.

    clicks, positions: shape (rows,), positions from 1. examination: shape (positions,). most_weight: a larger one
    is cut, which biases labels far down towards 0 and keeps a few clicks there from deciding everything.
    Raises ValueError if a position has no examination, an examination is not > 0, or most_weight < 1.

    Source: Joachims, Swaminathan & Schnabel, WSDM 2017; clipping: Strehl et al., NIPS 2010.

    >>> debiased_labels([1, 0, 1], [1, 2, 3], [1.0, 0.5, 0.05]).labels.tolist()
    [1.0, 0.0, 10.0]
    """
    clicked, places = np.asarray(clicks, dtype=np.float64), np.asarray(positions, dtype=np.int64)
    looked = np.asarray(examination, dtype=np.float64)
    if most_weight < 1:
        raise ValueError(f"most_weight={most_weight:g}: expected >= 1")
    if clicked.shape != places.shape or (len(places) and not 1 <= places.min() <= places.max() <= len(looked)):
        raise ValueError(f"expected a click and a position from 1 to {len(looked)} per row")
    if not (looked > 0).all():
        raise ValueError("examination: expected > 0 at every position")
    whole = 1.0 / looked[places - 1]
    weights = np.minimum(whole, most_weight)
    clipped = float((whole > most_weight).mean()) if len(whole) else 0.0
    return DebiasedLabels(clicked * weights, weights, effective_size(weights[clicked > 0]), clipped)


def effective_size(weights: ArrayLike) -> float:
    """How many equal weights have the mean's variance of these: (sum w)^2 / sum w^2, 0 for none.

    Source: Kish, Survey Sampling, 1965.

    >>> effective_size([1.0, 1.0, 0.0])
    2.0
    """
    given = np.asarray(weights, dtype=np.float64)
    squares = float((given**2).sum())
    return float(given.sum()) ** 2 / squares if squares else 0.0


def _interventions(counts: ClickCounts) -> tuple[Floats, Floats]:
    """Weighted clicks and missed clicks at k of the strata seen at both k and j. Both (positions, positions)."""
    impressions, rates = counts.impressions, counts.rates
    here, there = (np.zeros((impressions.shape[1],) * 2) for _ in range(2))
    for k in range(impressions.shape[1]):
        at_k, at_all = impressions[:, [k]], impressions
        weight = np.where((at_k > 0) & (at_all > 0), at_k * at_all / np.maximum(at_k + at_all, 1e-12), 0.0)
        here[k] = rates[:, k] @ weight
        there[k] = (1 - rates[:, k]) @ weight
    np.fill_diagonal(here, 0.0)
    np.fill_diagonal(there, 0.0)
    return here, there


def joined_positions(counts: ClickCounts) -> int:
    """How many positions, from the first on, `harvest` can tell: each has clicks on items that stood elsewhere too."""
    if not counts.impressions.shape[1]:
        return 0
    reached = _reached(_interventions(counts)[0])
    return int(np.argmin(reached)) if not reached.all() else len(reached)


def _reached(here: Floats) -> NDArray[np.bool_]:
    """Which positions hang together with the first. Shape (positions,)."""
    both = (here > 0) & (here.T > 0)
    reached = np.zeros(len(here), dtype=bool)
    reached[0] = True
    for _ in range(len(here)):
        reached |= both[reached].any(axis=0)
    return reached


def _check_joined(here: Floats) -> None:
    reached = _reached(here)
    if not reached.all():
        where = int(np.flatnonzero(~reached)[0]) + 1
        raise ValueError(
            f"position {where}: no clicks on items that stood there and at a position before: explore more lists, or "
            "leave the positions from there on out"
        )


def _all_pairs(here: Floats, there: Floats, impressions: Ints) -> PositionBias:
    """Minimises the cross-entropy of the paper's equation for AllPairs. Over the logarithms of examination and of the
    pairs' attraction, which is the same for both directions, it is convex: there is one solution."""
    size = len(here)
    low, high = np.triu_indices(size, 1)
    total = (here + there).sum()

    def loss(logarithms: Floats) -> tuple[float, Floats]:
        wanted = np.zeros((size, size))
        wanted[low, high] = wanted[high, low] = logarithms[size:]
        chance = np.minimum(np.exp(logarithms[:size, None] + wanted), 1 - 1e-6)
        value = -(here * np.log(chance) + there * np.log1p(-chance)).sum() / total
        slope = -(here - there * chance / (1 - chance)) / total  # by the logarithm of the chance
        return float(value), np.concatenate([slope.sum(axis=1), slope[low, high] + slope[high, low]])

    rates = here.sum(axis=1) / np.maximum((here + there).sum(axis=1), 1e-12)
    first = np.log(np.clip(rates / rates.max(), 1e-3, 0.9))
    pair_rates = (here + here.T) / np.maximum(here + here.T + there + there.T, 1e-12)
    begin = np.concatenate([first, np.log(np.clip(pair_rates[low, high], 1e-3, 0.9))])
    with threadpool_limits(1, user_api="blas"):  # threads over so small a matrix wait for each other: 20 x the time
        found = minimize(
            loss,
            begin,
            jac=True,
            method="L-BFGS-B",
            bounds=[(-12.0, 0.0)] * len(begin),
            options={"maxiter": 5000, "maxfun": 20_000, "ftol": 1e-13, "gtol": 1e-8},
        )
    examined = np.exp(found.x[:size])
    return PositionBias(examined / examined[0], int(found.nit), bool(found.success), impressions)


def _newton(design: Floats, coefficients: Floats, wanted: Floats, ridge: float) -> Floats:
    chance = _logistic(design @ coefficients)
    curvature = np.maximum(chance * (1 - chance), 1e-6)
    penalty = np.full(design.shape[1], ridge)
    penalty[0] = 1e-9  # the intercept is free
    hessian = (design * curvature[:, None]).T @ design + np.diag(penalty)
    step = np.linalg.solve(hessian, design.T @ (wanted - chance) - penalty * coefficients)
    return np.asarray(coefficients + step, dtype=np.float64)


def _logistic(values: Floats) -> Floats:
    return np.asarray(np.clip(1.0 / (1.0 + np.exp(-np.clip(values, -30, 30))), _LEAST, 1 - _LEAST), dtype=np.float64)
