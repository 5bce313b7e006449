"""A/A of every path of the gate: an equal challenger is promoted, rolled back or called broken as seldom as promised.

Bounds are the promised chance and 3 standard errors of a share of so many runs: a right gate misses them once in 700.
"""

from collections import Counter
from math import sqrt
from pathlib import Path

import numpy as np
import pytest
from msgspec.structs import replace
from prometheus_client import REGISTRY

from pipelines.archive.files import Archive
from pipelines.gates.data import GateData
from pipelines.gates.gate_lists import AbLists, InterleavedLists
from pipelines.gates.gate_plan import GatePlan
from pipelines.gates.judge import GateJudge
from pipelines.gates.online import judge
from pipelines.settings import GateSettings
from registry.contracts.gates import GateTerms
from registry.contracts.manifest import CLICK_NDCG
from registry.contracts.rollouts import RolloutSpec, aa_spec
from registry.errors import RolloutConflict
from registry.rollout_moves import advance
from serving.interleaving import team_draft
from tests.builders import a_plan, a_stored
from tests.pipelines.gate_traffic import MODEL, Traffic
from tests.pipelines.rollout_bench import Surroundings
from tests.pipelines.test_online_gate import ab_lists

RUNS = 300
LOOKS = 7
METRIC = CLICK_NDCG.digest
TERMS = GateTerms(looks=2, look_s=4.0, clicks_within_s=1.2, simulated=True, min_units=20, history_s=0.0)


def most(chance: float, runs: int = RUNS) -> float:
    """Share of runs that a right gate stays within."""
    return chance + 3 * sqrt(chance * (1 - chance) / runs)


def drafted(seed: int, lists: int = 700, units: int = 200, shown: int = 6) -> InterleavedLists:
    """Two rankers that are equally good and differ at random, through the real draft; taste differs by unit."""
    rng = np.random.default_rng(seed)
    whose = rng.integers(units, size=lists)
    chance = rng.gamma(2.0, 0.15, size=units)[whose, None] / np.arange(1, shown + 1)
    teams = np.zeros((lists, shown), dtype=np.int64)
    for row in range(lists):
        rankings = rng.permutation(shown).tolist(), rng.permutation(shown).tolist()
        teams[row] = list(team_draft(*rankings, int(rng.integers(8))).teams)
    clicks = rng.random((lists, shown)) < np.minimum(chance, 1)
    return InterleavedLists(
        look=rng.integers(1, LOOKS + 1, size=lists),
        units=whose,
        challenger=(clicks * teams).sum(axis=1),
        champion=(clicks * (1 - teams)).sum(axis=1),
        closed=LOOKS,
        metric=METRIC,
    )


def verdicts(plan: GatePlan, seen: "list[AbLists] | list[InterleavedLists]") -> dict[str, float]:
    """The share of each verdict, over all that there are."""
    counted = Counter(judge(plan, one).verdict for one in seen)
    return {verdict: counted[verdict] / len(seen) for verdict in ("passed", "failed", "errored")}


def test_aa_of_interleaving_passes_at_most_alpha_and_fails_at_most_its_rollback_alpha() -> None:
    found = verdicts(
        GatePlan(kind="interleaving", metric=METRIC, looks=LOOKS, rollback_at=2000.0),
        [drafted(seed) for seed in range(100)],
    )

    assert found["passed"] <= most(0.05, 100)
    assert found["failed"] <= most(0.05, 100)
    assert found["errored"] == 0


def test_aa_of_ab_promotion_passes_at_most_alpha_over_all_looks() -> None:
    seen = [ab_lists(1000 + seed, units=300, looks=LOOKS) for seed in range(RUNS)]
    found = verdicts(GatePlan(kind="ab", metric=METRIC, looks=LOOKS), seen)

    assert found["passed"] <= most(0.05)
    assert found["failed"] + found["errored"] <= most(0.05 + 0.01)


