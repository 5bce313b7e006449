"""Online gates on the real platform: gateway traffic, simulated clicks, the judge in Celery, the controller decides."""

import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from deploy import wiring
from deploy.client import GatewayClient
from deploy.control.client import ControlClient, model_path
from deploy.errors import SluiceError
from deploy.features.store import feature_client
from pipelines.feedback.clicks import ClickModel
from registry.artefacts import write
from registry.board import RedisBoard
from registry.contracts.gates import GateTerms
from registry.contracts.rollouts import Evidence, GuardrailLimits, Need, Rollout, RolloutSpec, Step, aa_spec
from registry.contracts.traffic import TrafficPlan
from registry.rollout_moves import start
from registry.store import StoredVersion
from registry.traffic_control import SqlControl
from serving.features.materialiser import write_rows
from tests.builders import a_package
from tests.e2e.platforms_under_fire import MODEL, Platform, until

ROOT = Path(__file__).parent.parent.parent
SHOWN = 6
ITEMS = [f"item-{i}" for i in range(SHOWN)]
GRADES = np.array([0.0, 0.0, 1.0, 2.0, 3.0, 4.0])  # of items in order: one that sums up its row ranks by grade
UNITS = 3000
TERMS = GateTerms(looks=3, look_s=2.5, clicks_within_s=3.0, simulated=True, min_units=30, history_s=0.0)
DRAFTED = Step("interleaving", "interleaving", 500, needs=(Need("interleaving"),), gate=TERMS)
IN_AB = Step("ab-50", "ab", 500, min_answers=10, needs=(Need("online_gate"),), gate=TERMS)
NOT_ON_LATENCY = GuardrailLimits(p99_ms=10_000.0)  # a busy machine is slow to either arm


