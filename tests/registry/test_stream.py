"""The event stream in memory and on a real Redis, over both of its protocols."""

import threading
from collections.abc import Callable, Iterator

import pytest
import redis

from registry.contracts.errors import ContractError
from registry.contracts.events import decode_events
from registry.errors import StoreUnavailable
from registry.redis_errors import server_of
from registry.stream import EVENT_STREAM, LAG_COUNTED, MemoryStream, RedisGroupReader, RedisStream, StreamEntry
from tests.conftest import RedisServer
from tests.redis_cluster import RedisCluster, running_cluster, until
from tests.suites.streams import SharedStreamSuite, Stream, ids, payloads


class TestMemoryStream(SharedStreamSuite):
    @pytest.fixture
    def make_stream(self) -> Callable[[], Stream]:
        return MemoryStream


class TestRedisStream(SharedStreamSuite):
    protocol = 3

    @pytest.fixture
    def make_stream(self, redis_store: RedisServer | RedisCluster) -> Iterator[Callable[[], Stream]]:
        with redis_store.client(protocol=self.protocol) as client:

            def make() -> Stream:
                client.flushall()
                return RedisStream(client)

            yield make


class TestRedisStreamOverItsOlderProtocol(TestRedisStream):
    protocol = 2


def test_what_was_appended_later_does_not_count(redis_client: redis.Redis) -> None:
    stream = RedisStream(redis_client)
    reader = stream.reader("archive", "a")
    for entry_id in ("5-0", "7-0", "7-1"):
        redis_client.xadd(EVENT_STREAM, {b"e": b"x"}, id=entry_id)

    assert [reader.is_past(moment_ms) for moment_ms in (5, 6)] == [True, False]
    reader.acknowledge(ids(reader.read(1, 0)))
    assert [reader.is_past(moment_ms) for moment_ms in (6, 7, 8)] == [True, True, False]
    found = reader.read(2, 0)
    reader.acknowledge(ids(found[1:]))
    assert [reader.is_past(moment_ms) for moment_ms in (7, 8)] == [True, False]
    reader.acknowledge(ids(found))
    assert reader.is_past(8)


def test_a_reader_survives_a_wiped_redis(redis_client: redis.Redis) -> None:
    stream = RedisStream(redis_client)
    reader = stream.reader("archive", "a")
    redis_client.xadd(EVENT_STREAM, {b"e": b"lost"}, id="7-0")
    reader.read(1, 0)
    redis_client.flushall()

    assert (reader.read(1, 0), reader.lag(), reader.trim_acknowledged()) == ([], 0, 0)
    redis_client.xadd(EVENT_STREAM, {b"e": b"1"}, id="7-0")  # it can happen within a millisecond
    stream.append([b"2"])
    assert payloads(reader.read(5, 0)) == [b"1", b"2"]


def test_the_writer_does_not_trim(redis_client: redis.Redis) -> None:
    stream = RedisStream(redis_client)
    stream.append([b"%d" % i for i in range(2500)])

    assert redis_client.xlen(EVENT_STREAM) == 2500


def test_a_long_lag_is_the_length_of_the_stream(redis_client: redis.Redis) -> None:
    stream = RedisStream(redis_client)
    reader = stream.reader("archive", "a")
    stream.append([b"x"] * (LAG_COUNTED + 7))
    reader.acknowledge(ids(reader.read(5, 0)))
    assert reader.lag() == LAG_COUNTED + 7  # 5 of them wait to be trimmed
    reader.acknowledge(ids(reader.read(5, 0)))
    assert reader.lag() == LAG_COUNTED - 3


def test_entries_that_somebody_deleted_do_not_come_back_for_ever(redis_client: redis.Redis) -> None:
    stream = RedisStream(redis_client)
    stream.append([b"1", b"2"])
    first = stream.reader("archive", "a").read(1, 0)
    redis_client.xdel(EVENT_STREAM, *ids(first))
    successor = stream.reader("archive", "a")

    assert payloads(successor.read(5, 0)) == [b"2"]
    assert successor.lag() == 1


