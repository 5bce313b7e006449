"""The operating characteristics of DECISIONS.md at a size for tests, and that they are made by the real procedures."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from msgspec.structs import replace
from typer.testing import CliRunner

from deploy.cli import app
from deploy.errors import SluiceError
from deploy.simulation.characteristic import Figure, mean, quantile, share
from deploy.simulation.characteristics import CHARACTERISTICS
from deploy.simulation.crowd import Crowd, in_arm
from deploy.simulation.explored_logs import ExploredLog, FromTheLog
from deploy.simulation.measurements import AbSeen
from deploy.simulation.promotions import AB, INTERLEAVING, LOOKS, ab_course, ended
from deploy.simulation.rollbacks import rolled_back_at
from deploy.simulation.running import Wanted, encode, simulate, wanted
from deploy.simulation.shifts import FeatureDrift
from deploy.simulation.whole_rollouts import Platform
from drift.days.simulated import DayWorld
from pipelines.gates.online import course, judge
from registry.contracts.rollouts import Verdict
from tests.deploy.judged_world import a_rng, a_stage

SMALL = Crowd(sessions_a_day=300)


def run_of(id_: str, seed: int = 1) -> dict[str, float]:
    return dict(CHARACTERISTICS[id_].run(a_stage(), a_rng(seed)))


@pytest.mark.parametrize("lift", [0.0, -0.05, 0.03])
def test_sums_of_an_ab_split_are_those_that_the_gate_makes_of_its_lists(lift: float) -> None:
    stage, rng = a_stage(), a_rng(2)
    visits = SMALL.visits(stage.world, rng)
    arms = in_arm(len(visits.people), 500, "salt")
    seen = AbSeen.of(stage.champion, stage.challenger(lift, "noisy"), visits, arms, rng)

    fast, slow = seen.sums(AB, LOOKS), type(seen.sums(AB, LOOKS)).of(AB, seen.lists(LOOKS))

    for ours, theirs in zip(fast.arms, slow.arms, strict=True):
        assert np.array_equal(ours, theirs)
    assert course(AB, fast)[-1] == judge(AB, seen.lists(LOOKS)).verdict


def test_sums_of_drafted_lists_are_those_that_the_gate_makes_of_its_lists() -> None:
    stage, rng = a_stage(), a_rng(3)

    seen = stage.drafts(0.03).seen(SMALL.visits(stage.world, rng), rng)
    fast, lists = seen.sums(INTERLEAVING, LOOKS), seen.lists(LOOKS)

    assert np.array_equal(fast.arms[0], type(fast).of(INTERLEAVING, lists).arms[0])
    assert course(INTERLEAVING, fast)[-1] == judge(INTERLEAVING, lists).verdict


def test_a_rollback_is_the_first_look_at_which_the_gate_says_failed() -> None:
    """Day by day, of lists as they came until then."""
    stage, rng = a_stage(), a_rng(4)
    visits = SMALL.visits(stage.world, rng)
    arms = in_arm(len(visits.people), 500, "salt")
    seen = AbSeen.of(stage.champion, stage.challenger(-0.2, "noisy"), visits, arms, rng)
    plan = replace(AB, ratio_alpha=1e-9)

    said = []
    for look in range(1, LOOKS + 1):
        until = visits.look <= look
        so_far = AbSeen(visits.take(until), seen.in_challenger[until], seen.values[until], seen.covariates[until])
        said.append(judge(plan, so_far.lists(closed=look)).verdict)

    assert ended(course(plan, seen.sums(plan, LOOKS))) == ended(said) == ("failed", said.index("failed") + 1)


def promoted(lift: float, runs: int, crowd: Crowd = SMALL) -> float:
    return float(
        np.mean([ended(ab_course(a_stage(), lift, a_rng(seed), AB, crowd))[0] == "passed" for seed in range(runs)])
    )


def test_equal_versions_are_promoted_as_rarely_as_stated() -> None:
    """D1: 5 %, and three standard errors of 60 runs."""
    assert promoted(0.0, runs=60) <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 60)


def test_a_worse_version_is_promoted_more_rarely_than_an_equal_one() -> None:
    """D2, five times as bad since so few runs: none of 20."""
    assert promoted(-0.04, runs=20) == 0.0


def test_interleaving_finds_a_little_better_version() -> None:
    """D3, in four days' worth of sessions a day: of twelve runs most, and none by chance under another seed."""
    runs = [run_of("D3", seed) for seed in range(4)]

    assert sum(run["better"] for run in runs) >= 3
    assert sum(run["same"] for run in runs) <= 1


