"""Promotion, and what a store that is away in between leaves to repair."""

from typing import Any

import pytest
from msgspec.structs import replace

from registry.board import MemoryBoard
from registry.contracts.errors import ContractError
from registry.contracts.traffic import Experiment, Layer, Override, TrafficPlan
from registry.errors import StaleRevision, StoreUnavailable, UnknownVersion
from registry.promotion import Promoter, previous_champion, promote, with_experiment, without_experiment
from registry.store import MemoryStore
from registry.traffic_control import MemoryControl, TrafficChange
from tests.builders import NOW_MS, a_package, a_plan

WORDS: dict[str, Any] = {"who": "ann", "why": "better", "evidence": {"verdict": "passed"}, "now_ms": NOW_MS}
TEST = Experiment("test", 2, f"{2:064x}", 250, mirror_share=10)


def a_history(*champions: int) -> list[TrafficChange]:
    return [
        TrafficChange(a_plan(revision=i + 1, champion=champion), NOW_MS + i, "ann", "better", {})
        for i, champion in enumerate(champions)
    ]


class Places:
    """A promoter over stores in memory with three versions registered."""

    def __init__(self, board: MemoryBoard | None = None, store: MemoryStore | None = None) -> None:
        self.board, self.store, self.control = board or MemoryBoard(), store or MemoryStore(), MemoryControl()
        for scale in (1.0, 2.0, 3.0):
            self.store.register("codesearch", a_package(scale))
        self.promoter = Promoter(self.store, self.control, self.board)

    def promote(self, version: int) -> TrafficPlan:
        digest = self.store.get("codesearch", version).digest
        return self.promoter.apply(promote(self.control.plan("codesearch"), "codesearch", version, digest), **WORDS)

    def champions(self) -> tuple[int | None, int | None, int | None]:
        """As decided, as shown on the board, as the alias says."""
        plan, shown = self.control.plan("codesearch"), self.board.read().get("codesearch")
        alias = self.store.aliases("codesearch").get("champion")
        return plan.champion if plan else None, shown.champion if shown else None, alias


def test_the_first_champion_needs_no_plan_before() -> None:
    assert promote(None, "codesearch", 7, f"{7:064x}") == TrafficPlan("codesearch", 1, 7, f"{7:064x}")


def test_a_promoted_version_stands_alone() -> None:
    testers = (Override("ann", 3, "three"),)
    plan = with_experiment(a_plan(revision=4, overrides=testers), TEST, layer="rollout", salt="s")

    assert (plan.revision, list(plan.versions())) == (5, [1, 2, 3])
    assert promote(plan, "codesearch", 2, f"{2:064x}") == a_plan(revision=6, champion=2, overrides=testers)


def test_an_experiment_that_grows_keeps_its_layer_s_salt() -> None:
    plan = with_experiment(a_plan(), TEST, layer="rollout", salt="first")
    grown = with_experiment(plan, replace(TEST, weight=500), layer="rollout", salt="second")

    assert grown.layers == (Layer("rollout", "first", (replace(TEST, weight=500),)),)


def test_the_last_experiment_takes_its_layer_with_it() -> None:
    other = replace(TEST, name="other", first=500)
    plan = with_experiment(a_plan(), TEST, layer="rollout", salt="s")
    plan = with_experiment(plan, other, layer="rollout", salt="s")
    plan = without_experiment(plan, "test")

    assert plan.layers == (Layer("rollout", "s", (other,)),)
    assert without_experiment(plan, "other") == a_plan(revision=5)


def test_buckets_are_nobody_s_twice() -> None:
    plan = with_experiment(a_plan(), TEST, layer="rollout", salt="s")

    with pytest.raises(ContractError, match="takes buckets of another"):
        with_experiment(plan, replace(TEST, name="other", first=249), layer="rollout", salt="s")
    with_experiment(plan, replace(TEST, name="other", first=249), layer="another", salt="t")


