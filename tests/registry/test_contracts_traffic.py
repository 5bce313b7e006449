"""Laws of routing: sticky, growing without moving anybody back, fair, independent over layers."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from scipy.stats import chi2_contingency

from registry.contracts.errors import ContractError
from registry.contracts.traffic import WEIGHT_STEPS, Experiment, Layer, Override, TrafficPlan
from tests.builders import a_plan, a_tested_plan

UNITS = [f"user-{i}" for i in range(20_000)]
weights = st.integers(0, WEIGHT_STEPS)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
names = st.text("abc-", min_size=1, max_size=4)


@st.composite
def layers(draw: st.DrawFn) -> tuple[Layer, ...]:
    named = draw(st.lists(names, unique=True, max_size=4))
    cuts = sorted(draw(st.lists(weights, min_size=len(named) + 1, max_size=len(named) + 1)))
    experiments = [
        Experiment(name, version, f"{version}", end - first, first, draw(st.sampled_from(["ab", "interleaving"])))
        for version, (name, first, end) in enumerate(zip(named, cuts[:-1], cuts[1:], strict=True), 2)
    ]
    half = len(experiments) // 2
    return (Layer("one", draw(texts), tuple(experiments[:half])), Layer("two", draw(texts), tuple(experiments[half:])))


plans = st.builds(TrafficPlan, texts, st.integers(0, 2**31), st.just(1), names, layers(), explore_share=weights)


def an_experiment(name: str = "other", version: int = 3, **changes: Any) -> Experiment:
    return replace(Experiment(name, version, f"{version:064x}"), **changes)


def in_two_layers(one: int, other: int, **changes: Any) -> TrafficPlan:
    first, second = an_experiment("first", 2, weight=one), an_experiment("second", 3, weight=other)
    return a_plan(layers=(Layer("a", "salt a", (first,)), Layer("b", "salt b", (second,))), **changes)


@given(plans)
def test_a_plan_comes_back_as_it_was(plan: TrafficPlan) -> None:
    assert TrafficPlan.decode(plan.encode()) == plan


@given(texts, weights, texts)
def test_an_arm_depends_on_unit_salt_and_range_only(unit: str, weight: int, salt: str) -> None:
    changed = a_tested_plan(weight=weight, salt=salt, version=5, revision=9, champion=7, explore_share=500)

    assert a_tested_plan(weight=weight, salt=salt).assign(unit).arm == changed.assign(unit).arm


@given(texts, weights, weights)
def test_who_is_in_an_experiment_s_arm_stays_when_the_weight_grows(unit: str, one: int, other: int) -> None:
    less, more = sorted((one, other))

    grown = a_tested_plan(weight=more).assign(unit)
    assert a_tested_plan(weight=less).assign(unit).arm != "challenger" or grown.arm == "challenger"


@given(texts.filter(bool))
def test_all_or_nothing(unit: str) -> None:
    assert a_tested_plan(weight=0).assign(unit).arm == a_plan().assign(unit).arm == "champion"
    assert a_tested_plan(weight=WEIGHT_STEPS).assign(unit).arm == "challenger"


@pytest.mark.parametrize("weight", [1, 100, 500, 990])
def test_an_experiment_gets_its_share_of_units(weight: int) -> None:
    share = sum(a_tested_plan(weight=weight).assign(unit).arm == "challenger" for unit in UNITS) / len(UNITS)
    expected = weight / WEIGHT_STEPS

    assert abs(share - expected) < 5 * (expected * (1 - expected) / len(UNITS)) ** 0.5


def test_buckets_are_even_and_independent_over_salts() -> None:
    one, other = (np.array([Layer("l", salt, ()).bucket_of(unit) for unit in UNITS]) // 100 for salt in ("a", "b"))
    together = np.histogram2d(one, other, bins=10)[0]

    assert chi2_contingency(together).pvalue > 1e-4
    assert np.abs(together.sum(axis=0) - 2000).max() < 5 * (2000 * 0.9) ** 0.5


def test_a_unit_that_two_layers_would_take_is_in_neither_experiment() -> None:
    plan = in_two_layers(500, 500)
    arms = [(found.arm, found.version) for found in map(plan.assign, UNITS)]

    shares = {arm: arms.count(arm) / len(UNITS) for arm in set(arms)}
    assert set(shares) == {("champion", 1), ("challenger", 2), ("challenger", 3), ("outside", 1)}
    assert all(abs(share - 0.25) < 5 * (0.25 * 0.75 / len(UNITS)) ** 0.5 for share in shares.values())


def test_another_layer_takes_the_same_share_from_both_arms() -> None:
    alone, beside = in_two_layers(400, 0), in_two_layers(400, 300)
    kept: dict[str, list[bool]] = {"champion": [], "challenger": []}
    for unit in UNITS:
        before, after = alone.assign(unit), beside.assign(unit)
        kept[before.arm].append((after.arm, after.version) == (before.arm, before.version))

    champion, challenger = (np.mean(kept[arm]) for arm in ("champion", "challenger"))
    assert abs(champion - 0.7) < 0.02
    assert abs(challenger - champion) < 5 * (0.21 * (1 / 8000 + 1 / 12000)) ** 0.5


def test_experiments_of_one_layer_exclude_each_other() -> None:
    one, other = an_experiment("one", 2, weight=300), an_experiment("other", 3, first=300, weight=700)
    plan = a_plan(layers=(Layer("l", "s", (one, other)),))

    assert {plan.assign(unit).version for unit in UNITS} == {2, 3}


def test_a_tester_gets_the_version_asked_for_and_counts_nowhere() -> None:
    plan = a_tested_plan(weight=1000, overrides=(Override("ann", 1, f"{1:064x}"), Override("bob", 4, "four")))

    assert [(plan.assign(unit).arm, plan.assign(unit).version) for unit in ("ann", "bob", "eve")] == [
        *(("outside", 1), ("outside", 4), ("challenger", 2)),
    ]


def test_who_names_no_unit_gets_the_champion() -> None:
    assert (a_tested_plan(weight=1000).assign("").version, a_plan().assign("").version) == (1, 1)


def test_an_interleaved_list_is_the_champion_s_and_the_experiment_s() -> None:
    found = a_tested_plan(weight=1000, kind="interleaving").assign("ann")

    assert (found.arm, found.version, found.experiment and found.experiment.version) == ("interleaved", 1, 2)


def test_versions_are_those_that_may_be_asked_to_serve() -> None:
    plan = a_tested_plan(overrides=(Override("ann", 4, "four"),))

    assert plan.versions() == {1: f"{1:064x}", 2: f"{2:064x}", 4: "four"}
    assert a_plan().versions() == {1: f"{1:064x}"}


def test_challengers_are_neither_those_held_back_nor_the_champion_itself() -> None:
    held, tried = an_experiment("held", kind="holdback"), an_experiment("tried")

    assert a_plan(layers=(Layer("a", "s", (held,)), Layer("b", "s", (tried,)))).challengers == (tried,)
    assert a_plan(layers=(Layer("a", "s", (held,)),)).challengers == ()
    same = replace(tried, version=a_plan().champion, digest=a_plan().champion_digest)
    assert a_plan(layers=(Layer("a", "s", (same,)),)).challengers == ()  # an A/A


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        (lambda: an_experiment(weight=-1), "weight=-1"),
        (lambda: an_experiment(weight=WEIGHT_STEPS + 1), "weight=1001"),
        (lambda: an_experiment(mirror_share=WEIGHT_STEPS + 1), "mirror_share=1001"),
        (lambda: an_experiment(first=900, weight=101), "leave the layer's 1000 buckets"),
        (lambda: an_experiment(name=""), "needs a name"),
        (lambda: a_plan(layers=(Layer("l", "s", ()), Layer("l", "t", ()))), "layer 'l' is there twice"),
        (lambda: a_plan(layers=(Layer("l", "s", (an_experiment(), an_experiment())),)), "'other' is there twice"),
        (lambda: a_plan(layers=(Layer("l", "s", (an_experiment(digest=""),)),)), "needs its digest"),
        (lambda: a_plan(layers=(Layer("l", "s", (an_experiment(version=1, digest="x"),)),)), "two digests"),
        (lambda: a_plan(overrides=(Override("u", 2, "a"), Override("u", 2, "a"))), "'u' is there twice"),
        (lambda: a_plan(explore_share=-1), "explore_share=-1"),
        (lambda: a_plan(explore_depth=1), "explore_depth=1"),
    ],
)
def test_a_plan_that_makes_no_sense_is_refused(change: Any, rule: str) -> None:
    with pytest.raises(ContractError, match=rule):
        change()


def test_a_plan_that_makes_no_sense_is_refused_when_read_too() -> None:
    raw = a_tested_plan(weight=100).encode().replace(b'"weight":100', b'"weight":1001')

    with pytest.raises(ContractError, match="weight=1001"):
        TrafficPlan.decode(raw)


def test_text_that_is_no_utf_8_is_refused() -> None:
    with pytest.raises(ContractError):
        TrafficPlan.decode(b'{"model": "\xff"}')


@given(st.binary(max_size=40))
def test_garbage_is_refused(garbage: bytes) -> None:
    with pytest.raises(ContractError, match="not a traffic plan"):
        TrafficPlan.decode(garbage)
