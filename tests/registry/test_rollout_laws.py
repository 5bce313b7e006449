"""Laws of rollout control, held against whatever a machine does to it in whatever order."""

from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from registry.contracts.rollouts import Rollout
from registry.contracts.traffic import TrafficPlan
from registry.decisions import Decision
from registry.errors import RolloutConflict, StaleRevision
from registry.promotion import promote, without_experiments
from registry.rollout_moves import abort, advance, end_holdback, pause, resume, roll_back, start
from registry.rollouts import RolloutControl
from registry.traffic_control import MemoryControl, SqlControl
from tests.builders import NOW_MS, a_plan, a_spec, a_stored

MODEL = "codesearch"
LAYERS = st.sampled_from(["one", "two", "three"])
VERSIONS = st.integers(1, 5)
AHEAD = {"advanced": 1, "promoted": 0}


class Controllers(RuleBasedStateMachine):
    """Several controllers and people: they look, remember what they saw, and act on it sooner or later."""

    def __init__(self) -> None:
        super().__init__()
        self.control: RolloutControl = self.make_control()
        self.now_ms = NOW_MS
        self.control.change(a_plan(MODEL, champion=1), expected_revision=0, evidence={}, **self.words())
        self.seen: list[tuple[TrafficPlan, list[Rollout]]] = []

    def make_control(self) -> RolloutControl:
        return MemoryControl()

    def words(self) -> dict[str, Any]:
        self.now_ms += 1
        return {"who": "machine", "why": "to see", "now_ms": self.now_ms}

    @rule()
    def look(self) -> None:
        """Somebody remembers how things stand."""
        plan = self.control.plan(MODEL)
        assert plan is not None
        self.seen = [*self.seen[-4:], (plan, self.control.rollouts(MODEL))]

    def what_is_acted_on(self, data: st.DataObject) -> tuple[TrafficPlan, list[Rollout]]:
        """Mostly how things stand, sometimes how they stood."""
        if data.draw(st.integers(0, 3)) or not self.seen:
            self.look()
            return self.seen[-1]
        return data.draw(st.sampled_from(self.seen))

    @rule(data=st.data(), version=VERSIONS, layer=LAYERS)
    def start(self, data: st.DataObject, version: int, layer: str) -> None:
        plan, _ = self.what_is_acted_on(data)
        self.attempt(plan, None, lambda: start(plan, a_stored(version), a_spec(), layer=layer, **self.words()))

    @rule(data=st.data(), times=st.integers(1, 4))
    def advance(self, data: st.DataObject, times: int) -> None:
        for _ in range(times):
            plan, rollouts = self.what_is_acted_on(data)
            if active := [rollout for rollout in rollouts if rollout.active]:
                rollout = data.draw(st.sampled_from(active))
                self.attempt(plan, rollout, partial(advance, rollout, plan, (), **self.words()))

    @rule(data=st.data(), move=st.sampled_from(["roll_back", "abort", "pause", "resume", "end_holdback"]))
    def move(self, data: st.DataObject, move: str) -> None:
        plan, rollouts = self.what_is_acted_on(data)
        if not rollouts:
            return
        rollout = data.draw(st.sampled_from(rollouts))
        decide = {
            "roll_back": lambda: roll_back(rollout, plan, (), **self.words()),
            "abort": lambda: abort(rollout, plan, **self.words()),
            "pause": lambda: pause(rollout, **self.words()),
            "resume": lambda: resume(rollout, **self.words()),
            "end_holdback": lambda: end_holdback(rollout, plan, **self.words()),
        }[move]
        self.attempt(plan, rollout, decide)

    @rule(data=st.data(), version=VERSIONS)
    def promote_by_hand(self, data: st.DataObject, version: int) -> None:
        plan, _ = self.what_is_acted_on(data)
        planned = promote(plan, MODEL, version, f"{version:064x}")
        self.attempt(plan, None, lambda: Decision(**self.words(), plan=planned))

    @rule(data=st.data())
    def roll_back_by_hand(self, data: st.DataObject) -> None:
        plan, _ = self.what_is_acted_on(data)
        planned = without_experiments(plan, [experiment.name for experiment in plan.experiments])
        self.attempt(plan, None, lambda: Decision(**self.words(), plan=planned))

    def attempt(self, plan: TrafficPlan, rollout: Rollout | None, decide: Any) -> None:
        """What is decided on the past is refused and changes nothing; what is decided on the present is true."""
        before = self.everything()
        try:
            decision = decide()
        except RolloutConflict:
            return
        plan_is_stale = decision.plan is not None and self.control.plan(MODEL) != plan
        rollout_is_stale = rollout is not None and self.control.rollout(rollout.id) != rollout
        try:
            self.control.decide(decision)
        except StaleRevision:
            assert plan_is_stale or rollout_is_stale
            assert self.everything() == before
            return
        except RolloutConflict:
            assert self.everything() == before
            return
        assert not plan_is_stale
        assert not rollout_is_stale
        for move in decision.moves:
            assert self.control.rollout(move.rollout.id) == move.rollout

    def everything(self) -> list[Any]:
        histories = [self.control.rollout_history(one.id) for one in self.control.rollouts()]
        return [self.control.history(MODEL), histories]

    @invariant()
    def revisions_have_no_gap_and_histories_end_in_what_is(self) -> None:
        history = self.control.history(MODEL)
        assert [change.revision for change in history] == list(range(1, len(history) + 1))
        assert history[-1].plan == self.control.plan(MODEL)
        for rollout in self.control.rollouts():
            changes = self.control.rollout_history(rollout.id)
            assert [change.rollout.revision for change in changes] == list(range(1, len(changes) + 1))
            assert changes[-1].rollout == rollout
            assert [c.plan_revision for c in changes] == sorted(c.plan_revision for c in changes)

    @invariant()
    def a_layer_has_one_active_rollout_at_most(self) -> None:
        layers = [rollout.layer for rollout in self.control.rollouts() if rollout.active]
        assert len(layers) == len(set(layers))

    @invariant()
    def an_active_rollout_is_in_the_plan_as_its_step_says_and_an_ended_one_is_not(self) -> None:
        plan = self.control.plan(MODEL)
        assert plan is not None
        for rollout in self.control.rollouts():
            there = plan.experiment(rollout.experiment)
            if rollout.active:
                assert there == rollout.experiment_at(rollout.step)
                assert (plan.champion, plan.champion_digest) == (rollout.champion, rollout.champion_digest)
            else:
                assert there is None
                held = rollout.holdback_until_ms is not None
                assert (plan.experiment(rollout.holdback) is not None) == held

    @invariant()
    def every_plan_has_one_champion_that_was_decided_on(self) -> None:
        """A champion comes from a promotion: its change names the version that was to be promoted."""
        history = self.control.history(MODEL)
        for before, after in pairwise(history):
            if after.plan.champion != before.plan.champion:
                ended = [
                    change
                    for rollout in self.control.rollouts()
                    for change in self.control.rollout_history(rollout.id)
                    if change.plan_revision == after.revision and change.what in ("promoted", "superseded")
                ]
                promoted = [change.rollout.challenger for change in ended if change.what == "promoted"]
                assert not promoted or promoted == [after.plan.champion]
                still = [layer.name for layer in after.plan.layers]
                assert still in ([], ["holdback"])

    @invariant()
    def steps_are_taken_one_by_one(self) -> None:
        for rollout in self.control.rollouts():
            changes = self.control.rollout_history(rollout.id)
            for before, after in pairwise(changes):
                assert after.rollout.step - before.rollout.step == AHEAD.get(after.what, 0)
                assert before.rollout.active or after.what == "holdback_ended"

    def teardown(self) -> None:
        if isinstance(self.control, SqlControl):
            self.control.close()


TestMemoryLaws = Controllers.TestCase
TestMemoryLaws.settings = settings(max_examples=60, stateful_step_count=40)


def test_the_laws_hold_on_sqlite(tmp_path: Path) -> None:
    numbers = iter(range(10_000))

    class OnSqlite(Controllers):
        def make_control(self) -> RolloutControl:
            return SqlControl(f"sqlite:///{tmp_path}/{next(numbers)}.db")

    run_state_machine_as_test(
        OnSqlite, settings=settings(max_examples=6, stateful_step_count=20, phases=[Phase.generate])
    )
