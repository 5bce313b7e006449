"""Guardrails: quick on real harm, quiet on noise however often they are asked, and never passed by no data."""

import numpy as np
import pytest

from pipelines.rollouts.guardrails import ArmSample, Sample, judge, sample_of
from registry.contracts.counters import LATENCY_BUCKETS, ArmCounters, CounterSnapshot, latency_bucket
from registry.contracts.rollouts import GuardrailLimits, Rollout
from registry.contracts.traffic import Arm
from registry.rollout_moves import start
from tests.builders import NOW_MS, a_plan, a_spec, a_stored, an_arm

LIMITS = GuardrailLimits()


def latencies(milliseconds: "np.typing.NDArray[np.float64]") -> tuple[int, ...]:
    buckets = [latency_bucket(ms) for ms in milliseconds.tolist()]
    return tuple(np.bincount(buckets, minlength=LATENCY_BUCKETS).tolist())


def an_arm_sample(queries: int, failed: int = 0, degraded: int = 0, scale_ms: float = 10.0, seed: int = 0) -> ArmSample:
    """Log-normal latencies around the scale."""
    drawn = np.random.default_rng(seed).lognormal(np.log(scale_ms), 0.5, queries - failed)
    return ArmSample(queries - failed, failed, degraded, latencies(drawn))


def judged(champion: ArmSample, challenger: ArmSample, min_answers: int = 100, age_ms: int = 0) -> tuple[str, str]:
    report = judge(LIMITS, Sample(champion, challenger, NOW_MS - age_ms), min_answers, NOW_MS)
    return report.verdict, report.why


def test_like_arms_with_their_sample_pass() -> None:
    verdict, why = judged(an_arm_sample(9000, failed=9, seed=1), an_arm_sample(1000, failed=1, seed=2))

    assert (verdict, why) == ("passed", "failed and degraded shares and p99 are within their limits")


@pytest.mark.parametrize(
    ("champion", "challenger", "why"),
    [
        (0, 0, "the challenger has 0 of 100 answers"),
        (500, 99, "the challenger has 99 of 100 answers"),
        (99, 500, "the champion has 99 of 100 answers"),
    ],
)
def test_too_few_answers_of_either_arm_are_no_pass(champion: int, challenger: int, why: str) -> None:
    assert judged(an_arm_sample(champion), an_arm_sample(challenger, seed=2)) == ("inconclusive", why)


def test_no_answers_are_no_pass_whatever_the_step_asks_for() -> None:
    assert judged(ArmSample(), ArmSample(), min_answers=0)[0] == "inconclusive"


def test_gateways_that_fell_silent_are_no_pass() -> None:
    arms = an_arm_sample(9000), an_arm_sample(1000, seed=2)

    assert judged(*arms, age_ms=15_000)[0] == "passed"
    assert judged(*arms, age_ms=16_000) == ("inconclusive", "no gateway has reported for 16 s")
    assert judge(LIMITS, Sample(*arms, None), 100, NOW_MS).why == "no gateway has reported any answers"


def test_a_challenger_that_fails_is_found_before_its_sample_is_full() -> None:
    verdict, why = judged(an_arm_sample(900, failed=1), an_arm_sample(60, failed=20), min_answers=1000)

    assert verdict == "failed"
    assert why == "failed: 33.33% of the challenger's, 0.11% of the champion's, limit 0.67%"


def test_what_fails_alike_in_both_arms_is_not_the_challenger_s() -> None:
    assert judged(an_arm_sample(9000, failed=4500), an_arm_sample(1000, failed=500, seed=2))[0] == "passed"


def test_a_few_failures_beyond_the_limit_hold_and_do_not_roll_back() -> None:
    verdict, why = judged(an_arm_sample(9000), an_arm_sample(300, failed=4))

    assert verdict == "inconclusive"
    assert why.startswith("failed: 1.33% of the challenger's")


def test_a_champion_that_hardly_answered_proves_nothing() -> None:
    assert judged(an_arm_sample(3), an_arm_sample(300, failed=30))[0] == "inconclusive"
    assert judged(an_arm_sample(900), an_arm_sample(300, failed=30))[0] == "failed"


def test_degraded_answers_are_found() -> None:
    verdict, why = judged(an_arm_sample(9000, degraded=90), an_arm_sample(1000, degraded=150, seed=2))

    assert verdict == "failed"
    assert why.startswith("degraded: 15.00% of the challenger's, 1.00% of the champion's")


def test_a_slow_challenger_is_found_by_its_p99() -> None:
    verdict, why = judged(an_arm_sample(9000, seed=1), an_arm_sample(600, scale_ms=30.0, seed=2))

    assert verdict == "failed"
    assert why.startswith("p99: ")


