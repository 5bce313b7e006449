"""What sample a comparison needs, from the variance measured on live traffic; what cannot finish is refused.

A plan without the sample it needs is worse than none: it holds a rollout for weeks and then says nothing.

Source: Jennison & Turnbull, Group Sequential Methods, 2000, chapters 2 and 7.
"""

from dataclasses import dataclass
from functools import lru_cache
from math import ceil, expm1, isfinite, log1p, sqrt

from scipy.optimize import brentq

from pipelines.errors import PlanRefused
from pipelines.gates.clustered import Comparison
from pipelines.gates.preference import Preference
from pipelines.gates.spending import Spending, boundaries, crossing, spent


@dataclass(frozen=True, slots=True)
class Design:
    """What is to be found, and with what chances.

    effect: true distance from the null that is to be found, > 0, in the unit of the estimate: of A/B as
    non-inferiority, the relative lift minus the (negative) margin; of interleaving, the score. alpha: one-sided,
    of all looks together. power: chance to find it by the last look. looks: at equal distances. least: the
    estimate must reach this as well; 0 asks for nothing more.
    """

    effect: float
    alpha: float = 0.05
    power: float = 0.8
    looks: int = 14
    spending: Spending = "obrien_fleming"
    least: float = 0.0

    def __post_init__(self) -> None:
        for holds, rule in (
            (self.effect > 0 and isfinite(self.effect), f"effect={self.effect:g}: expected > 0"),
            (0 < self.alpha < 0.5, f"alpha={self.alpha:g}: expected 0 < alpha < 0.5"),
            (self.alpha < self.power < 1, f"power={self.power:g}: expected alpha < power < 1"),
            (self.looks >= 1, f"looks={self.looks}: expected >= 1"),
            (self.least >= 0, f"least={self.least:g}: expected >= 0"),
            (
                self.least < self.effect,
                f"least={self.least:g}: an effect of {self.effect:g} reaches it in half of all cases at best; expected"
                " less than the effect",
            ),
        ):
            if not holds:
                raise ValueError(rule)


@dataclass(frozen=True, slots=True)
class Measured:
    """What live traffic tells. information_per_list: 1 / variance of the estimate, for each list of the sample.

    lists_per_day: that enter the comparison, both arms together.
    """

    information_per_list: float
    lists_per_day: float

    def __post_init__(self) -> None:
        for name in ("information_per_list", "lists_per_day"):
            if not (getattr(self, name) > 0 and isfinite(getattr(self, name))):
                raise ValueError(f"{name}={getattr(self, name):g}: expected > 0; measure some traffic first")


@dataclass(frozen=True, slots=True)
class Sized:
    """What a design needs and what its days bring. lists: both arms together.

    needed: for the power wanted if it goes on to the last look. expected: on average, since it stops when it is
    sure. reached_power: in the days there are. smallest_effect: found with the power wanted in those days; None
    if none is because `least` stands in the way.
    """

    needed_lists: int
    needed_days: float
    expected_lists: int
    expected_days: float
    available_lists: int
    available_days: float
    reached_power: float
    smallest_effect: float | None

    def words(self) -> str:
        """In one sentence."""
        smallest = "" if self.smallest_effect is None else f"; an effect of {self.smallest_effect:.3g} could be found"
        return (
            f"needs {self.needed_lists} lists, {self.needed_days:.1f} days; {self.available_days:g} days bring"
            f" {self.available_lists} lists and a power of {self.reached_power:.0%}{smallest}"
        )


def measured_ab(
    seen: Comparison, seen_lists: tuple[int, int], challenger_share: float, lists_per_day: float, margin: float = 0.0
) -> Measured:
    """From an A/B or A/A comparison of earlier traffic, what a split with other shares will tell of the lift.

    seen_lists: of champion and challenger in `seen`. challenger_share: of the lists of both arms.
    lists_per_day: of both arms together. With CUPED in `seen`, its smaller variance is what is planned with.
    """
    if not 0 < challenger_share < 1:
        raise ValueError(f"challenger_share={challenger_share:g}: expected 0 < share < 1")
    base, challenger = seen.champion, seen.challenger
    if not (base.mean > 0 and base.standard_error > 0 and challenger.standard_error > 0):
        raise ValueError("nothing varies, or the champion's mean is not positive: measure some traffic first")
    of_one = [arm.standard_error**2 * lists for arm, lists in zip((base, challenger), seen_lists, strict=True)]
    variance = of_one[1] / challenger_share + (1 + margin) ** 2 * of_one[0] / (1 - challenger_share)
    return Measured(base.mean**2 / variance, lists_per_day)


