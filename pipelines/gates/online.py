"""The online gate: what live traffic says of a challenger, by a plan fixed beforehand, as one of four verdicts.

In this order, the first that holds decides:

- errored: the measurement is broken: another metric, values that are no numbers, units in both arms, or a
  sample ratio that cannot be chance. Says nothing about the model.
- failed: an anytime-valid confidence sequence leaves no doubt that the challenger is worse than allowed.
- passed: at a planned look the group-sequential boundary was crossed, and the estimate reached what it must. The
  first crossing stands.
- inconclusive: anything else, also when the last look is over: not proven is not refuted. What a rollout does
  with it then is its step's `max_s`.

Pure: the same plan and data give the same verdict, byte for byte, and both are named by digests in it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import inf, isfinite
from typing import Any

import msgspec
import numpy as np

from pipelines.gates.clustered import ArmSums, compare
from pipelines.gates.confidence_sequence import ConfidenceSequence
from pipelines.gates.gate_lists import AbLists, GateSums, InterleavedLists, list_count
from pipelines.gates.gate_plan import GatePlan
from pipelines.gates.preference import mean_score
from pipelines.gates.sample_ratio import sample_ratio
from pipelines.gates.spending import SMALLEST_STEP, boundaries, spent
from registry.contracts.rollouts import Verdict


class LookLine(msgspec.Struct, frozen=True):
    """One look that counted. boundary: critical z, None where nothing could be crossed. information: 1 / variance."""

    look: int
    estimate: float
    z: float
    boundary: float | None
    information: float


class GateVerdict(msgspec.Struct, frozen=True):
    """What the gate says, with all that is needed to understand it on one screen. JSON-able.

    estimate, z, boundary, interval: at the look that decided, else the last that counted; None before it.
    interval: adjusted for looking, each end holds with chance `1 - alpha`; None is no bound. anytime: the
    confidence sequence over everything until now. expected_lists: that are to come until the last look.
    ratio_p: of the sample ratio, None for interleaving. plan, data: digests.
    """

    verdict: Verdict
    why: str
    rule: str
    kind: str
    look: int
    looks: int
    estimate: float | None
    low: float | None
    high: float | None
    level: float
    z: float | None
    boundary: float | None
    anytime_low: float | None
    anytime_high: float | None
    lists: int
    champion_units: int
    challenger_units: int
    expected_lists: int | None
    ratio_p: float | None
    lines: tuple[LookLine, ...]
    plan: str
    data: str

    def body(self, plan: GatePlan) -> dict[str, Any]:
        """As evidence carries it: plain JSON, the plan with it."""
        found: dict[str, Any] = msgspec.json.decode(msgspec.json.encode({"verdict": self, "plan": plan}))
        return found

    def explain(self) -> str:
        """One screen of text."""
        show = f"{self.estimate:+.4f}" if self.estimate is not None else "none yet"
        expected = "unknown" if self.expected_lists is None else str(self.expected_lists)
        return "\n".join(
            (
                f"verdict   {self.verdict}: {self.why}",
                f"rule      {self.rule}",
                f"estimate  {show}, interval {_ends(self.low, self.high)}, adjusted for looking",
                f"boundary  z {_number(self.z)} of {_number(self.boundary)} at look {self.look} of {self.looks}",
                f"anytime   {_ends(self.anytime_low, self.anytime_high)}",
                f"sample    {self.lists} lists, {self.champion_units} and {self.challenger_units} units;"
                f" {expected} lists still expected",
            )
        )


def judge(plan: GatePlan, seen: AbLists | InterleavedLists) -> GateVerdict:
    """The verdict as of now. Raises ValueError if the data are not of the plan's kind."""
    if isinstance(seen, AbLists) != (plan.kind == "ab"):
        raise ValueError(f"data of {type(seen).__name__} for a plan of {plan.kind!r}: expected the plan's kind")
    flaw = _flaw(plan, seen)
    if flaw is not None:
        return _verdict(plan, seen, _Decided("errored", flaw, None, [], [], None))
    sums = GateSums.of(plan, seen)
    return _verdict(plan, seen, _decide(plan, _Course.of(plan, sums), min(sums.closed, plan.looks), None))


def course(plan: GatePlan, sums: GateSums) -> tuple[Verdict, ...]:
    """What `judge` said at each look in turn, when the look was just over and nothing after it had come.

    One verdict for each look that is over. Costs little more than the last of them alone.
    """
    seen = _Course.of(plan, sums)
    return tuple(_decide(plan, seen, look, look).verdict for look in range(1, min(sums.closed, plan.looks) + 1))


