"""The replica board in memory and on a real Redis."""

import pytest
import redis

from registry.contracts.errors import ContractError
from registry.contracts.replicas import ReplicaRecord
from registry.errors import StoreUnavailable
from registry.replica_board import RECORDS_KEY, MemoryReplicaBoard, RedisReplicaBoard, ReplicaBoard
from tests.builders import a_replica_record
from tests.suites.replica_boards import LONG_S, ReplicaBoardSuite


class TestMemoryReplicaBoard(ReplicaBoardSuite):
    @pytest.fixture
    def board(self) -> ReplicaBoard:
        return MemoryReplicaBoard()


class TestRedisReplicaBoard(ReplicaBoardSuite):
    @pytest.fixture
    def board(self, redis_client: redis.Redis) -> ReplicaBoard:
        return RedisReplicaBoard(redis_client)


@pytest.mark.parametrize("garbage", [b"", b"{", b"null", b"7", b'{"address": 1}', b"\xff"])
def test_garbage_on_the_board_hides_no_other_replica_and_is_written_over(
    redis_client: redis.Redis, garbage: bytes
) -> None:
    board, sound = RedisReplicaBoard(redis_client), a_replica_record("unix:/sound")
    board.announce(sound, LONG_S)
    board.announce(a_replica_record("unix:/broken"), LONG_S)
    redis_client.hset(RECORDS_KEY, "unix:/broken", garbage)
    assert board.read() == {"unix:/sound": sound}

    draining = a_replica_record("unix:/broken", draining=True)
    board.announce(draining, LONG_S)
    assert board.read() == {"unix:/sound": sound, "unix:/broken": draining}


def test_what_is_over_leaves_nothing_behind(redis_client: redis.Redis) -> None:
    board = RedisReplicaBoard(redis_client)
    board.announce(a_replica_record(), 0.0)

    assert board.read() == {}
    assert redis_client.keys() == []


def test_an_absent_redis_shows_no_board(absent_redis: redis.Redis) -> None:
    board = RedisReplicaBoard(absent_redis)

    with pytest.raises(StoreUnavailable, match="could not read the replicas"):
        board.read()
    with pytest.raises(StoreUnavailable, match=r"could not announce replica unix:/run/worker-0\.sock"):
        board.announce(a_replica_record(), LONG_S)


def test_what_is_no_record_is_refused() -> None:
    with pytest.raises(ContractError, match="not a replica's record"):
        ReplicaRecord.decode(b'{"address": "unix:/a"}')
