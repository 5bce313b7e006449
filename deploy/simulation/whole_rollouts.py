"""A challenger's whole way through the rollout engine, day by day: interleaving, A/B at 10 %, ramp, champion or out.

Tables and boards are those in memory that ship with `registry`, the clock is moved by hand, gateways answer by the
plan that the board shows. The step before traffic (offline gate, mirror) is left out: D5 and D10 look at it alone,
and it would only take away from what the steps with traffic have to find.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from deploy.simulation.challengers import Kind
from deploy.simulation.characteristic import Figure, Outcome, Stage, column, mean, share
from deploy.simulation.crowd import Crowd, Mask, unit_names
from deploy.simulation.measurements import AbSeen
from pipelines.gates.gate_plan import GatePlan
from pipelines.gates.online import course
from pipelines.rollouts.engine import RolloutEngine
from registry.board import MemoryBoard
from registry.contracts.counters import LATENCY_BUCKETS, ArmCounters, CounterSnapshot, latency_bucket
from registry.contracts.manifest import CLICK_NDCG, JUDGED_NDCG, Lineage, ModelManifest, TensorSpec
from registry.contracts.rollouts import DAY_S, Evidence, Need, Rollout, RolloutSpec, Step, Verdict
from registry.contracts.traffic import Arm, TrafficPlan
from registry.counters import MemoryCounterBoard
from registry.rollout_moves import start
from registry.store import StoredVersion
from registry.traffic_control import MemoryControl

MODEL = "simulation"
LOOKS = 14
START_MS = 1_767_571_200_000  # 2026-01-05, a Monday
DAY_MS = int(DAY_S * 1000)
CROWD = Crowd(sessions_a_day=20_000)
WEIGHT = 100  # of interleaving and of the A/B, in steps of 0.1 %
NOT_WORSE_BY = 0.02  # of the A/B's non-inferiority
ANSWER_MS = 5.0

SPEC = RolloutSpec(
    (
        Step(
            "interleaving",
            "interleaving",
            WEIGHT,
            min_s=DAY_S,
            min_answers=1000,
            needs=(Need("interleaving", max_age_s=2 * DAY_S),),
            max_s=(LOOKS + 0.5) * DAY_S,
        ),
        Step(
            "ab-10",
            "ab",
            WEIGHT,
            min_s=DAY_S,
            min_answers=1000,
            needs=(Need("online_gate", max_age_s=2 * DAY_S),),
            max_s=(LOOKS + 0.5) * DAY_S,
        ),
        Step("ramp-25", "ab", 250, min_s=3600.0, min_answers=1000),
        Step("ramp-50", "ab", 500, min_s=3600.0, min_answers=1000),
    )
)

CASES: tuple[tuple[str, float, Kind], ...] = (
    ("the same version", 0.0, "low_noise"),
    ("truly 0.8 % worse", -0.008, "noisy"),
    ("truly 0.8 % better, low noise", 0.008, "low_noise"),
)


@dataclass(frozen=True, slots=True)
class Ended:
    """How a rollout ended. step: it was in. days: of simulated time."""

    state: str
    step: str
    days: float


@dataclass
class Platform:
    """A model with a champion, and a challenger on its way. now_ms: the clock."""

    stage: Stage
    lift: float
    kind: Kind
    rng: np.random.Generator
    now_ms: int = START_MS
    control: MemoryControl = field(default_factory=MemoryControl)
    board: MemoryBoard = field(default_factory=MemoryBoard)
    counters: MemoryCounterBoard = field(default_factory=MemoryCounterBoard)
    _answered: Counter[tuple[int, str, Arm]] = field(default_factory=Counter)

    def play(self) -> Ended:
        """Until the rollout has ended."""
        engine = RolloutEngine(self.control, self.board, self.counters, lambda model: None)
        rollout = self._start()
        self._publish(rollout)
        while rollout.active:
            for verdict in self._step(rollout):
                self.now_ms += DAY_MS
                if verdict is not None:
                    self.control.add_evidence(self._evidence(rollout, verdict))
                self._count(rollout)
                if engine.turn(self.now_ms):
                    break
            rollout = self.control.rollout(rollout.id)
        return Ended(rollout.state, rollout.current_step.name, (self.now_ms - START_MS) / DAY_MS)

    def _start(self) -> Rollout:
        first = TrafficPlan(MODEL, 1, 1, f"{1:064x}")
        self.control.change(first, expected_revision=0, who="simulation", why="first", evidence={}, now_ms=self.now_ms)
        challenger = StoredVersion(MODEL, 2, f"{2:064x}", _manifest(), self.now_ms)
        words = {"who": "simulation", "why": "a new version"}
        # units are hashed by a salt of the rollout's id: another layer name in every run gives others
        layer = f"run-{self.rng.integers(1 << 40)}"
        decision = start(self.control.plan(MODEL), challenger, SPEC, now_ms=self.now_ms, layer=layer, **words)
        self.control.decide(decision)
        return decision.moves[0].rollout

    def _publish(self, rollout: Rollout) -> None:
        plan = self.control.plan(rollout.model)
        assert plan is not None  # its rollout stands in it
        self.board.publish(plan)

    def _step(self, rollout: Rollout) -> Sequence[Verdict | None]:
        """What the step's gate says at the end of each of its days, None where it has none."""
        step = rollout.current_step
        if not step.needs:
            return [None]
        drafted, challenged = self._arms()
        visits = CROWD.visits(self.stage.world, self.rng)
        if step.kind == "interleaving":
            plan = GatePlan(kind="interleaving", metric=CLICK_NDCG.digest, looks=LOOKS)
            seen = self.stage.drafts(self.lift, self.kind).seen(visits.take(drafted[visits.unit]), self.rng)
            return [*course(plan, seen.sums(plan, LOOKS)), "inconclusive"]
        weights = (1 - WEIGHT / 1000, WEIGHT / 1000)
        plan = GatePlan(
            kind="ab",
            metric=CLICK_NDCG.digest,
            looks=LOOKS,
            margin=-NOT_WORSE_BY,
            rollback_margin=None,
            weights=weights,
        )
        challenger = self.stage.challenger(self.lift, self.kind)
        ab = AbSeen.of(self.stage.champion, challenger, visits, challenged, self.rng)
        return [*course(plan, ab.sums(plan, LOOKS)), "inconclusive"]

    def _arms(self) -> tuple[Mask, Mask]:
        """Units that get drafted lists, and those that get the challenger's, by the plan that the board shows."""
        plan = self.board.read()[MODEL]
        arms = np.array([plan.assign(unit).arm for unit in unit_names(CROWD.units)])
        return arms == "interleaved", arms == "challenger"

    def _evidence(self, rollout: Rollout, verdict: Verdict) -> Evidence:
        kind = "interleaving" if rollout.current_step.kind == "interleaving" else "online_gate"
        return Evidence(
            kind=kind,
            model=rollout.model,
            champion=rollout.champion,
            champion_digest=rollout.champion_digest,
            challenger=rollout.challenger,
            challenger_digest=rollout.challenger_digest,
            verdict=verdict,
            made_ms=self.now_ms,
            since_ms=rollout.entered_ms,
            until_ms=self.now_ms,
            plan_revision=rollout.plan_revision,
            experiment=rollout.experiment,
        )

    def _count(self, rollout: Rollout) -> None:
        """Gateways have answered a day's queries, all of them well."""
        step = rollout.current_step
        arm: Arm = "interleaved" if step.kind == "interleaving" else "challenger"
        tested = CROWD.sessions_a_day * step.weight // 1000
        self._answered[rollout.plan_revision, rollout.experiment, arm] += tested
        self._answered[rollout.plan_revision, "", "champion"] += CROWD.sessions_a_day - tested
        arms = tuple(
            ArmCounters(MODEL, revision, experiment, arm, answered=many, latency=_in_time(many))
            for (revision, experiment, arm), many in self._answered.items()
        )
        self.counters.publish(CounterSnapshot("gateway-0:1:1", self.now_ms, arms))


