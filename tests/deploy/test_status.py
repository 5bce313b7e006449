import redis

from deploy.commands.status import lag_text, open_breakers
from deploy.machine.status import EVENTS, event_lag

GROUP = "archiver"


def read(client: redis.Redis, count: int) -> None:
    client.xreadgroup(GROUP, "one", {EVENTS: ">"}, count=count)


def test_lag_is_the_age_of_the_oldest_entry_that_is_not_acknowledged(redis_client: redis.Redis):
    for written_ms in (1000, 2000, 3000):
        redis_client.xadd(EVENTS, {"e": b""}, id=f"{written_ms}-0")
    redis_client.xgroup_create(EVENTS, GROUP, id="0")
    assert event_lag(redis_client, now_ms=5000) == {GROUP: {"pending": 0, "lag_s": 4.0}}

    read(redis_client, count=2)
    assert event_lag(redis_client, now_ms=5000) == {GROUP: {"pending": 2, "lag_s": 4.0}}

    redis_client.xack(EVENTS, GROUP, "1000-0")
    assert event_lag(redis_client, now_ms=5000) == {GROUP: {"pending": 1, "lag_s": 3.0}}

    read(redis_client, count=1)
    redis_client.xack(EVENTS, GROUP, "2000-0", "3000-0")
    assert event_lag(redis_client, now_ms=5000) == {GROUP: {"pending": 0, "lag_s": 0.0}}


def test_an_entry_that_is_waiting_behind_an_acknowledged_one_counts(redis_client: redis.Redis):
    redis_client.xadd(EVENTS, {"e": b""}, id="1000-0")
    redis_client.xgroup_create(EVENTS, GROUP, id="$")
    redis_client.xadd(EVENTS, {"e": b""}, id="2000-0")

    assert event_lag(redis_client, now_ms=2500) == {GROUP: {"pending": 0, "lag_s": 0.5}}


def test_without_a_stream_nobody_lags(redis_client: redis.Redis):
    assert event_lag(redis_client, now_ms=0) == {}


def test_a_group_that_was_left_alone_is_named_with_what_ends_it():
    assert lag_text("monitor", {"pending": 2, "lag_s": 1.0}) == "monitor: 2 pending, 1 s behind"

    left = {"pending": 0, "lag_s": 2 * 86_400.0}
    assert lag_text("rank-diff", left).endswith("or `redis-cli XGROUP DESTROY sluice:events rank-diff`")
    assert lag_text("archiver", left).endswith("the stream grows: start the archiver")


def test_only_breakers_that_are_not_closed_are_named():
    gateway = {
        "breakers": {"search@3": "half_open", "search@2": "closed"},
        "replicas": [{"replica": "worker-0", "breaker": "closed"}, {"replica": "worker-1", "breaker": "open"}],
    }

    assert open_breakers(gateway) == {"search@3": "half open", "worker-1": "open"}
    assert open_breakers({}) == {}
