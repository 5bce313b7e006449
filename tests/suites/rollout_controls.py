"""What every rollout control does: plan and rollouts change together, one active rollout a layer, with histories."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from msgspec.structs import replace

from registry.contracts.rollouts import Rollout
from registry.contracts.traffic import Experiment
from registry.decisions import Decision
from registry.errors import RegistryError, RolloutConflict, StaleRevision, StaleRollout, UnknownRollout
from registry.promotion import promote, with_experiment, without_experiment
from registry.rollout_moves import abort, advance, end_holdback, pause, resume, roll_back, start
from registry.rollouts import RolloutControl
from tests.builders import NOW_MS, a_plan, a_spec, a_stored, some_evidence

WORDS: dict[str, Any] = {"who": "ann", "why": "better", "now_ms": NOW_MS}
ENGINE: dict[str, Any] = {"who": "engine", "why": "all passed", "now_ms": NOW_MS + 1000}


def started(control: RolloutControl, version: int = 2, layer: str = "rollout", **changes: Any) -> Rollout:
    """A rollout of the version against champion 1, which is promoted first if need be."""
    if control.plan("codesearch") is None:
        control.change(a_plan(champion=1), expected_revision=0, evidence={}, **WORDS)
    decision = start(control.plan("codesearch"), a_stored(version), a_spec(**changes), layer=layer, **WORDS)
    control.decide(decision)
    return control.rollout(decision.moves[0].rollout.id)


def state(control: RolloutControl, rollout: Rollout) -> tuple[str, int, int]:
    """Its state, its step and its weight in the plan."""
    now, plan = control.rollout(rollout.id), control.plan(rollout.model)
    assert plan is not None
    experiment = plan.experiment(rollout.experiment)
    return now.state, now.step, experiment.weight if experiment else 0


def everything(control: RolloutControl) -> list[Any]:
    """All that is stored of one model."""
    rollouts = control.rollouts()
    histories = [control.rollout_history(one.id) for one in rollouts]
    return [
        control.plan("codesearch"),
        control.history("codesearch"),
        rollouts,
        histories,
        control.evidence("codesearch"),
    ]


def last(control: RolloutControl, rollout: Rollout) -> Rollout:
    """At its last step."""
    for _ in rollout.spec.steps[1:]:
        plan = control.plan(rollout.model)
        assert plan is not None
        control.decide(advance(control.rollout(rollout.id), plan, (), **ENGINE))
    return control.rollout(rollout.id)


class RolloutControlSuite:
    """Subclasses supply the fixture `control`, an empty one."""

    def test_nothing_is_there_at_first(self, control: RolloutControl) -> None:
        assert (control.rollouts(), control.rollouts(open_only=True), control.evidence("codesearch")) == ([], [], [])
        assert control.revisions() == {}
        for ask in (control.rollout, control.rollout_history):
            with pytest.raises(UnknownRollout, match="there is no rollout 'codesearch-7'"):
                ask("codesearch-7")

    def test_a_rollout_begins_with_its_plan(self, control: RolloutControl) -> None:
        rollout = started(control)
        plan = control.plan("codesearch")

        assert plan is not None
        assert (rollout.id, rollout.revision, rollout.plan_revision, plan.revision) == ("codesearch-2", 1, 2, 2)
        assert plan.experiments == (Experiment("rollout-2", 2, f"{2:064x}"),)
        [change] = control.rollout_history(rollout.id)
        assert (change.rollout, change.what, change.who, change.why, change.at_ms, change.plan_revision) == (
            *(rollout, "started", "ann", "better", NOW_MS),
            2,
        )
        assert control.history("codesearch")[-1].evidence == {
            "rollout": "codesearch-2",
            "what": "started",
            "step": "offline-gate",
        }

    def test_a_step_moves_rollout_and_plan_and_names_its_evidence_in_both_histories(
        self, control: RolloutControl
    ) -> None:
        rollout = started(control)
        gate = some_evidence(rollout, "offline_gate")
        plan = control.plan("codesearch")
        assert plan is not None
        control.decide(advance(rollout, plan, [gate], **ENGINE))

        assert state(control, rollout) == ("running", 1, 0)
        moved, plan = control.rollout(rollout.id), control.plan("codesearch")
        assert plan is not None
        assert (moved.revision, moved.plan_revision, moved.entered_ms) == (2, 3, NOW_MS + 1000)
        assert [one.mirror_share for one in plan.experiments] == [100]
        assert control.rollout_history(rollout.id)[-1].evidence == (gate.id,)
        assert control.history("codesearch")[-1].evidence["evidence"] == [gate.id]
        assert control.evidence_of([gate.id, "no such"]) == [gate] == control.evidence("codesearch")

    def test_leaving_the_last_step_is_the_promotion_and_holds_the_old_champion_back(
        self, control: RolloutControl
    ) -> None:
        rollout = last(control, started(control))
        assert state(control, rollout) == ("running", 3, 500)
        plan = control.plan("codesearch")
        assert plan is not None
        control.decide(advance(rollout, plan, (), **ENGINE))

        promoted, plan = control.rollout(rollout.id), control.plan("codesearch")
        assert plan is not None
        assert (promoted.state, plan.champion, plan.champion_digest) == ("promoted", 2, f"{2:064x}")
        assert plan.experiments == (Experiment("holdback-2", 1, f"{1:064x}", 10, kind="holdback", mirror_share=10),)
        assert promoted.holdback_until_ms == NOW_MS + 1000 + 86_400_000
        assert control.rollouts(open_only=True) == [promoted]

        control.decide(end_holdback(promoted, plan, **ENGINE))
        plan = control.plan("codesearch")
        assert plan is not None
        assert (plan.champion, plan.layers, control.rollouts(open_only=True)) == (2, (), [])
        whats = [change.what for change in control.rollout_history(rollout.id)]
        assert whats == ["started", "advanced", "advanced", "advanced", "promoted", "holdback_ended"]
        assert [change.rollout.revision for change in control.rollout_history(rollout.id)] == [1, 2, 3, 4, 5, 6]

    @pytest.mark.parametrize(("end", "name"), [(abort, "aborted"), (roll_back, "rolled_back")])
    def test_who_ends_a_rollout_takes_its_traffic(
        self, control: RolloutControl, end: Callable[..., Decision], name: str
    ) -> None:
        rollout = last(control, started(control))
        plan = control.plan("codesearch")
        assert plan is not None
        control.decide(end(rollout, plan, *([()] if end is roll_back else []), **ENGINE))

        assert state(control, rollout) == (name, 3, 0)
        plan = control.plan("codesearch")
        assert plan is not None
        assert (plan.champion, plan.layers, control.rollouts(open_only=True)) == (1, (), [])
        with pytest.raises(RolloutConflict, match=f"is {name}"):
            abort(control.rollout(rollout.id), plan, **WORDS)

    def test_a_pause_and_its_end_leave_the_plan_alone(self, control: RolloutControl) -> None:
        rollout = started(control)
        plan = control.plan("codesearch")
        control.decide(pause(rollout, **WORDS))
        paused = control.rollout(rollout.id)
        with pytest.raises(RolloutConflict, match="only one that is running can be paused"):
            pause(paused, **WORDS)
        control.decide(resume(paused, **WORDS))

        assert control.plan("codesearch") == plan
        assert [(c.what, c.plan_revision) for c in control.rollout_history(rollout.id)] == [
            *(("started", 2), ("paused", 2), ("resumed", 2))
        ]

    def test_what_was_decided_on_an_older_rollout_changes_nothing(self, control: RolloutControl) -> None:
        rollout = started(control)
        plan = control.plan("codesearch")
        assert plan is not None
        control.decide(pause(rollout, **WORDS))
        before = everything(control)

        with pytest.raises(StaleRollout, match="rollout 'codesearch-2' is at revision 2, not 1") as refused:
            control.decide(advance(rollout, plan, [some_evidence(rollout, "offline_gate")], **ENGINE))
        assert (refused.value.expected, refused.value.actual) == (1, 2)
        assert everything(control) == before

    def test_what_was_decided_on_an_older_plan_changes_nothing(self, control: RolloutControl) -> None:
        rollout = started(control)
        plan = control.plan("codesearch")
        assert plan is not None
        control.change(replace(plan, explore_share=10), expected_revision=2, evidence={}, **WORDS)
        before = everything(control)

        with pytest.raises(StaleRevision, match="at revision 3, not 2"):
            control.decide(advance(rollout, plan, [some_evidence(rollout, "offline_gate")], **ENGINE))
        assert everything(control) == before
        assert before[2] == [rollout]

    def test_a_layer_has_one_active_rollout_and_several_layers_have_several(self, control: RolloutControl) -> None:
        first = started(control)
        before = everything(control)
        with pytest.raises(RolloutConflict, match="layer 'rollout' of 'codesearch' has rollout 'codesearch-2'"):
            started(control, version=3)
        assert everything(control) == before

        second = started(control, version=3, layer="other")
        assert [one.id for one in control.rollouts(open_only=True)] == [second.id, first.id]
        plan = control.plan("codesearch")
        assert plan is not None
        assert [layer.name for layer in plan.layers] == ["rollout", "other"]
        assert state(control, first) == state(control, second) == ("running", 0, 0)

    def test_a_layer_is_free_again_when_its_rollout_has_ended(self, control: RolloutControl) -> None:
        first = started(control)
        plan = control.plan("codesearch")
        assert plan is not None
        control.decide(abort(first, plan, **WORDS))

        assert started(control, version=3).state == "running"

    def test_a_promotion_by_hand_supersedes_every_rollout_in_the_same_change(self, control: RolloutControl) -> None:
        first, second = started(control), started(control, version=3, layer="other")
        plan = control.change(
            promote(control.plan("codesearch"), "codesearch", 4, f"{4:064x}"),
            expected_revision=3,
            evidence={"n": 1},
            **WORDS,
        )

        for rollout in (first, second):
            change = control.rollout_history(rollout.id)[-1]
            assert (change.what, change.rollout.state, change.plan_revision) == ("superseded", "superseded", 4)
            assert (change.who, change.why) == ("ann", "better")
        assert (plan.champion, plan.layers) == (4, ())

    def test_the_challenger_promoted_by_hand_is_promoted_and_the_others_are_superseded(
        self, control: RolloutControl
    ) -> None:
        first, second = started(control), started(control, version=3, layer="other")
        control.change(
            promote(control.plan("codesearch"), "codesearch", 2, f"{2:064x}"), expected_revision=3, evidence={}, **WORDS
        )

        assert [control.rollout(one.id).state for one in (first, second)] == ["promoted", "superseded"]
        assert control.rollouts(open_only=True) == []

    def test_who_takes_the_experiment_out_by_hand_rolls_back(self, control: RolloutControl) -> None:
        rollout = started(control)
        plan = control.plan("codesearch")
        assert plan is not None
        taken = without_experiment(plan, rollout.experiment)
        control.change(taken, expected_revision=2, evidence={}, **WORDS)

        assert state(control, rollout) == ("rolled_back", 0, 0)

    def test_nobody_else_changes_a_rollout_s_experiment(self, control: RolloutControl) -> None:
        rollout = started(control)
        plan = control.plan("codesearch")
        assert plan is not None
        before = everything(control)
        grown = replace(rollout.experiment_at(0), weight=1)

        with pytest.raises(RolloutConflict, match="belongs to rollout 'codesearch-2': abort the rollout first"):
            control.change(
                with_experiment(plan, grown, layer="rollout", salt="s"), expected_revision=2, evidence={}, **WORDS
            )
        assert everything(control) == before

    def test_another_experiment_by_hand_leaves_the_rollout_alone(self, control: RolloutControl) -> None:
        rollout = started(control)
        plan = control.plan("codesearch")
        assert plan is not None
        other = Experiment("mine", 7, f"{7:064x}", 100)
        control.change(with_experiment(plan, other, layer="mine", salt="s"), expected_revision=2, evidence={}, **WORDS)

        assert control.rollout(rollout.id) == rollout

    def test_a_promotion_by_hand_ends_a_holdback(self, control: RolloutControl) -> None:
        rollout = last(control, started(control))
        plan = control.plan("codesearch")
        assert plan is not None
        plan = control.decide(advance(rollout, plan, (), **ENGINE))
        assert plan is not None
        control.change(
            promote(plan, "codesearch", 9, f"{9:064x}"), expected_revision=plan.revision, evidence={}, **WORDS
        )

        ended = control.rollout_history(rollout.id)[-1]
        assert (ended.what, ended.rollout.state, ended.rollout.holdback_until_ms) == (
            "holdback_ended",
            "promoted",
            None,
        )

    def test_evidence_is_kept_once_and_found_by_time_and_challenger(self, control: RolloutControl) -> None:
        rollout = started(control)
        early = some_evidence(rollout, "offline_gate", made_ms=NOW_MS - 10)
        late = some_evidence(rollout, "drift", "failed", challenger_digest=f"{3:064x}", made_ms=NOW_MS)
        for _ in range(2):
            assert control.add_evidence(late) == late.id
            control.add_evidence(early)

        assert control.evidence("codesearch") == [early, late]
        assert control.evidence("codesearch", since_ms=NOW_MS) == [late]
        assert control.evidence("codesearch", challenger_digest=f"{2:064x}") == [early]
        assert control.evidence("codesearch", kind="drift") == [late]
        assert control.evidence("codesearch", verdict="passed") == [early]
        assert control.evidence("codesearch", kind="drift", verdict="passed") == []
        assert control.evidence("codesearch", newest=1) == [late]
        assert control.evidence("codesearch", newest=0) == []
        assert control.evidence("other") == []
        assert control.evidence_of([late.id, early.id]) == [late, early]

    def test_models_are_apart_and_the_newest_rollout_is_first(self, control: RolloutControl) -> None:
        first = started(control)
        control.change(a_plan("other", champion=1), expected_revision=0, evidence={}, **WORDS)
        later = WORDS | {"now_ms": NOW_MS + 5}
        control.decide(start(control.plan("other"), a_stored(2, "other"), a_spec(), **later))

        assert [one.id for one in control.rollouts()] == ["other-2", "codesearch-2"]
        assert control.rollouts("codesearch") == [first]
        assert control.revisions() == {"codesearch": 2, "other": 2}

    def test_of_many_who_advance_the_same_rollout_one_does(self, control: RolloutControl) -> None:
        rollout = started(control)
        for step in range(3):
            now, plan = control.rollout(rollout.id), control.plan("codesearch")
            assert plan is not None

            def attempt(number: int, now: Rollout = now, plan: Any = plan) -> bool:
                try:
                    control.decide(advance(now, plan, (), **(ENGINE | {"why": f"engine {number}"})))
                except StaleRevision:
                    return False
                return True

            with ThreadPoolExecutor(4) as pool:
                won = list(pool.map(attempt, range(8)))
            assert (sum(won), control.rollout(rollout.id).step) == (1, step + 1)
            assert control.rollout_history(rollout.id)[-1].why == f"engine {won.index(True)}"
        assert [change.rollout.revision for change in control.rollout_history(rollout.id)] == [1, 2, 3, 4]

    def test_of_many_who_start_in_one_layer_one_does(self, control: RolloutControl) -> None:
        control.change(a_plan(champion=1), expected_revision=0, evidence={}, **WORDS)

        def attempt(version: int) -> bool:
            try:
                control.decide(start(control.plan("codesearch"), a_stored(version), a_spec(), **WORDS))
            except RegistryError as error:
                assert isinstance(error, StaleRevision | RolloutConflict)
                return False
            return True

        with ThreadPoolExecutor(4) as pool:
            won = list(pool.map(attempt, range(2, 10)))
        assert (sum(won), len(control.rollouts())) == (1, 1)

    def test_pauses_and_promotions_at_once_leave_one_order_of_things(self, control: RolloutControl) -> None:
        rollouts = [started(control, version=2 + i, layer=f"layer {i}") for i in range(3)]

        def attempt(job: int) -> None:
            try:
                if job % 3 == 0:
                    plan = control.plan("codesearch")
                    assert plan is not None
                    control.change(
                        promote(plan, "codesearch", 90 + job, f"{90 + job:064x}"),
                        expected_revision=plan.revision,
                        evidence={},
                        **WORDS,
                    )
                else:
                    rollout = control.rollout(rollouts[job % len(rollouts)].id)
                    control.decide((pause if rollout.state == "running" else resume)(rollout, **WORDS))
            except (StaleRevision, RolloutConflict):
                pass

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(attempt, range(12)))
        assert [change.revision for change in control.history("codesearch")] == list(
            range(1, len(control.history("codesearch")) + 1)
        )
        assert control.rollouts(open_only=True) == []
        for rollout in rollouts:
            history = control.rollout_history(rollout.id)
            assert [change.rollout.revision for change in history] == list(range(1, len(history) + 1))
            assert [change.what for change in history].count("superseded") == 1
