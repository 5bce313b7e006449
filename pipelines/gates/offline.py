"""The offline gate: challenger against champion on a frozen judged set, and by the log. A veto, never a promoter.

Both versions are scored on the same queries under one definition and compared query by query. The figure is the
relative lift of the mean NDCG, with a BCa bootstrap interval over queries: `passed` says that the challenger is not
worse by more than the plan's margin, `failed` that it is worse, surely; in between it is `inconclusive`, with
the number of queries that would tell; `errored` if the two cannot be compared. What passes has earned traffic to be
measured on, nothing more: no offline figure makes a champion.

Judged NDCG and click-NDCG are different metrics. One of them is the plan's primary; where the other one says that
the challenger is surely worse, the two are in conflict, and that is a hold. A log that cannot speak of the
challenger (support under the limit) has no say.

The bootstrap is seeded by the plan: a verdict replays from plan and data, whose hashes it carries.

Sources: paired tests over queries: Smucker, Allan & Carterette, CIKM 2007; BCa: Efron, JASA 82, 1987, with the
jackknife's acceleration; sample size: the usual normal approximation for a paired mean.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from statistics import NormalDist
from typing import Literal

import msgspec
import numpy as np
from numpy.typing import ArrayLike, NDArray

from pipelines.errors import DefinitionsDiffer
from pipelines.feedback.counterfactual import CounterfactualReport
from pipelines.ndcg import PairedNdcg, mean_ndcg, paired
from registry.compare import define
from registry.contracts.manifest import JUDGED_NDCG, MetricDefinition
from registry.contracts.rollouts import Evidence, Verdict
from registry.store import StoredVersion

Floats = NDArray[np.float64]
KIND = "offline_gate"
_BATCH = 2_000_000  # numbers of a bootstrap held at once


class OfflinePlan(msgspec.Struct, frozen=True):
    """What the gate is held against; part of its verdict.

    primary: whose verdict counts where the other only may hold. margin: relative loss that is still let through to
    be measured on traffic. alpha: two-sided, of the interval. effect, power: relative lift that the stated number
    of queries finds, and with which chance. least_queries: fewer say nothing. resamples, seed: of the bootstrap.
    champion_anew: a champion that was made under another definition is measured under this one, as the challenger
    is, and the evidence says so: both figures are of one definition. False refuses.
    """

    metric: MetricDefinition = JUDGED_NDCG
    primary: Literal["judged", "clicks"] = "judged"
    margin: float = 0.02
    alpha: float = 0.05
    effect: float = 0.008
    power: float = 0.8
    least_queries: int = 30
    resamples: int = 4000
    seed: int = 0
    champion_anew: bool = False

    def __post_init__(self) -> None:
        for holds, rule in (
            (0 <= self.margin < 1, f"margin={self.margin:g}: expected 0 <= loss < 1"),
            (0 < self.alpha < 1, f"alpha={self.alpha:g}: expected 0 < chance < 1"),
            (self.effect > 0, f"effect={self.effect:g}: expected > 0"),
            (0.5 <= self.power < 1, f"power={self.power:g}: expected 0.5 <= chance < 1"),
            (self.least_queries >= 2, f"least_queries={self.least_queries}: expected >= 2"),
            (self.resamples >= 100, f"resamples={self.resamples}: expected >= 100"),
        ):
            if not holds:
                raise ValueError(f"offline_gate.{rule}")

    @property
    def digest(self) -> str:
        """SHA-256 of its canonical JSON, 64 digits."""
        return hashlib.sha256(msgspec.json.encode(self, order="deterministic")).hexdigest()


@dataclass(frozen=True, slots=True)
class JudgedSet:
    """The frozen set and what both versions score on it.

    name, digest: of the set, `RankingDataset.digest`. labels, champion_scores, challenger_scores: shape
    (candidates,); offsets: shape (lists + 1,). since_ms, until_ms: the window that it was judged in, 0 if none.
    """

    name: str
    digest: str
    labels: ArrayLike
    offsets: ArrayLike
    champion_scores: ArrayLike
    challenger_scores: ArrayLike
    since_ms: int = 0
    until_ms: int = 0

    @property
    def data_digest(self) -> str:
        """SHA-256 over the set's digest and both versions' scores, labels and offsets, 64 digits."""
        total = hashlib.sha256(self.digest.encode())
        for given, kind in (
            (self.labels, "<f8"),
            (self.offsets, "<i8"),
            (self.champion_scores, "<f8"),
            (self.challenger_scores, "<f8"),
        ):
            values = np.ascontiguousarray(given, dtype=kind)
            total.update(str(values.shape).encode())
            total.update(values.data)
        return total.hexdigest()


class JudgedFigures(msgspec.Struct, frozen=True):
    """Of the counted queries. low, high: of the lift; None where nothing can be said. deviation: standard deviation
    of the differences by query, in NDCG. required: queries that find the plan's effect, None if unknown."""

    champion: float | None
    challenger: float | None
    lift: float | None
    low: float | None
    high: float | None
    queries: int
    left_out: int
    deviation: float | None
    required: int | None


