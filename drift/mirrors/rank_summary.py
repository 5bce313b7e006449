"""What is known of many mirrored queries without keeping them: it merges, in any order and grouping.

A summary is the moments and binned values of every measure, the latencies of both sides in bins 5 %
apart, and the few lists that differ most: some 20 kB, whatever the traffic.
"""

import heapq
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from drift.moments import FloatArray, Moments
from drift.rank_agreement import (
    Pairs,
    first_agrees,
    kendall_tau,
    overlap_at,
    rank_biased_overlap,
    score_shift,
    top_distance,
)
from registry.contracts.events import MirrorEvent

IntArray = NDArray[np.int64]
Standard = tuple[float, float]
"""Mean and standard deviation of a version's scores, of its reference profile."""
UNKNOWN: Standard = (0.0, 0.0)


class Measure(NamedTuple):
    """low, high: the centres of its outer bins, in which everything beyond counts too."""

    name: str
    low: float
    high: float


MEASURES = (
    Measure("overlap", 0.0, 1.0),
    Measure("rank_biased_overlap", 0.0, 1.0),
    Measure("first_agrees", 0.0, 1.0),
    Measure("kendall_tau", -1.0, 1.0),
    Measure("top_distance", 0.0, 1.0),
    Measure("score_shift", -5.0, 5.0),
    Measure("latency_difference_ms", -100.0, 100.0),
    Measure("latency_log_ratio", -5.0, 5.0),
)
NAMES = tuple(measure.name for measure in MEASURES)
BINS = 201  # 0.5 % of a measure's range apart, and centred on its ends: the quantile of a share can be 1
_LOW = np.array([measure.low for measure in MEASURES])
_HIGH = np.array([measure.high for measure in MEASURES])

NEUTRAL_PENALTY = 0.5
LATENCY_GROWTH = 1.05
LATENCY_BOUNDS_MS = np.array([0.05 * LATENCY_GROWTH**step for step in range(288)])  # to 60 s
EXAMPLES = 10
EXAMPLE_ITEMS = 10
ERROR_KINDS = 8
_ERROR_CHARACTERS = 40


class Example(msgspec.Struct, frozen=True, order=True):
    """Two lists that differ: their first items."""

    rank_biased_overlap: float
    ranking_id: str
    overlap: float
    items: tuple[str, ...]
    mirror_items: tuple[str, ...]


class SummaryState(msgspec.Struct, frozen=True):
    """A summary as bytes: float64 and int64, little-endian."""

    mirrored: int
    compared: int
    unfit: int
    errors: dict[str, int]
    moments: bytes
    bins: bytes
    latencies: bytes
    examples: tuple[Example, ...]


@dataclass(frozen=True, slots=True)
class Gauge:
    """How lists are measured. depth, k, p: see `RankLimits`, `RankDiffSettings`.
    champion, version: by what scores are standardised, UNKNOWN if there is no profile."""

    depth: int
    k: int
    p: float
    champion: Standard = UNKNOWN
    version: Standard = UNKNOWN


