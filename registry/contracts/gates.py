"""GateTerms: what an online gate goes by, fixed before it sees its first list.

They stand in the step of the rollout that they are of, so that what was planned can neither be forgotten nor
changed after a look. What they mean: `pipelines.gates.gate_plan`.
"""

from math import isfinite
from typing import Literal

import msgspec

from registry.contracts.errors import ContractError

GATE_DAY_S = 86400.0


class GateSize(msgspec.Struct, frozen=True, kw_only=True):
    """What live traffic said of the plan before it began.

    lists_per_day, units_per_day: that would enter the comparison, both arms together. needed_lists, needed_days:
    for the power wanted if it goes on to the last look; expected_*: on average; available_lists: that the looks
    bring. power: reached in them. smallest_effect: found with the power wanted, None if `least` forbids it.
    measured_lists, measured_since_ms, measured_until_ms: the traffic that was looked at.
    """

    lists_per_day: float
    units_per_day: float
    needed_lists: int
    needed_days: float
    expected_lists: int
    expected_days: float
    available_lists: int
    power: float
    smallest_effect: float | None
    measured_lists: int
    measured_since_ms: int
    measured_until_ms: int


class GateTerms(msgspec.Struct, frozen=True, kw_only=True):
    """The plan of one step's gate.

    looks: planned, each look_s after the one before, the first look_s after the step began. clicks_within_s: a
    click counts that comes so long after its list at the latest; so long after its end a look closes.
    alpha: one-sided, of all looks together; None: the model's share of its year, put in at the start.
    effect: true relative lift that is to be found with the chance `power`; 0 where an equal challenger is to pass.
    margin: A/B only, the lift to be proven over: 0 asks for better, -0.02 for not worse by 2 %. least: the
    estimate must reach it too, None asks nothing more. spending, scoring: see `GatePlan`.
    rollback_alpha, rollback_margin: to fail one that is no worse than the margin (None: `margin`, or 0 if that is
    less), however often one looks. rollback_at: information at which that is to be soonest; None: from measured
    traffic. min_units: of each arm, before anything is concluded.
    history_s: of traffic before the rollout, for the planner and, with `cuped`, for the means that a list is
    compared with. simulated: whether it is simulated users who click; then people's clicks do not count.
    metric: digest of the clicks' metric. size: what the planner found; None if it was not asked or had no
    traffic. underpowered: started all the same, because somebody said so.
    """

    looks: int = 14
    look_s: float = GATE_DAY_S
    clicks_within_s: float = 3600.0
    alpha: float | None = None
    effect: float = 0.008
    power: float = 0.8
    margin: float = 0.0
    least: float | None = None
    spending: Literal["obrien_fleming", "pocock"] = "obrien_fleming"
    scoring: Literal["clicks", "wins"] = "clicks"
    rollback_alpha: float = 0.05
    rollback_margin: float | None = None
    rollback_at: float | None = None
    min_units: int = 100
    history_s: float = 14 * GATE_DAY_S
    cuped: bool = True
    simulated: bool = False
    metric: str = ""
    size: GateSize | None = None
    underpowered: bool = False

    def __post_init__(self) -> None:
        for holds, rule in (
            (1 <= self.looks <= 1000, f"looks={self.looks}: expected 1 to 1000"),
            (self.look_s >= 1 and isfinite(self.look_s), f"look_s={self.look_s:g}: expected >= 1"),
            (
                self.clicks_within_s > 0 and isfinite(self.clicks_within_s),
                f"clicks_within_s={self.clicks_within_s:g}: expected > 0",
            ),
            (self.alpha is None or 0 < self.alpha < 0.5, f"alpha={self.alpha}: expected 0 < alpha < 0.5"),
            (0 < self.power < 1, f"power={self.power:g}: expected 0 < power < 1"),
            (-1 < self.margin < 1, f"margin={self.margin:g}: expected -1 < margin < 1"),
            (
                self.effect > self.margin and isfinite(self.effect),
                f"effect={self.effect:g}: expected more than the margin, {self.margin:g}",
            ),
            (
                self.least is None or self.least < self.effect,
                f"least={self.least}: an effect of {self.effect:g} reaches it in half of all cases at best; expected"
                " less than the effect",
            ),
            (0 < self.rollback_alpha < 0.5, f"rollback_alpha={self.rollback_alpha:g}: expected 0 < alpha < 0.5"),
            (
                self.rollback_margin is None or -1 < self.rollback_margin <= self.margin,
                f"rollback_margin={self.rollback_margin}: expected over -1 and not over the margin, {self.margin:g}",
            ),
            (self.rollback_at is None or self.rollback_at > 0, f"rollback_at={self.rollback_at}: expected > 0"),
            (self.min_units >= 2, f"min_units={self.min_units}: expected >= 2"),
            (self.history_s >= 0 and isfinite(self.history_s), f"history_s={self.history_s:g}: expected >= 0"),
        ):
            if not holds:
                raise ContractError(f"gate.{rule}")

    @property
    def horizon_s(self) -> float:
        """From the step's beginning until its last look is closed."""
        return self.looks * self.look_s + self.clicks_within_s