@dataclass(frozen=True, slots=True)
class WholeRollouts:
    """Three rollouts a run, each to its end."""

    id: str = "R"
    title: str = "whole rollouts: interleaving, A/B at 10 % (not worse by 2 %), ramp; 20,000 sessions a day"
    runs: int = 60
    quick: int = 2

    def run(self, stage: Stage, rng: np.random.Generator) -> Outcome:
        found: dict[str, float] = {}
        for name, lift, kind in CASES:
            ended = Platform(stage, lift, kind, rng).play()
            found |= {name: float(ended.state == "promoted"), f"{name} days": ended.days}
        return found

    def figures(self, outcomes: Sequence[Outcome]) -> tuple[Figure, ...]:
        same, worse, better = (name for name, _, _ in CASES)
        promoted = [outcome for outcome in outcomes if outcome[better]]
        days, error = mean(column(promoted, f"{better} days")) if promoted else (float("nan"), float("nan"))
        return (
            Figure(f"{same}: promoted", *share(outcomes, same), "at most", 0.05),
            Figure(f"{worse}: promoted", *share(outcomes, worse), "at most", 0.02),
            Figure(f"{better}: promoted", *share(outcomes, better)),
            Figure("days to that", days, error, shown="days"),
        )


def _in_time(answers: int) -> tuple[int, ...]:
    latency = [0] * LATENCY_BUCKETS
    latency[latency_bucket(ANSWER_MS)] = answers
    return tuple(latency)


def _manifest() -> ModelManifest:
    """Of a version that is never loaded."""
    return ModelManifest(
        model=MODEL,
        inputs=(TensorSpec("features", "FP32", (-1, 1)),),
        outputs=(TensorSpec("scores", "FP32", (-1,)),),
        view={},
        fingerprint="",
        metric=JUDGED_NDCG,
        metrics={},
        lineage=Lineage(dataset=MODEL, dataset_digest="0" * 64),
        created_ms=START_MS,
    )
