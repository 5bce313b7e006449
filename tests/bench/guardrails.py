"""`python -m tests.bench.guardrails`: how often guardrails roll back a sound challenger, and how soon a bad one.

Each run is a step of a rollout: so many looks, 20 queries of the challenger and 180 of the champion between
two, independent. Beside it stands the rule that one would write instead: the estimate is over the limit.
"""

import argparse
import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipelines.rollouts.guardrails import ArmSample, Sample, judge
from registry.contracts.counters import LATENCY_BOUNDS_MS, LATENCY_BUCKETS
from registry.contracts.rollouts import GuardrailLimits
from tests.bench.load import hardware

QUERIES = (180, 20)  # champion, challenger, between two looks
BOUNDS = np.array(LATENCY_BOUNDS_MS)
NOW_MS = 1_000_000
LIMITS = GuardrailLimits()


@dataclass(frozen=True)
class Case:
    """How the challenger differs. The champion fails 0.1 %, degrades 1 %, answers in 10 ms (log-normal, 0.5)."""

    name: str
    failed: float = 0.001
    degraded: float = 0.01
    slower: float = 1.0
    limits: GuardrailLimits = LIMITS


NO_MARGIN = GuardrailLimits(0.0, 0.0, 0.0, 0.0, 0.0, 0.0)
SOUND = (
    Case("the same model"),
    Case("the same model, limits without a margin", limits=NO_MARGIN),
    Case("at its limits: fails 0.6 %, degrades 3 %", failed=0.006, degraded=0.03),
)
BAD = (
    Case("fails 2 %", failed=0.02),
    Case("fails 5 %", failed=0.05),
    Case("fails always", failed=1.0),
    Case("degrades 10 %", degraded=0.10),
    Case("is away: degrades always", degraded=1.0),
    Case("3 times slower", slower=3.0),
    Case("10 times slower", slower=10.0),
)


def looks(case: Case, count: int, rng: np.random.Generator) -> Iterator[Sample]:
    """What each look of a step sees."""
    arms = [np.zeros(3 + LATENCY_BUCKETS, dtype=np.int64) for _ in QUERIES]
    rates = ((0.001, 0.01, 1.0), (case.failed, case.degraded, case.slower))
    for _ in range(count):
        for arm, queries, (failed, degraded, slower) in zip(arms, QUERIES, rates, strict=True):
            lost = int(rng.binomial(queries, failed))
            latency = np.searchsorted(BOUNDS, rng.lognormal(np.log(10.0 * slower), 0.5, queries - lost))
            arm[:3] += (queries - lost, lost, rng.binomial(queries - lost, degraded))
            arm[3:] += np.bincount(latency, minlength=LATENCY_BUCKETS)
        yield Sample(_arm(arms[0]), _arm(arms[1]), NOW_MS)


def run(case: Case, count: int, rng: np.random.Generator) -> tuple[int | None, bool]:
    """The challenger's queries until the rollback, None if it did not come; whether the naive rule rolled back."""
    naive = False
    for look, sample in enumerate(looks(case, count, rng), 1):
        report = judge(case.limits, sample, 1, NOW_MS)
        naive = naive or any(
            check.challenger is not None and check.limit is not None and check.challenger > check.limit
            for check in report.checks
        )
        if report.verdict == "failed":
            return look * QUERIES[1], naive
    return None, naive


def main() -> None:
    """Runs and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--looks", type=int, default=300)
    parser.add_argument("--seed", type=int, default=7)
    told = parser.parse_args()
    print(f"{hardware()}; {told.runs} runs of {told.looks} looks, seed {told.seed}, alpha {LIMITS.alpha}\n")
    print("| sound challenger | rolled back | estimate over the limit at any look |\n|---|---:|---:|")
    for case in SOUND:
        rng = np.random.default_rng(told.seed)
        ended = [run(case, told.looks, rng) for _ in range(told.runs)]
        wrong = sum(queries is not None for queries, _ in ended) / told.runs
        error = (wrong * (1 - wrong) / told.runs) ** 0.5
        naive = sum(naive for _, naive in ended) / told.runs
        print(f"| {case.name} | {wrong:.1%} ± {error:.1%} | {naive:.0%} |")
    print("\n| bad challenger | found | its queries until then, median / p90 |\n|---|---:|---:|")
    for case in BAD:
        rng = np.random.default_rng(told.seed)
        found = [queries for queries, _ in (run(case, told.looks, rng) for _ in range(told.runs)) if queries]
        middle, late = np.percentile(found, (50, 90)) if found else (np.nan, np.nan)
        print(f"| {case.name} | {len(found) / told.runs:.0%} | {middle:.0f} / {late:.0f} |")
    sample = list(looks(BAD[0], 200, np.random.default_rng(told.seed)))[-1]
    started_s = time.process_time()
    for _ in range(200):
        judge(LIMITS, sample, 1000, NOW_MS)
    print(f"\none look: {(time.process_time() - started_s) / 200 * 1e6:.0f} us of CPU")


def _arm(counted: NDArray[np.int64]) -> ArmSample:
    answered, failed, degraded, *latency = counted.tolist()
    return ArmSample(answered, failed, degraded, tuple(latency))


if __name__ == "__main__":
    main()
