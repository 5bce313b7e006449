"""The number of queries in flight: held against a simulated device, in simulated time."""

import heapq
import random
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.errors import Overloaded
from serving.flow.admission import Admission, AdmissionRule
from serving.flow.settings import parse_flow
from serving.permits import Permits


@given(st.lists(st.tuples(st.booleans(), st.one_of(st.none(), st.floats(0, 3))), max_size=400), st.integers(4, 600))
def test_the_limit_stays_between_its_bounds_whatever_happens(steps: list[tuple[bool, float | None]], most: int) -> None:
    bound = Admission(AdmissionRule(), most)
    for comes, used in steps:
        if comes and bound.free:
            bound.taken += 1
        elif bound.taken:
            bound.ended(used)
        assert AdmissionRule().least <= bound.limit <= most


@dataclass
class Served:
    """What a simulated device did. times_s: of those who were in time, from arrival to answer. late: those who were
    not, and cost as much."""

    times_s: list[float]
    late: int
    refused: int


def simulate(
    bound: Admission, rate: float, seconds: float, deadline_s: float, seed: int, capacity: float = 200.0
) -> Served:
    """A device that does one query after another, each in 1 / capacity s on average, the oldest first. Those who
    are past their deadline when their turn comes are dropped, as the worker does."""
    source, served = random.Random(seed), Served([], 0, 0)
    arrivals, now_s, free_at_s = [], 0.0, 0.0
    while now_s < seconds:
        now_s += source.expovariate(rate)
        arrivals.append(now_s)
    ends: list[tuple[float, float, float]] = []  # when, waited, took in all

    def end_until(until_s: float) -> None:
        while ends and ends[0][0] <= until_s:
            _, waited_s, total_s = heapq.heappop(ends)
            bound.ended(waited_s / deadline_s)
            if total_s <= deadline_s:
                served.times_s.append(total_s)
            else:
                served.late += 1

    for arrived_s in arrivals:
        end_until(arrived_s)
        if not bound.free:
            served.refused += 1
            continue
        bound.taken += 1
        begins_s = max(arrived_s, free_at_s)
        if begins_s - arrived_s >= deadline_s:
            heapq.heappush(ends, (arrived_s + deadline_s, deadline_s, 2 * deadline_s))
            continue
        free_at_s = begins_s + source.expovariate(capacity)
        heapq.heappush(ends, (free_at_s, begins_s - arrived_s, free_at_s - arrived_s))
    end_until(float("inf"))
    return served


@pytest.mark.parametrize("seed", range(5))
def test_at_three_times_its_capacity_a_device_does_as_much_as_at_one_and_in_time(seed: int) -> None:
    bound = Admission(AdmissionRule(), most=512)
    simulate(bound, rate=600.0, seconds=10.0, deadline_s=0.5, seed=seed)  # until the limit is found
    served = simulate(bound, rate=600.0, seconds=60.0, deadline_s=0.5, seed=100 + seed)

    assert len(served.times_s) >= 0.9 * 200 * 60
    assert np.quantile(served.times_s, 0.99) < 0.5
    assert served.late <= 0.01 * len(served.times_s)


@pytest.mark.parametrize("seed", range(5))
def test_without_the_rule_the_same_device_works_for_those_who_are_too_late(seed: int) -> None:
    """What the rule is for: the bound that fits another model lets everybody wait until it is too late."""
    bound = Admission(AdmissionRule(on=False), most=512)
    served = simulate(bound, rate=600.0, seconds=60.0, deadline_s=0.5, seed=seed)

    assert np.quantile(served.times_s, 0.5) > 0.45


def test_after_the_overload_everybody_is_let_in_again() -> None:
    bound = Admission(AdmissionRule(), most=512)
    simulate(bound, rate=600.0, seconds=20.0, deadline_s=0.5, seed=1)
    assert bound.limit < 200

    served = simulate(bound, rate=100.0, seconds=20.0, deadline_s=0.5, seed=2)
    assert served.refused == 0
    assert len(served.times_s) >= 0.999 * 2000 * 0.9


def test_a_deadline_that_is_short_for_the_model_is_not_held_against_the_number_in_flight() -> None:
    bound = Admission(AdmissionRule(), most=512)
    for _ in range(10_000):  # answered in 90 % of their time, without having waited
        bound.taken += 1
        bound.ended(used=0.0)

    assert bound.limit == 512


def test_outcomes_of_who_was_let_in_before_the_limit_fell_do_not_let_it_fall_again() -> None:
    bound = Admission(AdmissionRule(round=10), most=100)
    bound.taken = 80
    for _ in range(10):
        bound.ended(1.0)
    assert bound.limit == 40.0  # half of what was in flight

    for _ in range(70):  # they were in flight then
        bound.ended(1.0)
    assert bound.limit == 40.0


def test_one_model_that_is_slow_takes_no_permits_from_another() -> None:
    permits = Permits(64, rule=AdmissionRule(round=8))
    for _ in range(20):
        for one in [permits.take("slow") for _ in range(permits.limits.get("slow", 8))]:
            permits.give(one, used=1.0)
    held = [permits.take("slow") for _ in range(permits.limits["slow"])]

    assert len(held) == AdmissionRule().least
    with pytest.raises(Overloaded):
        permits.take("slow")
    assert len([permits.take("quick") for _ in range(60)]) == 60


@pytest.mark.parametrize(
    ("told", "rule"),
    [
        ("retry_share=2", "0 <= retry_share <= 1"),
        ("hedge=yes", "expected hedge=1 or hedge=0"),
        ("hegde=1", "expected one of stale_features"),
        ("cached_s=soon", "0 <= cached_s"),
    ],
)
def test_a_setting_that_is_wrong_is_refused_with_its_rule(told: str, rule: str) -> None:
    with pytest.raises(ValueError, match=rule):
        parse_flow(told)


def test_settings_change_what_they_name_and_nothing_else() -> None:
    flow = parse_flow("retry_share=0.3, hedge=0, cached_bytes=1000, adaptive=0, deadline_share=0.25, given_order=1")

    assert (flow.retry.share, flow.hedge.on, flow.admission.on, flow.admission.aim) == (0.3, False, False, 0.25)
    assert (flow.ladder.cached_bytes, flow.ladder.given_order, flow.ladder.cached_order) == (1000, True, True)
    assert parse_flow("") == parse_flow("hedge=1,retry_share=0.1")
