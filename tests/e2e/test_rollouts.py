"""Rollouts on the real platform: the controller decides from real counters, the answers prove it."""

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from deploy import wiring
from deploy.client import GatewayClient
from deploy.errors import SluiceError
from registry.artefacts import write
from registry.contracts.rollouts import GuardrailLimits, Need, Rollout, RolloutSpec, Step
from registry.contracts.traffic import TrafficPlan
from registry.rollout_moves import start
from registry.store import StoredVersion
from registry.traffic_control import SqlControl
from tests.builders import a_package, some_evidence
from tests.e2e.platforms_under_fire import ITEMS, MODEL, Platform, until

ZERO_WITHIN_S = 5.0  # what we promise from a verdict to the last answer of the challenger
WORDS: dict[str, Any] = {"who": "test", "why": "new", "now_ms": 0}
STEPS = (
    Step("offline-gate", "gate", needs=(Need("offline_gate", "ever", 3600.0),)),
    Step("mirror", "mirror", mirror_share=500, min_s=0.5),
    Step("ab-10", "ab", 100, min_s=0.5, min_answers=10),
    Step("ramp-50", "ab", 500, min_s=0.5, min_answers=10),
)
NOT_ON_LATENCY = GuardrailLimits(p99_ms=10_000.0)  # a busy machine is slow to either arm


@dataclass(frozen=True)
class Answer:
    """What a unit got. at_s: monotonic, when it was there."""

    unit: str
    version: int
    revision: int
    at_s: float


@dataclass
class Readers:
    """Clients that rank for ever other units and keep what they got."""

    platform: Platform
    answers: list[Answer] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    _stop: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list)

    def __enter__(self) -> "Readers":
        self._threads = [threading.Thread(target=self._run, args=(i,)) for i in range(2)]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def wait_for(self, version: int, more: int = 1) -> None:
        """Until the version gave so many more answers."""
        before = self.of(version)
        until(lambda: self.of(version) >= before + more, f"{more} more answers of version {version}")

    def of(self, version: int) -> int:
        """Answers of the version so far."""
        return sum(answer.version == version for answer in self.answers)

    def _run(self, number: int) -> None:
        place = number * 1_000_000
        with GatewayClient(self.platform.settings.gateway_url) as gateway:
            while not self._stop.is_set():
                place += 1
                unit = f"u{place}"
                try:
                    found = gateway.post(
                        f"/v1/models/{MODEL}/rank", {"candidates": ITEMS[:5], "unit": unit, "deadline_ms": 30_000}
                    )
                except SluiceError as error:
                    self.failed.append(str(error))
                    continue
                self.answers.append(Answer(unit, found["version"], found["plan_revision"], time.monotonic()))


@dataclass
class Placed:
    """A platform whose champion 1 is in the tables."""

    platform: Platform
    control: SqlControl

    def plan(self) -> TrafficPlan:
        found = self.control.plan(MODEL)
        assert found is not None
        return found

    def start(self, version: int, digest: str, *steps: Step, layer: str = "rollout") -> Rollout:
        """Decided, and left to the controller to show."""
        spec = RolloutSpec(steps or STEPS, NOT_ON_LATENCY, holdback_weight=20, holdback_s=2.0)
        stored = StoredVersion(MODEL, version, digest, a_package().manifest, 0)
        decision = start(self.plan(), stored, spec, layer=layer, **(WORDS | {"now_ms": _now_ms()}))
        self.control.decide(decision)
        return decision.moves[0].rollout

    def wait_for(self, rollout: Rollout, state: str) -> Rollout:
        """Until the rollout is in that state."""
        until(lambda: self.control.rollout(rollout.id).state == state, f"{rollout.id} to be {state}")
        return self.control.rollout(rollout.id)

    def wait_for_step(self, rollout: Rollout, step: int) -> None:
        """Until the rollout is in that step."""
        until(lambda: self.control.rollout(rollout.id).step == step, f"{rollout.id} to be in step {step}")


@pytest.fixture
def placed(tmp_path: Path) -> Iterator[Placed]:
    platform = Platform.start(tmp_path / "home")
    try:
        platform.serve()
        control = wiring.traffic_control(platform.settings)
        plan = TrafficPlan(MODEL, 1, champion=1, champion_digest=a_package().digest)
        control.change(plan, expected_revision=0, evidence={}, **WORDS)
        yield Placed(platform, control)
    finally:
        platform.stop()


def a_challenger(placed: Placed) -> str:
    """Version 2, on this machine; its digest."""
    package = a_package(scale=-1.0)
    write(package, placed.platform.settings.versions_folder / MODEL / "2")
    return package.digest


def assert_every_answer_was_allowed(placed: Placed, answers: list[Answer]) -> None:
    """By the plan revision that it names."""
    plans = {change.revision: change.plan for change in placed.control.history(MODEL)}
    assert sorted(plans) == list(range(1, len(plans) + 1))
    for answer in answers:
        assigned = plans[answer.revision].assign(answer.unit)
        # a version that is not loaded yet, or a list that could not be drafted, is the champion's
        assert answer.version in (assigned.version, plans[answer.revision].champion)
        assert assigned.arm == "challenger" or answer.version == plans[answer.revision].champion


