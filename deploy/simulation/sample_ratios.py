"""D9: is it seen that units of one arm get lost, and is it left alone that none do?"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from deploy.simulation.characteristic import Figure, Outcome, Stage, quantile, share
from pipelines.gates.gate_plan import GatePlan
from pipelines.gates.sample_ratio import sample_ratio
from registry.contracts.manifest import CLICK_NDCG

LOOKS = 14
UNITS_A_LOOK = 8000
LOST = 0.04
_PLAN = GatePlan(kind="ab", metric=CLICK_NDCG.digest, looks=LOOKS)


@dataclass(frozen=True, slots=True)
class SampleRatio:
    """New units of an even split each day, all of them and with some of one arm lost: counts are all that is seen."""

    id: str = "D9"
    title: str = "sample ratio, 8,000 new units a day, 14 daily looks"
    runs: int = 2000
    quick: int = 300

    def run(self, stage: Stage, rng: np.random.Generator) -> Outcome:
        drawn = rng.multinomial(UNITS_A_LOOK, [0.5, 0.5], size=LOOKS)
        right = _alarm(drawn)
        found = _alarm(np.column_stack([drawn[:, 0], rng.binomial(drawn[:, 1], 1 - LOST)]))
        return {
            "false": float(right is not None),
            "found": float(found is not None),
            "day": float("inf") if found is None else float(found),
        }

    def figures(self, outcomes: Sequence[Outcome]) -> tuple[Figure, ...]:
        day, error = quantile(outcomes, "day", 0.5)
        return (
            Figure("false alarms", *share(outcomes, "false"), "at most", 0.01, reference="0.2%"),
            Figure("a loss of 4 % in one arm found", *share(outcomes, "found"), "at least", 0.9, reference="90%"),
            Figure("median day of that", day, error, shown="days", reference="8"),
        )


def _alarm(units: "np.ndarray[tuple[int, int], np.dtype[np.int64]]") -> int | None:
    """The first look that refutes the plan's weights. units: new ones by look and arm, shape (looks, 2)."""
    for look, (ours, theirs) in enumerate(np.cumsum(units, axis=0).tolist(), start=1):
        if sample_ratio((ours, theirs), _PLAN.weights, _PLAN.ratio_concentrations).mismatch(_PLAN.ratio_alpha):
            return look
    return None
