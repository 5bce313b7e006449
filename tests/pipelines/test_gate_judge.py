"""From clicks in the archive to a rollout that moves: the judge makes the evidence, the engine decides on it."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import isnan
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import REGISTRY

from pipelines.archive.files import Archive
from pipelines.gates.data import GateData
from pipelines.gates.evidence import inputs_in, verdict_in
from pipelines.gates.judge import GateJudge, replay, what_differs
from pipelines.settings import GateSettings
from registry.contracts.gates import GateTerms
from registry.contracts.rollouts import Evidence, Need, Rollout, Step
from tests.builders import some_evidence
from tests.pipelines.gate_traffic import MODEL, Traffic
from tests.pipelines.rollout_bench import Surroundings

LOOK_S = 4.0
TERMS = GateTerms(looks=3, look_s=LOOK_S, clicks_within_s=1.2, simulated=True, min_units=20, alpha=0.05, history_s=20.0)
DRAFTED = Step("interleaving", "interleaving", 500, needs=(Need("interleaving"),), gate=TERMS)
IN_AB = Step("ab-50", "ab", 500, needs=(Need("online_gate"),), gate=TERMS)


@dataclass
class Gated:
    """A rollout's surroundings whose users click: champion 1 against version 2. alarms: open ones."""

    folder: Path
    noise: dict[int, float]
    seed: int = 1
    alarms: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.places = Surroundings()
        self.traffic = Traffic(Archive(self.folder / "archive"), self.noise, seed=self.seed)
        self.data = GateData(self.traffic.archive, self.folder / "gates")
        self.judge = self.another_judge()

    @property
    def control(self) -> Any:
        return self.places.control

    def another_judge(self) -> GateJudge:
        """On the same tables and folders."""

        def alarms(_model: str, version: int, _since_ms: int, _until_ms: int) -> Sequence[str]:
            return self.alarms if version == 2 else ()

        return GateJudge(self.control, self.data, alarms, GateSettings(settle_s=0.0))

    def start(self, *steps: Step) -> Rollout:
        return self.places.start(steps=steps, holdback_weight=0)

    def pass_look(self, lists: int = 1500) -> list[Evidence]:
        """A look's traffic and, as its clicks have come, a look of the judge and a turn of the engine."""
        plan = self.control.plan(MODEL)
        since_ms = self.places.now_ms
        self.traffic.run(plan, lists, since_ms + 1, since_ms + int(LOOK_S * 1000))
        self.places.answer(200)
        self.places.now_ms += int(LOOK_S * 1000)
        kept = self.judge.turn(self.places.now_ms + 1200)
        self.places.turn()
        return kept

    def now(self, rollout: Rollout) -> Rollout:
        found: Rollout = self.control.rollout(rollout.id)
        return found


def test_a_much_better_challenger_is_promoted_through_interleaving_and_ab(tmp_path: Path) -> None:
    gated = Gated(tmp_path, {1: 6.0, 2: 0.2})
    rollout = gated.start(DRAFTED, IN_AB)
    for _ in range(6):
        if gated.now(rollout).active:
            gated.pass_look()

    history = gated.control.rollout_history(rollout.id)
    assert [change.what for change in history] == ["started", "advanced", "promoted"]
    kinds = [
        [one.kind for one in gated.control.evidence_of(change.evidence) if one.kind != "guardrails"]
        for change in history[1:]
    ]
    assert kinds == [["interleaving"], ["online_gate"]]
    (promoted,) = [one for one in gated.control.evidence_of(history[-1].evidence) if one.kind == "online_gate"]
    assert promoted.body["clicks"] == "simulated"
    assert "crossed the boundary" in promoted.why


def test_a_much_worse_challenger_is_rolled_back_by_the_confidence_sequence(tmp_path: Path) -> None:
    gated = Gated(tmp_path, {1: 0.2, 2: 6.0})
    rollout = gated.start(IN_AB)
    gated.pass_look()

    change = gated.control.rollout_history(rollout.id)[-1]
    assert change.what == "rolled_back"
    assert "surely worse" in change.why
    (failed,) = gated.control.evidence_of(change.evidence)
    assert (failed.kind, failed.verdict) == ("online_gate", "failed")


@pytest.mark.parametrize("step", [DRAFTED, IN_AB], ids=lambda step: step.name)
def test_an_equal_challenger_is_held_also_after_its_last_look(tmp_path: Path, step: Step) -> None:
    gated = Gated(tmp_path, {1: 1.0, 2: 1.0}, seed=5)
    rollout = gated.start(step)
    kept = [one for _ in range(4) for one in gated.pass_look()]

    assert [one.verdict for one in kept] == ["inconclusive"] * 4
    assert gated.now(rollout).state == "running"
    assert "the last of 3 looks is over" in kept[-1].why


