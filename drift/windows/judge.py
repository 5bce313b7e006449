"""Did a window drift? Effect size decides, significance guards."""

from typing import Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from drift import statistics
from drift.moments import FloatArray
from drift.settings import Rule
from drift.windows.reference import Aspect, Reference
from drift.windows.window import Window

Outcome = Literal["passed", "failed", "inconclusive", "errored"]
REASONS = 5


class Finding(msgspec.Struct, frozen=True):
    """One quantity of a window beside its reference.

    effect: the shift of a mean in reference standard deviations, or the change of a share;
    standard_error: of the effect, lists being independent. p_value: before correction.
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


class Shape(msgspec.Struct, frozen=True):
    """How the bins of a quantity differ: see `statistics`. Shown, never decided on."""

    quantity: str
    psi: float
    ks: float
    wasserstein: float


class DriftVerdict(msgspec.Struct, frozen=True):
    """What a window came to, with all it was decided on.

    start_ms, end_ms: the window, ms since the epoch. reasons: in words, empty if it passed.
    rankings: that came; lists: that could be counted. profile_digest: SHA-256 of the reference,
    empty if none was found. findings, shapes: empty if nothing could be counted.
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


def judge(window: Window, rule: Rule) -> DriftVerdict:
    """The verdict on a window.

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
    moved = statistics.benjamini_hochberg(p_values, rule.alpha) & (np.abs(effect) >= floors)
    columns = (reference.mean, current.mean, effect, error / unit, p_values, moved)
    return tuple(
        Finding(name, aspect, *numbers)
        for name, aspect, *numbers in zip(
            reference.names, reference.aspects, *(column.tolist() for column in columns), strict=True
        )
    )


def _standard_error(window: Window, reference: Reference) -> FloatArray:
    """Of the difference between the window's means and the reference's.

    The larger of both variances, over the rows of both sides, times the design effect: how much
    less the rows tell for coming in lists. Measured on the window as the ratio-estimate variance
    over the one that independent rows would have; the reference's lists are of the same kind. A
    window in which a quantity never varies (a rare value that did not come up) tells nothing of
    it: then the rows of a list are taken as all alike.

    Source: Kish, Survey Sampling, 1965, chapters 5 and 6.
    """
    rows, lists = window.pooled, window.blocks
    correction = window.lists / max(window.lists - 1, 1)
    alike = lists.weight / np.where(rows.weight > 0, rows.weight, 1.0)
    measured = correction * lists.spread_about(rows.mean) / np.where(rows.spread > 0, rows.spread, 1.0)
    design_effect = np.where(rows.spread > 0, measured, alike)
    variance = np.maximum(rows.variance, reference.std**2)
    per_row = 1 / np.maximum(rows.weight, 1.0) + 1 / np.maximum(reference.weight, 1.0)
    error: FloatArray = np.sqrt(design_effect * variance * per_row)
    return error


def shapes_of(window: Window, reference: Reference) -> tuple[Shape, ...]:
    """How the window's bins differ from the reference's, of every quantity that has values in both."""
    binned = len(reference.counts)
    known: NDArray[np.bool_] = (window.bins.sum(axis=1) > 0) & (reference.counts.sum(axis=1) > 0)
    names = [name for name, has_values in zip(reference.names[:binned], known.tolist(), strict=True) if has_values]
    then, now = reference.counts[known], window.bins[known]
    wasserstein = statistics.wasserstein_scaled(then, now, reference.centres[known], reference.std[:binned][known])
    columns = (statistics.psi(then, now), statistics.ks(then, now), wasserstein)
    return tuple(
        Shape(name, *numbers) for name, *numbers in zip(names, *(column.tolist() for column in columns), strict=True)
    )
