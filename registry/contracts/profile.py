"""ReferenceProfile: how features, scores and confidence looked when the version was made.

Drift compares current windows with it. It travels with the version and is part of its digest.
The population matters as much as the numbers: events carry the features of shown items only, so
the reference is fitted on the shown part of the version's own rankings too.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
import numpy as np
from numpy.typing import NDArray

from registry.contracts.errors import UNDECODABLE, ContractError

MOST_CATEGORIES = 32


class Distribution(msgspec.Struct, frozen=True, omit_defaults=True):
    """One quantity over a population.

    edges: inner bin edges, ascending (b - 1 of them); counts: values per bin (b of them), bin i
    holding edges[i-1] <= x < edges[i]. Moments are exact, over values that are not missing.
    missing_share, zero_share: of all `count` values. categories: every value there is with how often it came,
    ascending, of a quantity that looks like codes: whole numbers, `MOST_CATEGORIES` different ones at most; else empty.
    count 0: how the population has it is not known, and nothing is compared with it; see `scale_only`.
    """

    name: str
    count: int
    mean: float
    std: float
    minimum: float
    maximum: float
    missing_share: float
    zero_share: float
    edges: tuple[float, ...]
    counts: tuple[int, ...]
    categories: tuple[tuple[float, int], ...] = ()


class ReferenceProfile(msgspec.Struct, frozen=True, omit_defaults=True):
    """population: which rows were profiled, in words. features: in the feature view's order.

    scores, margin, entropy: of whole lists (scores raw; margin and entropy as `confidences`
    defines them, standardised by `scores`); not known (count 0) where the lists held shown
    items only. importance: of each feature, see `followed`; empty if unknown.
    """

    fingerprint: str
    population: str
    lists: int
    features: tuple[Distribution, ...]
    scores: Distribution
    margin: Distribution
    entropy: Distribution
    importance: tuple[float, ...] = ()

    def encode(self) -> bytes:
        """Canonical JSON: equal profiles have equal bytes."""
        return msgspec.json.encode(self, order="deterministic")

    @staticmethod
    def decode(raw: bytes) -> "ReferenceProfile":
        """Raises ContractError naming what does not fit."""
        try:
            return msgspec.json.decode(raw, type=ReferenceProfile)
        except UNDECODABLE as error:
            raise ContractError(f"not a reference profile: {error}") from error


def no_profile() -> ReferenceProfile:
    """Of a model without a feature view: nothing was profiled, nothing is compared."""
    nothing = Distribution("", 0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, (), (0,))
    return ReferenceProfile("", "none: the model takes tensors only", 0, (), nothing, nothing, nothing)


def describe(name: str, values: NDArray[np.float32] | NDArray[np.float64], bins: int = 10) -> Distribution:
    """A distribution with bins of equal mass, NaN counting as missing.

    values: any shape. Bins follow the quantiles; repeated quantiles are merged, so a constant
    has a single bin.
    """
    flat = np.asarray(values, dtype=np.float64).ravel()
    present = flat[~np.isnan(flat)]
    if not len(present):
        return Distribution(name, len(flat), 0.0, 0.0, 0.0, 0.0, 1.0 if len(flat) else 0.0, 0.0, (), (0,))
    edges = np.unique(np.quantile(present, np.linspace(0, 1, bins + 1)[1:-1]))
    edges = edges[edges > present.min()]
    counts = np.bincount(np.searchsorted(edges, present, side="right"), minlength=len(edges) + 1)
    return Distribution(
        name=name,
        count=len(flat),
        mean=float(present.mean()),
        std=float(present.std()),
        minimum=float(present.min()),
        maximum=float(present.max()),
        missing_share=1.0 - len(present) / len(flat),
        zero_share=float((present == 0).sum()) / len(flat),
        edges=tuple(edges.tolist()),
        counts=tuple(counts.tolist()),
        categories=_categories(present),
    )


def scale_only(distribution: Distribution) -> Distribution:
    """Mean and standard deviation alone, of no values: a scale to standardise by, which nothing is compared with.

    >>> told = scale_only(describe("scores", np.array([1.0, 3.0])))
    >>> told.mean, told.std, told.count, told.counts
    (2.0, 1.0, 0, (0,))
    """
    return msgspec.structs.replace(
        distribution, count=0, missing_share=0.0, zero_share=0.0, edges=(), counts=(0,), categories=()
    )


def _categories(present: NDArray[np.float64]) -> tuple[tuple[float, int], ...]:
    if (present != np.floor(present)).any():
        return ()
    values, counts = np.unique(present, return_counts=True)
    if len(values) > MOST_CATEGORIES:
        return ()
    return tuple(zip(values.tolist(), counts.tolist(), strict=True))


def followed(features: Sequence[NDArray[np.float32]], scores: Sequence[NDArray[np.float32]]) -> tuple[float, ...]:
    """How far a ranker's scores follow each feature: the absolute correlation of the two inside of lists, in [0, 1].

    features: of each list, (candidates, columns), NaN counting as the list's mean; scores: (candidates,) each. What
    is constant in every list, as a query's own features are, has 0. Sees no interactions: a guide to what
    matters, no attribution. Empty without lists.

    >>> followed([np.array([[0, 5], [1, 5], [2, 5]], dtype=np.float32)], [np.array([3, 2, 1], dtype=np.float32)])
    (1.0, 0.0)
    """
    if not len(features):
        return ()
    together, of_features = np.zeros(features[0].shape[1]), np.zeros(features[0].shape[1])
    of_scores = 0.0
    for matrix, own in zip(features, scores, strict=True):
        values = matrix.astype(np.float64)
        known = np.isfinite(values)
        mean = np.where(known, values, 0.0).sum(axis=0) / np.maximum(known.sum(axis=0), 1)
        apart = np.where(known, values - mean, 0.0)
        scored = own.astype(np.float64) - own.mean(dtype=np.float64)
        together += scored @ apart
        of_features += (apart**2).sum(axis=0)
        of_scores += float(scored @ scored)
    size = np.sqrt(of_features * of_scores)
    return tuple(np.where(size > 0, np.minimum(np.abs(together) / np.where(size > 0, size, 1.0), 1.0), 0.0).tolist())


@dataclass(frozen=True, slots=True)
class Confidences:
    """How sure a ranker is of each list, unmoved by shifts and rescalings of its scores.

    margin: first over second, in standard deviations of the version's scores, >= 0.
    entropy: of the softmax over the list, divided by ln(candidates), in [0, 1].
    Both float64, (lists,); both 0 for a list of one.
    """

    margin: NDArray[np.float64]
    entropy: NDArray[np.float64]


def confidences(scores: NDArray[np.float32], counts: NDArray[np.int64], reference_std: float) -> Confidences:
    """Confidence of several lists at once.

    scores: (lists, longest), any order inside a list, -inf where a list is shorter. counts:
    (lists,), at least 1. reference_std: of the version's scores when it was made; 0 or less
    means 1.

    >>> confidences(np.array([[3.0, 1.0]], dtype=np.float32), np.array([2]), 2.0).margin
    array([1.])
    """
    z = scores.astype(np.float64) / (reference_std if reference_std > 0 else 1.0)
    z -= z.max(axis=1, keepdims=True)
    several = counts > 1
    second = np.partition(z, -2, axis=1)[:, -2] if z.shape[1] > 1 else np.zeros(len(z))
    weights = np.exp(z)
    totals = weights.sum(axis=1)
    if (counts < z.shape[1]).any():
        z = np.where(np.isfinite(z), z, 0.0)
    expected = np.einsum("ij,ij->i", weights, z) / totals
    scale = np.log(np.maximum(counts, 2))
    return Confidences(
        margin=np.where(several, -second, 0.0) + 0.0,
        entropy=np.where(several, (np.log(totals) - expected) / scale, 0.0),
    )
