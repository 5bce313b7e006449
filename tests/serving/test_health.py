"""Ejecting outliers: who is out, for how long, and how one comes back."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.frames import REMOTE_AWAY, FailedReply
from serving.health import Condition, FleetHealth, HealthRules
from serving.link import Link, Outstanding, Replica

RULES = HealthRules()
FLEET = ["a", "b", "c", "d"]


def a_fleet(*addresses: str) -> FleetHealth:
    """All have answered a little, in 10 ms."""
    fleet = FleetHealth(RULES)
    fleet.follow(addresses or FLEET)
    for address in addresses or FLEET:
        fleet.succeeded(address, 0.01, now_s=0.0)
    return fleet


def fail(fleet: FleetHealth, address: str, times: int = RULES.failures_in_a_row, now_s: float = 1.0) -> None:
    for _ in range(times):
        fleet.failed(address, now_s)


outcomes = st.lists(
    st.tuples(st.sampled_from(FLEET), st.sampled_from([None, 0.01, 0.02, 3.0]), st.floats(0, 3)), max_size=300
)


def replay(fleet: FleetHealth, outcomes: list[tuple[str, float | None, float]]) -> float:
    """None is a failure; the last is the time passed since the outcome before. Returns the time."""
    now_s = 1.0
    for address, took_s, passed_s in outcomes:
        now_s += passed_s
        if fleet.may_get(address, now_s):
            fleet.sent(address, now_s)
            if took_s is None:
                fleet.failed(address, now_s)
            else:
                fleet.succeeded(address, took_s, now_s)
    return now_s


@given(outcomes)
def test_at_most_half_are_out_whatever_happens(outcomes: list[tuple[str, float | None, float]]) -> None:
    fleet = a_fleet()
    for until in range(0, len(outcomes), 10):
        now_s = replay(fleet, outcomes[until : until + 10])
        assert len(fleet.ejected(now_s)) <= len(FLEET) // 2


@given(outcomes)
def test_nobody_is_out_for_ever(outcomes: list[tuple[str, float | None, float]]) -> None:
    fleet = a_fleet()
    now_s = replay(fleet, outcomes) + RULES.max_backoff_s
    for address in FLEET:
        assert fleet.may_get(address, now_s)
        fleet.sent(address, now_s)
        fleet.succeeded(address, 0.01, now_s)

    assert fleet.ejected(now_s) == []


@given(st.lists(st.sampled_from(FLEET), max_size=300))
def test_a_query_that_fails_everywhere_ejects_nobody(order: list[str]) -> None:
    fleet = FleetHealth(RULES)
    fleet.follow(FLEET)
    for address in FLEET:
        fleet.failed(address, now_s=1.0)
    for _ in order:  # each poisonous query is tried on all
        for address in FLEET:
            fleet.failed(address, now_s=1.0)

    assert fleet.ejected(1.0) == []


def test_failures_in_a_row_eject_and_one_less_does_not() -> None:
    fleet = a_fleet()
    fail(fleet, "a", RULES.failures_in_a_row - 1)
    assert fleet.condition("a", 1.0) is Condition.IN

    fail(fleet, "a", 1)
    assert fleet.condition("a", 1.0) is Condition.EJECTED
    assert not fleet.may_get("a", 1.0)


def test_a_success_in_between_starts_the_row_again() -> None:
    fleet = a_fleet()
    for _ in range(3):
        fail(fleet, "a", RULES.failures_in_a_row - 1)
        for _ in range(2 * RULES.failures_in_a_row):
            fleet.succeeded("a", 0.01, 1.0)

    assert fleet.ejected(1.0) == []


def test_a_share_of_failures_ejects_without_a_row() -> None:
    fleet = a_fleet()
    for _ in range(RULES.least_outcomes):
        fleet.failed("a", 1.0)
        fleet.succeeded("a", 0.01, 1.0)
        fleet.succeeded("b", 0.01, 1.0)

    assert fleet.ejected(1.0) == ["a"]


def test_old_failures_are_forgotten() -> None:
    fleet = a_fleet()
    now_s = 1.0
    for _ in range(RULES.least_outcomes):
        fleet.failed("a", now_s)
        fleet.succeeded("a", 0.01, now_s)
        now_s += 2 * RULES.window_s

    assert fleet.ejected(now_s) == []


def test_one_that_is_far_slower_than_its_peers_is_ejected_and_a_little_slower_one_is_not() -> None:
    fleet = a_fleet()
    for _ in range(5 * RULES.least_outcomes):
        for address, took_s in zip(FLEET, (0.3, 0.03, 0.01, 0.01), strict=True):
            fleet.succeeded(address, took_s, 1.0)

    assert fleet.ejected(1.0) == ["a"]


def test_a_replica_without_peers_is_never_ejected() -> None:
    fleet = a_fleet("only")
    fail(fleet, "only", 100)

    assert fleet.may_get("only", 1.0)


def test_after_its_backoff_one_query_at_a_time_probes_and_a_success_lets_it_in() -> None:
    fleet = a_fleet()
    fail(fleet, "a", now_s=1.0)
    due_s = 1.0 + RULES.backoff_s
    assert not fleet.may_get("a", due_s - 0.01)

    assert fleet.may_get("a", due_s)
    fleet.sent("a", due_s)
    assert not fleet.may_get("a", due_s)

    fleet.succeeded("a", 0.01, due_s)
    assert fleet.condition("a", due_s) is Condition.IN


def test_an_answer_from_before_the_ejection_lets_nobody_in() -> None:
    fleet = a_fleet()
    fail(fleet, "a", now_s=1.0)
    fleet.succeeded("a", 0.9, 1.1)

    assert fleet.condition("a", 1.1) is Condition.EJECTED


def test_a_probe_that_nobody_waits_for_any_more_makes_room_for_another() -> None:
    fleet = a_fleet()
    fail(fleet, "a", now_s=1.0)
    fleet.sent("a", 2.0)
    fleet.given_up("a")

    assert fleet.may_get("a", 2.0)


@pytest.mark.parametrize("status", [503, REMOTE_AWAY])
def test_a_probe_whose_answer_says_nothing_of_the_replica_makes_room_for_another(status: int) -> None:
    async def scenario() -> bool:
        fleet, replica = a_fleet("a", "b"), Replica("a")
        fail(fleet, "a", now_s=1.0)
        link = Link(replica, lambda: None, fleet, lambda: 3.0)
        answer: asyncio.Future[object] = asyncio.get_running_loop().create_future()
        fleet.sent("a", 3.0)
        replica.outstanding[7] = Outstanding(answer, 1, deadline_s=9.0, sent_s=3.0)
        link.data_received(FailedReply(7, status, "not now").encode())
        assert answer.exception() is not None
        return fleet.may_get("a", 3.0)

    assert asyncio.run(scenario())


@pytest.mark.parametrize("fails", [True, False])
def test_a_probe_that_ends_while_there_is_no_peer_makes_room_for_another(fails: bool) -> None:
    fleet = a_fleet("a", "b")
    fail(fleet, "a", now_s=1.0)
    fleet.sent("a", 2.0)
    fleet.follow(["a"])
    if fails:
        fleet.failed("a", 2.0)
    else:
        fleet.succeeded("a", 0.01, 2.0)
    fleet.follow(["a", "b"])

    assert fleet.may_get("a", 2.0)


def test_the_backoff_doubles_up_to_its_limit() -> None:
    fleet = a_fleet()
    fail(fleet, "a", now_s=0.0)
    now_s, backoffs = 0.0, []
    for _ in range(8):
        began_s = now_s
        while not fleet.may_get("a", now_s):
            now_s += 0.5
        backoffs.append(now_s - began_s)
        fleet.sent("a", now_s)
        fleet.failed("a", now_s)

    assert backoffs == [1, 2, 4, 8, 16, 32, 60, 60]


def test_after_a_long_good_time_the_backoff_starts_over() -> None:
    fleet = a_fleet()
    fail(fleet, "a", now_s=0.0)
    fleet.sent("a", 1.0)
    fleet.succeeded("a", 0.01, 1.0)
    later_s = RULES.max_backoff_s + 1.0
    fail(fleet, "a", now_s=later_s)

    assert fleet.may_get("a", later_s + RULES.backoff_s)


@pytest.mark.parametrize("address", ["unknown", "gone"])
def test_a_replica_that_is_not_known_may_get_queries_and_is_not_counted(address: str) -> None:
    fleet = a_fleet("a", "b", "gone")
    fleet.follow(["a", "b"])
    fail(fleet, address)

    assert fleet.may_get(address, 1.0)
    assert fleet.ejected(1.0) == []


def test_what_failed_while_there_was_no_peer_does_not_count_once_there_is_one() -> None:
    fleet = a_fleet("a")
    fail(fleet, "a", times=100)

    fleet.follow(["a", "b"])
    fleet.succeeded("b", 0.01, now_s=1.0)
    fail(fleet, "a", times=1)

    assert fleet.condition("a", now_s=1.0) is Condition.IN
