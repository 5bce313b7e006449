"""Segments: a model's rankings divided by one number that is known of each, into few parts that were declared.

What drifts for some queries only is thinned out in the whole. The parts are declared and few, so that their days are
as many detectors as were meant: a budget of false alarms can be split over them, and memory does not follow traffic.
"""

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from struct import unpack_from
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # commands read settings, and must not wait for numpy
    from drift.windows.reference import Reference
    from registry.contracts.events import Ranked

CANDIDATES = "ranking:candidates"
OTHER = "other"
MOST_PARTS = 8


@dataclass(frozen=True, slots=True)
class Segments:
    """How a model's rankings are divided.

    by: a feature's name, as it stands at the first shown item (a query's own is the same for all), or
    `ranking:candidates`, how many were ranked. bounds: ascending; parts lie below the first, from each up to the
    next, and from the last on. values: instead, one part each. What has no part, or no such number, is `other`.
    Raises ValueError unless exactly one of both is given, ascending, for at most `MOST_PARTS` parts.
    """

    model: str
    by: str
    bounds: tuple[float, ...] = ()
    values: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        told = self.bounds or self.values
        rule = f"ascending numbers, one to {MOST_PARTS - bool(self.bounds)}"
        whole = all(map(math.isfinite, told)) and all(a < b for a, b in pairwise(told))
        if bool(self.bounds) == bool(self.values) or not whole or len(self.parts) > MOST_PARTS:
            raise ValueError(f"segments of {self.model}: {self.by} {told}: expected either bounds or values, {rule}")

    @property
    def parts(self) -> tuple[str, ...]:
        """Names, without `other`.

        >>> Segments("m", "length", bounds=(2.0, 4.0)).parts, Segments("m", "country", values=(7.0,)).parts
        (('length<2', '2<=length<4', '4<=length'), ('country=7',))
        """
        if self.values:
            return tuple(f"{self.by}={value:g}" for value in self.values)
        lower = ["", *(f"{bound:g}<=" for bound in self.bounds)]
        upper = [*(f"<{bound:g}" for bound in self.bounds), ""]
        return tuple(f"{low}{self.by}{high}" for low, high in zip(lower, upper, strict=True))

    @property
    def names(self) -> tuple[str, ...]:
        """All, `other` last."""
        return (*self.parts, OTHER)

    def is_without(self, reference: "Reference") -> bool:
        """Whether the version's feature view lacks the feature, so that all rankings are `other`."""
        return self.by != CANDIDATES and self.by not in reference.columns

    def of(self, rankings: "Sequence[Ranked]", reference: "Reference | None") -> list[str]:
        """The name of each ranking's segment. reference: of the version that answered; None is all `other`."""
        if self.by == CANDIDATES:
            return self._named([float(ranking.candidates) for ranking in rankings])
        if reference is None or self.is_without(reference):
            return [OTHER] * len(rankings)
        at, fits = 4 * reference.columns.index(self.by), reference.fits
        return self._named([unpack_from("<f", one.features, at)[0] if fits(one) else math.nan for one in rankings])

    def _named(self, values: Sequence[float]) -> list[str]:
        parts = self.parts
        if self.values:
            by_value = dict(zip(self.values, parts, strict=True))
            return [by_value.get(value, OTHER) for value in values]
        return [parts[bisect_right(self.bounds, value)] if math.isfinite(value) else OTHER for value in values]


def parse_segments(text: str) -> dict[str, Segments]:
    """Segments by model: `model:number<bound<bound` or `model:number=value|value`, commas between models. Raises
    ValueError saying what was expected.

    >>> parse_segments("codesearch:query_terms<2<5, shop:country=1|2")["shop"].names
    ('country=1', 'country=2', 'other')
    """
    found: dict[str, Segments] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        model, colon, rule = part.partition(":")
        divider = "<" if "<" in rule else "="
        by, _, numbers = rule.partition(divider)
        try:
            told = tuple(float(number) for number in numbers.split("<" if divider == "<" else "|"))
        except ValueError:
            told = ()
        if not (model and colon and by and told) or model in found:
            raise ValueError(f"{part}: expected model:feature<2<5 or model:feature=1|2, each model once")
        found[model] = Segments(model, by, told) if divider == "<" else Segments(model, by, values=told)
    return found
