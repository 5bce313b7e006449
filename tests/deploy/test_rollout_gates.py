"""Gates through the control API: planned before they begin, explained while they run, replayed ever after."""

import io
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from rich.console import Console

from deploy.commands.rollout_gates import show_plan
from pipelines.gates.data import GateData
from pipelines.gates.judge import GateJudge
from pipelines.settings import GateSettings
from registry.contracts.gates import GateTerms
from registry.contracts.rollouts import Need, Step
from tests.deploy.control_desk import ControlBench, a_control_bench
from tests.pipelines.gate_traffic import MODEL, Traffic

ROOT = Path(__file__).parent.parent.parent
TERMS = GateTerms(looks=3, look_s=4.0, clicks_within_s=1.0, simulated=True, min_units=20, effect=2.0, history_s=60.0)
STEPS = msgspec.to_builtins([Step("ab-50", "ab", 500, needs=(Need("online_gate"),), gate=TERMS)])
START = {"version": 2, "why": "try", "steps": STEPS}


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[ControlBench]:
    with a_control_bench(tmp_path) as bench:
        bench.promote(1)
        yield bench


def traffic_of(bench: ControlBench, lists: int = 600) -> Traffic:
    """Half a minute of the champion's, until two seconds ago."""
    traffic = Traffic(bench.archive, {1: 1.0, 2: 1.0})
    plan, now_ms = bench.control.plan(MODEL), time.time_ns() // 1_000_000
    assert plan is not None
    traffic.run(plan, lists, now_ms - 32_000, now_ms - 2_000)
    return traffic


def judge_a_look(bench: ControlBench, traffic: Traffic, folder: Path) -> None:
    """As if the first look of the step were over."""
    rollout = bench.control.rollouts(MODEL)[0]
    plan = bench.control.plan(MODEL)
    assert plan is not None
    traffic.run(plan, 800, rollout.entered_ms + 1, rollout.entered_ms + 4000)
    judge = GateJudge(bench.control, GateData(bench.archive, folder / "gates"), settings=GateSettings(settle_s=0.0))
    assert judge.turn(rollout.entered_ms + 5500) != []


def test_a_gate_that_gets_no_traffic_is_409_with_the_numbers_unless_it_is_meant(bench: ControlBench) -> None:
    refused = bench.post("/rollouts", START)
    assert refused.status_code == 409
    assert "let it answer some queries first" in refused.json()["error"]
    traffic_of(bench)
    small = [STEPS[0] | {"gate": STEPS[0]["gate"] | {"effect": 0.004}}]
    refused = bench.post("/rollouts", START | {"steps": small})

    assert refused.status_code == 409
    assert "units a day" in refused.json()["error"] and "needs" in refused.json()["error"]
    assert bench.get("/rollouts").json()["rollouts"] == []
    made = bench.post("/rollouts", START | {"steps": small, "underpowered": True})
    assert made.status_code == 201
    assert made.json()["rollout"]["spec"]["steps"][0]["gate"]["underpowered"] is True


def test_a_plan_is_shown_without_anything_being_started(bench: ControlBench) -> None:
    traffic_of(bench)
    found = bench.post("/rollouts/plan", START).json()

    assert found["refused"] == ""
    assert found["gates"][0]["terms"]["size"]["power"] > 0.8
    assert found["budget"]["decisions"] == 0
    assert bench.get("/rollouts").json()["rollouts"] == []
    console = Console(file=io.StringIO(), width=160)
    show_plan(console, found)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "ab-50" in text and "it would start" in text


def test_the_default_rollout_is_planned_too(bench: ControlBench) -> None:
    found = bench.post("/rollouts/plan", {"version": 2, "why": "?", "interleaving": True}).json()

    assert [gate["step"] for gate in found["gates"]] == ["interleaving", "ab-10"]
    assert [gate["terms"]["margin"] for gate in found["gates"]] == [0.0, -0.02]
    assert "no traffic" in found["refused"]


