"""Calibration: do clicks come as often as scores said they would?

A ranker's scores are no probabilities: any increasing function of them ranks the same. So a mapping is learnt first,
on clicks of an earlier time, from the version's scores to *attraction*, the probability of a click on the item where
everybody looks. Clicks of a later time are held against it. What is told is whether that mapping still holds, and
nothing of how good the ranking is: a ranker can be calibrated and poor, or excellent and off by a constant.

Positions: P(click) = examination[position] * attraction(score), examination as somebody else estimated it, 1 where
everybody looks. So an item far down is held against few clicks, and an item that nobody sees says next to nothing.

What is not known of this is measured: mapping, gaps and all are done anew without each group of units in turn, and
once more without each group of examination's own estimate; the spread of both is the error (delete-a-group jackknife).

Sources: isotonic regression as calibration, Zadrozny & Elkan, KDD 2002; expected calibration error, Naeini, Cooper &
Hauskrecht, AAAI 2015; that its plain estimate counts noise as error, and what to take off, Kumar, Liang & Ma, NeurIPS
2019; position-based model, Richardson, Dominowska & Ragno, WWW 2007; jackknife, Kott, J. Official Statistics 17, 2001.
"""

from collections.abc import Callable
from dataclasses import dataclass

import msgspec
import numpy as np
from numpy.typing import NDArray
from scipy.optimize import isotonic_regression
from scipy.stats import t as student

from drift import metrics
from drift.moments import FloatArray
from registry.contracts.drift import CalibrationRecord, ReliabilityBin
from registry.contracts.rollouts import Verdict

SCORE_GROUPS = 100  # neighbouring scores that are mapped as one
UNIT_GROUPS = 10
BINS = 10


class CalibrationRule(msgspec.Struct, frozen=True):
    """least_clicks: of either time; fewer say nothing. floor: of a bin's gap, as a share of the mean attraction, below
    which it does not matter. alpha: chance that a mapping that holds fails, over all bins."""

    least_clicks: int = 500
    floor: float = 0.1
    alpha: float = 0.01


@dataclass(frozen=True, slots=True)
class ScoredClicks:
    """Items of one version as they were shown, all of shape (shown,) but what is said of examination.

    scores: the version's; clicks: whether each was clicked. positions: from 1. units: numbers of who saw them, evenly
    spread. examination: (positions,), the first is 1; without_each: (groups, positions), the same estimated without
    each group of units in turn, (0, positions) if its error is not known.
    Raises ValueError if shapes differ or a number is out of its range.
    """

    scores: FloatArray
    clicks: NDArray[np.bool_]
    positions: NDArray[np.int64]
    units: NDArray[np.uint64]
    examination: FloatArray
    without_each: FloatArray

    def __post_init__(self) -> None:
        if len({len(self.scores), len(self.clicks), len(self.positions), len(self.units)}) != 1:
            raise ValueError("scores, clicks, positions and units: expected the same shape (shown,)")
        if self.positions.min(initial=1) < 1 or self.positions.max(initial=1) > len(self.examination):
            raise ValueError("positions: expected 1 to as many as examination has")
        if not np.isfinite(self.scores).all() or not (self.examination > 0).all():
            raise ValueError("expected finite scores, and examination above 0")


@dataclass(frozen=True, slots=True)
class Calibrated:
    """All in clicks an examined item, as attraction is, but `ratio`.

    error: root of the mean squared gap over bins, what noise adds to it taken off (0 if that is all of it). plain: the
    mean absolute gap, as calibration error is usually told, noise and all; by_chance: that if the mapping held.
    ratio: clicks that came over those expected; ratio_error: its standard error. bins: by predicted attraction,
    ascending; empty if nothing could be said. verdict: `failed` if a bin's gap matters and is beyond chance, `passed`
    if none can be that large, else `inconclusive`; why: in words.
    """

    verdict: Verdict
    why: str
    error: float = 0.0
    plain: float = 0.0
    by_chance: float = 0.0
    ratio: float = 1.0
    ratio_error: float = 0.0
    bins: tuple[ReliabilityBin, ...] = ()