@dataclass(frozen=True, slots=True)
class RankSummary:
    """mirrored: queries; unfit: events that contradict themselves; compared: those with both lists.

    errors: queries without a list, by the first word of why. moments: of `MEASURES`, over the lists
    for which a measure has a value. bins: (measures, BINS). latencies: (2, bounds + 1), the answers'
    and the mirrored queries', of those compared.
    """

    mirrored: int
    compared: int
    unfit: int
    errors: dict[str, int]
    moments: Moments
    bins: IntArray
    latencies: IntArray
    examples: tuple[Example, ...]

    @staticmethod
    def empty() -> "RankSummary":
        """Of nothing: merging it changes nothing."""
        return RankSummary(
            mirrored=0,
            compared=0,
            unfit=0,
            errors={},
            moments=Moments.empty(len(MEASURES)),
            bins=np.zeros((len(MEASURES), BINS), dtype=np.int64),
            latencies=np.zeros((2, len(LATENCY_BOUNDS_MS) + 1), dtype=np.int64),
            examples=(),
        )

    @staticmethod
    def of(events: Sequence[MirrorEvent], gauge: Gauge) -> "RankSummary":
        """Of events of one champion and one version."""
        errors = [event for event in events if event.error]
        fitting = _with_numbers([event for event in events if not event.error and _fits(event)])
        counted = RankSummary.empty()
        if fitting:
            counted = _compared(fitting, gauge)
        return RankSummary(
            mirrored=len(events),
            compared=len(fitting),
            unfit=len(events) - len(errors) - len(fitting),
            errors=_few(Counter(_kind(event.error) for event in errors)),
            moments=counted.moments,
            bins=counted.bins,
            latencies=counted.latencies,
            examples=counted.examples,
        )

    def merge(self, other: "RankSummary") -> "RankSummary":
        """The summary of both's events."""
        return RankSummary(
            mirrored=self.mirrored + other.mirrored,
            compared=self.compared + other.compared,
            unfit=self.unfit + other.unfit,
            errors=_few(Counter(self.errors) + Counter(other.errors)),
            moments=self.moments.merge(other.moments),
            bins=self.bins + other.bins,
            latencies=self.latencies + other.latencies,
            examples=tuple(heapq.nsmallest(EXAMPLES, {*self.examples, *other.examples})),
        )

    @property
    def failed(self) -> int:
        """Mirrored queries without a list."""
        return sum(self.errors.values())

    def quantile(self, measure: int, q: float) -> float:
        """The centre of the bin that holds it; nan if there are no values."""
        counts = self.bins[measure]
        if not counts.sum():
            return float("nan")
        place = int(np.searchsorted(counts.cumsum(), max(q * counts.sum(), 1)))
        return float(_LOW[measure] + place * (_HIGH[measure] - _LOW[measure]) / (BINS - 1))

    def state(self) -> SummaryState:
        """What `restore` makes this summary of."""
        moments = np.stack([self.moments.weight, self.moments.mean, self.moments.spread])
        return SummaryState(
            mirrored=self.mirrored,
            compared=self.compared,
            unfit=self.unfit,
            errors=self.errors,
            moments=moments.tobytes(),
            bins=self.bins.tobytes(),
            latencies=self.latencies.tobytes(),
            examples=self.examples,
        )

    @staticmethod
    def restore(state: SummaryState) -> "RankSummary":
        """The summary again. Raises ValueError if it was made with other measures or bins."""
        empty = RankSummary.empty()
        weight, mean, spread = np.frombuffer(state.moments).reshape(3, len(MEASURES))
        return RankSummary(
            mirrored=state.mirrored,
            compared=state.compared,
            unfit=state.unfit,
            errors=state.errors,
            moments=Moments(weight, mean, spread),
            bins=np.frombuffer(state.bins, dtype=np.int64).reshape(empty.bins.shape),
            latencies=np.frombuffer(state.latencies, dtype=np.int64).reshape(empty.latencies.shape),
            examples=state.examples,
        )


def measure(events: Sequence[MirrorEvent], gauge: Gauge) -> FloatArray:
    """(events, measures), nan where a list says nothing. The events fit and have no error."""
    pairs = Pairs.of([(event.items, event.mirror_items) for event in events], gauge.depth)
    first = _scores([event.scores for event in events], gauge.depth)
    second = _scores([event.mirror_scores for event in events], gauge.depth)
    latency, mirrored = _latencies(events)
    with np.errstate(divide="ignore", invalid="ignore"):
        log_ratio = np.where((latency > 0) & (mirrored > 0), np.log(mirrored) - np.log(latency), np.nan)
    return np.column_stack(
        [
            overlap_at(pairs, gauge.k),
            rank_biased_overlap(pairs, gauge.p),
            first_agrees(pairs),
            kendall_tau(pairs, first, second),
            top_distance(pairs, NEUTRAL_PENALTY),
            score_shift(first, gauge.champion, second, gauge.version),
            mirrored - latency,
            log_ratio,
        ]
    )


