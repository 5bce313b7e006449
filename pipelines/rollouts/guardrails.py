"""Guardrails: a challenger's answers against the champion's of the same time, from counters alone.

Three things are held against a limit: the share of queries that failed, the share of answers that were
degraded, and the p99 latency. A limit is broken when confidence sequences of both arms leave no doubt
(`sequential`): guardrails are looked at each second, and a step's looks together roll back a sound
challenger with the chance `alpha` at most. They pass when both arms have their sample and the estimates are
within the limits; in between they are inconclusive, which holds.

Pure: counters in, report out.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import msgspec

from pipelines.rollouts.sequential import share_bounds
from registry.contracts.counters import LATENCY_BOUNDS_MS, LATENCY_BUCKETS, ArmCounters, CounterSnapshot, total
from registry.contracts.rollouts import GuardrailLimits, Rollout, Verdict

SLOW = 0.01  # the share of answers beyond the p99
CHECKS = 3


@dataclass(frozen=True, slots=True)
class ArmSample:
    """One arm's queries. failed: also those that the champion had to answer instead. latency: of all answers,
    by bucket."""

    answered: int = 0
    failed: int = 0
    degraded: int = 0
    latency: tuple[int, ...] = (0,) * LATENCY_BUCKETS

    @property
    def queries(self) -> int:
        """Answered or failed."""
        return self.answered + self.failed

    @property
    def timed(self) -> int:
        """Answers whose latency is known."""
        return sum(self.latency)

    @property
    def p99_ms(self) -> float | None:
        """The bound of the bucket that the p99 lies in, None without answers."""
        return _quantile_ms(self.latency, 1 - SLOW)

    def slower(self, bucket: int) -> int:
        """Answers beyond the bucket."""
        return sum(self.latency[bucket + 1 :])


@dataclass(frozen=True, slots=True)
class Sample:
    """Both arms since a rollout's step began. newest_ms: of the newest snapshot, None if there is none."""

    champion: ArmSample = ArmSample()
    challenger: ArmSample = ArmSample()
    newest_ms: int | None = None


class Check(msgspec.Struct, frozen=True):
    """One guardrail. champion, challenger: estimates, None without data. limit: for the challenger's."""

    name: str
    verdict: Verdict
    champion: float | None
    challenger: float | None
    limit: float | None
    why: str


class GuardrailReport(msgspec.Struct, frozen=True):
    """What the guardrails say. The worst check decides. queries: of each arm."""

    verdict: Verdict
    why: str
    champion_queries: int
    challenger_queries: int
    checks: tuple[Check, ...]


def sample_of(rollout: Rollout, snapshots: Mapping[str, CounterSnapshot]) -> Sample:
    """What all processes counted of the rollout's two arms since the plan that brought its step."""
    counted = [
        arm
        for snapshot in snapshots.values()
        for arm in snapshot.arms
        if arm.model == rollout.model and arm.plan_revision >= rollout.plan_revision
    ]
    mine = [arm for arm in counted if arm.experiment == rollout.experiment]
    return Sample(
        champion=_arm(arm for arm in counted if arm.arm == "champion"),
        challenger=_arm(arm for arm in mine if arm.arm in ("challenger", "interleaved")),
        newest_ms=max((snapshot.at_ms for snapshot in snapshots.values()), default=None),
    )


def judge(limits: GuardrailLimits, sample: Sample, min_answers: int, now_ms: int) -> GuardrailReport:
    """The guardrails of a step. min_answers: of either arm, before they can pass."""
    alpha = limits.alpha / CHECKS
    champion, challenger = sample.champion, sample.challenger
    checks = (
        _share("failed", limits.failed_share, limits.failed_ratio, alpha, _failed(champion), _failed(challenger)),
        _share(
            "degraded", limits.degraded_share, limits.degraded_ratio, alpha, _degraded(champion), _degraded(challenger)
        ),
        _p99(limits, alpha, champion, challenger),
    )
    verdict, why = _together(checks, sample, limits, min_answers, now_ms)
    return GuardrailReport(verdict, why, champion.queries, challenger.queries, checks)


