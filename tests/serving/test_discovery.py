"""Registration and discovery: who is announced is found, who drains is left, who answers is kept."""

import time
from collections.abc import Callable

import pytest
import redis
from hypothesis import given
from hypothesis import strategies as st

from registry.contracts.replicas import ReplicaRecord
from registry.errors import StoreUnavailable
from registry.replica_board import MemoryReplicaBoard, RedisReplicaBoard, ReplicaBoard
from serving.discovery import ReplicaWatcher, present
from serving.registration import Registration
from tests.builders import a_replica_record

PATIENCE_S = 10.0
SEED = ("unix:/seed",)


class AbsentBoard:
    """Nobody answers."""

    def announce(self, record: ReplicaRecord, ttl_s: float) -> None:
        raise StoreUnavailable("Redis could not announce the replica: connection refused")

    def read(self) -> dict[str, ReplicaRecord]:
        raise StoreUnavailable("Redis could not read the replicas: connection refused")


def until(condition: Callable[[], bool]) -> None:
    give_up_s = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < give_up_s
        time.sleep(0.005)


addresses = st.sampled_from(["unix:/a", "unix:/b", "unix:/c", "tcp:d:1"])
address_tuples = st.lists(addresses, unique=True).map(tuple)
records = st.dictionaries(addresses, st.booleans()).map(
    lambda drains: {address: a_replica_record(address, draining=draining) for address, draining in drains.items()}
)


@given(address_tuples, address_tuples, records, st.sets(addresses))
def test_what_is_shown_is_used_unless_it_drains_and_what_answers_is_kept(
    seeds: tuple[str, ...], known: tuple[str, ...], shown: dict[str, ReplicaRecord], connected: set[str]
) -> None:
    used = present(seeds, known, shown, connected.__contains__)

    assert len(set(used)) == len(used)
    for address in {*seeds, *known, *shown}:
        if address in shown:
            assert (address in used) == (not shown[address].draining)
        else:
            assert (address in used) == (address in seeds or address in connected)


@given(address_tuples, address_tuples, records, st.sets(addresses))
def test_looking_again_changes_nothing(
    seeds: tuple[str, ...], known: tuple[str, ...], shown: dict[str, ReplicaRecord], connected: set[str]
) -> None:
    used = present(seeds, known, shown, connected.__contains__)

    assert present(seeds, used, shown, connected.__contains__) == used


def a_watcher(board: ReplicaBoard, told: list[tuple[str, ...]], connected: set[str] | None = None) -> ReplicaWatcher:
    return ReplicaWatcher(board, SEED, (connected or set()).__contains__, told.append, period_s=0.01)


def test_a_change_is_told_once() -> None:
    board, told = MemoryReplicaBoard(), list[tuple[str, ...]]()
    watcher = a_watcher(board, told)
    watcher.poll()
    board.announce(a_replica_record("tcp:b:1"), 60.0)
    watcher.poll()
    board.announce(a_replica_record("tcp:b:1"), 60.0)
    watcher.poll()

    assert told == [(*SEED, "tcp:b:1")]


def test_a_replica_that_vanishes_from_the_board_stays_as_long_as_it_answers() -> None:
    now_s, connected, told = 0.0, {"tcp:b:1"}, list[tuple[str, ...]]()
    board = MemoryReplicaBoard(lambda: now_s)
    watcher = a_watcher(board, told, connected)
    board.announce(a_replica_record("tcp:b:1"), 5.0)
    watcher.poll()

    now_s = 6.0
    watcher.poll()
    assert watcher.addresses == (*SEED, "tcp:b:1")

    connected.clear()
    watcher.poll()
    assert told == [(*SEED, "tcp:b:1"), SEED]


def test_a_replica_that_drains_is_left_although_it_answers_and_a_successor_is_found() -> None:
    board, told = MemoryReplicaBoard(), list[tuple[str, ...]]()
    watcher = a_watcher(board, told, connected={"unix:/seed"})
    for record in (
        a_replica_record("unix:/seed"),
        a_replica_record("unix:/seed", draining=True),
        a_replica_record("unix:/seed", pid=99),
    ):
        board.announce(record, 60.0)
        watcher.poll()

    assert told == [(), SEED]


def test_while_the_board_is_away_the_last_replicas_stay(caplog: pytest.LogCaptureFixture) -> None:
    told = list[tuple[str, ...]]()
    watcher = a_watcher(AbsentBoard(), told)
    watcher.poll()
    watcher.poll()

    assert (watcher.addresses, told) == (SEED, [])
    assert [record.getMessage().split(":")[0] for record in caplog.records] == [
        "the replica board is away, the last replicas stay"
    ]


def test_a_worker_that_cannot_announce_itself_says_so_once(caplog: pytest.LogCaptureFixture) -> None:
    registration = Registration(AbsentBoard(), a_replica_record())
    registration.beat()
    registration.beat()

    assert [record.getMessage().split(",")[0] for record in caplog.records] == ["could not announce this replica"]


def test_a_worker_is_found_stays_found_and_is_left_when_it_drains(redis_client: redis.Redis) -> None:
    board, told = RedisReplicaBoard(redis_client), list[tuple[str, ...]]()
    watcher = a_watcher(board, told)
    watcher.start()
    registration = Registration(board, a_replica_record("tcp:b:1"), every_s=0.02, ttl_s=0.5)
    registration.start()
    until(lambda: told == [(*SEED, "tcp:b:1")])
    seen_s = time.monotonic()
    until(lambda: time.monotonic() > seen_s + 0.7)  # longer than a record lives
    assert told == [(*SEED, "tcp:b:1")]

    registration.drain()
    until(lambda: told == [(*SEED, "tcp:b:1"), SEED])
    for thread in (registration, watcher):
        thread.stop()
        thread.join(PATIENCE_S)
        assert not thread.is_alive()


def test_a_wiped_redis_drops_no_replica_that_answers(redis_client: redis.Redis) -> None:
    board, told = RedisReplicaBoard(redis_client), list[tuple[str, ...]]()
    watcher = a_watcher(board, told, connected={"tcp:b:1"})
    registration = Registration(board, a_replica_record("tcp:b:1"))
    registration.beat()
    watcher.poll()
    redis_client.flushall()
    watcher.poll()
    registration.beat()
    watcher.poll()

    assert told == [(*SEED, "tcp:b:1")]
