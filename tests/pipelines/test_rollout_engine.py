"""The engine: from registered to promoted, to rolled back, by several at once, and after a crash."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from threading import Barrier

import pytest
from prometheus_client import REGISTRY

from pipelines.rollouts.canary import Hold
from registry.board import MemoryBoard
from registry.contracts.rollouts import Rollout
from registry.contracts.traffic import Experiment, TrafficPlan
from registry.counters import MemoryCounterBoard
from registry.errors import StoreUnavailable
from registry.promotion import promote, with_experiment
from registry.rollout_moves import pause
from registry.rollouts import RolloutControl
from registry.traffic_control import MemoryControl, SqlControl
from tests.builders import a_plan
from tests.pipelines.rollout_bench import Surroundings


@pytest.fixture(params=["memory", "sqlite", "postgres"])
def control(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[RolloutControl]:
    if request.param == "memory":
        yield MemoryControl()
        return
    url = request.getfixturevalue("postgres_url") if request.param == "postgres" else f"sqlite:///{tmp_path}/control.db"
    with closing(SqlControl(url)) as control:
        yield control


def bring(places: Surroundings, rollout: Rollout, step: int) -> Rollout:
    """The rollout to the step, by evidence and answers."""
    while (now := places.control.rollout(rollout.id)).active and now.step < step:
        pass_step(places, now)
        assert places.turn() == 1
    return now


def pass_step(places: Surroundings, rollout: Rollout) -> None:
    """All that the rollout's step asks for."""
    for need in rollout.current_step.needs:
        places.post(rollout, need.kind)
    places.now_ms += int(rollout.current_step.min_s * 1000)
    places.answer()


def test_from_registered_to_promoted_and_through_the_holdback(control: RolloutControl) -> None:
    places = Surroundings(control)
    rollout = places.start()
    assert places.answer() == {1: 2000}
    assert places.turn() == 0

    shares = []
    for _ in rollout.spec.steps:
        now = places.control.rollout(rollout.id)
        pass_step(places, now)
        shares.append(places.answer()[2] / 2000)
        assert places.turn() == 1
        assert places.turn() == 0
    assert shares == pytest.approx([0, 0, 0.1, 0.5], abs=0.04)
    answers = places.answer()
    assert places.control.rollout(rollout.id).state == "promoted"
    assert answers[1] / 2000 == pytest.approx(0.01, abs=0.01)
    assert answers[1] + answers[2] == 2000

    assert places.turn(after_s=86_399) == 0
    assert places.turn(after_s=1) == 1
    assert places.answer() == {2: 2000}
    assert places.turn(after_s=86_400) == 0
    changes = places.control.rollout_history(rollout.id)
    assert [change.what for change in changes] == [
        *("started", "advanced", "advanced", "advanced", "promoted", "holdback_ended")
    ]
    assert {change.who for change in changes[1:]} == {"rollout engine"}
    kinds = [[one.kind for one in control.evidence_of(change.evidence)] for change in changes]
    assert kinds == [[], ["offline_gate"], ["rank_diff"], ["guardrails"], ["guardrails"], []]


def test_a_challenger_that_fails_has_no_traffic_after_the_next_turn(control: RolloutControl) -> None:
    places = Surroundings(control)
    rollout = bring(places, places.start(), step=2)
    assert places.answer(failing=2)[2] > 0

    assert places.turn() == 1
    assert places.answer() == {1: 2000}
    change = places.control.rollout_history(rollout.id)[-1]
    assert change.what == "rolled_back"
    assert change.why.startswith("guardrails failed: failed: ")
    [evidence] = control.evidence_of(change.evidence)
    assert (evidence.kind, evidence.verdict, evidence.experiment) == ("guardrails", "failed", rollout.experiment)
    assert places.turn() == 0


