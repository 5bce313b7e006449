"""Quotas as gateways spend them: what each holds, and that all together keep to what there is."""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable

import pytest
import redis

from registry.quotas import LeaseAsk, MemoryLedger, Quota, QuotaLedger, RedisLedger
from serving.errors import QueryRefused, QuotaExceeded
from serving.identity.doorkeeper import Doorkeeper, Visit
from serving.identity.leases import Leases, Meter
from serving.settings import QuotaSettings
from tests.serving.doors import Keys, a_doorkeeper, a_text, bearer, running_leases


class CountingLedger:
    """Counts the round trips to the ledger behind."""

    def __init__(self, ledger: QuotaLedger) -> None:
        self._ledger, self.trips = ledger, 0

    def lease(self, gateway: str, asks: list[LeaseAsk]) -> tuple[list, int]:
        self.trips += bool(asks)
        return self._ledger.lease(gateway, asks)


async def visits_of(
    leases: Leases, quotas: QuotaSettings | None = None, **key: float
) -> tuple[Doorkeeper, Callable[[], Visit]]:
    keys = Keys()
    keys.make(**key)
    doorkeeper = a_doorkeeper(keys, quotas=quotas, leases=leases)
    return doorkeeper, lambda: doorkeeper.enter(bearer(a_text()), "m")


