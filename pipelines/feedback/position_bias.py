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

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import f as f_distribution
from threadpoolctl import threadpool_limits

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

BEYOND = 0  # the rank of an item that exploration brought in from below what is shown
_LEAST = 1e-4  # a probability of the model is never nearer to 0 or 1
_MOST_ROUNDS = 100
_HALVINGS = 30


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


def harvest(counts: ClickCounts, method: Literal["strata", "adjacent"] = "strata") -> PositionBias:
    """Intervention harvesting: examination from items that stood at two positions.

    A stratum seen at two positions holds them together: its clicks at either are those of the same items, so their
    ratio is that of the examination. `adjacent` chains the ratios of neighbours; `strata` is the likeliest examination
    of all strata at all their positions, each with an attraction of its own, and is less noisy far down. Its likelihood
    is that of a stratum's clicks falling on its positions as they do, given how many there are: attraction is no part
    of it, and where clicks are not Poisson, what it finds is right on average nonetheless.
    Raises ValueError if some position shares no stratum with those before it, or has no clicks to compare.

    Source: Agarwal et al., WSDM 2019, for `adjacent`; likelihood given the totals: Hausman, Hall & Griliches,
    Econometrica 52(4), 1984, and without Poisson: Wooldridge, J. Econometrics 90(1), 1999.
    """
    impressions = counts.impressions.sum(axis=0).astype(np.int64)
    if len(impressions) == 1:
        return PositionBias(np.ones(1), 0, True, impressions)
    here = _interventions(counts)
    _check_joined(here)
    if method == "adjacent":
        steps = np.arange(len(impressions) - 1)
        reached, before = here[steps + 1, steps], here[steps, steps + 1]
        if (reached <= 0).any() or (before <= 0).any():
            where = int(np.flatnonzero((reached <= 0) | (before <= 0))[0])
            raise ValueError(
                f"positions {where + 1} and {where + 2}: no clicks on items that stood at both: explore more lists, "
                "or use strata"
            )
        return PositionBias(np.cumprod(np.append(1.0, reached / before)), 1, True, impressions)
    positions = len(impressions)
    free = _likeliest(counts, np.eye(positions)[:, 1:], np.zeros(positions - 1))
    return PositionBias(np.exp(free.logarithms), free.iterations, free.converged, impressions)


def counts_without_each(
    strata: ArrayLike, positions: ArrayLike, clicks: ArrayLike, units: ArrayLike, groups: int = 10
) -> list[ClickCounts]:
    """Counts without each group of units in turn.

    All of shape (rows,), as for `counts_of`, of equal propensity inside a stratum; units: numbers, of which those
    of equal rest by `groups` are a group. The spread of what is computed from them is `jackknife_error`'s.
    Raises ValueError if groups < 2, or one group alone saw the last position.

    Source: delete-a-group jackknife: Kott, J. Official Statistics 17(4), 2001.
    """
    if groups < 2:
        raise ValueError(f"groups={groups}: expected >= 2")
    strata, positions, clicks = (np.asarray(given) for given in (strata, positions, clicks))
    group_of = np.asarray(units, dtype=np.int64) % groups
    rests = [group_of != group for group in range(groups)]
    found = [counts_of(strata[rest], positions[rest], clicks[rest]) for rest in rests]
    if len({one.impressions.shape[1] for one in found}) > 1:
        raise ValueError("a position is seen by one group of units only: expected every position in every group")
    return found


def harvest_along(counts: ClickCounts, without_each: Sequence[ClickCounts]) -> tuple[Floats, Floats]:
    """Examination, whole and without each group of units, as a power of the position as far as nothing speaks against.

    counts: all of them, without_each: see `counts_without_each`. Shape (positions,) and (groups, positions).
    Far down few clicks tell a position's examination (twenty are 22 % off by chance), and weights multiply that.
    Attention falls smoothly, so all positions together tell it better: of the likelihood of `harvest`, the likeliest
    power is taken. Where the clicks speak against any, by more than chance does in one case of a hundred, positions
    keep their distances from it, as far as these are larger than chance makes them. How large that is, the spread of
    the power over the groups tells: clicks of a unit hang together, and scatter by more than their root.
    Raises ValueError as `harvest`, or if there are fewer than two groups.

    Source: examination as a power of the position: Joachims, Swaminathan & Schnabel, WSDM 2017; score test: Rao, Proc.
    Cambridge Philosophical Society 44, 1948; distances by the method of moments: DerSimonian & Laird, Controlled
    Clin. Trials 7(3), 1986.
    """
    every = [counts, *without_each]
    positions = counts.impressions.shape[1]
    if len(every) < 3 or any(one.impressions.shape[1] != positions for one in every):
        raise ValueError(f"expected two groups at least, of {positions} positions each")
    for one in every:
        _check_joined(_interventions(one))
    if positions == 1:
        return np.ones(1), np.ones((len(without_each), 1))
    power = -np.log(np.arange(1, positions + 1.0))[:, None]
    lines = [_likeliest(one, power, np.zeros(1)) for one in every]
    spread = jackknife_error([line.coefficients[0] for line in lines[1:]])
    own = _own_variance(counts, lines[0], spread, len(without_each))
    if own > 0:
        both = np.column_stack([power, np.eye(positions)[:, 1:]])
        penalty = np.append(0.0, np.full(positions - 1, 1 / own))
        lines = [_likeliest(one, both, penalty) for one in every]
    found = np.exp([line.logarithms for line in lines])
    return found[0], found[1:]


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