def calibrate(earlier: ScoredClicks, later: ScoredClicks, rule: CalibrationRule) -> Calibrated:
    """Whether the mapping of the earlier clicks holds for the later ones. Both are of one version, of other times."""
    for name, given in (("earlier", earlier), ("later", later)):
        if (clicks := int(given.clicks.sum())) < rule.least_clicks:
            return Calibrated("inconclusive", f"{clicks} {name} clicks: expected at least {rule.least_clicks}")
    fitted, held = _Tally.of(earlier), _Tally.of(later)
    whole = _compare(fitted, held, earlier.examination, later.examination, None)
    bins = _bins(whole)

    def figures(then: FloatArray, now: FloatArray, without: int | None = None) -> FloatArray:
        compared = _compare(fitted, held, then, now, without)
        return np.append(compared.gaps(bins), compared.ratio)

    examined, then, now = (earlier.examination, later.examination), earlier.without_each, later.without_each
    variance = _jackknife(lambda group: figures(*examined, group), UNIT_GROUPS)
    variance += _jackknife(lambda group: figures(then[group], examined[1]), len(then))
    variance += _jackknife(lambda group: figures(examined[0], now[group]), len(now))
    errors = np.sqrt(variance)
    return _told(whole, bins, errors[:-1], float(errors[-1]), rule)


@dataclass(frozen=True, slots=True)
class _Tally:
    """scores: (groups,), the mean of each group of neighbours. shown, clicks: (unit groups, groups, positions)."""

    scores: FloatArray
    shown: FloatArray
    clicks: FloatArray

    @staticmethod
    def of(told: ScoredClicks) -> "_Tally":
        edges = np.unique(np.quantile(told.scores, np.linspace(0, 1, SCORE_GROUPS + 1)[1:-1]))
        group = np.searchsorted(edges, told.scores, side="right")
        shape = (UNIT_GROUPS, len(edges) + 1, len(told.examination))
        unit_group = (told.units % np.uint64(UNIT_GROUPS)).astype(np.int64)
        cell = np.ravel_multi_index((unit_group, group, told.positions - 1), shape)
        counts = np.bincount(group, minlength=shape[1])
        some = counts > 0
        mean = np.bincount(group, weights=told.scores, minlength=shape[1]) / np.maximum(counts, 1)
        shown, clicks = (
            np.bincount(cell, weights, int(np.prod(shape))).astype(np.float64).reshape(shape)[:, some]
            for weights in (np.ones(len(cell)), told.clicks.astype(np.float64))
        )
        return _Tally(mean[some], shown, clicks)

    def without(self, unit_group: int | None) -> tuple[FloatArray, FloatArray]:
        """shown (groups, positions) and clicks (groups,) of the other units, of all if None."""
        shown, clicks = self.shown.sum(axis=0), self.clicks.sum(axis=0)
        if unit_group is not None:
            shown, clicks = shown - self.shown[unit_group], clicks - self.clicks[unit_group]
        return shown, clicks.sum(axis=1)


@dataclass(frozen=True, slots=True)
class _Compared:
    """Of each group of later scores, (groups,): looks are examined items; expected, clicks: clicks."""

    looks: FloatArray
    expected: FloatArray
    clicks: FloatArray

    @property
    def ratio(self) -> float:
        return float(self.clicks.sum() / max(self.expected.sum(), 1e-300))

    def of(self, bins: NDArray[np.int64]) -> "_Compared":
        """Groups put together, (bins,)."""
        told = (self.looks, self.expected, self.clicks)
        return _Compared(*(np.bincount(bins, weights=one).astype(np.float64) for one in told))

    def gaps(self, bins: NDArray[np.int64]) -> FloatArray:
        """(bins,): clicks less those expected, an examined item."""
        binned = self.of(bins)
        gaps: FloatArray = (binned.clicks - binned.expected) / binned.looks
        return gaps