def test_a_slow_tail_alone_is_found() -> None:
    sound = an_arm_sample(9000, seed=1)
    tail = list(an_arm_sample(1940, seed=2).latency)
    tail[latency_bucket(2000.0)] += 60

    assert judged(sound, ArmSample(2000, 0, 0, tuple(tail)))[0] == "failed"


def test_a_little_slower_is_within_the_limit() -> None:
    assert judged(an_arm_sample(9000, seed=1), an_arm_sample(1000, scale_ms=11.0, seed=2))[0] == "passed"


@pytest.mark.parametrize("queries", [1000, 1_000_000])
@pytest.mark.parametrize("slow_ms", [70.0, 80.0, 90.0, 92.0, 200.0])
def test_a_p99_with_a_large_sample_either_passes_or_fails(queries: int, slow_ms: float) -> None:
    def tailed(answers: int, tail_ms: float) -> ArmSample:
        counts = [0] * LATENCY_BUCKETS
        counts[latency_bucket(20.0)] = answers - answers // 50
        counts[latency_bucket(tail_ms)] += answers // 50
        return ArmSample(answers, 0, 0, tuple(counts))

    verdict, _ = judged(tailed(9 * queries, 60.0), tailed(queries, slow_ms))

    if slow_ms <= 90.0:
        assert verdict == "passed"
    elif queries > 1000:
        assert verdict == "failed"


def test_of_like_arms_looked_at_again_and_again_few_are_rolled_back() -> None:
    limits = GuardrailLimits(0.0, 0.0, 0.0, 0.0, 0.0, 0.0, alpha=0.1)  # no margin: the hardest case
    rng, runs, rolled_back = np.random.default_rng(3), 60, 0
    for _ in range(runs):
        arms = [ArmSample(), ArmSample()]
        for _ in range(40):
            for index, queries in enumerate((180, 20)):
                fails, degraded = rng.binomial(queries, (0.02, 0.1)).tolist()
                drawn = latencies(rng.lognormal(2.0, 0.5, queries - fails))
                old = arms[index]
                added = tuple(left + right for left, right in zip(old.latency, drawn, strict=True))
                arms[index] = ArmSample(
                    old.answered + queries - fails, old.failed + fails, old.degraded + degraded, added
                )
            if judge(limits, Sample(arms[0], arms[1], NOW_MS), 1, NOW_MS).verdict == "failed":
                rolled_back += 1
                break

    assert rolled_back / runs <= limits.alpha


def a_rollout() -> Rollout:
    return start(a_plan(), a_stored(), a_spec(), who="ann", why="new", now_ms=NOW_MS).moves[0].rollout


def counted(arm: Arm, answered: int, revision: int = 2, experiment: str | None = None, **changes: int) -> ArmCounters:
    name = ("" if arm == "champion" else "rollout-2") if experiment is None else experiment
    return an_arm(arm, name, plan_revision=revision, answered=answered, **changes)


def test_a_sample_is_summed_over_processes_since_the_step_s_plan() -> None:
    one = CounterSnapshot("a", NOW_MS, (counted("champion", 10), counted("challenger", 2, failed=1)))
    two = CounterSnapshot("b", NOW_MS + 5, (counted("champion", 5, revision=3), counted("interleaved", 3, revision=3)))
    sample = sample_of(a_rollout(), {"a": one, "b": two})

    assert (sample.champion.answered, sample.challenger.answered, sample.challenger.failed) == (15, 5, 1)
    assert sample.newest_ms == NOW_MS + 5


def test_earlier_plans_other_experiments_and_other_models_do_not_count() -> None:
    arms = (
        counted("champion", 10, revision=1),
        counted("challenger", 10, revision=1),
        counted("challenger", 10, experiment="rollout-9"),
        an_arm("champion", "", model="other", plan_revision=2, answered=10),
    )
    sample = sample_of(a_rollout(), {"a": CounterSnapshot("a", NOW_MS, arms)})

    assert (sample.champion.queries, sample.challenger.queries) == (0, 0)


def test_a_challenger_that_is_away_fails_even_where_every_answer_is_degraded() -> None:
    arms = (counted("champion", 1000, degraded=1000), counted("challenger", 100, degraded=100, away=90))
    sample = sample_of(a_rollout(), {"a": CounterSnapshot("a", NOW_MS, arms)})

    assert (sample.challenger.answered, sample.challenger.failed, sample.challenger.degraded) == (10, 90, 10)
    assert judged(sample.champion, sample.challenger)[0] == "failed"


def test_refused_queries_are_nobody_s_failures() -> None:
    arms = (counted("champion", 10), counted("challenger", 10, refused=50))
    sample = sample_of(a_rollout(), {"a": CounterSnapshot("a", NOW_MS, arms)})

    assert sample.challenger.queries == 10
