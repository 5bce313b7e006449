"""From the archive to what a gate is judged on: which lists, of which look, and the same bytes each time."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace

from pipelines.archive.files import Archive
from pipelines.feedback.cleaning import CleaningRules
from pipelines.gates.cleaned_lists import cleaned_lists
from pipelines.gates.data import GateData
from pipelines.gates.evidence import inputs_of
from pipelines.gates.gate_lists import AbLists, InterleavedLists
from pipelines.gates.scope import GateScope
from registry.contracts.gates import GateTerms
from registry.contracts.ids import hash64
from registry.contracts.rollouts import Need, Step
from registry.contracts.traffic import TrafficPlan
from tests.builders import NOW_MS, a_plan, a_tested_plan
from tests.pipelines.gate_traffic import MODEL, Traffic
from tests.pipelines.rollout_bench import Surroundings

LOOK_MS = 4000
STEP_MS = NOW_MS + 60_000


def a_scope(**changes: Any) -> GateScope:
    fields: dict[str, Any] = {
        "model": MODEL,
        "kind": "ab",
        "experiment": "test",
        "since_ms": STEP_MS,
        "plan_revision": 1,
        "look_ms": LOOK_MS,
        "clicks_within_ms": 1000,
        "before_ms": STEP_MS,
        "simulated": True,
    }
    return GateScope(**(fields | changes))


def some_traffic(folder: Path, plan: TrafficPlan, lists: int = 1200, **how: Any) -> Traffic:
    """Three looks of it."""
    traffic = Traffic(Archive(folder / "archive"), {1: 1.0, 2: 1.0}, **how)
    traffic.run(plan, lists, STEP_MS, STEP_MS + 3 * LOOK_MS)
    return traffic


def read(traffic: Traffic, folder: Path, scope: GateScope, as_of_ms: int) -> AbLists:
    found = GateData(traffic.archive, folder / "gates").read(scope, as_of_ms).seen
    assert isinstance(found, AbLists)
    return found


def test_lists_are_summed_by_unit_arm_and_look(tmp_path: Path) -> None:
    plan = a_tested_plan(weight=300)
    traffic = some_traffic(tmp_path, plan)

    seen = read(traffic, tmp_path, a_scope(), STEP_MS + 3 * LOOK_MS + 1000)

    lists = cleaned_lists(traffic.archive, MODEL, STEP_MS, STEP_MS + 3 * LOOK_MS, a_rules(), True, STEP_MS + 60_000)
    assert seen.counts is not None
    assert int(seen.counts.sum()) == len(lists.shown) == 1200
    assert seen.closed == 3
    assert set(seen.look.tolist()) == {1, 2, 3}
    assert float(seen.values.sum()) == pytest.approx(float(lists.values.sum()))
    in_challenger = {f"user-{unit}" for unit in range(400) if plan.assign(f"user-{unit}").arm == "challenger"}
    numbers = {np.uint64(hash64(unit)).astype(np.int64) for unit in in_challenger}
    assert set(seen.units[seen.in_challenger].tolist()) <= numbers
    assert not set(seen.units[~seen.in_challenger].tolist()) & numbers


def a_rules() -> CleaningRules:
    return CleaningRules(clicks_within_ms=1000)


def test_a_look_closes_when_its_clicks_have_come_and_later_lists_are_of_later_looks(tmp_path: Path) -> None:
    traffic = some_traffic(tmp_path, a_tested_plan(weight=300))
    before = read(traffic, tmp_path, a_scope(), STEP_MS + LOOK_MS + 999)
    after = read(traffic, tmp_path, a_scope(), STEP_MS + LOOK_MS + 1000)

    assert (before.closed, after.closed) == (0, 1)
    assert set(before.look.tolist()) == {1}


def test_a_closed_look_is_the_same_whenever_it_is_read(tmp_path: Path) -> None:
    traffic = some_traffic(tmp_path, a_tested_plan(weight=300))
    first = read(traffic, tmp_path, a_scope(), STEP_MS + LOOK_MS + 1000)
    later = read(traffic, tmp_path, a_scope(), STEP_MS + 3 * LOOK_MS + 5000)

    of_first = later.look == 1
    assert later.counts is not None and first.counts is not None
    for ours, theirs in ((first.units, later.units), (first.values, later.values), (first.counts, later.counts)):
        assert np.array_equal(ours[first.look == 1], theirs[of_first])


def test_a_restart_and_another_folder_make_the_same_bytes(tmp_path: Path) -> None:
    traffic = some_traffic(tmp_path, a_tested_plan(weight=300))
    as_of_ms = STEP_MS + 3 * LOOK_MS + 500
    again = [read(traffic, tmp_path / name, a_scope(), as_of_ms) for name in ("one", "one", "two")]

    assert len({one.digest for one in again}) == 1
    files = [sorted((tmp_path / name / "gates").rglob("*.npz")) for name in ("one", "two")]
    assert [path.name for path in files[0]] == [path.name for path in files[1]]
    assert [path.read_bytes() for path in files[0]] == [path.read_bytes() for path in files[1]]


def test_a_closed_chunk_is_read_from_the_archive_once_and_again_when_the_archive_changed(tmp_path: Path) -> None:
    plan = a_tested_plan(weight=300)
    traffic = some_traffic(tmp_path, plan)
    as_of_ms = STEP_MS + 3 * LOOK_MS + 1000
    before = read(traffic, tmp_path, a_scope(), as_of_ms)
    chunks = sorted((tmp_path / "gates").rglob("*.npz"))
    stamps = [path.stat().st_mtime_ns for path in chunks]

    assert read(traffic, tmp_path, a_scope(), as_of_ms).digest == before.digest
    assert [path.stat().st_mtime_ns for path in chunks] == stamps
    traffic.run(plan, 50, STEP_MS, STEP_MS + 100)  # what the archiver could not write in time
    assert read(traffic, tmp_path, a_scope(), as_of_ms).digest != before.digest
    assert len(sorted((tmp_path / "gates").rglob("*.npz"))) == len(chunks)


def test_a_compacted_archive_gives_the_same_lists(tmp_path: Path) -> None:
    traffic = some_traffic(tmp_path, a_tested_plan(weight=300))
    as_of_ms = STEP_MS + 3 * LOOK_MS + 1000
    before = read(traffic, tmp_path, a_scope(), as_of_ms)
    for model, hour in traffic.archive.uncompacted(as_of_ms + 7_200_000):
        traffic.archive.compact(model, hour)

    assert read(traffic, tmp_path, a_scope(), as_of_ms).digest == before.digest


def test_a_damaged_chunk_is_made_again(tmp_path: Path) -> None:
    traffic = some_traffic(tmp_path, a_tested_plan(weight=300))
    as_of_ms = STEP_MS + 3 * LOOK_MS + 1000
    before = read(traffic, tmp_path, a_scope(), as_of_ms)
    for path in (tmp_path / "gates").rglob("*.npz"):
        path.write_bytes(path.read_bytes()[:100])

    assert read(traffic, tmp_path, a_scope(), as_of_ms).digest == before.digest


def test_lists_of_older_plans_and_of_other_experiments_do_not_count(tmp_path: Path) -> None:
    traffic = some_traffic(tmp_path, a_tested_plan(weight=300))
    as_of_ms = STEP_MS + 3 * LOOK_MS + 1000

    assert len(read(traffic, tmp_path, a_scope(plan_revision=2), as_of_ms).look) == 0
    others = read(traffic, tmp_path, a_scope(experiment="other"), as_of_ms)
    assert not others.in_challenger.any() and len(others.look) > 0


def test_drafts_credit_clicks_to_the_team_that_picked_the_item(tmp_path: Path) -> None:
    traffic = some_traffic(tmp_path, a_tested_plan(weight=999, kind="interleaving"))
    as_of_ms = STEP_MS + 3 * LOOK_MS + 1000
    data = GateData(traffic.archive, tmp_path / "gates")
    found = {
        scoring: data.read(a_scope(kind="interleaving", scoring=scoring), as_of_ms).seen
        for scoring in ("clicks", "wins")
    }

    seen, won = found["clicks"], found["wins"]
    assert isinstance(seen, InterleavedLists) and isinstance(won, InterleavedLists)
    assert seen.counts is not None
    in_lists = int(seen.challenger.sum() + seen.champion.sum())
    assert 0.97 * traffic.clicks < in_lists <= traffic.clicks  # all but those of the champion's arm
    assert int(won.challenger.sum() + won.champion.sum()) < in_lists


def test_covariates_are_means_from_before_the_rollout_and_of_nothing_after(tmp_path: Path) -> None:
    traffic = Traffic(Archive(tmp_path / "archive"), {1: 1.0, 2: 1.0}, units=60)
    traffic.run(a_plan(), 1500, STEP_MS - 30_000, STEP_MS)
    scope = a_scope(history_ms=30_000)
    traffic.run(a_tested_plan(weight=300), 600, STEP_MS, STEP_MS + 3 * LOOK_MS)
    as_of_ms = STEP_MS + 3 * LOOK_MS + 1000
    before = read(traffic, tmp_path, scope, as_of_ms)
    lists = cleaned_lists(traffic.archive, MODEL, STEP_MS - 30_000, STEP_MS, a_rules(), True, STEP_MS)

    assert before.covariates is not None and before.counts is not None
    unit = int(before.units[0])
    expected = lists.values[lists.units == unit].mean()
    row = int(np.flatnonzero(before.units == unit)[0])
    assert before.covariates[row, 0] / before.counts[row] == pytest.approx(expected)
    traffic.run(a_plan(), 500, STEP_MS + 3 * LOOK_MS + 1, STEP_MS + 4 * LOOK_MS)
    assert np.array_equal(read(traffic, tmp_path, scope, as_of_ms).covariates, before.covariates)


def test_clicks_of_people_and_of_simulated_users_are_told_apart_and_a_mix_is_a_fault(tmp_path: Path) -> None:
    traffic = some_traffic(tmp_path, a_tested_plan(weight=300))
    as_of_ms = STEP_MS + 3 * LOOK_MS + 1000
    data = GateData(traffic.archive, tmp_path / "gates")

    pure = data.read(a_scope(), as_of_ms).quality
    mixed = data.read(a_scope(simulated=False), as_of_ms).quality

    assert (pure.clicks, pure.other_clicks, pure.faults) == (traffic.clicks, 0, ())
    assert (mixed.clicks, mixed.other_clicks) == (0, traffic.clicks)
    assert "of the other kind" in mixed.faults[0]


def test_bots_count_from_their_look_on_no_more(tmp_path: Path) -> None:
    plan = a_tested_plan(weight=300)
    traffic = some_traffic(tmp_path, plan)
    fast = Traffic(traffic.archive, {1: 1.0, 2: 1.0}, units=1, seed=9)
    fast.run(plan, 100, STEP_MS + LOOK_MS + 100, STEP_MS + LOOK_MS + 600)  # user-0, too fast for a person
    as_of_ms = STEP_MS + 3 * LOOK_MS + 1000

    found = GateData(traffic.archive, tmp_path / "gates").read(a_scope(), as_of_ms)

    bot = np.uint64(hash64("user-0")).astype(np.int64)
    assert found.quality.bots == 1
    assert set(found.seen.look[found.seen.units == bot].tolist()) <= {1}
    assert found.seen.look.max() == 3


def test_the_control_is_who_was_the_champions_in_all_plans_of_the_step(tmp_path: Path) -> None:
    places = Surroundings()
    rollout = places.start(steps=(a_gated_step(),))
    plan = places.control.plan(MODEL)
    assert plan is not None
    inputs = inputs_of(rollout, [plan], places.now_ms)
    assert (inputs.weights, inputs.scope.control) == ((800, 200), ())
    other = replace(plan.layers[0].experiments[0], name="other", version=3, digest="3" * 64, first=500, weight=100)
    layer = replace(plan.layers[0], experiments=(*plan.layers[0].experiments, other))
    wider = replace(plan, revision=plan.revision + 1, layers=(layer,))
    inputs = inputs_of(rollout, [plan, wider], places.now_ms)

    assert inputs.weights == (700, 200)
    assert inputs.scope.control == ((200, 500), (600, 1000))
    traffic = Traffic(Archive(tmp_path / "archive"), {1: 1.0, 2: 1.0, 3: 1.0})
    traffic.run(plan, 800, places.now_ms, places.now_ms + 10_000)
    scope = replace(inputs.scope, simulated=True, clicks_within_ms=1000, history_ms=0)
    seen = read(traffic, tmp_path, scope, places.now_ms + 11_000)
    left = {f"user-{unit}" for unit in range(400) if layer.taker_of(f"user-{unit}") is None}
    numbers = {int(np.uint64(hash64(unit)).astype(np.int64)) for unit in left}
    assert set(seen.units[~seen.in_challenger].tolist()) <= numbers


def a_gated_step() -> Step:
    return Step("ab-20", "ab", 200, needs=(Need("online_gate"),), gate=GateTerms(simulated=True))