def test_the_same_data_are_the_same_evidence_kept_once_whoever_judges(tmp_path: Path) -> None:
    gated = Gated(tmp_path, {1: 1.0, 2: 1.0})
    gated.start(IN_AB)
    (first,) = gated.pass_look()
    now_ms = gated.places.now_ms + 1200

    assert gated.judge.turn(now_ms) == [] == gated.another_judge().turn(now_ms)
    rollout = gated.control.rollouts(MODEL)[0]
    again = Gated(tmp_path, {1: 1.0, 2: 1.0}).data  # as after a restart, on the same folders
    other = GateJudge(gated.control, again, settings=GateSettings(settle_s=0.0)).look(rollout, now_ms)
    assert other is not None
    assert other.encode() == first.encode()
    assert len(gated.control.evidence(MODEL, kind="online_gate")) == 1


def test_a_verdict_replays_byte_for_byte_from_the_archive_alone_and_a_changed_archive_is_told(tmp_path: Path) -> None:
    gated = Gated(tmp_path, {1: 1.0, 2: 1.0})
    gated.start(IN_AB)
    (first,) = gated.pass_look()
    gated.pass_look()
    elsewhere = GateData(gated.traffic.archive, tmp_path / "elsewhere")

    assert replay(first, elsewhere).encode() == first.encode()
    assert what_differs(first, replay(first, elsewhere)) == ""
    inputs = inputs_in(first)
    assert inputs is not None
    plan = gated.control.plan(MODEL)
    gated.traffic.run(plan, 3, inputs.scope.since_ms, inputs.scope.since_ms + 10)
    assert "the archive has changed" in what_differs(first, replay(first, elsewhere))


def test_evidence_that_no_gate_made_is_not_replayed(tmp_path: Path) -> None:
    gated = Gated(tmp_path, {1: 1.0, 2: 1.0})
    handed_in = some_evidence(gated.start(IN_AB), "online_gate")

    with pytest.raises(ValueError, match="was not made by an online gate"):
        replay(handed_in, gated.data)


def test_an_open_drift_alarm_holds_what_would_pass(tmp_path: Path) -> None:
    gated = Gated(tmp_path, {1: 6.0, 2: 0.2}, alarms=["drift of `match`"])
    rollout = gated.start(IN_AB)
    kept = [one for _ in range(3) for one in gated.pass_look()]

    assert {one.verdict for one in kept} == {"inconclusive"}
    assert "it would pass" in kept[-1].why and "drift of `match`" in kept[-1].why
    gated.alarms.clear()
    gated.pass_look()
    assert gated.now(rollout).state == "promoted"


def test_judged_ndcg_that_says_the_opposite_holds_what_would_pass(tmp_path: Path) -> None:
    gated = Gated(tmp_path, {1: 6.0, 2: 0.2})
    rollout = gated.start(IN_AB)
    judged = {"judged": {"verdict": "failed", "why": "lift -3 %"}}
    gated.control.add_evidence(some_evidence(rollout, "offline_gate", "inconclusive", plan_revision=None, body=judged))
    kept = [one for _ in range(3) for one in gated.pass_look()]

    assert {one.verdict for one in kept} == {"inconclusive"}
    assert "lift -3 %" in kept[-1].why and "a conflict is a hold" in kept[-1].why


def test_simulated_users_in_the_traffic_of_people_are_a_broken_measurement(tmp_path: Path) -> None:
    gated = Gated(tmp_path, {1: 0.2, 2: 6.0})
    people = Step("ab-50", "ab", 500, needs=(Need("online_gate"),), gate=GateTerms(looks=3, look_s=LOOK_S))
    rollout = gated.start(people)
    gated.pass_look(90)
    (few,) = gated.judge.turn(gated.places.now_ms + 3_600_000)
    gated.pass_look()
    (found,) = gated.judge.turn(gated.places.now_ms + 3_600_000)

    assert few.verdict == "inconclusive"  # of a handful, one is a large share
    assert (found.verdict, gated.now(rollout).state) == ("errored", "running")
    assert "of the other kind" in found.why


def test_what_the_gate_says_is_shown_to_prometheus(tmp_path: Path) -> None:
    gated = Gated(tmp_path, {1: 1.0, 2: 1.0})
    gated.start(IN_AB)
    (found,) = gated.pass_look()
    verdict = verdict_in(found)
    labels = {"model": MODEL, "layer": "rollout", "kind": "online_gate"}

    assert verdict is not None
    assert REGISTRY.get_sample_value("pipelines_gate_estimate_ratio", labels) == verdict.estimate
    assert REGISTRY.get_sample_value("pipelines_gate_boundary_z", labels) == verdict.boundary
    assert REGISTRY.get_sample_value("pipelines_gate_lists", labels) == verdict.lists


def test_gauges_of_a_gate_that_is_over_show_nothing(tmp_path: Path) -> None:
    gated = Gated(tmp_path, {1: 0.2, 2: 6.0})
    rollout = gated.start(IN_AB)
    gated.pass_look()
    assert not gated.now(rollout).active
    gated.judge.turn(gated.places.now_ms + 2000)

    labels = {"model": MODEL, "layer": "rollout", "kind": "online_gate"}
    shown = REGISTRY.get_sample_value("pipelines_gate_verdict", labels)
    assert shown is not None and isnan(shown)