def test_an_entry_that_is_somebody_elses_is_read_as_an_empty_payload_and_those_around_it_arrive(
    redis_client: redis.Redis,
) -> None:
    stream = RedisStream(redis_client)
    stream.append([b"before"])
    redis_client.xadd(EVENT_STREAM, {b"other": b"field"})
    stream.append([b"after"])
    reader = stream.reader("archiver", "one")

    assert payloads(reader.read(10, 0)) == [b"before", b"", b"after"]
    with pytest.raises(ContractError):  # so that readers reject it, with the words for it
        decode_events(b"")


def test_a_later_look_for_dead_consumers_leaves_out_what_the_reader_holds(redis_client: redis.Redis) -> None:
    now_s = 0.0
    reader = RedisGroupReader(redis_client, EVENT_STREAM, "archive", "a", claim_idle_s=0, clock=lambda: now_s)
    stream = RedisStream(redis_client)
    stream.append([b"1", b"2"])
    assert payloads(reader.read(1, 0)) == [b"1"]
    stream.reader("archive", "dies").read(1, 0)
    assert reader.read(5, 0) == []
    now_s = 60.0
    assert payloads(reader.read(5, 0)) == [b"2"]


def test_a_reader_without_entries_waits_in_redis(redis_client: redis.Redis) -> None:
    stream, found = RedisStream(redis_client), list[StreamEntry]()
    reader = stream.reader("archive", "a")
    waiting = threading.Thread(target=lambda: found.extend(reader.read(1, 4.0)))
    waiting.start()
    while server_of(redis_client, EVENT_STREAM).info("clients")["blocked_clients"] == 0:
        assert waiting.is_alive(), "the reader came back with nothing"
    stream.append([b"1"])
    waiting.join()

    assert payloads(found) == [b"1"]


def test_entries_that_were_delivered_but_never_arrived_come_again(redis_client: redis.Redis) -> None:
    stream = RedisStream(redis_client)
    stream.append([b"1"])
    reader = stream.reader("archive", "a", claim_idle_s=0)
    # as after a connection that broke between the server's answer and this reader
    redis_client.xgroup_create(EVENT_STREAM, "archive", "0")
    redis_client.xreadgroup("archive", "a", {EVENT_STREAM: ">"})

    assert payloads(reader.read(5, 0)) == [b"1"]


def test_events_that_no_replica_has_are_not_written_and_are_not_appended_once_more_each_try(
    redis_client: redis.Redis,
) -> None:
    stream = RedisStream(redis_client, replicas=1)

    for _ in range(3):
        with pytest.raises(StoreUnavailable, match="0 replicas have the events, of 1: start replicas"):
            stream.append([b"1"])

    assert redis_client.xlen(EVENT_STREAM) == 1


def test_events_in_doubt_are_copied_to_the_replicas_of_whoever_took_over() -> None:
    with running_cluster() as cluster:
        primary = cluster.owner(EVENT_STREAM)
        replica = cluster.add_replica(primary)
        with cluster.client() as client:
            stream = RedisStream(client, replicas=1)
            replica.freeze()
            with pytest.raises(StoreUnavailable, match="0 replicas have the events"):
                stream.append([b"in doubt"])
            replica.thaw()
            primary.kill()
            until(lambda: replica.command("ROLE")[0] == b"master", "the replica to take over")
            primary.start()
            until(lambda: replica.command("ROLE")[2], "a replica of the new primary")
            stream.append([b"once more"])

            assert [fields for _, fields in client.xrange(EVENT_STREAM)][-1] == {b"e": b"once more"}


def test_an_absent_redis_is_named(absent_redis: redis.Redis) -> None:
    stream = RedisStream(absent_redis)
    reader = stream.reader("archive", "a")

    with pytest.raises(StoreUnavailable, match="could not append events"):
        stream.append([b"1"])
    with pytest.raises(StoreUnavailable, match="could not read events"):
        reader.read(1, 0)
    with pytest.raises(StoreUnavailable, match="could not acknowledge events"):
        reader.acknowledge(["1-0"])
    with pytest.raises(StoreUnavailable, match="could not count"):
        reader.lag()
    with pytest.raises(StoreUnavailable, match="could not trim"):
        reader.trim_acknowledged()