@dataclass
class Users:
    """Simulated users who ask without pause and click by a position-based model."""

    platform: Platform
    clients: int = 2
    asked: int = 0
    failed: list[str] = field(default_factory=list)

    @contextmanager
    def busy(self) -> Iterator[None]:
        """While it lasts."""
        stop = threading.Event()
        threads = [threading.Thread(target=self._run, args=(number, stop)) for number in range(self.clients)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            stop.set()
            for thread in threads:
                thread.join()

    def _run(self, number: int, stop: threading.Event) -> None:
        rng, coins = np.random.default_rng(number), random.Random(number)
        model = ClickModel(eta=1.0, noise=0.02)
        attraction = dict(zip(ITEMS, model.attraction(GRADES).tolist(), strict=True))
        examined = model.examination(SHOWN)
        with GatewayClient(self.platform.settings.gateway_url) as gateway:
            while not stop.is_set():
                unit, candidates = f"user-{coins.randrange(UNITS)}", coins.sample(ITEMS, SHOWN)
                try:
                    found = gateway.post(
                        f"/v1/models/{MODEL}/rank", {"candidates": candidates, "unit": unit, "deadline_ms": 30_000}
                    )
                    chance = examined * np.array([attraction[item["id"]] for item in found["items"]])
                    clicked = np.flatnonzero(rng.random(SHOWN) < chance).tolist()
                    self._click(gateway, found, clicked)
                except SluiceError as error:
                    self.failed.append(str(error))
                self.asked += 1

    def _click(self, gateway: GatewayClient, found: Any, places: list[int]) -> None:
        if not places:
            return
        events = [
            {
                "event_id": f"{found['ranking_id']}-{place}",
                "type": "click",
                "ranking_id": found["ranking_id"],
                "item": found["items"][place]["id"],
                "position": place + 1,
                "simulated": True,
            }
            for place in places
        ]
        gateway.post("/v1/feedback", {"events": events})


@dataclass
class Gated:
    """A platform with Celery whose champion is version 1; version 2 ranks the other way round."""

    platform: Platform
    control: SqlControl
    digests: dict[int, str]

    def start(self, version: int, spec: RolloutSpec, layer: str = "rollout") -> Rollout:
        plan = self.control.plan(MODEL)
        stored = StoredVersion(MODEL, version, self.digests[version], a_package().manifest, 0)
        words: dict[str, Any] = {"who": "test", "why": "new", "now_ms": time.time_ns() // 1_000_000}
        decision = start(plan, stored, spec, layer=layer, **words)
        self.control.decide(decision)
        return decision.moves[0].rollout

    def ended(self, rollout: Rollout) -> Rollout:
        """Once it is."""
        until(lambda: not self.control.rollout(rollout.id).active, f"{rollout.id} to end: {self.said(rollout)}")
        return self.control.rollout(rollout.id)

    def said(self, rollout: Rollout) -> list[str]:
        return [f"{one.kind} {one.verdict}: {one.why}" for one in self.gates(rollout)][-3:]

    def gates(self, rollout: Rollout) -> list[Evidence]:
        """Evidence of its gates, oldest first."""
        found = self.control.evidence(MODEL, since_ms=rollout.started_ms, challenger_digest=rollout.challenger_digest)
        return [one for one in found if one.kind in ("interleaving", "online_gate")]


@contextmanager
def a_platform(home: Path, champion_scale: float) -> Iterator[Gated]:
    platform = Platform.start(home, with_celery=True, gates="period_s=0.5,settle_s=3")
    try:
        packages = {1: a_package(scale=champion_scale), 2: a_package(scale=-champion_scale)}
        for version, package in packages.items():
            write(package, platform.settings.versions_folder / MODEL / str(version))
        view = packages[1].manifest.feature_view()
        values = GRADES.astype(np.float32).reshape(-1, 1)
        rows = feature_client(platform.settings, wiring.REDIS_TIMEOUT_S)
        write_rows(rows, view, ITEMS, values, updated_ms=1, on_rows=lambda _: None)
        control = wiring.traffic_control(platform.settings)
        plan = TrafficPlan(MODEL, 1, champion=1, champion_digest=packages[1].digest)
        control.change(plan, expected_revision=0, who="test", why="first", evidence={}, now_ms=0)
        RedisBoard(wiring.redis_client(platform.settings)).publish(plan)
        platform.wait_until_warm()
        yield Gated(platform, control, {version: package.digest for version, package in packages.items()})
    finally:
        platform.stop()


def sluice(gated: Gated, *words: str) -> "subprocess.CompletedProcess[str]":
    environment = dict(os.environ) | {"SLUICE_HOME": str(gated.platform.settings.home)}
    program = [sys.executable, "-m", "deploy.cli", *words]
    return subprocess.run(program, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=120)


@pytest.mark.slow
def test_a_much_better_challenger_is_promoted_and_each_verdict_replays(tmp_path: Path) -> None:
    with a_platform(tmp_path / "home", champion_scale=-1.0) as gated, Users(gated.platform).busy():
        spec = RolloutSpec((DRAFTED, IN_AB), NOT_ON_LATENCY, holdback_weight=0)
        rollout = gated.start(2, spec)
        until(lambda: gated.gates(rollout), "a first verdict")
        gated.platform.kill("celery-worker")  # whoever judges next comes to the same verdicts
        ended = gated.ended(rollout)
        history = gated.control.rollout_history(rollout.id)
        passed = [one for change in history for one in gated.control.evidence_of(change.evidence)]
        deciding = {one.kind: one for one in passed if one.kind in ("interleaving", "online_gate")}
        replays = {kind: sluice(gated, "rollout", "replay", one.id) for kind, one in deciding.items()}
        screen = sluice(gated, "rollout", "explain", MODEL)

    assert ended.state == "promoted"
    assert [change.what for change in history] == ["started", "advanced", "promoted"]
    assert {kind: one.verdict for kind, one in deciding.items()} == {"interleaving": "passed", "online_gate": "passed"}
    for kind, replay in replays.items():
        assert replay.returncode == 0, f"{kind}: {replay.stdout} {replay.stderr}"
        assert "the same byte for byte" in replay.stdout
    assert screen.returncode == 0, screen.stderr
    assert "promoted" in screen.stdout and "shrunken" in screen.stdout and "estimate" in screen.stdout
    print(screen.stdout)


@pytest.mark.slow
def test_a_much_worse_challenger_is_rolled_back_by_the_confidence_sequence(tmp_path: Path) -> None:
    with a_platform(tmp_path / "home", champion_scale=1.0) as gated, Users(gated.platform).busy():
        spec = RolloutSpec((IN_AB,), NOT_ON_LATENCY, holdback_weight=0)
        rollout = gated.start(2, spec)
        ended = gated.ended(rollout)
        failed = gated.control.evidence_of(gated.control.rollout_history(rollout.id)[-1].evidence)

    assert ended.state == "rolled_back"
    assert {(one.kind, one.verdict) for one in failed} == {("online_gate", "failed")}
    assert "surely worse" in failed[0].why


@pytest.mark.slow
def test_the_champion_against_itself_is_held_through_both_steps_and_is_still_the_champion(tmp_path: Path) -> None:
    """With an alpha of 0.001, so that chance alone hardly ever breaks the test."""
    with a_platform(tmp_path / "home", champion_scale=1.0) as gated, Users(gated.platform).busy():
        terms = msgspec.structs.replace(TERMS, alpha=0.001, rollback_alpha=0.001)
        spec = msgspec.structs.replace(aa_spec(500, terms, terms, patience_s=6.0), guardrails=NOT_ON_LATENCY)
        rollout = gated.start(1, spec, layer="aa")
        gated.ended(rollout)
        plan = gated.control.plan(MODEL)
        verdicts = {(one.kind, one.verdict): one.why for one in gated.gates(rollout)}
        with ControlClient.of(dict(os.environ) | {"SLUICE_HOME": str(gated.platform.settings.home)}) as control:
            told = control.get(model_path(MODEL, "rollouts", rollout.id, "explain"))

    assert plan is not None and (plan.champion, plan.layers) == (1, ())
    assert verdicts.keys() == {("interleaving", "inconclusive"), ("online_gate", "inconclusive")}, verdicts
    assert "against itself (A/A)" in told["text"]
