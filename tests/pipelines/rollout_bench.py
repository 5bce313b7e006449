"""A rollout's surroundings in memory: tables, boards, and gateways that follow the board and count."""

from collections import Counter
from typing import Any

from pipelines.rollouts.engine import RolloutEngine
from registry.board import MemoryBoard
from registry.contracts.counters import LATENCY_BUCKETS, ArmCounters, CounterSnapshot, latency_bucket
from registry.contracts.rollouts import Rollout, Verdict
from registry.contracts.traffic import Arm
from registry.counters import MemoryCounterBoard
from registry.rollout_moves import start
from registry.rollouts import RolloutControl
from registry.traffic_control import MemoryControl
from tests.builders import NOW_MS, a_plan, a_spec, a_stored, some_evidence


class Surroundings:
    """One model with champion 1, promoted and shown; a clock that is moved by hand."""

    def __init__(self, control: RolloutControl | None = None, board: MemoryBoard | None = None) -> None:
        self.control = control or MemoryControl()
        self.board, self.counters = board or MemoryBoard(), MemoryCounterBoard()
        self.now_ms = NOW_MS
        self.decided: list[str] = []
        self.engine = self.another_engine()
        self._counted: dict[tuple[int, str, Arm], Counter[str]] = {}
        self.control.change(
            a_plan(champion=1), expected_revision=0, who="ann", why="first", evidence={}, now_ms=self.now_ms
        )
        self.engine.turn(self.now_ms)

    def another_engine(self) -> RolloutEngine:
        """On the same tables and boards."""
        return RolloutEngine(self.control, self.board, self.counters, self.decided.append)

    def start(self, version: int = 2, layer: str = "rollout", **changes: Any) -> Rollout:
        """A rollout of the version, shown on the board."""
        words: dict[str, Any] = {"who": "ann", "why": "new", "now_ms": self.now_ms}
        decision = start(self.control.plan("codesearch"), a_stored(version), a_spec(**changes), layer=layer, **words)
        plan = self.control.decide(decision)
        assert plan is not None
        self.board.publish(plan)
        return decision.moves[0].rollout

    def turn(self, after_s: float = 0.0) -> int:
        """The engine's, so much later."""
        self.now_ms += int(after_s * 1000)
        return self.engine.turn(self.now_ms)

    def post(self, rollout: Rollout, kind: str, verdict: Verdict = "passed", **changes: Any) -> None:
        """Evidence made now, of the step that the rollout is in."""
        now = self.control.rollout(rollout.id)
        made = {"made_ms": self.now_ms, "since_ms": self.now_ms, "until_ms": self.now_ms}
        self.control.add_evidence(some_evidence(now, kind, verdict, **(made | changes)))

    def answer(self, units: int = 2000, failing: int | None = None) -> Counter[int]:
        """A query of each unit by a gateway that follows the board, counted on the counter board; how many
        each version answered. failing: the version that fails half of its queries."""
        plan, versions = self.board.read()["codesearch"], Counter[int]()
        for unit in range(units):
            assigned = plan.assign(f"user-{unit}")
            experiment = assigned.experiment.name if assigned.experiment else ""
            counted = self._counted.setdefault((plan.revision, experiment, assigned.arm), Counter())
            failed = assigned.version == failing and unit % 2 == 0
            counted["failed" if failed else "answered"] += 1
            versions[assigned.version] += not failed
        self._publish()
        return +versions

    def _publish(self) -> None:
        arms = tuple(
            ArmCounters(
                "codesearch",
                revision,
                experiment,
                arm,
                counted["answered"],
                0,
                counted["failed"],
                0,
                _at(counted["answered"]),
            )
            for (revision, experiment, arm), counted in self._counted.items()
        )
        self.counters.publish(CounterSnapshot("gateway-0:1:1", self.now_ms, arms))


def _at(answers: int, latency_ms: float = 5.0) -> tuple[int, ...]:
    latency = [0] * LATENCY_BUCKETS
    latency[latency_bucket(latency_ms)] = answers
    return tuple(latency)
