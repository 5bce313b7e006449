"""The offline gate: four verdicts, an interval that holds, a veto that never promotes, verdicts that replay."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy.stats import bootstrap

from pipelines.feedback.counterfactual import CounterfactualReport, CounterfactualRules, PolicyEstimate
from pipelines.gates.offline import (
    JudgedSet,
    OfflinePlan,
    judge_clicks,
    lift_interval,
    offline_gate,
    required_queries,
)
from pipelines.ndcg import PairedNdcg
from pipelines.rollouts.canary import Advance, decide
from pipelines.rollouts.guardrails import Sample
from registry.compare import define
from registry.contracts.manifest import ATTRACTION_NDCG, CLICK_NDCG, JUDGED_NDCG, MetricDefinition
from registry.contracts.rollouts import Evidence, Verdict
from registry.rollout_moves import advance, start
from registry.store import StoredVersion
from tests.builders import NOW_MS, a_manifest, a_package, a_plan, a_spec, a_stored

CHAMPION, CHALLENGER = a_stored(1), a_stored(2)
PLAN = OfflinePlan(resamples=1000)


def a_pair(champion: np.ndarray, challenger: np.ndarray) -> PairedNdcg:
    return PairedNdcg(champion, challenger, np.arange(len(champion)), 0, JUDGED_NDCG)


def pairs_of(queries: int, lift: float, seed: int, deviation: float = 0.106) -> PairedNdcg:
    """Per-query figures around 0.74, differing by `deviation`."""
    rng = np.random.default_rng(seed)
    champion = np.clip(rng.normal(0.74, 0.2, queries), 0.01, 1.0)
    return a_pair(champion, champion + 0.74 * lift + rng.normal(0, deviation, queries))


def judged_set(queries: int, noise: tuple[float, float], seed: int = 0, relevant: bool = True) -> JudgedSet:
    """Two rankers that see the labels of 20 candidates a query with these noises."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 4, queries * 20).astype(float) * relevant
    common = rng.normal(size=len(labels))
    champion, challenger = (labels + level * (common + 0.3 * rng.normal(size=len(labels))) for level in noise)
    return JudgedSet("frozen", "d" * 64, labels, np.arange(0, queries * 20 + 1, 20), champion, challenger, 10, 20)


def gate(judged: JudgedSet, plan: OfflinePlan = PLAN, clicks: CounterfactualReport | None = None) -> Evidence:
    return offline_gate(plan, CHAMPION, CHALLENGER, judged, NOW_MS, clicks)


def a_report(low: float, high: float, refused: str = "") -> CounterfactualReport:
    estimate = PolicyEstimate("doubly_robust", 0.5, 0.5 * (1 + (low + high) / 2), (low + high) / 2, low, high)
    return CounterfactualReport(
        estimates=() if refused else (estimate,),
        refused=refused,
        support=0.5 if refused else 1.0,
        effective=1000.0,
        clipped=0.0,
        corrected=0.0,
        logged=0.5,
        lists=10_000,
        units=5000,
        clicks=4000,
        metric=CLICK_NDCG.digest,
        rules=CounterfactualRules(),
        examination=(1.0, 0.5),
        examination_known=True,
        data="0" * 64,
    )


@pytest.mark.parametrize(("noise", "verdict"), [((3.0, 1.0), "passed"), ((1.0, 3.0), "failed"), ((2.0, 2.0), "passed")])
def test_a_better_challenger_passes_a_worse_one_fails_and_an_equal_one_is_let_through(
    noise: tuple[float, float], verdict: Verdict
) -> None:
    evidence = gate(judged_set(3000, noise))

    assert (evidence.kind, evidence.verdict) == ("offline_gate", verdict)
    assert evidence.body["role"] == "veto"
    assert evidence.body["judged"]["figures"]["queries"] > 2990


def test_few_queries_leave_it_open_and_say_how_many_would_do() -> None:
    evidence = gate(judged_set(40, (2.0, 2.0)))
    figures = evidence.body["judged"]["figures"]

    assert evidence.verdict == "inconclusive"
    assert figures["low"] < -PLAN.margin < figures["high"]
    assert figures["required"] > 40
    assert f"{figures['required']} queries would find +0.8%" in evidence.why


