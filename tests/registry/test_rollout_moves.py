"""The moves of a rollout, pure: who may start, where its units lie, what is left when it ends."""

from typing import Any

import pytest

from registry.contracts.rollouts import RolloutSpec, Step
from registry.contracts.traffic import Experiment, Layer, Override, TrafficPlan
from registry.decisions import Decision
from registry.errors import RolloutConflict, UnknownVersion
from registry.promotion import with_experiment
from registry.rollout_moves import advance, end_holdback, start
from tests.builders import NOW_MS, a_plan, a_spec, a_stored

WORDS: dict[str, Any] = {"who": "ann", "why": "new", "now_ms": NOW_MS}


def plan_of(decision: Decision) -> TrafficPlan:
    assert decision.plan is not None
    return decision.plan


def test_who_has_no_champion_has_nothing_to_compare_with() -> None:
    with pytest.raises(UnknownVersion, match="has no champion to compare with: promote a version first"):
        start(None, a_stored(), a_spec(), **WORDS)


def test_a_version_that_is_there_already_does_not_start_again() -> None:
    with pytest.raises(RolloutConflict, match="version 1 of 'codesearch' is its champion already"):
        start(a_plan(champion=1), a_stored(1), a_spec(), **WORDS)
    begun = plan_of(start(a_plan(champion=1), a_stored(2), a_spec(), **WORDS))
    with pytest.raises(RolloutConflict, match="version 2 of 'codesearch' is in experiment 'rollout-2' already"):
        start(begun, a_stored(2), a_spec(), layer="other", **WORDS)


def test_the_champion_of_before_may_start_while_it_is_held_back() -> None:
    held = Experiment("holdback-1", 2, f"{2:064x}", 10, kind="holdback")
    plan = with_experiment(a_plan(champion=1), held, layer="holdback", salt="s")

    assert plan_of(start(plan, a_stored(2), a_spec(), **WORDS)).experiment("rollout-3") is not None


def test_a_rollout_s_units_lie_beside_those_of_other_experiments_and_fit_its_largest_step() -> None:
    mine = Experiment("mine", 7, f"{7:064x}", 100, first=50)
    plan = with_experiment(a_plan(champion=1), mine, layer="rollout", salt="s")
    rollout = start(plan, a_stored(2), a_spec(), **WORDS).moves[0].rollout
    assert rollout.first == 150

    small = RolloutSpec((Step("ab", "ab", 50),))
    assert start(plan, a_stored(2), small, **WORDS).moves[0].rollout.first == 0
    large = RolloutSpec((Step("ab", "ab", 900),))
    with pytest.raises(RolloutConflict, match="layer 'rollout' has no 900 free buckets side by side"):
        start(plan, a_stored(2), large, **WORDS)


def test_units_stay_in_their_arm_from_step_to_step_and_other_rollouts_draw_others() -> None:
    units = [f"user-{i}" for i in range(3000)]
    decision = start(a_plan(champion=1), a_stored(2), a_spec(), **WORDS)
    arms = []
    for _ in range(3):
        decision = advance(decision.moves[0].rollout, plan_of(decision), (), **WORDS)
        arms.append({unit for unit in units if plan_of(decision).assign(unit).arm == "challenger"})
    assert [len(arm) > 0 for arm in arms] == [False, True, True]
    assert arms[1] < arms[2]

    spec = RolloutSpec((Step("ab", "ab", 100),))
    later = plan_of(start(a_plan(champion=1, revision=40), a_stored(2), spec, **WORDS))
    again = {unit for unit in units if later.assign(unit).arm == "challenger"}
    assert 0 < len(again & arms[1]) < len(again) / 3


def test_the_same_units_are_held_back_after_every_promotion() -> None:
    spec = RolloutSpec((Step("ab", "ab", 100),), holdback_weight=50)
    held = []
    for revision, champion, version in ((1, 1, 2), (20, 2, 3)):
        begun = start(a_plan(champion=champion, revision=revision), a_stored(version), spec, **WORDS)
        promoted = advance(begun.moves[0].rollout, plan_of(begun), (), **WORDS)
        plan = plan_of(promoted)
        assert (plan.champion, plan.revision) == (version, revision + 2)
        held.append({i for i in range(3000) if plan.assign(f"user-{i}").version == champion})
    assert held[0] == held[1] != set()


def test_a_promotion_without_a_holdback_ends_the_rollout_and_keeps_testers_and_exploration() -> None:
    testers = (Override("ann", 3, "three"),)
    spec = RolloutSpec((Step("ab", "ab", 100),), holdback_weight=0)
    begun = start(a_plan(champion=1, overrides=testers, explore_share=20), a_stored(2), spec, **WORDS)
    promoted = advance(begun.moves[0].rollout, plan_of(begun), (), **WORDS)

    assert plan_of(promoted) == a_plan(revision=3, champion=2, overrides=testers, explore_share=20)
    assert promoted.moves[0].rollout.open is False
    with pytest.raises(RolloutConflict, match="holds nobody back"):
        end_holdback(promoted.moves[0].rollout, plan_of(promoted), **WORDS)


def test_an_interleaving_step_drafts_and_a_mirror_is_unseen() -> None:
    spec = RolloutSpec((Step("mirror", "mirror", mirror_share=50), Step("draft", "interleaving", 100)))
    begun = start(a_plan(champion=1), a_stored(2), spec, **WORDS)
    digest = f"{2:064x}"
    assert plan_of(begun).layers == (
        Layer("rollout", "codesearch-2", (Experiment("rollout-2", 2, digest, mirror_share=50),)),
    )

    drafted = advance(begun.moves[0].rollout, plan_of(begun), (), **WORDS)
    assert plan_of(drafted).experiments == (Experiment("rollout-2", 2, digest, 100, kind="interleaving"),)