def first_failure(plan: GatePlan, sums: GateSums) -> int | None:
    """The first of the plan's looks at which the confidence sequence left no doubt, as `judge` says failed.

    Nothing else is looked at, no boundary and no sample ratio, so there may be thousands of looks.
    """
    looks = range(1, plan.looks + 1)
    return next((look for look in looks if _Stand.of(plan, sums.at(look)).surely_worse(plan)), None)


@dataclass(frozen=True, slots=True)
class _Decided:
    """A verdict and what it was made of. now: everything until now, None if the measurement is broken."""

    verdict: Verdict
    why: str
    now: "_Stand | None"
    looks: "list[tuple[int, _Stand]]"
    bounds: list[float]
    ratio_p: float | None


@dataclass(frozen=True, slots=True)
class _Course:
    """How it stood after each look that is over, and with all there is.

    counted: the looks that told something new; what others may spend is left to the next. bounds: theirs.
    ratio_p: the sample ratio's p-value after each look and with all there is, none for interleaving.
    """

    stands: "list[_Stand]"
    whole: "_Stand"
    counted: list[int]
    bounds: list[float]
    ratio_p: list[float]

    @staticmethod
    def of(plan: GatePlan, sums: GateSums) -> "_Course":
        over = range(1, min(sums.closed, plan.looks) + 1)
        stands = [_Stand.of(plan, sums.at(look)) for look in over]
        whole = _Stand.of(plan, sums.at(None))
        counted: list[int] = []
        before = 0.0
        for look, stand in zip(over, stands, strict=True):
            if stand.enough(plan) and stand.information >= before * (1 + SMALLEST_STEP):
                counted.append(look)
                before = stand.information
        used = [spent(plan.spending, plan.alpha, look / plan.looks) for look in counted]
        bounds = list(boundaries([stands[look - 1].information for look in counted], used)) if counted else []
        ratio_p = [_ratio_p(plan, one) for one in (*stands, whole)] if plan.kind == "ab" else []
        return _Course(stands, whole, counted, bounds, ratio_p)


def _decide(plan: GatePlan, seen: _Course, closed: int, until: int | None) -> _Decided:
    """closed: looks that are over. until: the look whose lists are the last there are, None for all there are."""
    now = seen.whole if until is None else seen.stands[until - 1]
    counted = [look for look in seen.counted if look <= closed]
    looks, bounds = [(look, seen.stands[look - 1]) for look in counted], seen.bounds[: len(counted)]
    ratio_p = None
    if seen.ratio_p:  # of all looks and of now, the smallest counts
        ratio_p = min([*seen.ratio_p[:closed], seen.ratio_p[-1 if until is None else until - 1]])
    if ratio_p is not None and ratio_p <= plan.ratio_alpha:
        why = (
            f"{now.champion_units} and {now.challenger_units} units are not {plan.weights[0]:g} to"
            f" {plan.weights[1]:g} (p = {ratio_p:.2g}): find what loses or doubles units"
        )
        return _Decided("errored", why, now, looks, bounds, ratio_p)
    if now.surely_worse(plan):
        why = f"surely worse than {plan.fails_under:+.2%}, however often one looked"
        return _Decided("failed", why, now, looks, bounds, ratio_p)
    for count, ((look, stand), bound) in enumerate(zip(looks, bounds, strict=True), start=1):
        if stand.z >= bound and stand.estimate >= plan.least:
            why = f"crossed the boundary at look {look} of {plan.looks}"
            return _Decided("passed", why, now, looks[:count], bounds[:count], ratio_p)
    return _Decided("inconclusive", _not_yet(plan, closed, now, looks), now, looks, bounds, ratio_p)


@dataclass(frozen=True, slots=True)
class _Stand:
    """What some of the data say. z: against the plan's margin; worse_z: against that of rollback. caution: by how much
    more the error may be, see `Comparison.caution`. interval: by z."""

    estimate: float
    z: float
    worse_z: float
    information: float
    caution: float
    champion_units: int
    challenger_units: int
    lists: int
    ends: "_Ends"

    @staticmethod
    def of(plan: GatePlan, arms: tuple[ArmSums, ...]) -> "_Stand":
        lists = sum(arm.lists for arm in arms)
        if len(arms) == 1:
            liked, units = mean_score(arms[0]), arms[0].units
            error = liked.standard_error
            z, information = (liked.mean / error, error**-2) if error > 0 else (0.0, 0.0)
            return _Stand(liked.mean, z, z, information, 1.0, units, units, lists, _Ends(liked.mean, error))
        old, new = arms
        found = compare(old, new)
        lift = found.lift
        error = lift.standard_error
        information = error**-2 if error > 0 else 0.0
        ends = _Ends(lift.mean, error, found.lift_interval)
        z, worse = (found.z(margin) for margin in (plan.margin, plan.fails_under))
        return _Stand(lift.mean, z, worse, information, found.caution, old.units, new.units, lists, ends)

    def enough(self, plan: GatePlan) -> bool:
        return min(self.champion_units, self.challenger_units) >= plan.min_units and self.information > 0

    def surely_worse(self, plan: GatePlan) -> bool:
        return self.worse_z <= -self.anytime_z(plan)

    def anytime_z(self, plan: GatePlan) -> float:
        if not self.enough(plan):
            return inf
        sequence = ConfidenceSequence(plan.rollback_alpha, plan.rollback_at, 1)
        return self.caution * sequence.z(self.information / self.caution**2)


