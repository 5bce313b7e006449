"""Our own figures of a day's values beside its reference's, next to which Evidently's are shown."""

import msgspec
import numpy as np

from drift import statistics
from drift.days.cusum import IntArray
from drift.moments import FloatArray
from registry.contracts.profile import Distribution, describe


class Side(msgspec.Struct, frozen=True):
    """values: that there could be, missing ones too. mean, std: of those that are there, None if none is."""

    values: int
    mean: float | None
    std: float | None
    missing_share: float
    zero_share: float


class ComparedQuantity(msgspec.Struct, frozen=True):
    """A quantity on both sides. shift: of the mean, in the reference's standard deviations. psi: in nats, over the
    profile's bins, without a profile over the reference's deciles. ks: in [0, 1]; wasserstein: in the reference's
    standard deviations; beside a profile both are over its bins. None where a side has no values."""

    quantity: str
    reference: Side
    current: Side
    shift: float | None
    psi: float | None
    ks: float | None
    wasserstein: float | None


def figures_of(quantity: str, reference: FloatArray | Distribution, current: FloatArray) -> ComparedQuantity:
    """reference, current: values, nan where one is missing; or a profile's distribution, whose moments are exact."""
    now = current[~np.isnan(current)]
    if isinstance(reference, Distribution):
        there, then = reference.count * (1.0 - reference.missing_share), np.zeros(0)
        side = Side(
            *(reference.count, reference.mean if there else None, reference.std if there else None),
            *(reference.missing_share, reference.zero_share),
        )
    else:
        then = reference[~np.isnan(reference)]
        side, there = _side(reference, then), len(then)
    sides = side, _side(current, now)
    if not there or not len(now):
        return ComparedQuantity(quantity, *sides, None, None, None, None)
    means = [np.array([value]) for one in sides for value in (one.mean, one.std)]
    if isinstance(reference, Distribution):
        counts, (ks, wasserstein) = _counted(reference, now), _binned(reference, now)
    else:
        described = describe(quantity, then)
        counts, (ks, wasserstein) = _counted(described, now), _exact(then, now, float(statistics.deviation(*means)[0]))
    psi, shift = (float(found[0]) for found in (statistics.psi(*counts), statistics.mean_shift(*means)))
    return ComparedQuantity(quantity, *sides, shift, psi, ks, wasserstein)


def _side(values: FloatArray, known: FloatArray) -> Side:
    return Side(
        values=len(values),
        mean=float(known.mean()) if len(known) else None,
        std=float(known.std()) if len(known) else None,
        missing_share=1.0 - len(known) / max(len(values), 1),
        zero_share=float((known == 0).sum()) / max(len(values), 1),
    )


def _counted(reference: Distribution, now: FloatArray) -> tuple[IntArray, IntArray]:
    """Both sides by the reference's bins, (1, bins) each."""
    edges = np.array(reference.edges)
    counted = np.bincount(np.searchsorted(edges, now, "right"), minlength=len(edges) + 1)
    return np.array([reference.counts]), counted[None]


def _binned(reference: Distribution, now: FloatArray) -> tuple[float, float]:
    counts = _counted(reference, now)
    bounds = np.array([reference.minimum, *reference.edges, reference.maximum])
    centres = ((bounds[:-1] + bounds[1:]) / 2)[None]
    moved = statistics.wasserstein_scaled(*counts, centres, np.array([reference.std]))
    return float(statistics.ks(*counts)[0]), float(moved[0])


def _exact(then: FloatArray, now: FloatArray, unit: float) -> tuple[float, float]:
    """KS and Wasserstein distance of the values themselves, the latter in the unit."""
    sides = (then, now, np.ones(len(then)), np.ones(len(now)))
    return statistics.ks_of_samples(*sides), statistics.wasserstein_of_samples(*sides) / unit
