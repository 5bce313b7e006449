"""Does a mirrored version rank enough like the champion, without errors, and fast enough?

Intervals take lists as independent and means as normal: a mirror event does not say whose query it
was. One user who asks the same again and again makes them too narrow. So this guards a rollout on its
first step and promotes nothing.
"""

import math

import msgspec
import numpy as np
from scipy.special import ndtri

from drift.mirrors.rank_summary import LATENCY_BOUNDS_MS, NAMES, Example, IntArray, RankSummary
from drift.settings import RankLimits
from registry.contracts.rollouts import Evidence, Verdict

KIND = "rank_diff"  # of the evidence
SHOWN_ALPHA = 0.05
TAIL = 0.99
MOST_UNFIT = 0.01  # share of mirror events that contradict themselves past which figures mean nothing


class Estimate(msgspec.Struct, frozen=True):
    """Of one of `rank_summary.MEASURES`: its mean over lists with a 95 % interval, and quantiles.

    All but `lists` are None if no list had a value.
    """

    measure: str
    lists: int
    mean: float | None
    low: float | None
    high: float | None
    p05: float | None
    p50: float | None
    p95: float | None


class LimitFinding(msgspec.Struct, frozen=True):
    """One limit and what it was held against.

    failing, passing: the bounds that decide, at the limits' `fail_alpha` and `pass_alpha`: it fails if
    `failing` is past the limit still, and passes if `passing` is not; None if there is too little.
    """

    quantity: str
    limit: float
    estimate: float | None
    failing: float | None
    passing: float | None
    outcome: Verdict


class Comparison(msgspec.Struct, frozen=True):
    """What a stretch of mirrored traffic came to.

    start_ms, end_ms: ms since the epoch; a step starts with its first event. mirrored: queries, of
    which `failed` have no list (`errors`, by the first word of why), `unfit` contradict themselves, and
    `compared` have both lists.
    p50_ms, p99_ms: of the answers and of the mirrored queries, None if nothing was compared.
    """

    start_ms: int
    end_ms: int
    mirrored: int
    compared: int
    failed: int
    unfit: int
    errors: dict[str, int]
    verdict: Verdict
    reasons: tuple[str, ...]
    findings: tuple[LimitFinding, ...]
    estimates: tuple[Estimate, ...]
    p50_ms: tuple[float, float] | None
    p99_ms: tuple[float, float] | None


class RankDiff(msgspec.Struct, frozen=True):
    """A version's lists beside the champion's, with all it was decided on.

    window: the newest stretch; step: all since the plan's revision brought the mirror. examples: the
    lists of the step that differ most. A failure of either is one; else the step's verdict counts.
    """

    model: str
    experiment: str
    champion: int
    version: int
    plan_revision: int
    verdict: Verdict
    reasons: tuple[str, ...]
    window: Comparison
    step: Comparison
    limits: RankLimits
    depth: int
    rbo_p: float
    examples: tuple[Example, ...]
    schema: int = 1


def compare(summary: RankSummary, limits: RankLimits, start_ms: int, end_ms: int) -> Comparison:
    """The verdict on a summary.

    - `errored`: more than a hundredth of the events contradict themselves;
    - `failed`: a quantity is past its limit, beyond chance;
    - `inconclusive`: too few lists, or chance could explain on which side of a limit a quantity is;
    - `passed`: every quantity is within its limit, beyond chance.
    """
    findings = (_overlap(summary, limits), _errors(summary, limits), _p99_ratio(summary, limits))
    verdict, reasons = _decide(summary, findings, limits)
    return Comparison(
        start_ms=start_ms,
        end_ms=end_ms,
        mirrored=summary.mirrored,
        compared=summary.compared,
        failed=summary.failed,
        unfit=summary.unfit,
        errors=summary.errors,
        verdict=verdict,
        reasons=reasons,
        findings=findings,
        estimates=tuple(_estimate(summary, measure) for measure in range(len(NAMES))),
        p50_ms=_latencies(summary, 0.5),
        p99_ms=_latencies(summary, TAIL),
    )