def _together(
    checks: tuple[Check, ...], sample: Sample, limits: GuardrailLimits, min_answers: int, now_ms: int
) -> tuple[Verdict, str]:
    if broken := [check for check in checks if check.verdict == "failed"]:
        return "failed", "; ".join(check.why for check in broken)
    if sample.newest_ms is None:
        return "inconclusive", "no gateway has reported any answers"
    age_s = (now_ms - sample.newest_ms) / 1000
    if age_s > limits.stale_s:
        return "inconclusive", f"no gateway has reported for {age_s:.0f} s"
    for name, arm in (("challenger", sample.challenger), ("champion", sample.champion)):
        if arm.answered < max(1, min_answers):
            return "inconclusive", f"the {name} has {arm.answered} of {max(1, min_answers)} answers"
    if doubtful := [check for check in checks if check.verdict != "passed"]:
        return "inconclusive", "; ".join(check.why for check in doubtful)
    return "passed", "failed and degraded shares and p99 are within their limits"


def _share(
    name: str, absolute: float, ratio: float, alpha: float, champion: tuple[int, int], challenger: tuple[int, int]
) -> Check:
    if not (champion[1] and challenger[1]):
        return Check(name, "inconclusive", _of(champion), _of(challenger), None, f"{name}: no data")
    base, found = champion[0] / champion[1], challenger[0] / challenger[1]
    limit = base * (1 + ratio) + absolute
    at_least = share_bounds(*challenger, alpha / 2)[0]
    at_most = share_bounds(*champion, alpha / 2)[1] * (1 + ratio) + absolute
    words = f"{name}: {found:.2%} of the challenger's, {base:.2%} of the champion's, limit {limit:.2%}"
    if at_least > at_most:
        return Check(name, "failed", base, found, limit, words)
    return Check(name, "passed" if found <= limit else "inconclusive", base, found, limit, words)


def _p99(limits: GuardrailLimits, alpha: float, champion: ArmSample, challenger: ArmSample) -> Check:
    """The champion's p99 is below a bucket's bound once its share beyond is surely under 1 %; the
    challenger's is above the limit made of it once its own share beyond is surely over 1 %. Within the limit is
    who is in the bucket that holds it: more than the bucket is not known of a latency, and none there can fail."""
    base, found = champion.p99_ms, challenger.p99_ms
    if base is None or found is None:
        return Check("p99", "inconclusive", base, found, None, "p99: no data")
    limit = base * (1 + limits.p99_ratio) + limits.p99_ms
    words = f"p99: {found:.1f} ms of the challenger, {base:.1f} ms of the champion, limit {limit:.1f} ms"
    # all bounds at once: whichever bucket the data choose
    each = alpha / 2 / len(LATENCY_BOUNDS_MS)
    surely = _first(lambda i: share_bounds(champion.slower(i), champion.timed, each)[1] <= SLOW)
    if surely is not None:
        at_most = LATENCY_BOUNDS_MS[surely] * (1 + limits.p99_ratio) + limits.p99_ms
        beyond = _first(lambda i: LATENCY_BOUNDS_MS[i] >= at_most)
        if beyond is not None and share_bounds(challenger.slower(beyond), challenger.timed, each)[0] > SLOW:
            return Check("p99", "failed", base, found, limit, words)
    holds = bisect_left(LATENCY_BOUNDS_MS, limit)
    most = LATENCY_BOUNDS_MS[holds] if holds < len(LATENCY_BOUNDS_MS) else limit
    return Check("p99", "passed" if found <= most else "inconclusive", base, found, limit, words)


def _arm(counted: Iterable[ArmCounters]) -> ArmSample:
    """What the champion had to answer instead is a failure of the arm, whatever else the answer did without."""
    found = total("", 0, "", "champion", counted)
    own = max(0, found.answered - found.away)
    return ArmSample(own, found.failed + found.away, min(own, max(0, found.degraded - found.away)), found.latency)


def _failed(arm: ArmSample) -> tuple[int, int]:
    return arm.failed, arm.queries


def _degraded(arm: ArmSample) -> tuple[int, int]:
    return min(arm.degraded, arm.answered), arm.answered


def _of(counted: tuple[int, int]) -> float | None:
    return counted[0] / counted[1] if counted[1] else None


def _first(holds: Callable[[int], bool]) -> int | None:
    """The first latency bucket for which it holds, if it holds for all after it."""
    if not holds(len(LATENCY_BOUNDS_MS) - 1):
        return None
    return bisect_left(range(len(LATENCY_BOUNDS_MS)), True, key=holds)


def _quantile_ms(latency: tuple[int, ...], quantile: float) -> float | None:
    answers, seen = sum(latency), 0
    for bucket, count in enumerate(latency[:-1]):
        seen += count
        if answers and seen >= quantile * answers:
            return LATENCY_BOUNDS_MS[bucket]
    return float("inf") if answers else None