@pytest.mark.parametrize("step", [0, 1, 2, 3])
def test_failed_evidence_takes_the_traffic_from_every_step(step: int) -> None:
    places = Surroundings()
    rollout = bring(places, places.start(), step)
    places.post(rollout, "drift", "failed", why="features moved")

    assert places.turn() == 1
    assert places.answer() == {1: 2000}
    assert places.control.rollout(rollout.id).state == "rolled_back"


def test_a_paused_rollout_stays_and_is_still_guarded() -> None:
    places = Surroundings()
    rollout = bring(places, places.start(), step=2)
    places.control.decide(pause(rollout, who="ann", why="lunch", now_ms=places.now_ms))
    pass_step(places, rollout)
    assert places.turn() == 0

    places.answer(failing=2)
    assert places.turn() == 1
    assert places.control.rollout(rollout.id).state == "rolled_back"


def test_no_answers_and_gateways_that_fell_silent_hold() -> None:
    places = Surroundings()
    rollout = bring(places, places.start(), step=2)
    assert places.turn(after_s=3600) == 0

    places.answer()
    assert places.turn(after_s=16) == 0
    held = places.engine.look(rollout, places.now_ms)
    assert isinstance(held, Hold)
    assert held.why == "guardrails inconclusive: no gateway has reported for 16 s"


def test_two_engines_advance_a_rollout_once_a_step(control: RolloutControl) -> None:
    places = Surroundings(control)
    rollout = places.start()
    engines, barrier = [places.engine, places.another_engine()], Barrier(2)

    def turn(number: int) -> int:
        barrier.wait(timeout=30)
        return engines[number].turn(places.now_ms)

    with ThreadPoolExecutor(2) as pool:
        for _ in rollout.spec.steps:
            pass_step(places, places.control.rollout(rollout.id))
            assert sum(pool.map(turn, range(2))) == 1
    changes = places.control.rollout_history(rollout.id)
    assert [change.rollout.step for change in changes] == [0, 1, 2, 3, 3]
    assert changes[-1].what == "promoted"
    revisions = [change.revision for change in places.control.history("codesearch")]
    assert revisions == list(range(1, 7))


def test_old_bad_news_is_found_under_a_heap_of_newer_good_news() -> None:
    places = Surroundings()
    rollout = bring(places, places.start(), step=1)
    places.post(rollout, "rank_diff", "failed")
    for _ in range(60):
        places.now_ms += 1000
        places.post(rollout, "rank_diff")

    assert places.turn() == 1
    assert places.control.rollout(rollout.id).state == "rolled_back"


class BoardThatMayBeAway(MemoryBoard):
    away = False

    def publish(self, plan: TrafficPlan) -> None:
        if self.away:
            raise StoreUnavailable("Redis is away")
        super().publish(plan)


def test_what_was_decided_while_the_board_was_away_is_shown_when_it_is_back() -> None:
    board = BoardThatMayBeAway()
    places = Surroundings(board=board)
    rollout = bring(places, places.start(), step=2)
    places.post(rollout, "drift", "failed")
    board.away = True

    assert places.turn() == 1
    assert board.read()["codesearch"].experiment(rollout.experiment) is not None
    board.away = False
    assert places.turn() == 0
    assert places.answer() == {1: 2000}


def test_what_a_killed_process_decided_and_did_not_show_is_shown_by_the_next_turn() -> None:
    places = Surroundings()
    rollout = bring(places, places.start(), step=2)
    plan = places.control.plan("codesearch")
    assert plan is not None
    promoted = promote(plan, "codesearch", 2, f"{2:064x}")
    places.control.change(
        promoted, expected_revision=plan.revision, who="ann", why="now", evidence={}, now_ms=places.now_ms
    )  # and here it was killed
    assert set(places.answer()) == {1, 2}
    places.decided.clear()

    assert places.another_engine().turn(places.now_ms) == 0
    assert places.answer() == {2: 2000}
    assert places.decided == ["codesearch"]
    assert places.control.rollout(rollout.id).state == "promoted"


