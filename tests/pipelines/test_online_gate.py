"""The online gate's four verdicts from data that deserve them, A/A over fourteen looks, and replay."""

from dataclasses import replace
from typing import Any

import msgspec
import numpy as np
import pytest

from pipelines.gates.gate_lists import AbLists, GateSums, InterleavedLists
from pipelines.gates.gate_plan import GatePlan
from pipelines.gates.online import course, judge
from registry.contracts.manifest import CLICK_NDCG
from registry.contracts.rollouts import Evidence

LOOKS = 14


def a_plan(**changes: Any) -> GatePlan:
    return msgspec.structs.replace(GatePlan(kind="ab", metric=CLICK_NDCG.digest), **changes)


def ab_lists(
    seed: int, lift: float = 0.0, units: int = 600, looks: int = LOOKS, closed: int | None = None, share: float = 0.5
) -> AbLists:
    """Units of unequal activity and level that come back over the looks; half of the lists have no click."""
    rng = np.random.default_rng(seed)
    lists = 1 + rng.negative_binomial(1, 0.3, size=units)
    whose = np.repeat(np.arange(units), lists)
    challenger = rng.random(units) < share
    level = np.clip(rng.normal(0.5, 0.2, size=units), 0, 1)
    clicked = rng.random(len(whose)) < level[whose]
    values = clicked * rng.beta(2, 1, size=len(whose)) * (1 + lift * challenger[whose])
    return AbLists(
        look=rng.integers(1, looks + 1, size=len(whose)),
        units=np.char.add("u", whose.astype(str)),
        in_challenger=challenger[whose],
        values=values,
        closed=looks if closed is None else closed,
        metric=CLICK_NDCG.digest,
    )


