import pytest
import redis
from prometheus_client import REGISTRY

from deploy.control.stream_watch import StreamWatch
from deploy.machine.status import EVENTS
from registry.stream import RedisStream

LAG = "deploy_event_stream_lag_seconds"
MINUTE_MS = 60_000


def lag_s(group: str) -> float | None:
    return REGISTRY.get_sample_value(LAG, {"group": group})


def read_all(client: redis.Redis, group: str) -> None:
    reader = RedisStream(client).reader(group, f"{group}-0")
    reader.acknowledge([entry.entry_id for entry in reader.read(100, wait_s=0.0)])


def test_a_group_that_is_left_out_is_seen_to_hold_the_stream_back_until_it_is_removed(redis_client: redis.Redis):
    redis_client.xadd(EVENTS, {"e": b""}, id=f"{MINUTE_MS}-0")
    for group in ("archiver", "monitor"):
        read_all(redis_client, group)
    redis_client.xadd(EVENTS, {"e": b""}, id=f"{2 * MINUTE_MS}-0")
    redis_client.xadd(EVENTS, {"e": b""}, id=f"{3 * MINUTE_MS}-0")
    read_all(redis_client, "archiver")
    archiver = RedisStream(redis_client).reader("archiver", "archiver-0")
    archiver.trim_acknowledged()
    watch = StreamWatch(redis_client, now_ms=lambda: 62 * MINUTE_MS)

    watch.look()
    assert (lag_s("archiver"), lag_s("monitor")) == (0.0, 3600.0)
    assert REGISTRY.get_sample_value("deploy_event_stream_entries") == 2.0

    redis_client.xgroup_destroy(EVENTS, "monitor")
    archiver.trim_acknowledged()
    watch.look()
    assert (lag_s("archiver"), lag_s("monitor")) == (0.0, 0.0)
    assert REGISTRY.get_sample_value("deploy_event_stream_entries") == 0.0


def test_while_redis_is_away_it_says_so_once(absent_redis: redis.Redis, caplog: pytest.LogCaptureFixture):
    watch = StreamWatch(absent_redis)

    watch.look()
    watch.look()

    assert caplog.text.count("nobody sees how far behind the event stream's readers are") == 1


def test_it_looks_in_its_own_thread_until_it_is_stopped(redis_client: redis.Redis):
    watch = StreamWatch(redis_client)

    watch.start()
    watch.stop()

    assert REGISTRY.get_sample_value("deploy_event_stream_entries") == 0.0
