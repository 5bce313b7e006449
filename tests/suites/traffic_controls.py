"""What every traffic control does: one plan a model, changed by compare-and-set, with its history."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from registry.contracts.errors import InvalidName
from registry.contracts.traffic import TrafficPlan
from registry.errors import StaleRevision
from registry.traffic_control import TrafficControl
from tests.builders import NOW_MS, a_plan, a_tested_plan


def change(control: TrafficControl, plan: TrafficPlan, expected: int, **words: Any) -> TrafficPlan:
    given: dict[str, Any] = {"who": "ann", "why": "better", "evidence": {"lift": 0.01}, "now_ms": NOW_MS} | words
    return control.change(plan, expected_revision=expected, **given)


class TrafficControlSuite:
    """Subclasses supply the fixture `control`, without plans."""

    def test_an_unknown_model_has_neither_plan_nor_history(self, control: TrafficControl) -> None:
        assert (control.plan("codesearch"), control.history("codesearch"), control.models()) == (None, [], [])

    def test_the_first_plan_has_revision_one(self, control: TrafficControl) -> None:
        stored = change(control, a_plan(revision=77), expected=0)

        assert stored == a_plan(revision=1) == control.plan("codesearch")

    def test_every_change_is_a_revision_further_and_kept(self, control: TrafficControl) -> None:
        change(control, a_plan(champion=1), expected=0, why="first")
        challenged = a_tested_plan(champion=1, weight=100)
        change(control, challenged, expected=1, who="gate", evidence={"verdict": "passed", "n": 3}, now_ms=NOW_MS + 1)

        assert [(c.revision, c.who, c.why, dict(c.evidence), c.at_ms) for c in control.history("codesearch")] == [
            (1, "ann", "first", {"lift": 0.01}, NOW_MS),
            (2, "gate", "better", {"verdict": "passed", "n": 3}, NOW_MS + 1),
        ]
        assert control.history("codesearch")[-1].plan == control.plan("codesearch")

    @pytest.mark.parametrize("expected", [0, 1, 3])
    def test_a_change_decided_on_another_revision_is_refused_and_leaves_nothing(
        self, control: TrafficControl, expected: int
    ) -> None:
        change(control, a_plan(champion=1), expected=0)
        change(control, a_plan(champion=2), expected=1)

        with pytest.raises(StaleRevision, match="at revision 2") as refused:
            change(control, a_plan(champion=3), expected=expected)

        assert (refused.value.expected, refused.value.actual) == (expected, 2)
        assert control.plan("codesearch") == a_plan(revision=2, champion=2)
        assert len(control.history("codesearch")) == 2

    def test_a_change_of_a_plan_that_is_not_there_is_refused(self, control: TrafficControl) -> None:
        with pytest.raises(StaleRevision) as refused:
            change(control, a_plan(), expected=1)

        assert (refused.value.actual, control.plan("codesearch"), control.history("codesearch")) == (0, None, [])

    def test_models_are_apart(self, control: TrafficControl) -> None:
        change(control, a_plan("two"), expected=0)
        change(control, a_plan("one"), expected=0)
        change(control, a_plan("one", champion=5), expected=1)

        assert control.models() == ["one", "two"]
        assert control.plan("two") == a_plan("two", revision=1)

    def test_a_model_name_that_breaks_the_rule_is_refused(self, control: TrafficControl) -> None:
        with pytest.raises(InvalidName):
            change(control, a_plan("No Model"), expected=0)

    def test_of_those_who_decide_on_the_same_revision_one_wins(self, control: TrafficControl) -> None:
        def attempt(champion: int) -> bool:
            try:
                change(control, a_plan(champion=champion), expected=round_)
            except StaleRevision:
                return False
            return True

        for round_ in range(4):
            with ThreadPoolExecutor(4) as pool:
                won = list(pool.map(attempt, range(1, 9)))
            plan = control.plan("codesearch")
            assert plan is not None
            assert (sum(won), plan.revision, won[plan.champion - 1]) == (1, round_ + 1, True)
        assert [c.revision for c in control.history("codesearch")] == [1, 2, 3, 4]
