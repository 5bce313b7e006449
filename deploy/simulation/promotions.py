"""D1 to D5: who is promoted by the online gate, and what sample it takes to know."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import brentq

from deploy.simulation.characteristic import Figure, Outcome, Stage, column, mean, share
from deploy.simulation.crowd import Crowd, in_arm
from deploy.simulation.measurements import AbSeen
from pipelines.errors import PlanRefused
from pipelines.gates.clustered import ArmSums, compare
from pipelines.gates.gate_plan import GatePlan
from pipelines.gates.offline import OfflinePlan, lift_interval, required_queries
from pipelines.gates.online import course
from pipelines.gates.planner import Design, Measured, accept, measured_ab, measured_interleaving, power, size
from pipelines.gates.preference import Preference, mean_score
from pipelines.ndcg import PairedNdcg
from registry.contracts.manifest import CLICK_NDCG, JUDGED_NDCG

LOOKS = 14
AB = GatePlan(kind="ab", metric=CLICK_NDCG.digest)
INTERLEAVING = GatePlan(kind="interleaving", metric=CLICK_NDCG.digest)
CROWD = Crowd()


def ab_course(
    stage: Stage, lift: float, rng: np.random.Generator, plan: GatePlan = AB, crowd: Crowd = CROWD
) -> tuple[str, ...]:
    """What the gate said each day of an even A/B split."""
    return course(plan, ab_seen(stage, lift, rng, crowd).sums(plan, plan.looks))


def ab_seen(stage: Stage, lift: float, rng: np.random.Generator, crowd: Crowd = CROWD) -> AbSeen:
    """All sessions of an even A/B split, units hashed into arms by a salt of their own."""
    visits = crowd.visits(stage.world, rng)
    arms = in_arm(len(visits.people), 500, f"{rng.integers(1 << 62)}")
    return AbSeen.of(stage.champion, stage.challenger(lift, "noisy"), visits, arms, rng)


def ended(said: Sequence[str]) -> tuple[str, int]:
    """The first verdict that ends a step, and the look at which it fell; else the last."""
    for look, verdict in enumerate(said, start=1):
        if verdict in ("passed", "failed", "errored"):
            return verdict, look
    return said[-1], len(said)


@dataclass(frozen=True, slots=True)
class NoBetter:
    """D1 and D2: a challenger that is not better, in A/B by superiority, looked at daily: how often is it promoted?"""

    id: str
    title: str
    lift: float
    limit: float
    reference: str
    runs: int = 2000
    quick: int = 150

    def run(self, stage: Stage, rng: np.random.Generator) -> Outcome:
        verdict, _ = ended(ab_course(stage, self.lift, rng))
        return {name: float(verdict == name) for name in ("passed", "failed", "errored")}

    def figures(self, outcomes: Sequence[Outcome]) -> tuple[Figure, ...]:
        return (
            Figure("promoted", *share(outcomes, "passed"), "at most", self.limit, reference=self.reference),
            Figure("rolled back", *share(outcomes, "failed")),
            Figure("sample ratio alarms", *share(outcomes, "errored"), "at most", 0.01),
        )


@dataclass(frozen=True, slots=True)
class Preferred:
    """D3: a low-noise challenger that is 0.8 % better, in interleaving, and the same version twice."""

    id: str = "D3"
    title: str = "interleaving, +0.8 % and A/A, 4,000 sessions a day, 14 daily looks"
    lift: float = 0.008
    runs: int = 2000
    quick: int = 150

    def run(self, stage: Stage, rng: np.random.Generator) -> Outcome:
        found: dict[str, float] = {}
        for name, lift in (("better", self.lift), ("same", 0.0)):
            visits = CROWD.visits(stage.world, rng)
            said = course(INTERLEAVING, stage.drafts(lift).seen(visits, rng).sums(INTERLEAVING, LOOKS))
            verdict, look = ended(said)
            found |= {name: float(verdict == "passed"), f"{name} failed": float(verdict == "failed")}
            found[f"{name} day"] = look
        return found

    def figures(self, outcomes: Sequence[Outcome]) -> tuple[Figure, ...]:
        passed = [outcome for outcome in outcomes if outcome["better"]]
        day, error = mean(column(passed, "better day")) if passed else (float("nan"), float("nan"))
        return (
            Figure("power", *share(outcomes, "better"), "at least", 0.85, reference="90%"),
            Figure("mean day of promotion", day, error, shown="days", reference="9.3"),
            Figure("same promoted", *share(outcomes, "same"), "at most", 0.065, reference="6.0%"),
            Figure("better rolled back", *share(outcomes, "better failed")),
        )


@dataclass(frozen=True, slots=True)
class Planned:
    """D4: the planner says the sample from an A/A of earlier traffic; with it, is the power what was asked for?

    What the simulation needs for that power is the planned sample times the information that the planner's own
    function has for the power reached, over that for the power asked for: 10 % more of it is some 3.5 points.
    """

    id: str = "D4"
    title: str = "planner: A/B +5 %, interleaving +0.8 %, power 80 %"
    runs: int = 500
    quick: int = 40
    ab_lift: float = 0.05
    drafted_lift: float = 0.008

    def run(self, stage: Stage, rng: np.random.Generator) -> Outcome:
        return self._ab(stage, rng) | self._drafted(stage, rng)

    def _ab(self, stage: Stage, rng: np.random.Generator) -> dict[str, float]:
        earlier = ab_seen(stage, 0.0, rng).sums(AB, LOOKS).at(None)
        lists = (earlier[0].lists, earlier[1].lists)
        measured = measured_ab(compare(*earlier), lists, 0.5, sum(lists) / LOOKS)
        planned = size(self.ab_design, measured, LOOKS)
        crowd = Crowd(sessions_a_day=round(planned.needed_lists / LOOKS))
        verdicts = ab_course(stage, self.ab_lift, rng, AB, crowd)
        return {
            "ab lists": planned.needed_lists,
            "ab passed": float("passed" in verdicts),
            "refused": float(_refused(Design(effect=0.008), measured)),
            "accepted": float(not _refused(self.ab_design, Measured(measured.information_per_list, lists[0]))),
        }

    def _drafted(self, stage: Stage, rng: np.random.Generator) -> dict[str, float]:
        same = stage.drafts(0.0).seen(CROWD.visits(stage.world, rng), rng).sums(INTERLEAVING, LOOKS).at(None)[0]
        measured = measured_interleaving(_preference(same), same.lists / LOOKS)
        planned = size(self.drafted_design(stage), measured, LOOKS)
        crowd = Crowd(sessions_a_day=round(planned.needed_lists / LOOKS))
        seen = stage.drafts(self.drafted_lift).seen(crowd.visits(stage.world, rng), rng)
        verdicts = course(INTERLEAVING, seen.sums(INTERLEAVING, LOOKS))
        return {"drafted lists": planned.needed_lists, "drafted passed": float("passed" in verdicts)}

    @property
    def ab_design(self) -> Design:
        return Design(effect=self.ab_lift)

    def drafted_design(self, stage: Stage) -> Design:
        return Design(effect=stage.drafts(self.drafted_lift).score)

    def figures(self, outcomes: Sequence[Outcome]) -> tuple[Figure, ...]:
        return (
            *self._ratio("A/B", "ab", outcomes),
            *self._ratio("interleaving", "drafted", outcomes),
            Figure("A/B of +0.8 % in 14 days refused", *share(outcomes, "refused"), "at least", 1.0),
            Figure("A/B of +5 % in 14 days accepted", *share(outcomes, "accepted"), "at least", 1.0),
        )

    def _ratio(self, title: str, name: str, outcomes: Sequence[Outcome]) -> tuple[Figure, ...]:
        reached, error = share(outcomes, f"{name} passed")
        ratio, above = (_information_for(chance) / _information_for(0.8) for chance in (reached, reached + error))
        off = Figure(f"{title}: planned n off simulated", abs(ratio - 1), above - ratio, "at most", 0.1)
        lists = Figure(f"{title}: planned lists", *mean(column(outcomes, f"{name} lists")), shown="count")
        return off, Figure(f"{title}: power reached", reached, error), lists


@dataclass(frozen=True, slots=True)
class JudgedOffline:
    """D5: judged queries that the offline gate asks for, and the power that it has with them.

    Sets of queries are drawn from the world's, so that its lists are the truth; a challenger is found if the
    interval of its lift lies above 0.
    """

    id: str = "D5"
    title: str = "offline gate, judged: +0.8 %, paired by query"
    runs: int = 400
    quick: int = 30
    lift: float = 0.008

    def run(self, stage: Stage, rng: np.random.Generator) -> Outcome:
        base = stage.champion.judged_by_query
        other = stage.challenger(self.lift, "independent", "judged").judged_by_query
        plan = OfflinePlan()
        needed = required_queries(float((other - base).std()), float(base.mean()), plan)
        drawn = rng.integers(len(base), size=needed)
        pair = PairedNdcg(base[drawn], other[drawn], drawn, 0, JUDGED_NDCG)
        low, _ = lift_interval(pair, plan.alpha, plan.resamples, int(rng.integers(1 << 31)))
        return {"needed": needed, "found": float(low > 0), "deviation": float((other - base).std())}

    def figures(self, outcomes: Sequence[Outcome]) -> tuple[Figure, ...]:
        stated = required_queries(0.106, 0.743, OfflinePlan())
        reached, error = share(outcomes, "found")
        return (
            Figure("sd 0.106, NDCG 0.743: off 2,500 queries", abs(stated / 2500 - 1), None, "at most", 0.02),
            Figure("power with what is stated, off 80 %", abs(reached - 0.8), error, "at most", 0.05),
            Figure("queries stated here", float(outcomes[0]["needed"]), None, shown="count"),
            Figure("standard deviation here", float(outcomes[0]["deviation"]), None, shown="ratio"),
        )


def _refused(design: Design, measured: Measured) -> bool:
    try:
        accept(design, measured, LOOKS)
    except PlanRefused:
        return True
    return False


def _preference(drafted: ArmSums) -> Preference:
    found = mean_score(drafted)
    return Preference(found.mean, found.standard_error, drafted.lists, drafted.units, 0, 0, 0)


def _information_for(chance: float) -> float:
    """That the last of the looks must have for this power, for an effect of 1."""
    design = Design(effect=1.0)
    wanted = min(max(chance, design.alpha + 1e-3), 1 - 1e-4)
    return float(brentq(lambda root: power(design, root**2)[-1] - wanted, 0.05, 8.0, xtol=1e-6)) ** 2