def test_a_board_that_lost_its_memory_is_filled_again() -> None:
    board = MemoryBoard()
    places = Surroundings(board=board)
    places.start()
    places.board = empty = MemoryBoard()

    places.another_engine().turn(places.now_ms)
    assert empty.read() == board.read()


def test_a_board_ahead_of_the_tables_is_left_and_told_once(caplog: pytest.LogCaptureFixture) -> None:
    places = Surroundings()
    places.board.publish(a_plan(champion=7, revision=9))

    for _ in range(3):
        places.turn()
    assert places.board.read()["codesearch"].revision == 9
    [told] = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert told.startswith("the board shows revision 9 of 'codesearch', the tables have 1: if they were restored")


class CountersThatAreAway(MemoryCounterBoard):
    def read(self) -> dict[str, object]:  # type: ignore[override]
        raise StoreUnavailable("Redis is away")


def test_without_counters_gates_go_on_and_traffic_holds() -> None:
    places = Surroundings()
    rollout = places.start()
    places.counters = CountersThatAreAway()
    places.engine = places.another_engine()
    for step in (0, 1):
        pass_step(places, places.control.rollout(rollout.id))
        assert places.turn() == 1
        assert places.control.rollout(rollout.id).step == step + 1

    assert places.turn(after_s=3600) == 0


def test_a_rollout_that_cannot_be_moved_stops_no_other(caplog: pytest.LogCaptureFixture) -> None:
    places = Surroundings()
    stuck = bring(places, places.start(), step=2)
    free = places.start(version=3, layer="other")
    plan = places.control.plan("codesearch")
    assert plan is not None
    in_the_way = Experiment("mine", 7, f"{7:064x}", 100, first=200)
    places.board.publish(
        places.control.change(
            with_experiment(plan, in_the_way, layer="rollout", salt="s"),
            expected_revision=plan.revision,
            who="ann",
            why="try",
            evidence={},
            now_ms=places.now_ms,
        )
    )
    pass_step(places, stuck)
    places.post(free, "offline_gate")

    assert [places.turn(), places.turn()] == [1, 0]
    assert [places.control.rollout(one.id).step for one in (stuck, free)] == [2, 1]
    [told] = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert told.startswith(f"rollout {stuck.id} stays where it is: layer 'rollout': ")


def test_gauges_say_where_rollouts_are() -> None:
    places = Surroundings()
    rollout = bring(places, places.start(layer="gauged"), step=2)
    where = {"model": "codesearch", "layer": "gauged"}

    def gauges() -> list[float | None]:
        names = ("pipelines_rollout_state", "pipelines_rollout_step", "pipelines_rollout_weight_ratio")
        return [REGISTRY.get_sample_value(name, where) for name in names]

    places.turn()
    assert gauges() == [0, 2, 0.1]
    entered_ms = places.control.rollout(rollout.id).entered_ms
    assert REGISTRY.get_sample_value("pipelines_rollout_step_timestamp_seconds", where) == entered_ms / 1000
    places.post(rollout, "confidence", "failed")
    places.turn()
    places.turn()
    assert gauges() == [3, -1, 0]
    failed = {"kind": "confidence", "verdict": "failed"}
    assert REGISTRY.get_sample_value("pipelines_rollout_verdicts_total", failed) == 1
    assert REGISTRY.get_sample_value("pipelines_rollout_turn_timestamp_seconds") == places.now_ms / 1000
    ended = places.control.rollout(rollout.id)
    assert REGISTRY.get_sample_value("pipelines_rollout_step_timestamp_seconds", where) == ended.changed_ms / 1000


def test_counters_are_forgotten_when_no_step_reaches_back_to_them() -> None:
    places = Surroundings()
    places.answer(10)
    assert len(places.counters.read()) == 1

    places.turn(after_s=86_000)
    assert len(places.counters.read()) == 1
    places.turn(after_s=1000)
    assert places.counters.read() == {}