@pytest.mark.parametrize(
    ("champions", "previous"),
    [
        ((), None),
        ((1,), None),
        ((1, 1, 1), None),
        ((1, 2), 1),
        ((1, 2, 2, 3, 3), 2),
        ((1, 2, 3, 2), 1),  # 3 was rolled back: not to it again
        ((1, 2, 3, 2, 1), None),
        ((1, 2, 1, 3), 1),
    ],
)
def test_going_back_undoes_and_never_returns(champions: tuple[int, ...], previous: int | None) -> None:
    assert previous_champion(a_history(*champions)) == previous


def test_a_promotion_is_decided_recorded_shown_and_named() -> None:
    places = Places()
    plan = places.promote(2)

    assert places.champions() == (2, 2, 2)
    assert plan.champion_digest == a_package(2.0).digest
    [change] = places.control.history("codesearch")
    assert (change.plan, change.who, change.why, change.evidence, change.at_ms) == (
        plan,
        "ann",
        "better",
        {"verdict": "passed"},
        NOW_MS,
    )


def test_a_promotion_decided_on_an_older_plan_changes_nothing() -> None:
    places = Places()
    older = places.promote(1)
    places.promote(2)

    with pytest.raises(StaleRevision) as refused:
        places.promoter.apply(promote(older, "codesearch", 3, places.store.get("codesearch", 3).digest), **WORDS)
    assert (refused.value.actual, places.champions()) == (2, (2, 2, 2))


def test_the_challenger_s_alias_follows_the_plan() -> None:
    places = Places()
    plan = places.promote(1)
    places.promoter.apply(with_experiment(plan, TEST, layer="rollout", salt="s"), **WORDS)
    assert places.store.aliases("codesearch") == {"champion": 1, "challenger": 2}

    places.promote(2)
    assert places.store.aliases("codesearch") == {"champion": 2}


class BoardThatMayBeAway(MemoryBoard):
    away = False

    def publish(self, plan: TrafficPlan) -> None:
        if self.away:
            raise StoreUnavailable("Redis is away")
        super().publish(plan)


class StoreThatMayBeAway(MemoryStore):
    away = False

    def set_alias(self, model: str, alias: str, version: int) -> None:
        if self.away:
            raise StoreUnavailable("MLflow is away")
        super().set_alias(model, alias, version)


def test_a_board_that_is_away_hides_the_decision_until_repair() -> None:
    board = BoardThatMayBeAway()
    places = Places(board=board)
    places.promote(1)
    board.away = True

    with pytest.raises(StoreUnavailable, match="revision 2 of 'codesearch' is decided and recorded"):
        places.promote(2)
    assert places.champions() == (2, 1, 1)
    board.away = False
    places.promoter.repair()
    places.promoter.repair()

    assert places.champions() == (2, 2, 2)
    assert len(places.control.history("codesearch")) == 2


def test_an_alias_that_could_not_move_moves_at_repair() -> None:
    store = StoreThatMayBeAway()
    places = Places(store=store)
    places.promote(1)
    store.away = True

    with pytest.raises(StoreUnavailable, match="is decided and recorded"):
        places.promote(2)
    assert places.champions() == (2, 2, 1)
    store.away = False
    places.promoter.repair()

    assert places.champions() == (2, 2, 2)


def test_repair_shows_all_plans_before_it_asks_for_aliases() -> None:
    places = Places()
    for plan in (a_plan("a-model-gone-from-the-store"), a_plan("codesearch")):
        places.control.change(plan, expected_revision=0, **WORDS)  # and then the process was killed

    with pytest.raises(UnknownVersion):
        places.promoter.repair()
    assert set(places.board.read()) == {"a-model-gone-from-the-store", "codesearch"}


def test_a_publisher_who_comes_late_does_not_turn_the_alias_back() -> None:
    class ControlThatIsOvertaken(MemoryControl):
        """Another process decides right after every change."""

        def change(self, plan: TrafficPlan, **words: Any) -> TrafficPlan:
            stored = super().change(plan, **words)
            later = promote(stored, "codesearch", 3, places.store.get("codesearch", 3).digest)
            super().change(later, **(words | {"expected_revision": stored.revision}))
            return stored

    places = Places()
    places.control = ControlThatIsOvertaken()
    places.promoter = Promoter(places.store, places.control, places.board)
    places.promote(2)

    assert places.champions() == (3, 3, 3)