def interleaved_lists(seed: int, ahead: float = 0.5, lists: int = 3000, closed: int = LOOKS) -> InterleavedLists:
    """ahead: chance that a click goes to the challenger's team."""
    rng = np.random.default_rng(seed)
    whose = rng.integers(lists // 4, size=lists)
    clicks = rng.poisson(rng.gamma(1.0, 0.8, size=lists // 4)[whose])
    ours = rng.binomial(clicks, ahead)
    return InterleavedLists(
        look=rng.integers(1, LOOKS + 1, size=lists),
        units=np.char.add("u", whose.astype(str)),
        challenger=ours,
        champion=clicks - ours,
        closed=closed,
        metric=CLICK_NDCG.digest,
    )


INTERLEAVING = GatePlan(kind="interleaving", metric=CLICK_NDCG.digest)


def test_a_much_better_challenger_passes_at_an_early_look_and_stays_passed() -> None:
    seen = ab_lists(1, lift=0.4)

    at_end, then = judge(a_plan(), seen), None
    for closed in range(1, LOOKS + 1):
        inside = seen.look <= closed
        arrays = {name: getattr(seen, name)[inside] for name in ("look", "units", "in_challenger", "values")}
        then = judge(a_plan(), replace(seen, closed=closed, **arrays))
        if then.verdict == "passed":
            break

    assert at_end.verdict == "passed"
    assert then is not None
    assert then.look == at_end.look < LOOKS
    assert then.lines == at_end.lines
    assert at_end.low is not None and at_end.estimate is not None and at_end.high is not None
    assert 0 < at_end.low < at_end.estimate < at_end.high


def test_a_much_worse_challenger_fails_before_its_first_look_is_over() -> None:
    found = judge(a_plan(), ab_lists(2, lift=-0.4, closed=0))

    assert found.verdict == "failed"
    assert "surely worse than +0.00%" in found.why
    assert found.look == 0 and found.estimate is None
    assert found.anytime_high is not None and found.anytime_high < 0


def test_an_equal_challenger_is_not_proven_and_not_refuted_when_the_looks_are_over() -> None:
    found = judge(a_plan(), ab_lists(3))

    assert found.verdict == "inconclusive"
    assert "last of 14 looks is over" in found.why
    assert found.expected_lists == 0
    assert found.low is not None and found.high is not None and found.low < 0 < found.high


@pytest.mark.parametrize(("lift", "share"), [(0.4, 0.5), (-0.4, 0.5), (0.0, 0.5), (0.0, 0.42)])
def test_a_course_is_what_was_said_day_by_day(lift: float, share: float) -> None:
    seen, plan = ab_lists(10, lift=lift, share=share), a_plan(least=0.05)

    said = []
    for closed in range(1, LOOKS + 1):
        inside = seen.look <= closed
        arrays = {name: getattr(seen, name)[inside] for name in ("look", "units", "in_challenger", "values")}
        said.append(judge(plan, replace(seen, closed=closed, **arrays)).verdict)

    assert course(plan, GateSums.of(plan, seen)) == tuple(said)
    assert len(set(said)) > 1 or lift == 0.0


def test_an_equal_challenger_is_not_inferior_by_a_wide_margin() -> None:
    assert judge(a_plan(margin=-0.3), ab_lists(3)).verdict == "passed"


def test_an_estimate_that_must_reach_more_does_not_pass_without_it() -> None:
    seen = ab_lists(1, lift=0.4)

    assert judge(a_plan(least=0.9), seen).verdict == "inconclusive"
    assert judge(a_plan(least=0.1), seen).verdict == "passed"


def test_the_interval_is_wider_than_that_of_a_single_look_and_excludes_zero_when_passed() -> None:
    seen = ab_lists(1, lift=0.4)
    often, once = judge(a_plan(), seen), judge(a_plan(looks=1), replace(seen, look=np.ones_like(seen.look), closed=1))

    assert often.boundary is not None and once.boundary == pytest.approx(1.645, abs=1e-3)
    assert often.boundary > once.boundary


def test_units_lost_by_one_arm_are_an_error_and_no_verdict_on_the_model() -> None:
    found = judge(a_plan(), ab_lists(4, lift=0.4, share=0.35))

    assert found.verdict == "errored"
    assert "find what loses or doubles units" in found.why
    assert found.ratio_p is not None and found.ratio_p < 0.01
    assert judge(a_plan(weights=(65.0, 35.0)), ab_lists(4, lift=0.4, share=0.35)).verdict == "passed"


def test_a_broken_measurement_is_an_error() -> None:
    seen = ab_lists(5, lift=-0.4)
    missing, twice = seen.values.copy(), seen.in_challenger.copy()
    missing[0], twice[:3] = np.nan, ~twice[:3]
    both = replace(seen, in_challenger=twice)

    assert "measure by the plan's" in judge(a_plan(metric="other"), seen).why
    assert "1 values are no numbers" in judge(a_plan(), replace(seen, values=missing)).why
    assert "units are in both arms" in judge(a_plan(), both).why
    for found in (judge(a_plan(metric="other"), seen), judge(a_plan(), both)):
        assert (found.verdict, found.estimate, found.champion_units) == ("errored", None, 0)


def test_too_few_units_are_inconclusive_whatever_they_show() -> None:
    seen = ab_lists(6, lift=-0.9, units=60)

    found = judge(a_plan(), seen)

    assert found.verdict == "inconclusive"
    assert "of 100 units in the smaller arm" in found.why
    assert judge(a_plan(min_units=10), seen).verdict == "failed"


def test_no_lists_at_all_are_inconclusive() -> None:
    seen, drafted = ab_lists(1), interleaved_lists(1)
    no_ab = AbLists(seen.look[:0], seen.units[:0], seen.in_challenger[:0], seen.values[:0], 0, seen.metric)
    none = InterleavedLists(
        drafted.look[:0], drafted.units[:0], drafted.challenger[:0], drafted.champion[:0], 0, drafted.metric
    )

    for found in (judge(a_plan(), no_ab), judge(INTERLEAVING, none)):
        assert (found.verdict, found.lists, found.expected_lists) == ("inconclusive", 0, None)


def test_covariates_known_before_narrow_the_interval() -> None:
    seen = ab_lists(7)
    rng = np.random.default_rng(7)
    before = replace(seen, covariates=(seen.values + rng.normal(scale=0.2, size=len(seen.values)))[:, None])

    plain, adjusted = judge(a_plan(), seen).lines[-1], judge(a_plan(), before).lines[-1]

    assert adjusted.information > 1.5 * plain.information


@pytest.mark.parametrize(("ahead", "verdict"), [(0.6, "passed"), (0.5, "inconclusive"), (0.4, "failed")])
def test_interleaving_says_who_is_preferred(ahead: float, verdict: str) -> None:
    found = judge(INTERLEAVING, interleaved_lists(18, ahead))

    assert found.verdict == verdict
    assert found.ratio_p is None


def test_a_verdict_is_the_same_again_of_its_plan_and_data_and_names_both() -> None:
    plan, seen = a_plan(), ab_lists(9, lift=0.3)
    stored = msgspec.json.decode(msgspec.json.encode(judge(plan, seen)), type=type(judge(plan, seen)))

    assert judge(plan, seen) == stored
    assert stored.plan == plan.digest != a_plan(alpha=0.06).digest
    assert stored.data == seen.digest != replace(seen, values=seen.values + 1e-9).digest


def test_every_part_of_the_data_is_in_its_digest() -> None:
    seen, drafted = ab_lists(9), interleaved_lists(9)
    others = [
        replace(seen, look=seen.look + 1),
        replace(seen, units=np.char.add("x", seen.units)),
        replace(seen, in_challenger=~seen.in_challenger),
        replace(seen, closed=3),
        replace(seen, metric="other"),
        replace(seen, covariates=seen.values[:, None]),
        drafted,
        replace(drafted, challenger=drafted.champion, champion=drafted.challenger),
    ]

    assert len({one.digest for one in [seen, *others]}) == len(others) + 1
    assert seen.digest == ab_lists(9).digest


def test_a_verdict_is_evidence_and_explains_itself_on_one_screen() -> None:
    plan, seen = a_plan(), ab_lists(9, lift=0.3)
    found = judge(plan, seen)

    evidence = Evidence(
        kind="online_gate",
        model="codesearch",
        champion=1,
        champion_digest="a" * 64,
        challenger=2,
        challenger_digest="b" * 64,
        verdict=found.verdict,
        made_ms=2,
        since_ms=0,
        until_ms=1,
        why=found.why,
        body=found.body(plan),
    )

    assert Evidence.decode(evidence.encode()).id == evidence.id
    assert msgspec.convert(evidence.body["plan"], GatePlan).digest == found.plan
    lines = found.explain().splitlines()
    assert [line.split()[0] for line in lines] == ["verdict", "rule", "estimate", "boundary", "anytime", "sample"]
    assert f"{found.lists} lists" in lines[-1]


def test_equal_versions_pass_and_fail_by_chance_as_rarely_as_stated() -> None:
    """Units clustered; a verdict at the end knows of a pass at any look."""
    runs = 150
    verdicts = [judge(a_plan(), ab_lists(1000 + seed, units=300)).verdict for seed in range(runs)]

    for verdict in ("passed", "failed"):
        assert verdicts.count(verdict) / runs <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / runs)


@pytest.mark.parametrize(
    "wrong",
    [
        {"alpha": 0.0},
        {"looks": 0},
        {"margin": -1.0},
        {"rollback_margin": 0.1},
        {"weights": (0.0, 1.0)},
        {"min_units": 1},
        {"metric": ""},
        {"kind": "interleaving", "margin": -0.1},
    ],
)
def test_a_plan_that_cannot_be_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="expected"):
        GatePlan(**{"kind": "ab", "metric": "m", **wrong})


def test_data_of_another_kind_than_the_plans_are_refused() -> None:
    with pytest.raises(ValueError, match="expected the plan's kind"):
        judge(INTERLEAVING, ab_lists(1))