def test_explain_is_one_screen_of_what_is_known(bench: ControlBench, tmp_path: Path) -> None:
    traffic = traffic_of(bench)
    rollout_id = bench.post("/rollouts", START).json()["rollout"]["id"]
    before = bench.get(f"/rollouts/{rollout_id}/explain").json()
    judge_a_look(bench, traffic, tmp_path)
    after = bench.get(f"/rollouts/{rollout_id}/explain").json()

    assert before["gates"][0]["verdict"] is None
    assert "no look and no click yet" in before["text"] and "the next look closes" in before["text"]
    began_ms = bench.control.rollout(rollout_id).entered_ms
    assert [one["gates"][0]["next_look_ms"] - began_ms for one in (before, after)] == [5000, 9000]
    assert after["gates"][0]["closes_ms"] == began_ms + 13_000
    text, figures = after["text"], after["gates"][0]["figures"]
    assert len(text.splitlines()) <= 20 and all(len(line) < 200 for line in text.splitlines()[1:])
    for word in ("rule", "estimate", "boundary", "anytime", "sample", "validity", "alpha", "next", "planned", "as of"):
        assert any(line.startswith(word) for line in text.splitlines()), word
    assert f"{figures['estimate']:+.2%}" in text and f"{figures['lists']} lists" in text
    assert f"z {figures['z']:.2f} of {figures['boundary']:.2f} at look 1 of 3" in text
    assert after["lift"]["raw"] == figures["estimate"]
    assert abs(after["lift"]["lift"]) < abs(after["lift"]["raw"])
    assert "365 days: 1, which have spent" in text
    assert after["outlook"]["next"] == "hold"


def test_explain_of_a_rollout_without_gates_says_so(bench: ControlBench) -> None:
    steps = [{"name": "ab-10", "kind": "ab", "weight": 100}]
    rollout_id = bench.post("/rollouts", {"version": 2, "why": "try", "steps": steps}).json()["rollout"]["id"]

    assert "no step of this rollout judges clicks" in bench.get(f"/rollouts/{rollout_id}/explain").json()["text"]


def test_an_aa_is_of_the_champion_alone_beside_a_real_rollout_and_spends_nothing(bench: ControlBench) -> None:
    body: dict[str, Any] = {"version": 1, "why": "are the gates right?", "aa": True, "layer": "aa"}
    assert bench.post("/rollouts", body | {"version": 2}).status_code == 409
    made = bench.post("/rollouts", body)
    traffic_of(bench)

    assert made.status_code == 201
    rollout = made.json()["rollout"]
    assert (rollout["champion"], rollout["challenger"], rollout["spec"]["aa"]) == (1, 1, True)
    assert bench.post("/rollouts", START).status_code == 201
    text = bench.get(f"/rollouts/{rollout['id']}/explain").json()["text"]
    assert "against itself (A/A)" in text and "an A/A spends nothing" in text


def sluice(bench: ControlBench, *words: str) -> "subprocess.CompletedProcess[str]":
    """The command, told where the API is."""
    environment = dict(os.environ) | {"SLUICE_URL": bench.url, "SLUICE_KEY": bench.admin}
    program = [sys.executable, "-m", "deploy.cli", "rollout", *words]
    return subprocess.run(program, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=120)


def test_the_commands_plan_start_an_aa_and_explain_it(bench: ControlBench) -> None:
    planned = sluice(bench, "plan", MODEL, "2")
    started = sluice(bench, "aa", MODEL, "--simulated")
    explained = sluice(bench, "explain", MODEL)

    assert planned.returncode == 1  # there has been no traffic
    assert "it would not start" in planned.stdout and "ab-10" in planned.stdout
    assert started.returncode == 0, started.stderr
    assert "@1 against itself in layer aa" in started.stdout
    assert explained.returncode == 0, explained.stderr
    assert explained.stdout.startswith(f"{MODEL}@1 against itself (A/A)")
    (rollout,) = bench.control.rollouts(MODEL)
    assert all(step.gate is not None and step.gate.simulated for step in rollout.spec.steps)