def test_a_handful_says_nothing_however_good_it_looks() -> None:
    assert gate(judged_set(10, (5.0, 0.1))).verdict == "inconclusive"


def test_without_a_relevant_item_nothing_can_be_said() -> None:
    evidence = gate(judged_set(50, (1.0, 1.0), relevant=False))

    assert evidence.verdict == "inconclusive"
    assert evidence.body["judged"]["figures"]["left_out"] == 50


def test_scores_that_are_no_numbers_are_an_error_not_a_failure() -> None:
    judged = judged_set(50, (1.0, 1.0))
    broken = np.full(1000, np.nan)

    evidence = gate(replace(judged, challenger_scores=broken))

    assert evidence.verdict == "errored"
    assert "scores must be numbers" in evidence.why


def stored(**manifest: Any) -> StoredVersion:
    return StoredVersion("codesearch", 2, f"{2:064x}", a_manifest(**manifest), NOW_MS)


def test_versions_of_two_definitions_are_not_compared() -> None:
    evidence = offline_gate(PLAN, CHAMPION, stored(metric=CLICK_NDCG), judged_set(50, (1.0, 1.0)), NOW_MS)

    assert evidence.verdict == "errored"
    assert "register the challenger under the champion's definition" in evidence.why


def test_a_plan_of_another_definition_than_the_versions_is_an_error() -> None:
    evidence = gate(judged_set(50, (1.0, 1.0)), OfflinePlan(metric=CLICK_NDCG))

    assert evidence.verdict == "errored"
    assert "plan with its own" in evidence.why


@pytest.mark.parametrize(
    ("noise", "clicks", "primary", "verdict"),
    [
        ((3.0, 1.0), a_report(0.01, 0.03), "judged", "passed"),
        ((3.0, 1.0), a_report(-0.05, -0.01), "judged", "inconclusive"),  # a conflict is a hold
        ((1.0, 3.0), a_report(0.01, 0.03), "judged", "failed"),
        ((3.0, 1.0), a_report(0, 0, refused="no support"), "judged", "passed"),
        ((3.0, 1.0), a_report(-0.05, -0.01), "clicks", "failed"),
        ((1.0, 3.0), a_report(0.01, 0.03), "clicks", "inconclusive"),
        ((3.0, 1.0), a_report(0, 0, refused="no support"), "clicks", "inconclusive"),
        ((3.0, 1.0), a_report(-0.05, 0.03), "clicks", "inconclusive"),
    ],
)
def test_the_primary_metric_decides_and_the_other_can_hold(
    noise: tuple[float, float], clicks: CounterfactualReport, primary: str, verdict: Verdict
) -> None:
    plan = OfflinePlan(resamples=500, primary=primary)  # type: ignore[arg-type]

    assert gate(judged_set(2000, noise), plan, clicks).verdict == verdict


def test_no_log_and_a_log_without_an_interval_say_nothing() -> None:
    assert judge_clicks(PLAN, None) == ("inconclusive", "no log was given")
    assert judge_clicks(PLAN, a_report(float("nan"), float("nan")))[0] == "inconclusive"


def test_a_verdict_replays_from_plan_and_data_and_shows_any_change_of_either() -> None:
    judged = judged_set(200, (2.0, 2.0))
    one, same = gate(judged), gate(judged)
    other_plan = gate(judged, OfflinePlan(resamples=1000, seed=1))
    other_scores = np.array(judged.challenger_scores)
    other_scores[0] += 1e-9

    changed = gate(replace(judged, challenger_scores=other_scores))

    assert one.id == same.id
    assert Evidence.decode(one.encode()) == one
    assert one.body["plan_digest"] == PLAN.digest != other_plan.body["plan_digest"]
    assert one.body["data"] == other_plan.body["data"] != changed.body["data"]
    assert one.body["definition"] == JUDGED_NDCG.digest


def test_what_passes_leaves_the_gate_step_and_is_no_promotion() -> None:
    words: dict[str, Any] = {"who": "ann", "why": "new", "now_ms": NOW_MS}
    rollout = start(a_plan(), CHALLENGER, a_spec(), **words).moves[0].rollout
    evidence = gate(judged_set(3000, (3.0, 1.0)))

    outcome = decide(rollout, [evidence], Sample(), NOW_MS)

    assert isinstance(outcome, Advance)
    assert outcome.why == "step 'offline-gate' passed"
    assert rollout.step == 0 < len(rollout.spec.steps) - 1


