"""The plan of an online gate: what was decided before the first look."""

import hashlib
from typing import Literal

import msgspec

from pipelines.gates.preference import Scoring
from pipelines.gates.sample_ratio import CONCENTRATIONS
from pipelines.gates.spending import Spending


class GatePlan(msgspec.Struct, frozen=True, kw_only=True):
    """What was decided before the first look.

    kind: `ab`, the estimate is the relative lift of click-NDCG; `interleaving`, it is `preference`'s score.
    metric: digest of the metric's definition. alpha: one-sided, of all looks together, to pass one that is
    at `margin`: 0 asks for better, -0.002 for not worse by 0.2 %. least: the estimate must reach it as well.
    looks: planned, at equal distances of time. rollback_alpha: to fail one that is no worse than
    `rollback_margin` (None: the margin, or 0 if that is less), at any number of looks. rollback_at: information
    (1 / variance of the estimate) at which that is to be soonest. weights: planned shares of units of champion
    and challenger, any scale. ratio_alpha: to call a right sample ratio wrong. ratio_concentrations: see
    `sample_ratio`. min_units: of each arm, before anything is concluded.
    """

    kind: Literal["ab", "interleaving"]
    metric: str
    alpha: float = 0.05
    looks: int = 14
    spending: Spending = "obrien_fleming"
    margin: float = 0.0
    least: float = -1.0
    scoring: Scoring = "clicks"
    rollback_alpha: float = 0.05
    rollback_margin: float | None = None
    rollback_at: float = 2000.0
    weights: tuple[float, float] = (1.0, 1.0)
    ratio_alpha: float = 0.01
    ratio_concentrations: tuple[float, ...] = CONCENTRATIONS
    min_units: int = 100

    def __post_init__(self) -> None:
        for holds, rule in (
            (bool(self.metric), "metric: expected the digest of its definition"),
            (0 < self.alpha < 0.5, f"alpha={self.alpha:g}: expected 0 < alpha < 0.5"),
            (self.looks >= 1, f"looks={self.looks}: expected >= 1"),
            (-1 < self.margin < 1, f"margin={self.margin:g}: expected -1 < margin < 1"),
            (self.kind == "ab" or self.margin == 0, f"margin={self.margin:g}: interleaving has none, expected 0"),
            (
                self.kind == "ab" or self.fails_under == 0,
                f"rollback_margin={self.fails_under:g}: interleaving has none, expected 0",
            ),
            (
                -1 < self.fails_under <= self.margin,
                f"rollback_margin={self.fails_under:g}: expected over -1 and not over margin, {self.margin:g}",
            ),
            (0 < self.rollback_alpha < 0.5, f"rollback_alpha={self.rollback_alpha:g}: expected 0 < alpha < 0.5"),
            (self.rollback_at > 0, f"rollback_at={self.rollback_at:g}: expected > 0"),
            (min(self.weights) > 0, f"weights={self.weights}: expected > 0"),
            (0 < self.ratio_alpha < 1, f"ratio_alpha={self.ratio_alpha:g}: expected 0 < alpha < 1"),
            (
                bool(self.ratio_concentrations) and min(self.ratio_concentrations) > 0,
                f"ratio_concentrations={self.ratio_concentrations}: expected some, all > 0",
            ),
            (self.min_units >= 2, f"min_units={self.min_units}: expected >= 2"),
        ):
            if not holds:
                raise ValueError(rule)

    @property
    def fails_under(self) -> float:
        """The lift that the challenger is rolled back for being surely under."""
        return min(self.margin, 0.0) if self.rollback_margin is None else self.rollback_margin

    @property
    def digest(self) -> str:
        """SHA-256 of its canonical JSON."""
        return hashlib.sha256(msgspec.json.encode(self, order="deterministic")).hexdigest()

    @property
    def rule(self) -> str:
        """What passes, in words."""
        what = f"lift over {self.margin:+.2%}" if self.kind == "ab" else "preference over 0"
        least = f", estimate at least {self.least:+.4g}" if self.least > -1 else ""
        return f"{what}, one-sided {self.alpha:.3g} over {self.looks} looks ({self.spending}){least}"
