"""Laws of routing: sticky, growing without moving anybody back, fair, independent over salts."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.contracts.errors import ContractError
from registry.contracts.traffic import WEIGHT_STEPS, TrafficPlan
from tests.builders import a_plan

UNITS = [f"user-{i}" for i in range(20_000)]
weights = st.integers(0, WEIGHT_STEPS)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)


def a_test(weight: int, salt: str = "s", **changes: Any) -> TrafficPlan:
    return a_plan(challenger=2, challenger_digest="ab", weight=weight, salt=salt, **changes)


plans = st.builds(
    TrafficPlan,
    *(texts, st.integers(0, 2**31), st.just(1), texts, st.just(2), texts),
    *(weights, weights, st.booleans(), texts),
)


@given(plans)
def test_a_plan_comes_back_as_it_was(plan: TrafficPlan) -> None:
    assert TrafficPlan.decode(plan.encode()) == plan


@given(texts, weights, texts)
def test_an_arm_depends_on_unit_salt_and_weight_only(unit: str, weight: int, salt: str) -> None:
    changed = a_test(weight, salt, revision=9, champion=7, mirror_share=500, interleaving=True)

    assert a_test(weight, salt).arm_of(unit) == changed.arm_of(unit)


@given(texts, weights, weights)
def test_who_is_in_the_challenger_s_arm_stays_when_the_weight_grows(unit: str, one: int, other: int) -> None:
    less, more = sorted((one, other))

    assert a_test(less).arm_of(unit) == "champion" or a_test(more).arm_of(unit) == "challenger"


@given(texts)
def test_all_or_nothing(unit: str) -> None:
    assert a_test(0).arm_of(unit) == a_plan().arm_of(unit) == "champion"
    assert a_test(WEIGHT_STEPS).arm_of(unit) == "challenger"


@pytest.mark.parametrize("weight", [1, 100, 500, 990])
def test_the_challenger_gets_its_share_of_units(weight: int) -> None:
    share = sum(a_test(weight).arm_of(unit) == "challenger" for unit in UNITS) / len(UNITS)
    expected = weight / WEIGHT_STEPS

    assert abs(share - expected) < 5 * (expected * (1 - expected) / len(UNITS)) ** 0.5


def test_arms_of_two_experiments_are_independent() -> None:
    first, second = a_test(500, "first"), a_test(500, "second")
    both = sum(first.arm_of(unit) == second.arm_of(unit) == "challenger" for unit in UNITS) / len(UNITS)

    assert abs(both - 0.25) < 5 * (0.25 * 0.75 / len(UNITS)) ** 0.5


def test_versions_are_those_that_may_be_asked_to_serve() -> None:
    plan = a_test(100)

    assert plan.versions() == {1: f"{1:064x}", 2: "ab"}
    assert (plan.version_of("champion"), plan.version_of("challenger")) == (1, 2)
    assert a_plan().versions() == {1: f"{1:064x}"}
    with pytest.raises(ContractError, match="no challenger"):
        a_plan().version_of("challenger")


@pytest.mark.parametrize(
    "changes",
    [
        {"challenger": 2, "challenger_digest": "ab", "weight": -1},
        {"challenger": 2, "challenger_digest": "ab", "weight": WEIGHT_STEPS + 1},
        {"challenger": 2, "challenger_digest": "ab", "mirror_share": WEIGHT_STEPS + 1},
        {"weight": 1},
        {"mirror_share": 1},
        {"interleaving": True},
        {"challenger": 2},
        {"challenger_digest": "ab"},
        {"challenger": 1, "challenger_digest": "ab"},
    ],
)
def test_a_plan_that_makes_no_sense_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ContractError):
        a_plan(**changes)


def test_text_that_is_no_utf_8_is_refused() -> None:
    with pytest.raises(ContractError):
        TrafficPlan.decode(b'{"model": "\xff"}')


@given(st.binary(max_size=40))
def test_garbage_is_refused(garbage: bytes) -> None:
    with pytest.raises(ContractError, match="not a traffic plan"):
        TrafficPlan.decode(garbage)


def test_a_plan_that_makes_no_sense_is_refused_when_read_too() -> None:
    raw = a_plan().encode().replace(b'"weight":0', b'"weight":7')

    with pytest.raises(ContractError, match="need a challenger"):
        TrafficPlan.decode(raw)
