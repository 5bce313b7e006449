"""The counter board in memory and on a real Redis, and the record it shows."""

import pytest
import redis
from hypothesis import given
from hypothesis import strategies as st

from registry.contracts.counters import (
    LATENCY_BOUNDS_MS,
    LATENCY_BUCKETS,
    CounterSnapshot,
    latency_bucket,
    process_name,
    total,
)
from registry.contracts.errors import ContractError
from registry.counters import ARMS_KEY, CounterBoard, MemoryCounterBoard, RedisCounterBoard
from registry.errors import StoreUnavailable
from tests.builders import NOW_MS, an_arm
from tests.suites.counter_boards import CounterBoardSuite, a_snapshot


class TestMemoryCounterBoard(CounterBoardSuite):
    @pytest.fixture
    def counters(self) -> CounterBoard:
        return MemoryCounterBoard()


class TestRedisCounterBoard(CounterBoardSuite):
    @pytest.fixture
    def counters(self, redis_client: redis.Redis) -> CounterBoard:
        return RedisCounterBoard(redis_client)


@pytest.mark.parametrize("garbage", [b"", b"{", b"null", b"7", b'{"process": 1}', b"\xff"])
def test_garbage_on_the_board_hides_no_other_process(redis_client: redis.Redis, garbage: bytes) -> None:
    board = RedisCounterBoard(redis_client)
    board.publish(a_snapshot("sound"))
    redis_client.hset(ARMS_KEY, "broken", garbage)
    assert set(board.read()) == {"sound"}

    board.publish(a_snapshot("broken"))
    assert set(board.read()) == {"sound", "broken"}


def test_an_absent_redis_has_no_counters(absent_redis: redis.Redis) -> None:
    board = RedisCounterBoard(absent_redis)

    with pytest.raises(StoreUnavailable, match="could not read the counters"):
        board.read()
    with pytest.raises(StoreUnavailable, match="could not publish the counters"):
        board.publish(a_snapshot())


@given(st.lists(st.floats(0, 1e5), max_size=30))
def test_a_snapshot_comes_back_as_it_was(latencies_ms: list[float]) -> None:
    buckets = [latency_bucket(ms) for ms in latencies_ms]
    arm = an_arm(answered=len(buckets), latency=tuple(buckets.count(i) for i in range(LATENCY_BUCKETS)))
    snapshot = CounterSnapshot(process_name("gateway-0", 1, 2), NOW_MS, (arm,))

    assert CounterSnapshot.decode(snapshot.encode()) == snapshot


@given(st.floats(0, 1e5))
def test_a_latency_is_in_the_first_bucket_whose_bound_it_does_not_pass(ms: float) -> None:
    bucket = latency_bucket(ms)

    assert bucket == len(LATENCY_BOUNDS_MS) or ms <= LATENCY_BOUNDS_MS[bucket]
    assert bucket == 0 or ms > LATENCY_BOUNDS_MS[bucket - 1]


def test_a_sum_is_over_every_counter_and_zero_of_nothing() -> None:
    one = an_arm(answered=3, refused=1, failed=2, degraded=1, latency=(3, *(0,) * (LATENCY_BUCKETS - 1)))
    key = ("codesearch", 1, "", "champion")

    assert total(*key, [one, one]) == an_arm(
        answered=6, refused=2, failed=4, degraded=2, latency=(6, *(0,) * (LATENCY_BUCKETS - 1))
    )
    assert total(*key, []) == an_arm()


def test_counters_that_cannot_be_are_refused() -> None:
    with pytest.raises(ContractError, match="buckets: expected"):
        an_arm(latency=(1, 2))
    with pytest.raises(ContractError, match="negative"):
        an_arm(failed=-1)
