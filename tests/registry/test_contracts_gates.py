"""A gate's terms: refused with the rule they break, part of a step, and absent from what was stored before them."""

from typing import Any

import msgspec
import pytest

from registry.contracts.errors import ContractError
from registry.contracts.gates import GATE_DAY_S, GateTerms
from registry.contracts.rollouts import RolloutSpec, Step, aa_spec, default_spec


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"looks": 0}, "looks=0: expected 1 to 1000"),
        ({"look_s": 0.5}, "look_s=0.5: expected >= 1"),
        ({"clicks_within_s": 0.0}, "clicks_within_s=0: expected > 0"),
        ({"alpha": 0.5}, "alpha=0.5: expected 0 < alpha < 0.5"),
        ({"power": 1.0}, "power=1: expected 0 < power < 1"),
        ({"effect": 0.0}, "effect=0: expected more than the margin, 0"),
        ({"least": 0.008}, "reaches it in half of all cases at best"),
        ({"margin": -0.02, "rollback_margin": 0.0}, "rollback_margin=0.0: expected over -1 and not over the margin"),
        ({"rollback_at": 0.0}, "rollback_at=0.0: expected > 0"),
        ({"min_units": 1}, "min_units=1: expected >= 2"),
        ({"history_s": -1.0}, "history_s=-1: expected >= 0"),
    ],
)
def test_terms_that_cannot_be_meant_are_refused(changes: dict[str, Any], rule: str) -> None:
    with pytest.raises(ContractError, match="gate") as told:
        GateTerms(**changes)

    assert rule in str(told.value)


@pytest.mark.parametrize(
    ("step", "rule"),
    [
        ({"kind": "mirror", "mirror_share": 10, "gate": GateTerms()}, "has no clicks to judge"),
        ({"kind": "interleaving", "weight": 10, "gate": GateTerms(margin=-0.1)}, "gate.margin: interleaving has none"),
        ({"kind": "interleaving", "weight": 10, "gate": GateTerms(least=0.001)}, "gate.least: interleaving has none"),
    ],
)
def test_a_step_has_a_gate_only_where_people_click_and_of_its_kind(step: dict[str, Any], rule: str) -> None:
    with pytest.raises(ContractError, match=rule):
        Step("s", **step)


def test_a_spec_from_before_there_were_gates_has_none_and_is_no_aa() -> None:
    old = msgspec.to_builtins(default_spec(interleaving=True))
    for step in old["steps"]:
        del step["gate"]
    del old["aa"]
    read = RolloutSpec.decode(msgspec.json.encode(old))

    assert [step.gate for step in read.steps] == [None] * len(read.steps)
    assert not read.aa


def test_the_default_steps_wait_for_their_last_look_and_two_days() -> None:
    for step in default_spec(interleaving=True).steps:
        if step.gate is not None:
            assert step.max_s == step.gate.horizon_s + 2 * GATE_DAY_S
            assert [need.kind for need in step.needs] == [step.gate_evidence]


def test_after_interleaving_an_equal_may_pass_the_ab_alone_it_has_to_be_better() -> None:
    (after,) = [step.gate for step in default_spec(interleaving=True).steps if step.kind == "ab" and step.gate]
    (alone,) = [step.gate for step in default_spec().steps if step.kind == "ab" and step.gate]

    assert (after.margin, after.effect, after.least) == (-0.02, 0.0, None)
    assert (alone.margin, alone.least) == (0.0, 0.008)


def test_an_aa_has_both_paths_and_no_holdback() -> None:
    spec = aa_spec()

    assert [step.kind for step in spec.steps] == ["interleaving", "ab"]
    assert (spec.aa, spec.holdback_weight) == (True, 0)
    assert RolloutSpec.decode(msgspec.json.encode(spec)) == spec