class _Ends:
    """The interval of an estimate for any z."""

    def __init__(
        self, estimate: float, error: float, quotient: Callable[[float], tuple[float, float]] | None = None
    ) -> None:
        self._estimate, self._error, self._quotient = estimate, error, quotient

    def at(self, z: float) -> tuple[float, float]:
        if not (isfinite(z) and isfinite(self._estimate) and self._error > 0):
            return -inf, inf
        if self._quotient is None:
            return self._estimate - z * self._error, self._estimate + z * self._error
        return self._quotient(z)


def _flaw(plan: GatePlan, seen: AbLists | InterleavedLists) -> str | None:
    if seen.metric != plan.metric:
        return f"measured by metric {seen.metric[:12]}, planned with {plan.metric[:12]}: measure by the plan's"
    if isinstance(seen, InterleavedLists):
        negative = int(((seen.challenger < 0) | (seen.champion < 0)).sum())
        return f"{negative} lists have negative credits" if negative else None
    wrong = int((~np.isfinite(seen.values)).sum())
    if wrong:
        return f"{wrong} values are no numbers: a list without a click is 0, never missing"
    if seen.covariates is not None and not np.isfinite(seen.covariates).all():
        return "some covariates are no numbers: give what is not known the mean of the others"
    both = len(np.intersect1d(seen.units[seen.in_challenger], seen.units[~seen.in_challenger]))
    return f"{both} units are in both arms: arms must be sticky" if both else None


def _ratio_p(plan: GatePlan, stand: _Stand) -> float:
    counts = (stand.champion_units, stand.challenger_units)
    return sample_ratio(counts, plan.weights, plan.ratio_concentrations).p_value


def _not_yet(plan: GatePlan, closed: int, now: _Stand, looks: list[tuple[int, _Stand]]) -> str:
    if not now.enough(plan):
        units = min(now.champion_units, now.challenger_units)
        if units < plan.min_units:
            return f"{units} of {plan.min_units} units in the smaller arm"
        return "nothing was clicked, so nothing can be compared"
    if closed >= plan.looks:
        return f"the last of {plan.looks} looks is over and the boundary was not crossed: not proven, not refuted"
    return f"look {closed} of {plan.looks}: {'the boundary is not crossed' if looks else 'none has counted'}"


def _verdict(plan: GatePlan, seen: AbLists | InterleavedLists, decided: _Decided) -> GateVerdict:
    now, looks, bounds = decided.now, decided.looks, decided.bounds
    look, stand = looks[-1] if looks else (0, None)
    low, high = stand.ends.at(bounds[-1]) if stand is not None else (-inf, inf)
    anytime = now.ends.at(now.anytime_z(plan)) if now is not None else (-inf, inf)
    done = min(seen.closed, plan.looks)
    until_done = list_count(seen, seen.look <= done)
    return GateVerdict(
        verdict=decided.verdict,
        why=decided.why,
        rule=plan.rule,
        kind=plan.kind,
        look=look,
        looks=plan.looks,
        estimate=None if stand is None else _finite(stand.estimate),
        low=_finite(low),
        high=_finite(high),
        level=1 - 2 * plan.alpha,
        z=None if stand is None else _finite(stand.z),
        boundary=_finite(bounds[-1]) if bounds else None,
        anytime_low=_finite(anytime[0]),
        anytime_high=_finite(anytime[1]),
        lists=list_count(seen, seen.look > 0),
        champion_units=0 if now is None else now.champion_units,
        challenger_units=0 if now is None else now.challenger_units,
        expected_lists=round(until_done / done * (plan.looks - done)) if done else None,
        ratio_p=decided.ratio_p,
        lines=tuple(
            LookLine(at, one.estimate, one.z, _finite(bound), one.information)
            for (at, one), bound in zip(looks, bounds, strict=True)
        ),
        plan=plan.digest,
        data=seen.digest,
    )


def _finite(number: float) -> float | None:
    return float(number) if isfinite(number) else None


def _number(number: float | None) -> str:
    return "none" if number is None else f"{number:.3f}"


def _ends(low: float | None, high: float | None) -> str:
    return f"{'-inf' if low is None else f'{low:+.4f}'} to {'inf' if high is None else f'{high:+.4f}'}"