def offline_gate(
    plan: OfflinePlan,
    champion: StoredVersion,
    challenger: StoredVersion,
    judged: JudgedSet,
    made_ms: int,
    clicks: CounterfactualReport | None = None,
    broken: str = "",
    notes: Mapping[str, object] | None = None,
) -> Evidence:
    """The gate's evidence, of kind `offline_gate`. Equal arguments give equal evidence, id included.

    clicks: the counterfactual report of the same two versions, if there is a log to make it of. broken: why the set
    could not be scored, if so. notes: more to be kept in the evidence's body, plain JSON.
    Never raises for what the data are like: what cannot be measured is `errored`, with the reason.
    """
    figures: JudgedFigures | None = None
    try:
        _check_definitions(plan, champion, challenger)
        if broken:
            raise ValueError(broken)
        figures = _figures(plan, _pairs(plan, judged))
        judged_verdict, why = judge(plan, figures)
        if champion.manifest.metric != plan.metric:
            why += f" (the champion was made under {define(champion.manifest.metric)}, and is measured anew here)"
    except (DefinitionsDiffer, ValueError) as error:
        judged_verdict, why = "errored", str(error)
    clicks_verdict, said = judge_clicks(plan, clicks)
    verdict, together = _together(plan, judged_verdict, why, clicks_verdict, said)
    return Evidence(
        kind=KIND,
        model=challenger.model,
        champion=champion.version,
        champion_digest=champion.digest,
        challenger=challenger.version,
        challenger_digest=challenger.digest,
        verdict=verdict,
        made_ms=made_ms,
        since_ms=judged.since_ms,
        until_ms=judged.until_ms,
        why=together,
        body={
            "role": "veto",
            "plan": _plain(plan),
            "plan_digest": plan.digest,
            "definition": plan.metric.digest,
            "champion_definition": champion.manifest.metric.digest,
            "rule": _rule(plan),
            "set": judged.name,
            "data": judged.data_digest,
            "judged": {"verdict": judged_verdict, "why": why, "figures": _plain(figures)},
            "clicks": {"verdict": clicks_verdict, "why": said, "report": _plain(clicks)},
            "interval": "BCa bootstrap over queries",
            **(notes or {}),
        },
    )


def judge(plan: OfflinePlan, figures: JudgedFigures) -> tuple[Verdict, str]:
    """The judged part's verdict, and why."""
    needs = "" if figures.required is None else f"; {figures.required} queries would find {plan.effect:+.1%}"
    if figures.queries < plan.least_queries or figures.lift is None or figures.low is None or figures.high is None:
        return "inconclusive", (
            f"{figures.queries} queries with a relevant item, expected {plan.least_queries} at least and a champion "
            f"above 0{needs}"
        )
    words = (
        f"lift {figures.lift:+.2%}, {1 - plan.alpha:.0%} interval {figures.low:+.2%} to {figures.high:+.2%}, "
        f"{figures.queries} queries"
    )
    if figures.high < 0:
        return "failed", f"surely worse: {words}"
    if figures.low >= -plan.margin:
        return "passed", f"not worse by more than {plan.margin:.1%}: {words}"
    return "inconclusive", f"it may be worse by more than {plan.margin:.1%}: {words}{needs}"


def judge_clicks(plan: OfflinePlan, report: CounterfactualReport | None) -> tuple[Verdict, str]:
    """The log's verdict, and why; inconclusive where it has nothing to say."""
    estimate = None if report is None else report.doubly_robust
    if report is None or estimate is None:
        return "inconclusive", "no log was given" if report is None else report.refused
    if not np.isfinite([estimate.lift, estimate.low, estimate.high]).all():
        return "inconclusive", "the log has too few units, or no clicks, for an interval"
    words = (
        f"click-NDCG {estimate.lift:+.2%}, interval {estimate.low:+.2%} to {estimate.high:+.2%} ({report.lists} lists)"
    )
    if estimate.high < 0:
        return "failed", f"surely worse by the log: {words}"
    return ("passed" if estimate.low >= -plan.margin else "inconclusive"), words


