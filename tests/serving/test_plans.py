"""Following the plans: the newest revision wins, and the last ones known outlive their source."""

import queue
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.contracts.traffic import TrafficPlan
from registry.errors import StoreUnavailable
from serving.plans import Plans, PlanWatcher, newer
from tests.builders import a_plan, a_tested_plan

PATIENCE_S = 10.0

plan_sets = st.dictionaries(st.sampled_from(["a", "b", "c"]), st.integers(1, 4)).map(
    lambda revisions: {model: a_plan(model, revision) for model, revision in revisions.items()}
)


class Board:
    """Shows whatever it was last given, older revisions too, and does not answer unless it lives."""

    def __init__(self, *plans: TrafficPlan) -> None:
        self.plans = {plan.model: plan for plan in plans}
        self.models_held_back: frozenset[str] = frozenset()
        self.alive = True

    def publish(self, plan: TrafficPlan) -> None:
        self.plans[plan.model] = plan

    def read(self) -> dict[str, TrafficPlan]:
        if not self.alive:
            raise StoreUnavailable("Redis could not read the traffic plans: connection refused")
        return dict(self.plans)

    def hold(self, model: str, wanted: bool) -> None:
        self.models_held_back = self.models_held_back - {model} if wanted else self.models_held_back | {model}

    def held_back(self) -> frozenset[str]:
        if not self.alive:
            raise StoreUnavailable("Redis could not read which models are unloaded: connection refused")
        return self.models_held_back


@given(plan_sets, plan_sets)
def test_of_each_model_the_higher_revision_is_kept(known: Plans, read: Plans) -> None:
    merged = newer(known, read)

    assert merged.keys() == known.keys() | read.keys()
    for model, plan in merged.items():
        there = [plans[model] for plans in (known, read) if model in plans]
        assert plan.revision == max(plan.revision for plan in there)


def test_of_equal_revisions_the_known_one_stays() -> None:
    known, other = {"m": a_plan("m", 2, champion=1)}, {"m": a_plan("m", 2, champion=9)}

    assert newer(known, other) == known


def test_a_new_revision_is_told_once_and_a_lower_one_never(tmp_path: Path) -> None:
    board, told = Board(), list[Plans]()
    watcher = PlanWatcher(board, tmp_path / "plans.json", told.append)
    for revision in (3, 3, 1, 4, 4, 2):
        board.publish(a_plan(revision=revision))
        watcher.poll()

    assert [plans["codesearch"].revision for plans in told] == [3, 4]


def test_while_the_board_is_away_the_last_plans_stay_and_then_new_ones_are_taken(tmp_path: Path) -> None:
    board, told = Board(a_plan(revision=1)), list[Plans]()
    watcher = PlanWatcher(board, tmp_path / "plans.json", told.append)
    watcher.poll()

    board.alive = False
    watcher.poll()
    assert watcher.plans == {"codesearch": a_plan(revision=1)}

    board.alive = True
    board.publish(a_plan(revision=2))
    watcher.poll()
    assert told == [{"codesearch": a_plan(revision=1)}, {"codesearch": a_plan(revision=2)}]


def test_what_is_held_back_is_told_before_its_plan_and_once_a_change(tmp_path: Path) -> None:
    board, told = Board(a_plan()), list[object]()
    watcher = PlanWatcher(
        board, tmp_path / "plans.json", lambda plans: told.append(sorted(plans)), hold_back=told.append
    )
    board.hold("codesearch", wanted=False)
    watcher.poll()
    watcher.poll()
    assert told == [{"codesearch"}, ["codesearch"]]

    board.hold("codesearch", wanted=True)
    watcher.poll()
    assert told[2:] == [frozenset()]


def test_that_there_are_no_plans_is_told_once_by_the_first_board_that_answers(tmp_path: Path) -> None:
    board, told = Board(), list[Plans]()
    watcher = PlanWatcher(board, tmp_path / "plans.json", told.append)
    board.alive = False
    watcher.poll()
    assert told == []

    board.alive = True
    watcher.poll()
    watcher.poll()
    assert told == [{}]

    board.publish(a_plan())
    watcher.poll()
    assert told == [{}, {"codesearch": a_plan()}]


def test_a_wiped_board_takes_no_plan_away(tmp_path: Path) -> None:
    board = Board(a_plan("a"), a_plan("b"))
    watcher = PlanWatcher(board, tmp_path / "plans.json", lambda _: None)
    watcher.poll()

    board.plans.clear()
    watcher.poll()

    assert watcher.plans.keys() == {"a", "b"}


def started(board: Board, copy: Path) -> Plans:
    """The first plans that a running watcher tells of."""
    told: queue.Queue[Plans] = queue.Queue()
    watcher = PlanWatcher(board, copy, told.put, period_s=0.01)
    watcher.start()
    try:
        return told.get(timeout=PATIENCE_S)
    finally:
        watcher.stop()
        watcher.join(PATIENCE_S)


def test_a_start_without_the_board_uses_the_copy(tmp_path: Path) -> None:
    board = Board(a_tested_plan(revision=5, weight=100))
    PlanWatcher(board, tmp_path / "folder" / "plans.json", lambda _: None).poll()
    board.alive = False

    assert started(board, tmp_path / "folder" / "plans.json") == board.plans


@pytest.mark.parametrize("copy", [b"", b"{", b'{"m": {"revision": 1}}', b"\xff\xfe"])
def test_an_unreadable_copy_is_left_out(tmp_path: Path, copy: bytes) -> None:
    (tmp_path / "plans.json").write_bytes(copy)

    assert started(Board(a_plan()), tmp_path / "plans.json") == {"codesearch": a_plan()}


def test_a_copy_that_cannot_be_written_stops_nothing(tmp_path: Path) -> None:
    (tmp_path / "a file").touch()
    watcher = PlanWatcher(Board(a_plan()), tmp_path / "a file" / "plans.json", lambda _: None)

    watcher.poll()

    assert watcher.plans == {"codesearch": a_plan()}


@pytest.mark.parametrize("alive", [True, False])
def test_a_watcher_has_looked_when_copy_and_board_told_what_they_know(tmp_path: Path, alive: bool) -> None:
    board, copy = Board(a_plan(revision=2)), tmp_path / "plans.json"
    PlanWatcher(Board(a_plan(revision=1)), copy, lambda _: None).poll()  # leaves a copy
    board.alive = alive
    told: list[Plans] = []
    watcher = PlanWatcher(board, copy, told.append)
    watcher.start()
    try:
        assert watcher.looked.wait(PATIENCE_S)
        assert told[-1]["codesearch"].revision == (2 if alive else 1)
    finally:
        watcher.stop()
        watcher.join(PATIENCE_S)