@pytest.mark.slow
def test_a_version_goes_from_registered_to_champion_by_itself_also_when_controllers_are_killed(placed: Placed) -> None:
    digest = a_challenger(placed)
    with Readers(placed.platform) as readers:
        rollout = placed.start(2, digest)
        placed.control.add_evidence(some_evidence(rollout, "offline_gate", made_ms=_now_ms(), plan_revision=None))
        for step in (1, 2, 3):
            placed.wait_for_step(rollout, step)
            placed.platform.kill("controller")
        placed.wait_for(rollout, "promoted")
        until(lambda: not placed.plan().layers, "the holdback to end")
        readers.wait_for(2, more=20)

    history = placed.control.rollout_history(rollout.id)
    assert [change.what for change in history] == [
        *("started", "advanced", "advanced", "advanced", "promoted", "holdback_ended")
    ]
    assert [change.rollout.revision for change in history] == [1, 2, 3, 4, 5, 6]
    assert placed.plan().champion == 2
    assert readers.failed == []
    assert_every_answer_was_allowed(placed, readers.answers)
    at = {change.what + str(change.rollout.step): change.plan_revision for change in history}
    shares = {revision: [a for a in readers.answers if a.revision == revision] for revision in at.values()}
    assert {a.version for a in shares[at["advanced1"]]} == {1}
    assert {a.version for a in shares[at["advanced2"]]} == {1, 2} == {a.version for a in shares[at["advanced3"]]}
    ramp = shares[at["advanced3"]]
    assert abs(sum(a.version == 2 for a in ramp) / len(ramp) - 0.5) < 5 * (0.25 / len(ramp)) ** 0.5


@pytest.mark.slow
def test_after_a_failed_verdict_the_answers_are_the_champion_s_within_seconds(placed: Placed) -> None:
    digest = a_challenger(placed)
    waits = Step("ab-50", "ab", 500, needs=(Need("online_gate"),))
    with Readers(placed.platform) as readers:
        rollout = placed.start(2, digest, waits)
        readers.wait_for(2, more=50)
        verdict_s = time.monotonic()
        placed.control.add_evidence(some_evidence(rollout, "online_gate", "failed", made_ms=_now_ms()))
        placed.wait_for(rollout, "rolled_back")
        until(lambda: readers.answers[-1].at_s > verdict_s + ZERO_WITHIN_S + 1, "answers from after the promise")

    late = [answer for answer in readers.answers if answer.at_s > verdict_s + ZERO_WITHIN_S]
    last_s = max(answer.at_s for answer in readers.answers if answer.version == 2)
    print(f"the last answer of the challenger came {last_s - verdict_s:.2f} s after the verdict")
    assert {answer.version for answer in late} == {1}
    assert readers.failed == []
    assert_every_answer_was_allowed(placed, readers.answers)


@pytest.mark.slow
def test_a_challenger_that_fails_is_rolled_back_by_what_gateways_counted_and_no_query_fails(placed: Placed) -> None:
    package = a_package(scale=1e38)  # sound on the warm-up's zeros, beyond float32 on what is asked below
    write(package, placed.platform.settings.versions_folder / MODEL / "2")
    with Readers(placed.platform) as readers:
        rollout = placed.start(2, package.digest, Step("ab-50", "ab", 500, min_s=3600.0, min_answers=10))
        ended = placed.wait_for(rollout, "rolled_back")
        revision = placed.plan().revision
        until(lambda: readers.answers[-1].revision == revision, "answers under the plan without it")
        readers.wait_for(1, more=50)

    [evidence] = placed.control.evidence_of(placed.control.rollout_history(ended.id)[-1].evidence)
    assert (evidence.kind, evidence.verdict) == ("guardrails", "failed")
    # the champion answered for it, and it counts as failed all the same
    assert evidence.why.startswith("failed: 100.00% of the challenger's, 0.00% of the champion's")
    assert readers.failed == []
    assert {answer.version for answer in readers.answers} == {1}


@pytest.mark.slow
def test_a_version_that_nobody_can_load_holds_and_stands_in_no_other_rollback_s_way(placed: Placed) -> None:
    digest = a_challenger(placed)
    half = Step("ab-50", "ab", 500, min_s=3600.0)
    with Readers(placed.platform) as readers:
        rollout = placed.start(2, digest, half)
        readers.wait_for(2, more=20)
        stuck = placed.start(9, "9" * 64, replace(half, min_s=0.0), layer="other")
        log = placed.platform.settings.log_file
        until(lambda: f"could not load {MODEL}@9" in log.read_text(), "the worker to refuse the version")
        readers.wait_for(2, more=20)
        verdict_s = time.monotonic()
        placed.control.add_evidence(some_evidence(rollout, "drift", "failed", made_ms=_now_ms()))
        placed.wait_for(rollout, "rolled_back")
        until(lambda: readers.answers[-1].at_s > verdict_s + ZERO_WITHIN_S + 1, "answers from after the promise")

    late = [answer for answer in readers.answers if answer.at_s > verdict_s + ZERO_WITHIN_S]
    assert {answer.version for answer in late} == {1}
    assert placed.control.rollout(stuck.id).step == 0
    assert readers.failed == []


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