def _compared(events: Sequence[MirrorEvent], gauge: Gauge) -> RankSummary:
    values = measure(events, gauge)
    known = np.isfinite(values)
    latency, mirrored = _latencies(events)
    places = [np.searchsorted(LATENCY_BOUNDS_MS, side) for side in (latency, mirrored)]
    bounds = len(LATENCY_BOUNDS_MS) + 1
    return RankSummary(
        mirrored=len(events),
        compared=len(events),
        unfit=0,
        errors={},
        moments=Moments.of(np.where(known, values, 0.0), known.astype(np.float64)),
        bins=_binned(values, known),
        latencies=np.stack([np.bincount(place, minlength=bounds) for place in places]),
        examples=_examples(events, values),
    )


def _binned(values: FloatArray, known: NDArray[np.bool_]) -> IntArray:
    scaled = (np.where(known, values, _LOW) - _LOW) / (_HIGH - _LOW) * (BINS - 1)
    places = np.clip(np.rint(scaled), 0, BINS - 1).astype(np.int64) + np.arange(len(MEASURES)) * BINS
    return np.bincount(places[known], minlength=len(MEASURES) * BINS).reshape(-1, BINS)


def _examples(events: Sequence[MirrorEvent], values: FloatArray) -> tuple[Example, ...]:
    overlap, likeness = values[:, NAMES.index("overlap")], values[:, NAMES.index("rank_biased_overlap")]
    order = np.argsort(likeness, kind="stable")  # nan stands last
    least = likeness[order[:EXAMPLES][-1]]  # as far as this, equals included: ids decide among them
    chosen = np.flatnonzero(likeness <= least) if np.isfinite(least) else order[np.isfinite(likeness[order])]
    ids = heapq.nsmallest(EXAMPLES, ((float(likeness[i]), events[i].ranking_id, int(i)) for i in chosen))
    return tuple(
        Example(
            rank_biased_overlap=like,
            ranking_id=ranking_id,
            overlap=float(overlap[i]),
            items=events[i].items[:EXAMPLE_ITEMS],
            mirror_items=events[i].mirror_items[:EXAMPLE_ITEMS],
        )
        for like, ranking_id, i in ids
        if like < 1.0
    )


def _fits(event: MirrorEvent) -> bool:
    """Whether there is a score an item, and no item stands in a list twice."""
    return (
        len(event.scores) == 4 * len(event.items) == 4 * len(set(event.items))
        and len(event.mirror_scores) == 4 * len(event.mirror_items) == 4 * len(set(event.mirror_items))
        and math.isfinite(event.latency_ms)
        and math.isfinite(event.mirror_latency_ms)
    )


def _with_numbers(events: list[MirrorEvent]) -> list[MirrorEvent]:
    """Those whose scores are numbers: mostly all of them, which one look tells."""
    if _finite(b"".join([part for event in events for part in (event.scores, event.mirror_scores)])):
        return events
    return [event for event in events if _finite(event.scores + event.mirror_scores)]


def _finite(scores: bytes) -> bool:
    return bool(np.isfinite(np.frombuffer(scores, dtype="<f4")).all())


def _scores(packed: Sequence[bytes], depth: int) -> FloatArray:
    """(events, longest), nan beyond a list's end."""
    cut = [one[: 4 * depth] for one in packed]
    lengths = np.array([len(one) // 4 for one in cut])
    scores = np.full((len(cut), max(1, int(lengths.max(initial=0)))), np.nan)
    scores[np.arange(scores.shape[1]) < lengths[:, None]] = np.frombuffer(b"".join(cut), dtype="<f4")
    return scores


def _latencies(events: Sequence[MirrorEvent]) -> tuple[FloatArray, FloatArray]:
    told = np.array([(event.latency_ms, event.mirror_latency_ms) for event in events])
    return told[:, 0], told[:, 1]


def _kind(error: str) -> str:
    return error.split(maxsplit=1)[0].rstrip(":")[:_ERROR_CHARACTERS] if error.split() else "unknown"


def _few(kinds: Counter[str]) -> dict[str, int]:
    """The most frequent kinds by name, the rest under `other`."""
    rest = kinds.pop("other", 0)
    ordered = sorted(kinds.items(), key=lambda kind: (-kind[1], kind[0]))
    rest += sum(count for _, count in ordered[ERROR_KINDS:])
    return dict(sorted(ordered[:ERROR_KINDS])) | ({"other": rest} if rest else {})
