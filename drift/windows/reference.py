"""A version's reference profile laid out as arrays, the way windows count and `judge` compares.

Quantities, in this order: the features, then `ranking:margin`, `ranking:entropy` and
`ranking:scores`; their means are watched. After them the missing share and the zero share of
every feature: indicator quantities, whose means are the shares. Features, margin and entropy are
binned too; scores are not, for an event has only the shown ones' values.
"""

import hashlib
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from drift.moments import FloatArray
from drift.sketches.categories import Codes
from registry.contracts.events import Ranked
from registry.contracts.profile import Distribution, ReferenceProfile

Aspect = Literal["mean", "missing_share", "zero_share"]
OF_LISTS = ("ranking:margin", "ranking:entropy", "ranking:scores")


@dataclass(frozen=True, slots=True)
class Reference:
    """features: how many. names, aspects: of the quantities. lists: that were profiled.

    weight, mean, std: (quantities,), weight being the number of values behind a mean.
    edges: (binned, bins - 1), padded with inf; counts, centres: (binned, bins). float_edges: of the features,
    (bins - 1, features), the least float32 that are no less than their edges. importance: (features,), empty
    if it is not known. codes: features that look like codes of categories.
    """

    digest: str
    fingerprint: str
    features: int
    lists: int
    names: tuple[str, ...]
    aspects: tuple[Aspect, ...]
    weight: FloatArray
    mean: FloatArray
    std: FloatArray
    edges: FloatArray
    float_edges: NDArray[np.float32]
    counts: NDArray[np.int64]
    centres: FloatArray
    importance: FloatArray
    codes: tuple[Codes, ...] = ()

    @staticmethod
    def of(profile: ReferenceProfile) -> "Reference":
        """profile: with any number of bins per quantity."""
        features = profile.features
        watched = (*features, profile.margin, profile.entropy, profile.scores)
        shares = np.array([d.missing_share for d in features] + [d.zero_share for d in features])
        binned = watched[:-1]
        bins = max(len(d.counts) for d in binned)
        edges = np.array([_padded(d.edges, bins - 1, np.inf) for d in binned]).reshape(len(binned), bins - 1)
        feature_names = tuple(d.name for d in features)
        parts: tuple[tuple[Aspect, int], ...] = (
            ("mean", len(watched)),
            ("missing_share", len(features)),
            ("zero_share", len(features)),
        )
        rows = [d.count * (1.0 - d.missing_share) for d in watched] + [float(d.count) for d in features] * 2
        return Reference(
            digest=hashlib.sha256(profile.encode()).hexdigest(),
            fingerprint=profile.fingerprint,
            features=len(features),
            lists=profile.lists,
            names=(*feature_names, *OF_LISTS, *feature_names, *feature_names),
            aspects=tuple(aspect for aspect, length in parts for _ in range(length)),
            weight=np.array(rows),
            mean=np.array([*(d.mean for d in watched), *shares]),
            std=np.array([*(d.std for d in watched), *np.sqrt(shares * (1.0 - shares))]),
            edges=edges,
            float_edges=_no_less(edges[: len(features)].T),
            counts=np.array([_padded(d.counts, bins, 0) for d in binned], dtype=np.int64),
            centres=np.array([_centres(d, bins) for d in binned]),
            importance=np.array(profile.importance),
            codes=tuple(Codes.of(at, d.name, d.categories) for at, d in enumerate(features) if d.categories),
        )

    @property
    def columns(self) -> tuple[str, ...]:
        """The features' names, in the view's order."""
        return self.names[: self.features]

    def fits(self, ranking: Ranked) -> bool:
        """Whether it shows at least one item and its features are those of the profile's view."""
        expected_bytes = 4 * ranking.shown * self.features
        return ranking.fingerprint == self.fingerprint and len(ranking.features) == expected_bytes > 0


def _padded(values: tuple[float, ...], length: int, filler: float) -> list[float]:
    return [*values, *[filler] * (length - len(values))]


def _no_less(values: FloatArray) -> NDArray[np.float32]:
    """The least float32 that are no less, so that float32 values reach the same edges as if they were wider."""
    with np.errstate(over="ignore"):
        nearest = values.astype(np.float32)
        above = np.nextafter(nearest, np.float32(np.inf))
    return np.ascontiguousarray(np.where(nearest < values, above, nearest))


def _centres(distribution: Distribution, bins: int) -> FloatArray:
    bounds = np.array([distribution.minimum, *distribution.edges, distribution.maximum])
    centres = (bounds[:-1] + bounds[1:]) / 2
    return np.pad(centres, (0, bins - len(centres)), mode="edge")