def run(scenario: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(scenario())  # type: ignore[arg-type]


async def outcome(visit: Visit, candidates: int) -> str:
    """What became of one query: begun at once, after a lease, or the error's name."""
    if visit.begin(candidates, lambda: True):
        return "begun"
    try:
        await visit.admitted(candidates)
    except (QuotaExceeded, QueryRefused) as error:
        return type(error).__name__
    return "admitted"


def test_a_key_gets_its_burst_and_is_told_which_quota_it_used_up() -> None:
    async def scenario() -> None:
        async with running_leases() as leases:
            _, enter = await visits_of(leases, QuotaSettings(burst_s=10_000.0), requests_per_s=0.001)
            told = [await outcome(enter(), 100) for _ in range(12)]
            assert told.count("QuotaExceeded") == 2 and told[-1] == "QuotaExceeded"
            with pytest.raises(QuotaExceeded, match=r"API key 'k0' has a quota of 0\.001 requests/s") as caught:
                enter().check()
            assert caught.value.retry_after_s is not None and 900 < caught.value.retry_after_s <= 1000
            assert caught.value.reason == "key_requests"

    run(scenario)


def test_candidates_are_counted_beside_requests_and_nothing_is_taken_of_who_is_refused() -> None:
    async def scenario() -> None:
        async with running_leases() as leases:
            quotas = QuotaSettings(burst_s=100_000.0)
            _, enter = await visits_of(leases, quotas, requests_per_s=0.001, candidates_per_s=0.001)
            assert await outcome(enter(), 60) == "admitted"
            for _ in range(3):
                assert await outcome(enter(), 60) == "QuotaExceeded"
            assert await outcome(enter(), 40) in ("begun", "admitted")
            assert await outcome(enter(), 1) == "QuotaExceeded"
            assert await outcome(enter(), 0) in ("begun", "admitted")  # requests were left all along

    run(scenario)


def test_a_query_larger_than_the_quota_ever_has_is_refused_for_good() -> None:
    async def scenario() -> None:
        async with running_leases() as leases:
            _, enter = await visits_of(leases, QuotaSettings(burst_s=2.0), candidates_per_s=50.0)
            with pytest.raises(QueryRefused, match="never has more than 100 of them at once"):
                await enter().admitted(101)
            await enter().admitted(100)

    run(scenario)


def test_what_goes_the_long_way_is_taken_once() -> None:
    async def scenario() -> None:
        async with running_leases() as leases:
            _, enter = await visits_of(leases, QuotaSettings(burst_s=3000.0), requests_per_s=0.001)
            assert await outcome(enter(), 1) == "admitted"
            assert enter().begin(1, lambda: None) is None  # no replica just now: it goes the long way
            assert [await outcome(enter(), 1) for _ in range(3)].count("QuotaExceeded") == 1

    run(scenario)


def test_most_queries_need_no_round_trip() -> None:
    async def scenario() -> None:
        ledger = CountingLedger(MemoryLedger())
        async with running_leases(ledger=ledger) as leases:  # type: ignore[arg-type]
            _, enter = await visits_of(leases, requests_per_s=20_000.0, candidates_per_s=2_000_000.0)
            told = []
            for _ in range(3000):
                told.append(await outcome(enter(), 10))
                await asyncio.sleep(0)
            assert set(told) <= {"begun", "admitted"}
            assert told.count("begun") > 2700
            assert ledger.trips < 300

    run(scenario)


def test_who_comes_while_a_lease_is_fetched_waits_for_it() -> None:
    async def scenario() -> None:
        async with running_leases() as leases:
            _, enter = await visits_of(leases, QuotaSettings(burst_s=100_000.0), requests_per_s=0.001)
            told = await asyncio.gather(*(outcome(enter(), 1) for _ in range(130)))
            assert (told.count("admitted") + told.count("begun"), told.count("QuotaExceeded")) == (100, 30)

    run(scenario)


def test_who_waits_for_a_lease_and_leaves_takes_nothing() -> None:
    async def scenario() -> None:
        async with running_leases() as leases:
            _, enter = await visits_of(leases, QuotaSettings(burst_s=2000.0), requests_per_s=0.001)
            waiting = asyncio.ensure_future(enter().admitted(1))
            await asyncio.sleep(0)
            waiting.cancel()
            assert [await outcome(enter(), 1) for _ in range(3)].count("QuotaExceeded") == 1

    run(scenario)


@pytest.mark.parametrize("gateways", [1, 3])
def test_several_gateways_together_keep_to_the_quota(redis_client: redis.Redis, gateways: int) -> None:
    """More than is there asks at each gateway, by real Redis: never over the bound, and all that comes is used."""
    rate, burst_s, quotas = 200.0, 0.5, QuotaSettings(burst_s=0.5)

    async def ask_on(enter: Callable[[], Visit], until_s: float) -> int:
        admitted = 0
        while time.monotonic() < until_s:
            admitted += await outcome(enter(), 1) != "QuotaExceeded"
            await asyncio.sleep(0.0005)
        return admitted

    async def scenario() -> None:
        async with asyncio.TaskGroup() as group, contextlib.AsyncExitStack() as stack:
            entered = []
            for number in range(gateways):
                ledger = RedisLedger(redis_client)
                leases = await stack.enter_async_context(running_leases(quotas, ledger, f"g{number}"))
                entered.append((await visits_of(leases, quotas, requests_per_s=rate))[1])
            began_s = time.monotonic()
            tasks = [group.create_task(ask_on(enter, began_s + 1.5)) for enter in entered]
            admitted = sum([await task for task in tasks])
            elapsed_s = time.monotonic() - began_s

        assert admitted <= rate * burst_s + rate * elapsed_s + 1
        assert admitted > rate * burst_s  # also after the burst

    run(scenario)


def test_without_redis_a_gateway_goes_on_with_its_share(absent_redis: redis.Redis) -> None:
    async def scenario() -> None:
        quotas = QuotaSettings(burst_s=40_000.0, gateways=4, timeout_s=0.05)
        async with running_leases(quotas, RedisLedger(absent_redis)) as leases:
            _, enter = await visits_of(leases, quotas, requests_per_s=0.001)
            told = [await outcome(enter(), 1) for _ in range(15)]
            assert 15 - told.count("QuotaExceeded") == 10  # of 40

    run(scenario)


def test_a_query_that_the_whole_quota_allows_is_allowed_without_redis(absent_redis: redis.Redis) -> None:
    async def scenario() -> None:
        quotas = QuotaSettings(burst_s=40_000.0, gateways=4, timeout_s=0.05)
        async with running_leases(quotas, RedisLedger(absent_redis)) as leases:
            _, enter = await visits_of(leases, quotas, candidates_per_s=0.001)
            assert await outcome(enter(), 40) == "admitted"
            assert await outcome(enter(), 40) == "QuotaExceeded"

    run(scenario)


def test_a_lease_that_is_not_spent_in_time_is_thrown_away() -> None:
    meter = Meter(Quota("q", 100.0, 100.0), "x", "requests", "r")
    ask = meter.wanted(0.0, 0.1)
    meter.take(MemoryLedger(lambda: 0.0).lease("g", [ask])[0][0], ask.least, 0.0, keep_s=1.0)
    held = meter.left
    again = meter.wanted(2.0, 0.1)
    meter.take(MemoryLedger(lambda: 2.0).lease("g", [again])[0][0], again.least, 2.0, keep_s=1.0)

    assert held == 1 and meter.left == again.wanted


def test_a_gateway_holds_no_more_than_a_tenth_of_a_second_brings() -> None:
    """The slack of the bound: whatever was spent before, and however fast."""
    meter, now_s = Meter(Quota("q", 1000.0, 5000.0), "x", "requests", "r"), 100.0
    for step in range(200):
        ask = meter.wanted(now_s, 0.1)
        assert meter.left + ask.wanted <= 1000.0 * 0.1 + 1
        meter.left, meter.good_until_s = meter.left + ask.wanted, now_s + 1
        spent = min(meter.left, step * 7 % 120)
        meter.left, meter.spent, now_s = meter.left - spent, meter.spent + spent, now_s + 0.013