def measured_interleaving(seen: Preference, lists_per_day: float) -> Measured:
    """From interleaved lists of earlier traffic; an A/A of it will do."""
    return Measured(seen.information / seen.lists if seen.lists else 0.0, lists_per_day)


def power(design: Design, information: float) -> tuple[float, ...]:
    """Chance to have passed by each look, if the last one has this information.

    >>> [round(chance, 3) for chance in power(Design(effect=1.0, looks=2), information=6.18)]
    [0.218, 0.797]
    """
    at = [information * (look + 1) / design.looks for look in range(design.looks)]
    return tuple(float(chance) for chance in crossing(at, _upper(design, at), design.effect).by_look)


@lru_cache(maxsize=256)
def required_information(design: Design) -> float:
    """Information that the last look must have.

    >>> round(required_information(Design(effect=1.0, looks=1)), 3)  # (1.645 + 0.842) ** 2
    6.183
    """

    def short(root: float) -> float:
        return power(design, root**2)[-1] - design.power

    high = 1 / design.effect
    while short(high) < 0:
        high *= 2
    return float(brentq(short, high / 1e3, high, xtol=1e-9 / design.effect)) ** 2


def size(design: Design, measured: Measured, days: float) -> Sized:
    """What the design needs, and what `days` of this traffic bring. days: until the last look, at the latest."""
    if not days > 0:
        raise ValueError(f"days={days:g}: expected > 0")
    needed = required_information(design)
    available = days * measured.lists_per_day * measured.information_per_list
    chances = power(design, needed)
    goes_on = [1.0, *(1 - chance for chance in chances[:-1])]
    expected = needed * sum(goes_on) / design.looks
    smallest = design.effect * sqrt(needed / available) if design.least == 0 else None
    return Sized(
        needed_lists=ceil(needed / measured.information_per_list),
        needed_days=needed / measured.information_per_list / measured.lists_per_day,
        expected_lists=ceil(expected / measured.information_per_list),
        expected_days=expected / measured.information_per_list / measured.lists_per_day,
        available_lists=int(days * measured.lists_per_day),
        available_days=days,
        reached_power=power(design, available)[-1],
        smallest_effect=smallest,
    )


def accept(design: Design, measured: Measured, days: float) -> Sized:
    """The size of a plan that can finish. Raises PlanRefused, with the numbers, for one that cannot."""
    found = size(design, measured, days)
    if found.reached_power < design.power:
        raise PlanRefused(
            f"a plan for an effect of {design.effect:g} with power {design.power:.0%} {found.words()}: give it more"
            " days or traffic, or ask for a larger effect"
        )
    return found


def alpha_a_decision(yearly: float, decisions: int) -> float:
    """The alpha of each of a year's decisions, so that all together promote no equal with the chance 1 - yearly.

    yearly: chance that of so many challengers, none better than its champion, one or more is promoted. The
    decisions stand on data of their own, so they are independent (Sidak, JASA 62(318), 1967).

    >>> round(alpha_a_decision(0.5, decisions=26), 4)
    0.0263
    """
    if not 0 < yearly < 1:
        raise ValueError(f"yearly={yearly:g}: expected 0 < chance < 1")
    if decisions < 1:
        raise ValueError(f"decisions={decisions}: expected >= 1")
    return -expm1(log1p(-yearly) / decisions)


def _upper(design: Design, information: list[float]) -> list[float]:
    used = [spent(design.spending, design.alpha, (look + 1) / design.looks) for look in range(design.looks)]
    bounds = boundaries(information, used)
    # the estimate reaches `least` when its z does, in the same unit
    return [max(z, design.least * sqrt(at)) for z, at in zip(bounds, information, strict=True)]
