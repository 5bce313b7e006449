"""How a window's values are spread beside the reference's: shown, never decided on.

Distances of bins and of spreads for every quantity, categories for features that are codes, and how old rows were.
"""

import msgspec
import numpy as np
from numpy.typing import NDArray

from drift import statistics
from drift.moments import FloatArray
from drift.sketches.traffic import FULL, OF_LISTS
from drift.windows.reference import Reference
from drift.windows.window import Window
from registry.contracts.drift import RowAges

SHARES = (0.05, 0.5, 0.95)
AGE_SHARES = (0.5, 0.95, 0.99)
NEWCOMERS = 5


class Shape(msgspec.Struct, frozen=True):
    """How the bins of a quantity differ: see `statistics`.

    psi_by_chance: what of psi is there without any drift, on average. spread: logarithm of the standard deviation over
    the reference's. quantiles: 5 %, 50 % and 95 % of the values now, of the lists that were looked at; None without a
    sketch.
    """

    quantity: str
    psi: float
    ks: float
    wasserstein: float
    psi_by_chance: float = 0.0
    spread: float = 0.0
    quantiles: tuple[float, float, float] | None = None


class CategoryShift(msgspec.Struct, frozen=True):
    """A feature that is codes. jensen_shannon: distance of the shares, new values being one category more.

    new_share: of values that the version was not made on; newcomers: which, as `feature=value`, the most frequent
    first.
    """

    quantity: str
    jensen_shannon: float
    new_share: float
    newcomers: tuple[str, ...] = ()


def shapes_of(window: Window, reference: Reference) -> tuple[Shape, ...]:
    """How the window's bins differ from the reference's, of every quantity that has values in both."""
    binned = len(reference.counts)
    known: NDArray[np.bool_] = (window.bins.sum(axis=1) > 0) & (reference.counts.sum(axis=1) > 0)
    places = np.flatnonzero(known)
    then, now = reference.counts[known], window.bins[known]
    std = reference.std[:binned][known]
    wasserstein = statistics.wasserstein_scaled(then, now, reference.centres[known], std)
    columns = (
        statistics.psi(then, now),
        statistics.ks(then, now),
        wasserstein,
        statistics.psi_by_chance(then, now, window.design_effect()[:binned][known]),
        statistics.spread_shift(std, np.sqrt(window.pooled.variance[:binned][known])),
    )
    quantiles = _quantiles(window, reference)
    return tuple(
        Shape(reference.names[place], psi, ks, moved, by_chance, spread, quantiles.get(place))
        for place, psi, ks, moved, by_chance, spread in zip(
            places.tolist(), *(column.tolist() for column in columns), strict=True
        )
    )


def categories_of(window: Window, reference: Reference) -> tuple[CategoryShift, ...]:
    """How the categories differ, of every feature that has some and came."""
    if window.sketch is None:
        return ()
    counted, found = window.sketch.categories, []
    newcomers = list(counted.newcomers.shares())
    for codes, now in zip(reference.codes, counted.counts, strict=True):
        if not now.sum():
            continue
        then = np.zeros_like(now)
        then[: len(codes.counts)] = codes.counts
        distance = float(statistics.jensen_shannon(then[None], now[None])[0])
        own = [name for name in newcomers if name.startswith(f"{codes.name}=")]
        found.append(CategoryShift(codes.name, distance, float(now[-1] / now.sum()), tuple(own[:NEWCOMERS])))
    return tuple(found)


def row_ages_of(window: Window) -> RowAges | None:
    """How old rows were, None without a sketch."""
    if window.sketch is None:
        return None
    ages = window.sketch.lists.quantiles(AGE_SHARES)[OF_LISTS.index("ranking:row_age_s")]
    answers = max(window.sketch.lists.rows, 1)
    told = window.sketch.degraded.shares()  # in order of how often
    lacking = {reason: window.sketch.degraded.counts[reason] / answers for reason in told if reason != FULL}
    p50_s, p95_s, p99_s = _finite(ages) or (None, None, None)
    return RowAges(p50_s, p95_s, p99_s, lacking)


def _quantiles(window: Window, reference: Reference) -> dict[int, tuple[float, float, float] | None]:
    """By place among the binned quantities."""
    if window.sketch is None:
        return {}
    of_lists = window.sketch.lists.quantiles(SHARES)[: len(reference.counts) - reference.features]
    rows = np.vstack([window.sketch.rows.quantiles(SHARES), of_lists])
    return {place: _finite(row) for place, row in enumerate(rows)}


def _finite(row: FloatArray) -> tuple[float, float, float] | None:
    low, middle, high = row.tolist()
    return (low, middle, high) if np.isfinite(row).all() else None
