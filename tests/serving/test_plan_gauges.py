"""What Prometheus sees of a plan: versions and shares by arm, and nothing of what is over."""

from typing import Any

import pytest
from prometheus_client import REGISTRY

from registry.contracts.traffic import Experiment, Layer, TrafficPlan
from serving.arm_counts import MAX_EXPERIMENT_LABELS
from serving.plan_gauges import PlanGauges


def gauge(name: str, model: str, experiment: str, arm: str) -> float | None:
    return REGISTRY.get_sample_value(name, {"model": model, "experiment": experiment, "arm": arm})


def an_experiment(name: str, version: int = 2, **told: Any) -> Experiment:
    return Experiment(name, version, f"digest-{version}", **told)


def test_each_arm_has_its_version_and_its_share_of_units() -> None:
    layers = (
        Layer(
            "one", "salt-1", (an_experiment("ab", weight=100), an_experiment("drafts", first=100, kind="interleaving"))
        ),
        Layer("two", "salt-2", (an_experiment("kept", 3, weight=20, kind="holdback"),)),
    )

    PlanGauges().show(TrafficPlan("gauged", 7, 4, "digest-4", layers))

    assert REGISTRY.get_sample_value("serving_plan_revision", {"model": "gauged"}) == 7
    assert gauge("serving_plan_version", "gauged", "", "champion") == 4
    assert gauge("serving_plan_version", "gauged", "ab", "challenger") == 2
    assert gauge("serving_plan_version", "gauged", "drafts", "interleaved") == 2
    assert gauge("serving_plan_version", "gauged", "kept", "challenger") == 3
    assert gauge("serving_plan_weight_ratio", "gauged", "ab", "challenger") == 0.1
    assert gauge("serving_plan_weight_ratio", "gauged", "", "champion") == pytest.approx(0.9 * 0.98)


def test_an_experiment_that_is_over_has_no_version_and_no_units() -> None:
    gauges = PlanGauges()
    gauges.show(TrafficPlan("over", 1, 1, "digest-1", (Layer("one", "salt", (an_experiment("ab", weight=100),)),)))

    gauges.show(TrafficPlan("over", 2, 2, "digest-2"))

    assert gauge("serving_plan_version", "over", "", "champion") == 2
    assert gauge("serving_plan_version", "over", "ab", "challenger") == 0
    assert gauge("serving_plan_weight_ratio", "over", "ab", "challenger") == 0
    assert gauge("serving_plan_weight_ratio", "over", "", "champion") == 1


def test_experiments_that_come_and_go_leave_no_more_series_than_the_limit() -> None:
    gauges = PlanGauges()
    for number in range(MAX_EXPERIMENT_LABELS + 5):
        layers = (Layer("one", "salt", (an_experiment(f"ab-{number}", weight=100),)),)
        gauges.show(TrafficPlan("many", number + 1, 1, "digest-1", layers))

    shown = [
        sample
        for family in REGISTRY.collect()
        if family.name == "serving_plan_version"
        for sample in family.samples
        if sample.labels["model"] == "many"
    ]
    assert len(shown) == MAX_EXPERIMENT_LABELS + 1  # and the champion