def together(window: Comparison, step: Comparison) -> tuple[Verdict, tuple[str, ...]]:
    """The verdict on both: a breakdown just now must not hide in a long good time before it."""
    for verdict in ("failed", "errored"):
        for name, part in (("this window", window), ("this step", step)):
            if part.verdict == verdict:
                return part.verdict, tuple(f"{name}: {reason}" for reason in part.reasons)
    return step.verdict, step.reasons


def as_evidence(diff: RankDiff, champion_digest: str, challenger_digest: str) -> Evidence:
    """Made when its window ended: the same window told again is the same evidence, and one that is told
    late is as old as what it saw."""
    return Evidence(
        kind=KIND,
        model=diff.model,
        champion=diff.champion,
        champion_digest=champion_digest,
        challenger=diff.version,
        challenger_digest=challenger_digest,
        verdict=diff.verdict,
        made_ms=diff.window.end_ms,
        since_ms=diff.step.start_ms,
        until_ms=diff.window.end_ms,
        plan_revision=diff.plan_revision,
        experiment=diff.experiment,
        why="; ".join(diff.reasons),
        body=msgspec.to_builtins(diff),
    )


def _decide(
    summary: RankSummary, findings: tuple[LimitFinding, ...], limits: RankLimits
) -> tuple[Verdict, tuple[str, ...]]:
    if summary.unfit > MOST_UNFIT * summary.mirrored:
        return "errored", (f"{summary.unfit} of {summary.mirrored} mirror events contradict themselves",)
    if summary.mirrored < limits.min_lists:
        return "inconclusive", (f"{summary.mirrored} mirrored queries: expected at least {limits.min_lists}",)
    for outcome in ("failed", "inconclusive"):
        if those := [finding for finding in findings if finding.outcome == outcome]:
            return those[0].outcome, tuple(_sentence(finding, summary) for finding in those)
    return "passed", ()


def _sentence(finding: LimitFinding, summary: RankSummary) -> str:
    rule = f"{'at least' if finding.quantity == 'overlap' else 'at most'} {finding.limit:g} wanted"
    if finding.estimate is None:
        return f"{finding.quantity} is unknown, {rule}: {summary.compared} lists were compared"
    remark = "" if finding.outcome == "failed" else f"; {summary.compared} lists are too few to tell that from chance"
    return f"{finding.quantity} is {finding.estimate:.4g}, {rule}{remark}"


def _overlap(summary: RankSummary, limits: RankLimits) -> LimitFinding:
    mean, error, lists = _mean(summary, NAMES.index("overlap"))
    if lists < limits.min_lists:
        return LimitFinding("overlap", limits.min_overlap, mean if lists else None, None, None, "inconclusive")
    failing, passing = mean + _z(limits.fail_alpha) * error, mean - _z(limits.pass_alpha) * error
    outcome = _outcome(failing < limits.min_overlap, passing >= limits.min_overlap)
    return LimitFinding("overlap", limits.min_overlap, mean, failing, passing, outcome)


def _errors(summary: RankSummary, limits: RankLimits) -> LimitFinding:
    if summary.mirrored < limits.min_lists:
        share = summary.failed / summary.mirrored if summary.mirrored else None
        return LimitFinding("error_share", limits.max_error_share, share, None, None, "inconclusive")
    failing = _wilson(summary.failed, summary.mirrored, -_z(limits.fail_alpha))
    passing = _wilson(summary.failed, summary.mirrored, _z(limits.pass_alpha))
    outcome = _outcome(failing > limits.max_error_share, passing <= limits.max_error_share)
    share = summary.failed / summary.mirrored
    return LimitFinding("error_share", limits.max_error_share, share, failing, passing, outcome)


