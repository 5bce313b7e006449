"""Did a window drift? Effect size decides, significance guards."""

from typing import Literal

import msgspec
import numpy as np

from drift import corrections, statistics
from drift.moments import FloatArray
from drift.settings import Rule
from drift.windows.hours import SeasonShift
from drift.windows.reference import Aspect, Reference
from drift.windows.shapes import CategoryShift, Shape, categories_of, row_ages_of, shapes_of
from drift.windows.window import Window
from registry.contracts.drift import RowAges

Outcome = Literal["passed", "failed", "inconclusive", "errored"]
REASONS = 5


class Finding(msgspec.Struct, frozen=True):
    """One quantity of a window beside its reference.

    effect: the shift of a mean in reference standard deviations, or the change of a share;
    standard_error: of the effect, lists being independent. p_value: before correction; adjusted_p: after it.
    moved: at least the rule's floor, and significant among all quantities.
    """

    quantity: str
    aspect: Aspect
    reference: float
    current: float
    effect: float
    standard_error: float
    p_value: float
    moved: bool
    adjusted_p: float = 1.0


class DriftVerdict(msgspec.Struct, frozen=True):
    """What a window came to, with all it was decided on.

    start_ms, end_ms: the window, ms since the epoch. reasons: in words, empty if it passed.
    rankings: that came; lists: that could be counted. profile_digest: SHA-256 of the reference,
    empty if none was found. findings, shapes, categories: empty if nothing could be counted. row_ages: None without
    a sketch. season: beside the same hours of earlier weeks. Of all these, findings alone decide.
    """

    model: str
    version: int
    arm: str
    start_ms: int
    end_ms: int
    verdict: Outcome
    reasons: tuple[str, ...]
    rankings: int
    lists: int
    rule: Rule
    profile_digest: str
    findings: tuple[Finding, ...]
    shapes: tuple[Shape, ...]
    schema: int = 1
    categories: tuple[CategoryShift, ...] = ()
    row_ages: RowAges | None = None
    season: tuple[SeasonShift, ...] = ()


def judge(window: Window, rule: Rule, season: tuple[SeasonShift, ...] = ()) -> DriftVerdict:
    """The verdict on a window. season: the same hours of earlier weeks beside it.

    - `errored`: no reference profile, or rankings that do not fit it;
    - `failed`: a quantity moved, as `Finding` defines it;
    - `inconclusive`: too few lists, or a shift past the floor that chance could explain;
    - `passed`: no shift reaches the floor.
    """
    key, reference = window.key, window.reference
    findings: tuple[Finding, ...] = ()
    shapes: tuple[Shape, ...] = ()
    if reference is not None and window.lists:
        findings, shapes = _findings(window, reference, rule), shapes_of(window, reference)
    verdict, reasons = _decide(window, findings, rule)
    return DriftVerdict(
        model=key.model,
        version=key.version,
        arm=key.arm,
        start_ms=key.start_ms,
        end_ms=key.end_ms,
        verdict=verdict,
        reasons=reasons,
        rankings=window.seen,
        lists=window.lists,
        rule=rule,
        profile_digest=reference.digest if reference else "",
        findings=findings,
        shapes=shapes,
        categories=categories_of(window, reference) if reference else (),
        row_ages=row_ages_of(window),
        season=season,
    )


def _decide(window: Window, findings: tuple[Finding, ...], rule: Rule) -> tuple[Outcome, tuple[str, ...]]:
    if window.reference is None:
        return "errored", (f"no reference profile of {window.key.model}@{window.key.version} was found",)
    if window.lists < window.seen:
        unfit = window.seen - window.lists
        return "errored", (f"{unfit} of {window.seen} rankings do not fit the profile's feature view",)
    if window.lists < rule.min_lists:
        return "inconclusive", (f"{window.lists} lists: expected at least {rule.min_lists}",)
    if moved := [finding for finding in findings if finding.moved]:
        return "failed", _in_words(moved)
    if unclear := [finding for finding in findings if abs(finding.effect) >= _floor(finding.aspect, rule)]:
        return "inconclusive", _in_words(unclear, f"; {window.lists} lists are too few to tell that from chance")
    return "passed", ()


def _in_words(findings: list[Finding], remark: str = "") -> tuple[str, ...]:
    """The largest first; shares and means are not comparable, so by significance, then size."""
    ordered = sorted(findings, key=lambda finding: (finding.p_value, -abs(finding.effect)))
    told = [f"{_sentence(finding)}{remark}" for finding in ordered[:REASONS]]
    return (*told, f"and {len(ordered) - REASONS} more") if len(ordered) > REASONS else tuple(told)


def _sentence(finding: Finding) -> str:
    span = f"from {finding.reference:.4g} to {finding.current:.4g}"
    if finding.aspect == "mean":
        return f"{finding.quantity}: mean moved {finding.effect:+.2f} sd, {span}"
    return f"{finding.quantity}: {finding.aspect.replace('_', ' ')} went {span}"


def _floor(aspect: Aspect, rule: Rule) -> float:
    return rule.effect_floor_sd if aspect == "mean" else rule.share_floor


def _findings(window: Window, reference: Reference, rule: Rule) -> tuple[Finding, ...]:
    current = window.pooled
    of_means = np.array([aspect == "mean" for aspect in reference.aspects])
    compared = (current.weight > 0) & (reference.weight > 0)  # all missing: the missing share tells

    difference = np.where(compared, current.mean - reference.mean, 0.0)
    error = np.where(compared, _standard_error(window, reference), 0.0)
    sides = (reference.mean, reference.std, current.mean, np.sqrt(current.variance))
    unit = np.where(of_means, statistics.deviation(*sides), 1.0)
    effect = np.where(of_means & compared, statistics.mean_shift(*sides), difference)
    p_values = statistics.two_sided_p(difference, error)

    floors = np.array([_floor(aspect, rule) for aspect in reference.aspects])
    adjusted = corrections.adjusted(p_values, rule.correction, corrections.weights_of(_importance(reference)))
    moved = (adjusted <= rule.alpha) & (np.abs(effect) >= floors)
    columns = (reference.mean, current.mean, effect, error / unit, p_values, moved, adjusted)
    return tuple(
        Finding(name, aspect, *numbers)
        for name, aspect, *numbers in zip(
            reference.names, reference.aspects, *(column.tolist() for column in columns), strict=True
        )
    )


def _importance(reference: Reference) -> FloatArray:
    """(quantities,): the features', of their shares too; what none is known of weighs as the features' mean."""
    known = dict(zip(reference.columns, reference.importance.tolist(), strict=False))
    mean = float(np.mean(reference.importance)) if known else 1.0
    return np.array([known.get(name, mean) for name in reference.names])


def _standard_error(window: Window, reference: Reference) -> FloatArray:
    """Of the difference between the window's means and the reference's.

    The larger of both variances, over the rows of both sides, times the design effect; the reference's lists are of
    the same kind.
    """
    rows = window.pooled
    variance = np.maximum(rows.variance, reference.std**2)
    per_row = 1 / np.maximum(rows.weight, 1.0) + 1 / np.maximum(reference.weight, 1.0)
    error: FloatArray = np.sqrt(window.design_effect() * variance * per_row)
    return error