def test_aa_of_the_rollback_fails_at_most_its_alpha_however_often_one_looks() -> None:
    """After every twentieth of the lists, as a judge does each minute; the plan has one look, far away."""
    plan = GatePlan(kind="ab", metric=METRIC, looks=1, rollback_at=400.0)
    failed = 0
    for seed in range(RUNS // 2):
        whole = ab_lists(5000 + seed, units=300, looks=20, closed=0)
        for part in range(2, 21):
            inside = whole.look <= part
            arrays = (whole.units[inside], whole.in_challenger[inside], whole.values[inside])
            if judge(plan, AbLists(np.ones(int(inside.sum()), np.int64), *arrays, 0, METRIC)).verdict == "failed":
                failed += 1
                break

    assert failed / (RUNS // 2) <= most(0.05, RUNS // 2)


def test_aa_of_the_sample_ratio_is_called_broken_in_at_most_one_of_a_hundred() -> None:
    plan = GatePlan(kind="ab", metric=METRIC, looks=LOOKS, weights=(9.0, 1.0), ratio_alpha=0.01)
    seen = [ab_lists(9000 + seed, units=300, looks=LOOKS, share=0.1) for seed in range(RUNS)]

    assert verdicts(plan, seen)["errored"] <= most(0.01)


def aa_count(kind: str, verdict: str) -> float:
    labels = {"model": MODEL, "kind": kind, "verdict": verdict}
    return REGISTRY.get_sample_value("pipelines_aa_results_total", labels) or 0.0


def test_an_aa_goes_through_its_steps_is_counted_and_ends_without_a_promotion(tmp_path: Path) -> None:
    places = Surroundings()
    traffic = Traffic(Archive(tmp_path / "archive"), {1: 1.0}, seed=2)
    judges = GateJudge(
        places.control, GateData(traffic.archive, tmp_path / "gates"), settings=GateSettings(settle_s=0.0)
    )
    spec = aa_spec(500, TERMS, TERMS, patience_s=0.5)
    rollout = places.start(1, layer="aa", steps=spec.steps, holdback_weight=0, aa=True)
    before = {kind: aa_count(kind, "inconclusive") for kind in ("interleaving", "online_gate")}
    for _ in range(6):
        plan = places.control.plan(MODEL)
        if plan is None or not plan.layers:
            break
        traffic.run(plan, 800, places.now_ms + 1, places.now_ms + 4000)
        places.answer(100)
        places.now_ms += 4000
        judges.turn(places.now_ms + 1200)
        places.turn()
        places.turn(after_s=2.0)

    ended = places.control.rollout(rollout.id)
    plan = places.control.plan(MODEL)
    assert plan is not None
    assert (ended.state, plan.champion, plan.layers) == ("rolled_back", 1, ())
    assert [change.what for change in places.control.rollout_history(rollout.id)] == [
        *("started", "advanced", "rolled_back")
    ]
    assert {kind: aa_count(kind, "inconclusive") - count for kind, count in before.items()} == {
        "interleaving": 1.0,
        "online_gate": 1.0,
    }
    found = places.control.evidence(MODEL)
    assert {one.kind for one in found} >= {"interleaving", "online_gate"}
    assert all(one.champion_digest == one.challenger_digest for one in found)


def test_an_aa_that_passes_everything_still_promotes_nothing() -> None:
    places = Surroundings()
    spec: RolloutSpec = aa_spec()
    rollout = places.start(1, layer="aa", steps=spec.steps, holdback_weight=0, aa=True)
    before = aa_count("online_gate", "passed")
    for kind in ("interleaving", "online_gate"):
        places.post(places.control.rollout(rollout.id), kind)
        places.answer(200)
        places.turn(after_s=1.0)

    ended, plan = places.control.rollout(rollout.id), places.control.plan(MODEL)
    assert plan is not None
    assert (ended.state, plan.champion) == ("rolled_back", 1)
    assert aa_count("online_gate", "passed") == before + 1
    in_last = replace(ended, state="running", step=1)
    with pytest.raises(RolloutConflict, match="promotes nothing"):
        advance(in_last, plan, (), who="me", why="try", now_ms=places.now_ms)


def test_only_the_champion_is_compared_with_itself() -> None:
    places = Surroundings()

    with pytest.raises(RolloutConflict, match="an A/A is of the champion"):
        places.start(2, aa=True)
    with pytest.raises(RolloutConflict, match="is its champion already"):
        places.start(1)
    assert (a_stored(1).version, a_plan().champion) == (1, 1)