def test_a_planned_sample_has_some_power_and_a_hopeless_plan_is_refused() -> None:
    """D4: within ten percent is a matter of many runs; here, that neither is far off."""
    runs = [run_of("D4", seed) for seed in range(6)]

    assert all(run["refused"] for run in runs)
    assert all(run["accepted"] for run in runs)
    assert sum(run["ab passed"] + run["drafted passed"] for run in runs) >= 6


def test_the_offline_gate_states_what_finds_the_lift() -> None:
    """D5: power 80 %, so of 10 runs 4 at least (one chance in 1,100 under it)."""
    runs = [run_of("D5", seed) for seed in range(10)]

    assert sum(run["found"] for run in runs) >= 4
    assert len({run["needed"] for run in runs}) == 1


def test_a_ramp_is_found_within_days_and_quiet_features_stay_quiet() -> None:
    """D6 at thirty features: one run has a ramp from every day of the week."""
    outcome = FeatureDrift("D6", "", DayWorld(features=30), ("", "", "")).run(a_stage(), a_rng(5))

    assert outcome["quiet"] <= 1.0
    assert max(outcome[f"day {day}"] for day in range(7)) <= 14


def test_a_bad_challenger_is_rolled_back_soon_and_an_equal_one_is_not() -> None:
    """D8."""
    stage = a_stage()
    bad = [rolled_back_at(stage.champion, stage.challenger(-0.2, "noisy"), 40, 200, a_rng(seed)) for seed in range(5)]
    equal = [rolled_back_at(stage.champion, stage.champion, 40, 200, a_rng(seed)) for seed in range(15)]

    assert all(look is not None for look in bad)
    assert sum(look is not None for look in equal) <= 3


def test_a_loss_in_one_arm_is_found_and_none_is_not() -> None:
    """D9, ten runs: 90 % and 1 % are far from the bounds."""
    runs = [run_of("D9", seed) for seed in range(10)]

    assert sum(run["found"] for run in runs) >= 6
    assert sum(run["false"] for run in runs) <= 1


def test_an_explored_log_speaks_near_the_truth_and_an_unexplored_one_not_at_all() -> None:
    """D10 at a fifth of its lists, so with some twice the error."""
    outcome = FromTheLog(lists=20_000).run(a_stage(), a_rng(6))

    assert abs(outcome["better"]) < 0.03
    assert abs(outcome["little better"]) < 0.015
    assert outcome["better refused"] == 0.0


def test_an_explored_log_shows_each_item_with_the_chance_that_it_says() -> None:
    log = ExploredLog.of(a_stage().champion, 30_000, 0.2, a_rng(7))
    rows = np.repeat(np.arange(len(log.lists.queries)), np.diff(log.lists.offsets))
    kept = log.propensities >= 0.5

    # of what stands where the ranking put it, seen as often as its propensity says
    for position in (1, 4, 8):
        here = log.positions == position
        assert kept[here].mean() == pytest.approx(log.propensities[here & kept].mean(), abs=0.01)
    assert np.bincount(rows[~kept], minlength=1).max() <= 2


def test_scores_on_another_scale_raise_no_alarm() -> None:
    """D11."""
    assert run_of("D11") == {"rescaled": 0.0, "cycle": 0.0}


@pytest.mark.parametrize(("lift", "state"), [(0.05, "promoted"), (-0.2, "rolled_back")])
def test_a_rollout_goes_its_way_through_the_engine(lift: float, state: str) -> None:
    platform = Platform(a_stage(), lift, "noisy" if lift < 0 else "low_noise", a_rng(8))

    ended_ = platform.play()

    assert ended_.state == state
    assert 1 <= ended_.days <= 32
    plan = platform.board.read()["simulation"]
    assert plan.champion == (2 if state == "promoted" else 1)
    (rollout,) = platform.control.rollouts()
    kinds = {one.kind for one in platform.control.evidence("simulation", challenger_digest=rollout.challenger_digest)}
    assert kinds >= ({"interleaving", "online_gate"} if state == "promoted" else {"interleaving"})


def test_the_same_seed_gives_the_same_table_whatever_the_processes() -> None:
    stage, what = a_stage(), [Wanted("D9", 6), Wanted("D1", 2)]

    def table(seed: int, processes: int) -> list[tuple[str, float]]:
        told: list[tuple[str, int, int]] = []
        lines = simulate(stage.world, what, seed, processes, lambda *done: told.append(done))
        assert told[-1][1] == told[-1][2] or len(what) > 1
        return [(line.what, line.value) for line in lines]

    one = table(3, processes=1)
    assert one == table(3, processes=2)
    assert one != table(4, processes=1)


