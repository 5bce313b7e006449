"""What the plan that is followed says, for Prometheus: which version each arm has, and how many units."""

from math import prod

from registry.contracts.traffic import WEIGHT_STEPS, Experiment, TrafficPlan
from serving import metrics
from serving.arm_counts import MAX_EXPERIMENT_LABELS

_Arm = tuple[str, str, str]  # model, experiment, arm


class PlanGauges:
    """The gauges of one gateway. An experiment that is over stays as a series of zeros: in multi-process mode no
    series can be taken back. Of those that come after the first 64 names nothing is shown."""

    def __init__(self) -> None:
        self._shown: set[_Arm] = set()
        self._experiments: set[str] = set()

    def show(self, plan: TrafficPlan) -> None:
        """The plan, now followed, and the end of what it no longer names."""
        metrics.PLAN_REVISION.labels(plan.model).set(plan.revision)
        now = {(plan.model, "", "champion"): (plan.champion, _left_to_champion(plan))}
        for one in plan.experiments:
            if self._has_label(one):
                arm = "interleaved" if one.kind == "interleaving" else "challenger"
                now[plan.model, one.name, arm] = (one.version, one.weight / WEIGHT_STEPS)
        for gone in {known for known in self._shown if known[0] == plan.model} - now.keys():
            now[gone] = (0, 0.0)
        for labels, (version, weight) in now.items():
            metrics.PLAN_VERSION.labels(*labels).set(version)
            metrics.PLAN_WEIGHT.labels(*labels).set(weight)
        self._shown.update(now)

    def _has_label(self, experiment: Experiment) -> bool:
        if len(self._experiments) < MAX_EXPERIMENT_LABELS:
            self._experiments.add(experiment.name)
        return experiment.name in self._experiments


def _left_to_champion(plan: TrafficPlan) -> float:
    """The share of units that no layer takes, in [0, 1]; layers are independent.

    >>> _left_to_champion(TrafficPlan("m", 1, 1, "d"))
    1.0
    """
    return prod(1 - sum(one.weight for one in layer.experiments) / WEIGHT_STEPS for layer in plan.layers) * 1.0
