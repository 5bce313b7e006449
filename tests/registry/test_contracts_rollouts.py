"""Records of rollouts: what a spec may say, and evidence that is named by its content."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.contracts.errors import ContractError
from registry.contracts.rollouts import (
    Evidence,
    GuardrailLimits,
    Need,
    Rollout,
    RolloutChange,
    RolloutSpec,
    Step,
    default_spec,
)
from registry.rollout_moves import start
from tests.builders import NOW_MS, a_plan, a_spec, a_stored, some_evidence

ROLLOUT = start(a_plan(), a_stored(), a_spec(), who="ann", why="new", now_ms=NOW_MS).moves[0].rollout
scalars = st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(-1e300, 1e300) | st.text(max_size=5)
plain = scalars | st.lists(scalars, max_size=3) | st.dictionaries(st.text(max_size=5), scalars, max_size=3)


@pytest.mark.parametrize("spec", [default_spec(), default_spec(interleaving=True, online_gate=False), a_spec()])
def test_a_rollout_and_its_change_come_back_as_they_were(spec: RolloutSpec) -> None:
    rollout = start(a_plan(), a_stored(), spec, who="ann", why="é", now_ms=NOW_MS).moves[0].rollout
    change = RolloutChange(rollout, "started", NOW_MS, "ann", "é", 2, ("a" * 64,))

    assert Rollout.decode(rollout.encode()) == rollout
    assert RolloutChange.decode(change.encode()) == change


@given(st.dictionaries(st.text(max_size=5), plain, max_size=4))
def test_evidence_comes_back_as_it_was_with_the_same_id(body: dict[str, Any]) -> None:
    evidence = some_evidence(ROLLOUT, "rank_diff", body=body)
    again = Evidence.decode(evidence.encode())

    assert (again, again.id) == (evidence, evidence.id)


def test_the_order_in_a_body_does_not_make_other_evidence_and_any_other_content_does() -> None:
    one = some_evidence(ROLLOUT, "rank_diff", body={"a": 1, "b": 2})

    assert some_evidence(ROLLOUT, "rank_diff", body={"b": 2, "a": 1}).id == one.id
    others = [
        some_evidence(ROLLOUT, "rank_diff", body={"a": 1, "b": 3}),
        some_evidence(ROLLOUT, "rank_diff", "failed", body={"a": 1, "b": 2}),
        some_evidence(ROLLOUT, "drift", body={"a": 1, "b": 2}),
        some_evidence(ROLLOUT, "rank_diff", body={"a": 1, "b": 2}, plan_revision=7),
    ]
    assert len({one.id, *(other.id for other in others)}) == 5


@pytest.mark.parametrize(
    ("what", "why"),
    [
        (lambda: Step("", "gate"), "a step needs a name"),
        (lambda: Step("a", "ab"), "step 'a': weight=0: ab needs traffic"),
        (lambda: Step("a", "ab", 1000), "step 'a': weight=1000: expected 0 to 999"),
        (lambda: Step("a", "gate", 1), "step 'a': weight=1: a gate has none"),
        (lambda: Step("a", "gate", mirror_share=1), "mirror_share=1: a gate has none"),
        (lambda: Step("a", "mirror"), "mirror_share=0: a mirror needs a share"),
        (lambda: Step("a", "mirror", mirror_share=1001), "mirror_share=1001: expected 0 to 1000"),
        (lambda: Step("a", "ab", 1, min_s=-1), "min_s=-1: expected >= 0"),
        (lambda: Step("a", "ab", 1, min_answers=-1), "min_answers=-1: expected >= 0"),
        (lambda: Step("a", "ab", 1, min_s=5, max_s=5), "max_s=5: expected more than min_s"),
        (lambda: RolloutSpec(()), "a rollout needs a step"),
        (lambda: RolloutSpec((Step("a", "gate"), Step("a", "gate"))), "step 'a' is there twice"),
        (lambda: a_spec(holdback_weight=501), "holdback_weight=501: expected 0 to 500"),
        (lambda: a_spec(holdback_s=-1.0), "holdback_s=-1: expected >= 0"),
        (lambda: Need("Online Gate"), "kind='Online Gate': expected 1 to 32 of"),
        (lambda: Need("drift", max_age_s=0), "need 'drift': max_age_s=0: expected > 0"),
        (lambda: GuardrailLimits(p99_ratio=-0.1), "guardrails.p99_ratio=-0.1: expected >= 0"),
        (lambda: GuardrailLimits(alpha=1.0), "guardrails.alpha=1: expected 0 < chance < 1"),
        (lambda: GuardrailLimits(stale_s=0), "guardrails.stale_s=0: expected > 0"),
        (lambda: some_evidence(ROLLOUT, "drift", until_ms=NOW_MS - 1), "its window ends before it begins"),
        (lambda: some_evidence(ROLLOUT, "drift", champion_digest="x"), "champion_digest='x': expected a version's"),
        (lambda: some_evidence(ROLLOUT, "drift", model="No Model"), "model='No Model'"),
        (lambda: RolloutSpec.decode(b'{"steps": [{"name": "a"}]}'), "not a rollout spec: .*kind"),
        (lambda: Rollout.decode(b"{"), "not a rollout: "),
        (lambda: Evidence.decode(b"[]"), "not evidence: "),
    ],
)
def test_what_does_not_fit_is_refused_by_name(what: Any, why: str) -> None:
    with pytest.raises(ContractError, match=why):
        what()