def test_an_interrupt_leaves_a_table_of_what_was_done() -> None:
    """After a third of the runs; the others have not been begun."""
    stage = a_stage()

    def until(id_: str, done: int, total: int) -> None:
        if done == total // 3:
            raise KeyboardInterrupt

    lines = simulate(stage.world, [Wanted("D9", 12), Wanted("D1", 2)], 3, 1, until)

    assert {(line.id, line.runs) for line in lines} == {("D9", 4)}
    alone = simulate(stage.world, [Wanted("D9", 4)], 3, 1, lambda *_: None)
    assert [line.value for line in lines] == [line.value for line in alone]


def test_every_characteristic_of_the_decisions_is_there_with_sizes_for_a_minute_and_for_sure() -> None:
    assert [one.id for one in wanted([], None, quick=False)] == [*(f"D{number}" for number in range(1, 12)), "R"]
    for one in CHARACTERISTICS.values():
        assert 2 <= one.quick < one.runs
    assert {one.runs for one in wanted(["D1", "D2"], 7, quick=True)} == {7}


@pytest.mark.parametrize(
    ("value", "error", "sense", "standing"),
    [
        (0.04, 0.01, "at most", "held"),
        (0.06, 0.01, "at most", "within error"),
        (0.09, 0.01, "at most", "missed"),
        (0.06, None, "at most", "missed"),
        (0.04, 0.001, "at least", "missed"),
        (0.05, 0.0, "at least", "held"),
        (float("nan"), 0.1, "at most", "missed"),
        (float("inf"), 0.1, "at least", "missed"),
    ],
)
def test_a_figure_is_held_against_its_bar(value: float, error: float | None, sense: str, standing: str) -> None:
    assert Figure("", value, error, sense, 0.05).standing == standing  # type: ignore[arg-type]


def test_figures_over_runs_have_the_errors_of_the_textbook() -> None:
    runs: Sequence[dict[str, float]] = [{"x": float(number < 30), "n": float(number)} for number in range(100)]

    assert share(runs, "x") == (0.3, pytest.approx(np.sqrt(0.3 * 0.7 / 100), rel=0.01))
    assert quantile(runs, "n", 0.5) == (pytest.approx(50, abs=1), pytest.approx(5, abs=1))
    assert mean(np.array([1.0, 3.0])) == (2.0, 1.0)
    assert share([{"x": 0.0}] * 10, "x")[1] > 0


def test_figures_are_kept_with_what_they_were_measured_on() -> None:
    stage = a_stage()
    lines = simulate(stage.world, [Wanted("D9", 2)], 1, 1, lambda *_: None)

    kept = json.loads(encode(lines, stage.world, 1, {"machine": "here"}))

    assert (kept["data"], kept["queries"], kept["seed"], kept["about"]["machine"]) == (
        "train",
        stage.world.queries,
        1,
        "here",
    )
    assert {line["id"] for line in kept["figures"]} == {"D9"}


def test_the_command_prints_the_table_and_keeps_it(tmp_path: Path) -> None:
    data, kept = tmp_path / "rank.train", tmp_path / "figures.json"
    rng = np.random.default_rng(1)
    data.write_text(
        "".join(f"{rng.integers(0, 4)} qid:{list_} 1:{rng.random():.3f}\n" for list_ in range(60) for _ in range(12))
    )

    asked = ["simulate", "--only", "d9", "--runs", "60", "--processes", "1", "--data", str(data)]
    told = CliRunner().invoke(app, [*asked, "--json", str(kept)])

    assert told.exception is None, told.output
    assert "a loss of 4 % in one arm found" in told.output
    assert {line["id"] for line in json.loads(kept.read_bytes())["figures"]} == {"D9"}


def test_a_characteristic_that_is_not_in_the_table_is_named() -> None:
    told = CliRunner().invoke(app, ["simulate", "--only", "D1,D99"])

    assert isinstance(told.exception, SluiceError)
    assert "--only D99: not in the table; try: some of D1, D2" in str(told.exception)


def test_a_step_ends_with_the_first_verdict_that_decides() -> None:
    said: Sequence[Verdict] = ("inconclusive", "failed", "passed")

    assert ended(said) == ("failed", 2)
    assert ended(said[:1]) == ("inconclusive", 1)