def test_bca_is_scipys() -> None:
    pair = pairs_of(80, 0.02, seed=1, deviation=0.3)

    def lift(champion: np.ndarray, challenger: np.ndarray, axis: int = -1) -> np.ndarray:
        return np.asarray(challenger.mean(axis=axis) / champion.mean(axis=axis) - 1)

    theirs = bootstrap(
        (pair.champion, pair.challenger), lift, paired=True, n_resamples=20_000, rng=np.random.default_rng(2)
    ).confidence_interval
    low, high = lift_interval(pair, 0.05, 20_000, seed=3)

    assert low == pytest.approx(theirs.low, abs=0.003)
    assert high == pytest.approx(theirs.high, abs=0.003)


def test_the_interval_leaves_out_the_truth_as_often_as_stated() -> None:
    runs, truth, missed = 400, 0.01, 0
    for seed in range(runs):
        low, high = lift_interval(pairs_of(100, truth, seed), 0.1, 400, seed)
        missed += not low <= truth <= high

    assert 0.06 <= missed / runs <= 0.14  # 10 %, give or take 2.7 standard errors


def test_queries_that_all_differ_alike_have_a_point_for_an_interval() -> None:
    same = np.full(50, 0.5)

    assert lift_interval(a_pair(same, same), 0.05, 200, 0) == (0.0, 0.0)
    assert np.isnan(lift_interval(a_pair(np.zeros(50), same), 0.05, 200, 0)).all()


def test_about_2500_judged_queries_find_the_effect_at_the_deviation_of_the_decisions() -> None:
    assert required_queries(0.106, 0.743, OfflinePlan()) == pytest.approx(2500, rel=0.02)


def test_the_required_number_of_queries_has_the_power_it_states() -> None:
    plan = OfflinePlan(effect=0.03, power=0.8)
    queries, runs, found = required_queries(0.106, 0.74, plan), 400, 0
    rng = np.random.default_rng(4)
    for _ in range(runs):
        differences = rng.normal(0.74 * 0.03, 0.106, queries)
        found += differences.mean() / (differences.std(ddof=1) / np.sqrt(queries)) > 1.96

    assert found / runs == pytest.approx(0.8, abs=0.05)


def test_two_seeds_of_one_model_pass_or_stay_open_and_seldom_fail() -> None:
    verdicts = [gate(judged_set(400, (2.0, 2.0), seed), OfflinePlan(resamples=300)).verdict for seed in range(60)]

    assert verdicts.count("failed") <= 5  # 2.5 % of 60 is 1.5
    assert "errored" not in verdicts


@pytest.mark.parametrize(
    "change",
    [
        {"margin": -0.1},
        {"alpha": 0.0},
        {"effect": 0.0},
        {"power": 0.4},
        {"least_queries": 1},
        {"resamples": 10},
    ],
)
def test_plans_that_cannot_be_are_refused(change: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(change))):
        OfflinePlan(**change)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "metric", [MetricDefinition(k=5), MetricDefinition(gain="linear"), CLICK_NDCG, ATTRACTION_NDCG], ids=define
)
def test_the_definition_is_hashed_into_versions_evidence_and_the_decisions_that_cite_it(
    metric: MetricDefinition,
) -> None:
    judged, other = a_package(), a_package(metric=metric)
    of_judged, of_other = (
        offline_gate(
            OfflinePlan(metric=package.manifest.metric, resamples=100),
            *(StoredVersion("codesearch", n, package.digest, package.manifest, NOW_MS) for n in (1, 2)),
            judged_set(40, (1.0, 1.0)),
            NOW_MS,
        )
        for package in (judged, other)
    )

    assert judged.digest != other.digest
    assert (of_judged.body["definition"], of_other.body["definition"]) == (JUDGED_NDCG.digest, metric.digest)
    assert of_judged.body["plan_digest"] != of_other.body["plan_digest"]
    assert of_judged.id != of_other.id
    words: dict[str, Any] = {"who": "ann", "why": "new", "now_ms": NOW_MS}
    started = start(a_plan(), CHALLENGER, a_spec(), **words)
    cited = advance(started.moves[0].rollout, started.plan, [of_other], **words)
    assert cited.record["evidence"] == [of_other.id]