def _compare(
    fitted: _Tally, held: _Tally, examined_then: FloatArray, examined_now: FloatArray, without: int | None
) -> _Compared:
    shown_then, clicks_then = fitted.without(without)
    looks_then = shown_then @ examined_then
    known = looks_then > 0
    rates = clicks_then[known] / looks_then[known]
    attraction = isotonic_regression(rates, weights=looks_then[known]).x
    shown, clicks = held.without(without)
    looks = shown @ examined_now
    predicted = np.interp(held.scores, fitted.scores[known], np.clip(attraction, 0.0, 1.0))
    return _Compared(looks, predicted * looks, clicks)


def _bins(compared: _Compared) -> NDArray[np.int64]:
    """The bin of each group, in the order of their scores, which the mapping keeps; about as many looks in each."""
    middle = np.cumsum(compared.looks) - compared.looks / 2
    places = np.floor(middle / compared.looks.sum() * BINS).astype(np.int64)
    return np.unique(np.minimum(places, BINS - 1), return_inverse=True)[1].astype(np.int64)


def _jackknife(figures: Callable[[int], FloatArray], groups: int) -> FloatArray:
    """Variance of figures that are told without each group in turn; 0 if there are no groups."""
    if not groups:
        return np.zeros(1)
    each = np.array([figures(group) for group in range(groups)])
    variance: FloatArray = (groups - 1) * each.var(axis=0)
    return variance


def _told(
    whole: _Compared, bins: NDArray[np.int64], errors: FloatArray, ratio_error: float, rule: CalibrationRule
) -> Calibrated:
    binned, gaps = whole.of(bins), whole.gaps(bins)
    share = binned.looks / binned.looks.sum()
    floor = rule.floor * float(binned.expected.sum() / binned.looks.sum())
    beyond = float(student.ppf(1.0 - rule.alpha / (2 * len(gaps)), UNIT_GROUPS - 1)) * errors
    of_bins = tuple(
        ReliabilityBin(*numbers)
        for numbers in zip(
            (binned.expected / binned.looks).tolist(),
            (binned.clicks / binned.looks).tolist(),
            errors.tolist(),
            share.tolist(),
            strict=True,
        )
    )
    verdict: Verdict = "inconclusive"
    if (failed := (np.abs(gaps) > beyond) & (np.abs(gaps) >= floor)).any():
        verdict, worst = "failed", int(np.argmax(np.where(failed, np.abs(gaps), 0.0)))
        one = of_bins[worst]
        why = (
            f"where {one.predicted:.4f} clicks were expected of an examined item, {one.observed:.4f} came "
            f"(+-{one.error:.4f}); over all {whole.ratio:.2f} times as many as expected"
        )
    elif (np.abs(gaps) + beyond < floor).all():
        verdict, why = "passed", ""
    else:
        why = (
            f"a gap of {floor:.4f} clicks an examined item, {rule.floor:.0%} of their mean, cannot be told from chance"
        )
    return Calibrated(
        verdict=verdict,
        why=why,
        error=float(np.sqrt(max(0.0, (share * (gaps**2 - errors**2)).sum()))),
        plain=float((share * np.abs(gaps)).sum()),
        by_chance=float((share * errors).sum() * np.sqrt(2.0 / np.pi)),
        ratio=whole.ratio,
        ratio_error=ratio_error,
        bins=of_bins,
    )


def show(record: CalibrationRecord) -> None:
    """Sets the model's gauges; one of which nothing could be said shows nan, and no old figure."""
    labels = (record.model, str(record.simulated).lower())
    expected = sum(one.share * one.predicted for one in record.bins)
    metrics.CALIBRATION_ERROR.labels(*labels).set(record.error / expected if expected > 0 else np.nan)
    metrics.CALIBRATION_CLICKS.labels(*labels).set(record.ratio if record.bins else np.nan)
    metrics.CALIBRATION_CLICKS_ERROR.labels(*labels).set(record.ratio_error if record.bins else np.nan)
    metrics.CALIBRATION_END.labels(*labels).set(record.until_ms / 1000)
