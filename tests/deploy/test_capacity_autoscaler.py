"""The autoscaler's algorithm against the worked examples of Kubernetes' documentation, and the files that are shipped.

Examples: Kubernetes documentation, Horizontal Pod Autoscaling (v1.35), the sections that tests name.
"""

from itertools import pairwise
from pathlib import Path

import pytest

from deploy.capacity.autoscaler import (
    DEFAULT_DOWN,
    DEFAULT_UP,
    Autoscaler,
    AutoscalerRule,
    Direction,
    MetricRule,
    Policy,
    Reading,
    wanted,
)
from deploy.capacity.autoscaler_files import BASE, quantity, read, shipped
from deploy.errors import SluiceError

LOAD = MetricRule("load", "average", 1.0)
CPU = MetricRule("cpu", "average", 100.0, of_pods=True)


def scaler(up: Direction = DEFAULT_UP, down: Direction = DEFAULT_DOWN, most: int = 1000) -> Autoscaler:
    return Autoscaler(AutoscalerRule(1, most, (LOAD,), up, down))


def followed(found: Autoscaler, pods: int, load: float, looks: int) -> list[int]:
    """Pods after each look, all of them ready at once."""
    seen = []
    for look in range(looks):
        pods = found.look(15.0 * look, pods, pods, [Reading(load)])
        seen.append(pods)
    return seen


def test_algorithm_details_a_value_twice_the_target_doubles_the_pods_and_half_of_it_halves_them():
    assert wanted(CPU, Reading(200.0 * 3, told=3), 3, 3) == 6
    assert wanted(CPU, Reading(50.0 * 4, told=4), 4, 4) == 2


@pytest.mark.parametrize(("value", "pods"), [(109.0, 10), (91.0, 10), (111.0, 12), (89.0, 9)])
def test_algorithm_details_within_a_tolerance_of_a_tenth_nothing_changes(value: float, pods: int):
    assert wanted(CPU, Reading(value * 10, told=10), 10, 10) == pods


def test_algorithm_details_missing_pods_count_as_nothing_upwards_and_as_the_target_downwards():
    assert wanted(CPU, Reading(300.0 * 2, told=2), 4, 4) == 6  # 600 of 4, not of 2
    assert wanted(CPU, Reading(20.0 * 2, told=2), 4, 4) == 3  # 40 + 200 of 4
    assert wanted(CPU, Reading(150.0 * 2, told=2), 4, 4) == 4  # would turn round: nothing changes


def test_algorithm_details_of_several_metrics_the_largest_counts_and_an_unknown_one_only_stops_scaling_down():
    both = AutoscalerRule(1, 100, (LOAD, MetricRule("wait", "value", 0.01)))

    assert Autoscaler(both).look(0.0, 10, 10, [Reading(12.0), Reading(0.02)]) == 20
    assert Autoscaler(both).look(0.0, 10, 10, [Reading(5.0), Reading(None)]) == 10
    assert Autoscaler(both).look(0.0, 10, 10, [Reading(20.0), Reading(None)]) == 20


def test_scaling_policies_the_documented_example_takes_ten_percent_a_minute_then_four_pods():
    """80 pods to 10: 8 the first minute (10 %), 7.2 rounded up the next, and so on; below 40, 4 pods are more
    than 10 %."""
    down = Direction(0.0, (Policy("Pods", 4, 60.0), Policy("Percent", 10, 60.0)))
    found, pods, seen = scaler(down=down), 80, [80]
    for look in range(9):
        pods = found.look(60.0 * look, pods, pods, [Reading(10.0)])
        seen.append(pods)

    assert seen[:4] == [80, 72, 64, 57]
    assert [before - after for before, after in pairwise(seen)][-3:] == [4, 4, 4]


def test_scaling_policies_select_min_takes_the_smaller_change_and_disabled_none():
    policies = (Policy("Pods", 4, 60.0), Policy("Percent", 10, 60.0))

    assert scaler(down=Direction(0.0, policies, "Min")).look(0.0, 80, 80, [Reading(1.0)]) == 76
    assert scaler(down=Direction(0.0, policies, "Disabled")).look(0.0, 80, 80, [Reading(1.0)]) == 80


def test_default_behaviour_doubles_or_adds_four_every_fifteen_seconds():
    assert followed(scaler(), 1, 100.0, 6) == [5, 10, 20, 40, 80, 100]


def test_default_behaviour_waits_five_minutes_before_it_goes_down():
    found = scaler()
    found.look(0.0, 1, 1, [Reading(5.0)])
    seen = [(look, found.look(15.0 * look, 5, 5, [Reading(1.0)])) for look in range(1, 21)]

    assert {pods for look, pods in seen if look < 20} == {5}
    assert seen[-1] == (20, 1)


def test_stabilisation_upwards_takes_the_least_of_what_was_recommended():
    found = scaler(up=Direction(60.0, DEFAULT_UP.policies))
    loads = [10.0, 40.0, 40.0, 40.0, 40.0]
    seen = [found.look(15.0 * look, 10, 10, [Reading(load)]) for look, load in enumerate(loads)]

    assert seen == [10, 10, 10, 10, 20]


def test_it_stays_between_least_and_most():
    assert followed(scaler(most=8), 4, 100.0, 3) == [8, 8, 8]
    assert Autoscaler(AutoscalerRule(8, 32, (LOAD,))).look(0.0, 8, 8, [Reading(0.0)]) == 8


def test_the_shipped_autoscaler_is_read_with_its_bases_behaviour():
    rule = shipped()

    assert (rule.least, rule.most) == (8, 32)
    kinds = [
        next(kind for kind in ("queue_wait", "queries", "utilisation") if kind in one.name) for one in rule.metrics
    ]
    assert sorted(kinds) == ["queries", "queue_wait", "utilisation"]
    assert rule.up == read(BASE).up
    assert rule.up.stabilisation_s == 0
    assert rule.down.stabilisation_s >= 300


@pytest.mark.parametrize(
    ("told", "number"), [("10m", 0.01), ("1k", 1000.0), ("2Ki", 2048.0), (60, 60.0), ("300", 300.0)]
)
def test_quantities_are_kubernetes(told: str, number: float):
    assert quantity(told) == number


def test_what_is_no_autoscaler_is_refused_with_its_path(tmp_path: Path):
    (other := tmp_path / "service.yaml").write_text("apiVersion: v1\nkind: Service\nspec: {}\n")

    with pytest.raises(SluiceError, match=r"service\.yaml: no HorizontalPodAutoscaler of autoscaling/v2"):
        read(other)