def _p99_ratio(summary: RankSummary, limits: RankLimits) -> LimitFinding:
    answers, mirrored = summary.latencies
    tails = _latencies(summary, TAIL)
    if tails is None or summary.compared < limits.min_lists:
        return LimitFinding("p99_ratio", limits.max_p99_ratio, None, None, None, "inconclusive")
    failing = _divided(_least(mirrored, TAIL, limits.fail_alpha), _most(answers, TAIL, limits.fail_alpha))
    passing = _divided(_most(mirrored, TAIL, limits.pass_alpha), _least(answers, TAIL, limits.pass_alpha))
    outcome = _outcome(
        failing is not None and failing > limits.max_p99_ratio,
        passing is not None and passing <= limits.max_p99_ratio,
    )
    return LimitFinding("p99_ratio", limits.max_p99_ratio, tails[1] / tails[0], failing, passing, outcome)


def _outcome(failed: bool, passed: bool) -> Verdict:
    if failed:
        return "failed"
    return "passed" if passed else "inconclusive"


def _z(alpha: float) -> float:
    return float(-ndtri(alpha))


def _mean(summary: RankSummary, measure: int) -> tuple[float, float, int]:
    """Mean, its standard error, and of how many lists."""
    lists = int(summary.moments.weight[measure])
    variance = float(summary.moments.spread[measure]) / max(lists - 1, 1)
    return float(summary.moments.mean[measure]), math.sqrt(variance / max(lists, 1)), lists


def _estimate(summary: RankSummary, measure: int) -> Estimate:
    mean, error, lists = _mean(summary, measure)
    if not lists:
        return Estimate(NAMES[measure], 0, None, None, None, None, None, None)
    margin = _z(SHOWN_ALPHA / 2) * error
    quantiles = [summary.quantile(measure, q) for q in (0.05, 0.5, 0.95)]
    return Estimate(NAMES[measure], lists, mean, mean - margin, mean + margin, *quantiles)


def _wilson(failed: int, of: int, z: float) -> float:
    """The bound of a share, upper for z > 0. Source: Wilson, JASA 22(158), 1927.

    >>> round(_wilson(0, 100, 1.96), 4), round(_wilson(50, 100, -1.96), 4)
    (0.037, 0.4038)
    """
    share = failed / of
    centre = share + z * z / (2 * of)
    return (centre + z * math.sqrt(share * (1 - share) / of + z * z / (4 * of * of))) / (1 + z * z / of)


def _least(counts: IntArray, q: float, alpha: float) -> float | None:
    """What the quantile is at least: the lower end of the bin with the order statistic below it.

    Which one, by the normal approximation of the binomial; None if the sample does not reach that far.
    Source: Hahn & Meeker, Statistical Intervals, 1991, section 5.2.
    """
    n = int(counts.sum())
    rank = math.floor(n * q - _z(alpha) * math.sqrt(n * q * (1 - q)))
    if rank < 1:
        return None
    place = _place(counts, rank)
    return float(LATENCY_BOUNDS_MS[place - 1]) if place else 0.0


def _most(counts: IntArray, q: float, alpha: float) -> float | None:
    """What the quantile is at most; see `_least`."""
    n = int(counts.sum())
    rank = math.ceil(n * q + _z(alpha) * math.sqrt(n * q * (1 - q))) + 1
    if rank > n:
        return None
    place = _place(counts, rank)
    return float(LATENCY_BOUNDS_MS[place]) if place < len(LATENCY_BOUNDS_MS) else None


def _divided(above: float | None, below: float | None) -> float | None:
    return None if above is None or not below else above / below


def _latencies(summary: RankSummary, q: float) -> tuple[float, float] | None:
    """The quantile of both sides, as the upper end of its bin; ms."""
    if not summary.compared:
        return None
    found = []
    for counts in summary.latencies:
        place = _place(counts, max(1, math.ceil(q * int(counts.sum()))))
        found.append(float(LATENCY_BOUNDS_MS[min(place, len(LATENCY_BOUNDS_MS) - 1)]))
    return found[0], found[1]


def _place(counts: IntArray, rank: int) -> int:
    """The bin of the rank-th smallest, counted from 1."""
    return int(np.searchsorted(counts.cumsum(), rank))
