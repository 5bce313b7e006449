"""Ledgers of quotas, and the law that every one of them keeps, over any schedule."""

import pytest
import redis
from hypothesis import given
from hypothesis import strategies as st

from registry.errors import StoreUnavailable
from registry.quotas import LeaseAsk, MemoryLedger, Quota, QuotaLedger, RedisLedger
from tests.suites.quota_ledgers import QuotaLedgerSuite, one


class TestMemoryLedger(QuotaLedgerSuite):
    @pytest.fixture
    def ledger(self) -> QuotaLedger:
        return MemoryLedger()


class TestRedisLedger(QuotaLedgerSuite):
    @pytest.fixture
    def ledger(self, redis_client: redis.Redis) -> QuotaLedger:
        return RedisLedger(redis_client)

    def test_a_quota_that_is_full_again_takes_no_memory(self, ledger: QuotaLedger, redis_client: redis.Redis) -> None:
        one(ledger, LeaseAsk(Quota("short", 1000.0, 10.0), wanted=10))
        one(ledger, LeaseAsk(Quota("long", 0.001, 10.0), wanted=10))

        assert 0 < redis_client.pttl("{sluice:quotas}:of:short") <= 12
        assert redis_client.pttl("{sluice:quotas}:of:long") > 9_000_000

    def test_a_script_that_redis_forgot_is_sent_again(self, ledger: QuotaLedger, redis_client: redis.Redis) -> None:
        ask = LeaseAsk(Quota("q", 0.001, 10.0), wanted=1)
        one(ledger, ask)
        redis_client.script_flush()

        assert one(ledger, ask) == 1


def test_a_ledger_whose_redis_is_away_says_so(absent_redis: redis.Redis) -> None:
    with pytest.raises(StoreUnavailable, match="lease tokens"):
        RedisLedger(absent_redis).lease("g", [])


class Clock:
    def __init__(self) -> None:
        self.now_s = 1_000_000.0

    def __call__(self) -> float:
        return self.now_s


RATES = st.floats(0.01, 1e5)
PAUSES = st.lists(st.tuples(st.floats(0, 20), st.integers(1, 500), st.integers(1, 50)), min_size=1, max_size=60)


@given(rate=RATES, burst=st.floats(1, 1000), schedule=PAUSES)
def test_no_schedule_gets_more_than_the_burst_and_the_rate_in_any_window(
    rate: float, burst: float, schedule: list[tuple[float, int, int]]
) -> None:
    clock, quota = Clock(), Quota("q", rate, burst)
    ledger, given_at = MemoryLedger(clock), []
    for pause, wanted, least in schedule:
        clock.now_s += pause / rate
        given_at.append((clock.now_s, one(ledger, LeaseAsk(quota, wanted, least))))

    for first in range(len(given_at)):
        total = 0
        for at_s, granted in given_at[first:]:
            total += granted
            assert total <= burst + rate * (at_s - given_at[first][0]) + 1e-3


@given(rate=RATES, burst=st.integers(1, 1000), schedule=PAUSES, least=st.integers(1, 1000))
def test_who_waits_as_long_as_told_is_granted(
    rate: float, burst: int, schedule: list[tuple[float, int, int]], least: int
) -> None:
    clock, quota = Clock(), Quota("q", rate, float(burst))
    ledger = MemoryLedger(clock)
    for pause, wanted, some in schedule:
        clock.now_s += pause / rate
        one(ledger, LeaseAsk(quota, wanted, some))
    ask = LeaseAsk(quota, wanted=min(least, burst), least=min(least, burst))
    [lease], _ = ledger.lease("g", [ask])
    if not lease.granted:
        clock.now_s += lease.wait_s + 2e-6  # a microsecond is the clock's step
        [lease], _ = ledger.lease("g", [ask])

    assert lease.granted == ask.least