def _interventions(counts: ClickCounts) -> Floats:
    """Weighted clicks at k of the strata seen at both k and j. Shape (positions, positions).

    A stratum weighs the harmonic mean of its impressions at the two, as Mantel & Haenszel (1959) weigh strata (the
    paper weighs all alike, for strata of few impressions each).
    """
    impressions, rates = counts.impressions, counts.rates
    here = np.zeros((impressions.shape[1],) * 2)
    for k in range(impressions.shape[1]):
        at_k, at_all = impressions[:, [k]], impressions
        weight = np.where((at_k > 0) & (at_all > 0), at_k * at_all / np.maximum(at_k + at_all, 1e-12), 0.0)
        here[k] = rates[:, k] @ weight
    np.fill_diagonal(here, 0.0)
    return here


def joined_positions(counts: ClickCounts) -> int:
    """How many positions, from the first on, `harvest` can tell: each has clicks on items that stood elsewhere too."""
    if not counts.impressions.shape[1]:
        return 0
    reached = _reached(_interventions(counts))
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


@dataclass(frozen=True, slots=True)
class _Likeliest:
    """coefficients: of the design; logarithms: of examination, (positions,). slope, curvature: of the likelihood by
    these logarithms, all but the first's."""

    coefficients: Floats
    logarithms: Floats
    slope: Floats
    curvature: Floats
    iterations: int
    converged: bool


def _likeliest(counts: ClickCounts, design: Floats, penalty: Floats) -> _Likeliest:
    """The logarithms of examination, linear by `design` (positions, columns), that make the strata's clicks likeliest
    given their number; penalty: on the squared coefficients, (columns,). Convex: there is one solution."""
    seen = counts.impressions
    total, by_position = counts.clicks.sum(axis=1), counts.clicks.sum(axis=0)

    def loss(logarithms: Floats, coefficients: Floats) -> float:
        looked = np.maximum(seen @ np.exp(logarithms), 1e-300)
        return float(total @ np.log(looked) - by_position @ logarithms + penalty @ coefficients**2 / 2)

    coefficients = np.zeros(design.shape[1])
    value, rounds, rests = loss(design @ coefficients, coefficients), 0, False
    with threadpool_limits(1, user_api="blas"):  # threads over so small a matrix wait for each other: 20 x the time
        while not rests and rounds < _MOST_ROUNDS:
            rounds += 1
            slope, curvature = _moments(seen, total, by_position, design @ coefficients)
            gradient = design.T @ slope - penalty * coefficients
            step = np.linalg.solve(design.T @ curvature @ design + np.diag(penalty + 1e-12), gradient)
            for _ in range(_HALVINGS):
                tried = loss(design @ (coefficients + step), coefficients + step)
                if tried <= value:
                    break
                step = step / 2
            rests = bool(np.abs(step).max() < 1e-7)
            coefficients, value = coefficients + step, min(value, tried)
    logarithms = design @ coefficients
    slope, curvature = _moments(seen, total, by_position, logarithms)
    return _Likeliest(coefficients, logarithms, slope[1:], curvature[1:, 1:], rounds, rests)


def _moments(seen: Floats, total: Floats, by_position: Floats, logarithms: Floats) -> tuple[Floats, Floats]:
    """Slope and curvature of the likelihood by the logarithms of examination: (positions,), (positions, positions)."""
    shares = seen * np.exp(logarithms)
    shares /= np.maximum(shares.sum(axis=1, keepdims=True), 1e-300)
    expected = total @ shares
    return by_position - expected, np.diag(expected) - (shares * total[:, None]).T @ shares


def _own_variance(counts: ClickCounts, line: _Likeliest, error: float, groups: int) -> float:
    """Variance of the positions about the likeliest power that is no chance, 0 where all of it may be.

    error: of the power, by the spread over so many groups of units.
    """
    place = np.log(np.arange(2, counts.impressions.shape[1] + 1.0))
    free = len(place) - 1
    if not free:
        return 0.0
    information = float(place @ line.curvature @ place)
    hangs_together = max(1.0, error**2 * information)
    squares = float(line.slope @ np.linalg.lstsq(line.curvature, line.slope, rcond=None)[0])
    if squares <= hangs_together * free * f_distribution.ppf(0.99, free, groups - 1):
        return 0.0
    toward = line.curvature @ place
    across = float(np.trace(line.curvature)) - float(toward @ toward) / information
    return (squares - hangs_together * free) / max(across, 1e-12)


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
