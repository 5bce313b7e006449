"""The traffic meter: what gateways counted between two looks, and quantiles out of buckets."""

import numpy as np
import pytest
import redis
from hypothesis import given
from hypothesis import strategies as st

from deploy.control.meter import MeterThread, TrafficMeter, latency_ms, quantile_ms, slots
from registry.contracts.counters import (
    LATENCY_BOUNDS_MS,
    LATENCY_BUCKETS,
    STAGE_BUCKETS,
    STAGES,
    ArmCounters,
    CounterSnapshot,
    StageCounters,
    latency_bucket,
)
from registry.counters import MemoryCounterBoard, RedisCounterBoard
from tests.builders import NOW_MS, an_arm

MODEL = "codesearch"


def answered(count: int, ms: float = 5.0, **changes: int) -> ArmCounters:
    latency = [0] * LATENCY_BUCKETS
    latency[latency_bucket(ms)] = count
    return an_arm(answered=count, latency=tuple(latency), **changes)


def staged(count: int, bucket: int = 10) -> StageCounters:
    buckets = tuple(count if i == bucket else 0 for i in range(STAGE_BUCKETS))
    return StageCounters(MODEL, (buckets,) * len(STAGES))


def shown(count: int, process: str = "gateway-0:1:1", stages: int = 0) -> CounterSnapshot:
    return CounterSnapshot(process, NOW_MS, (answered(count),), (staged(stages),) if stages else ())


def of(*snapshots: CounterSnapshot) -> dict[str, CounterSnapshot]:
    return {one.process: one for one in snapshots}


def answers(meter: TrafficMeter) -> list[int]:
    """Of the champion, in each sample."""
    return [sum(arm.answered for arm in sample.arms.get(MODEL, {}).values()) for sample in meter.samples(since_ms=0)]


def test_a_look_tells_what_came_since_the_one_before_it() -> None:
    meter = TrafficMeter()
    for look, count in enumerate((100, 103, 110)):
        meter.take(of(shown(count, stages=count)), NOW_MS + look * 5000)

    assert answers(meter) == [3, 7]
    newest = meter.samples(NOW_MS + 5000)
    assert [(one.since_ms, one.until_ms) for one in newest] == [(NOW_MS + 5000, NOW_MS + 10_000)]
    assert newest[0].stages[MODEL].sum(axis=1).tolist() == [7] * len(STAGES)


def test_a_gateway_that_was_restarted_takes_nothing_away() -> None:
    meter = TrafficMeter()
    meter.take(of(shown(100)), NOW_MS)
    meter.take(of(shown(100), shown(4, "gateway-0:2:2")), NOW_MS + 5000)
    meter.take(of(shown(9, "gateway-0:2:2")), NOW_MS + 10_000)

    assert answers(meter) == [4, 5]


def test_gateways_and_plan_revisions_add_up() -> None:
    meter = TrafficMeter()
    meter.take({}, NOW_MS)
    other = CounterSnapshot("gateway-1:1:1", NOW_MS, (answered(2), answered(3, plan_revision=2, degraded=1)))
    meter.take(of(shown(5), other), NOW_MS + 5000)

    (sample,) = meter.samples(0)
    (arm,) = sample.arms[MODEL].values()
    assert (arm.answered, arm.degraded, int(arm.latency.sum())) == (10, 1, 10)


@pytest.mark.parametrize("after_ms", [0, -5000, 60_000])
def test_what_came_over_no_time_or_too_long_a_time_is_no_rate(after_ms: int) -> None:
    meter = TrafficMeter()
    meter.take(of(shown(1)), NOW_MS)
    meter.take(of(shown(5000)), NOW_MS + after_ms)
    meter.take(of(shown(5001)), NOW_MS + after_ms + 5000)

    assert answers(meter) == [1]


def test_an_hour_is_kept_and_no_more() -> None:
    meter = TrafficMeter(kept_s=60.0, sample_s=5.0)
    for look in range(40):
        meter.take(of(shown(look)), NOW_MS + look * 5000)

    kept = meter.samples(0)
    assert len(kept) == 12
    assert kept[-1].until_ms == NOW_MS + 39 * 5000


def test_a_slot_sums_its_samples_and_one_without_any_was_not_watched() -> None:
    meter = TrafficMeter()
    for look, count in enumerate((0, 10, 20, 50)):
        meter.take(of(shown(count)), NOW_MS + look * 5000)

    found = slots(meter.samples(0), MODEL, NOW_MS + 15_000, step_ms=10_000, count=3)

    assert [slot.seconds for slot in found] == [0, 5.0, 10.0]
    assert [sum(arm.answered for arm in slot.arms.values()) for slot in found] == [0, 10, 40]
    assert [slot.until_ms for slot in found] == [NOW_MS - 5000, NOW_MS + 5000, NOW_MS + 15_000]


def test_a_board_that_is_away_leaves_a_gap_and_no_error(absent_redis: redis.Redis) -> None:
    clock, board, meter = iter(range(NOW_MS, NOW_MS + 10**6, 5000)), MemoryCounterBoard(), TrafficMeter()
    for count, there in ((1, True), (2, True), (3, False), (4, True), (5, True)):
        board.publish(shown(count))
        MeterThread(meter, board if there else RedisCounterBoard(absent_redis), lambda: next(clock)).look()

    assert answers(meter) == [1, 2, 1]


@given(st.lists(st.floats(0.3, 10_000), min_size=1, max_size=200), st.sampled_from([0.5, 0.95, 0.99]))
def test_a_quantile_is_off_by_a_bucket_at_most(times_ms: list[float], share: float) -> None:
    counts = np.bincount([latency_bucket(ms) for ms in times_ms], minlength=LATENCY_BUCKETS)

    found = latency_ms(counts, share)

    exact = float(np.quantile(times_ms, share, method="inverted_cdf"))
    assert found is not None
    assert exact / 1.2 <= found <= exact * 1.2


def test_without_a_query_there_is_no_quantile_and_beyond_the_last_bound_it_is_the_bound() -> None:
    nobody, slow = np.zeros(LATENCY_BUCKETS, dtype=np.int64), np.zeros(LATENCY_BUCKETS, dtype=np.int64)
    slow[-1] = 3

    assert latency_ms(nobody, 0.5) is None
    assert quantile_ms(slow, LATENCY_BOUNDS_MS, 0.5) == LATENCY_BOUNDS_MS[-1]