def lift_interval(pair: PairedNdcg, alpha: float, resamples: int, seed: int) -> tuple[float, float]:
    """BCa bootstrap interval of the relative lift over queries, at 1 - alpha; nan with fewer than two.

    Bias-corrected and accelerated: quantiles of resampled lifts, moved by how skewed they are (acceleration from the
    jackknife). Where all queries differ alike it is a point.
    """
    queries = len(pair)
    if queries < 2 or not pair.champion.sum() > 0:
        return float("nan"), float("nan")
    lifts = _resampled(pair, resamples, np.random.default_rng(seed))
    below = ((lifts < pair.lift).sum() + 0.5 * (lifts == pair.lift).sum()) / len(lifts)
    if lifts.min() == lifts.max() or not 0 < below < 1:
        return float(lifts.min()), float(lifts.max())
    normal = NormalDist()
    bias = normal.inv_cdf(float(below))
    left_out = (pair.differences.sum() - pair.differences) / np.maximum(pair.champion.sum() - pair.champion, 1e-12)
    spread = left_out.mean() - left_out
    scale = float((spread**2).sum()) ** 1.5
    acceleration = float((spread**3).sum()) / (6 * scale) if scale > 0 else 0.0

    def level(quantile: float) -> float:
        moved = bias + normal.inv_cdf(quantile)
        return normal.cdf(bias + moved / (1 - acceleration * moved))

    low, high = np.quantile(lifts, [level(alpha / 2), level(1 - alpha / 2)])
    return float(low), float(high)


def required_queries(deviation: float, base: float, plan: OfflinePlan) -> int:
    """Judged queries that find the plan's effect, two-sided at its alpha, with its power.

    deviation: of the difference by query; base: the champion's mean, both in NDCG.

    >>> required_queries(0.106, 0.743, OfflinePlan())
    2497
    """
    normal = NormalDist()
    quantiles = normal.inv_cdf(1 - plan.alpha / 2) + normal.inv_cdf(plan.power)
    return max(plan.least_queries, ceil((quantiles * deviation / (plan.effect * base)) ** 2))


def _check_definitions(plan: OfflinePlan, champion: StoredVersion, challenger: StoredVersion) -> None:
    one, other = champion.manifest.metric, challenger.manifest.metric
    if one != other and not plan.champion_anew:
        raise DefinitionsDiffer(
            f"champion and challenger are made under different metrics ({define(one)}; {define(other)}): register the "
            "challenger under the champion's definition, or plan with champion_anew"
        )
    if plan.metric != other:
        raise DefinitionsDiffer(
            f"the plan measures {define(plan.metric)}, the challenger is made under {define(other)}: plan with its own"
        )


def _pairs(plan: OfflinePlan, judged: JudgedSet) -> PairedNdcg:
    before, after = (
        mean_ndcg(judged.labels, scores, judged.offsets, plan.metric)
        for scores in (judged.champion_scores, judged.challenger_scores)
    )
    return paired(before, after)


def _figures(plan: OfflinePlan, pair: PairedNdcg) -> JudgedFigures:
    if not len(pair):
        return JudgedFigures(None, None, None, None, None, 0, pair.left_out, None, None)
    low, high = lift_interval(pair, plan.alpha, plan.resamples, plan.seed)
    base = float(pair.champion.mean())
    deviation = float(pair.differences.std(ddof=1)) if len(pair) > 1 else None
    known = deviation is not None and base > 0
    return JudgedFigures(
        champion=base,
        challenger=float(pair.challenger.mean()),
        lift=_finite(pair.lift),
        low=_finite(low),
        high=_finite(high),
        queries=len(pair),
        left_out=pair.left_out,
        deviation=deviation,
        required=required_queries(deviation, base, plan) if known and deviation is not None else None,
    )


def _resampled(pair: PairedNdcg, resamples: int, rng: np.random.Generator) -> Floats:
    """The lift of so many sets of queries, drawn with replacement. Shape (resamples,)."""
    queries, found = len(pair), []
    each = max(1, _BATCH // queries)
    for start in range(0, resamples, each):
        drawn = rng.integers(0, queries, size=(min(each, resamples - start), queries))
        found.append(pair.differences[drawn].sum(axis=1) / np.maximum(pair.champion[drawn].sum(axis=1), 1e-12))
    return np.concatenate(found)


def _together(plan: OfflinePlan, judged: Verdict, why: str, clicks: Verdict, said: str) -> tuple[Verdict, str]:
    by_name: dict[str, tuple[Verdict, str]] = {"judged": (judged, why), "clicks": (clicks, said)}
    other = "clicks" if plan.primary == "judged" else "judged"
    verdict, reason = by_name[plan.primary]
    if judged == "errored":
        return "errored", why
    if verdict == "passed" and by_name[other][0] == "failed":
        return (
            "inconclusive",
            f"{plan.primary} passed ({reason}), {other} failed ({by_name[other][1]}): a conflict is a hold",
        )
    return verdict, f"{plan.primary}: {reason}; {other}: {by_name[other][1]}"


def _rule(plan: OfflinePlan) -> Sequence[str]:
    return [
        f"failed if the {1 - plan.alpha:.0%} interval of the relative lift lies below 0",
        f"passed if it lies above {-plan.margin:.1%}, with {plan.least_queries} queries at least",
        "inconclusive otherwise, and where judged and clicks are in conflict",
    ]


def _finite(value: float) -> float | None:
    return value if np.isfinite(value) else None


def _plain(record: msgspec.Struct | None) -> object:
    """As JSON has it, so that evidence reads the same before and after it was stored."""
    return msgspec.json.decode(msgspec.json.encode(record))
