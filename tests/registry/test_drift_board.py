"""The drift board in memory and on a real Redis, and its records as bytes."""

import pytest
import redis

from registry.contracts.drift import Rebaseline, ShiftRecord
from registry.contracts.errors import ContractError
from registry.drift_board import (
    REBASELINED_KEY,
    RECORDS_PREFIX,
    DriftBoard,
    MemoryDriftBoard,
    RedisDriftBoard,
)
from registry.errors import StoreUnavailable
from tests.builders import NOW_MS, a_shift_alarm, a_shift_record
from tests.suites.drift_boards import DriftBoardSuite


class TestMemoryDriftBoard(DriftBoardSuite):
    @pytest.fixture
    def board(self) -> DriftBoard:
        return MemoryDriftBoard()


class TestRedisDriftBoard(DriftBoardSuite):
    @pytest.fixture
    def board(self, redis_client: redis.Redis) -> DriftBoard:
        return RedisDriftBoard(redis_client)


@pytest.mark.parametrize("garbage", [b"", b"null", b'{"model": 1}', b"\xff"])
def test_garbage_on_the_board_hides_nothing_else(redis_client: redis.Redis, garbage: bytes) -> None:
    board = RedisDriftBoard(redis_client)
    redis_client.hset(f"{RECORDS_PREFIX}codesearch", "challenger/2/features", garbage)
    redis_client.hset(REBASELINED_KEY, "codesearch", garbage)
    board.publish(a_shift_record())

    assert board.latest("codesearch") == (a_shift_record(),)
    assert board.declared("codesearch") is None


def test_an_absent_redis_shows_no_board(absent_redis: redis.Redis) -> None:
    board = RedisDriftBoard(absent_redis)

    with pytest.raises(StoreUnavailable, match="could not read the drift of codesearch"):
        board.latest("codesearch")
    with pytest.raises(StoreUnavailable, match="could not declare a change of codesearch"):
        board.declare(Rebaseline("codesearch", NOW_MS, "anna", "because"))


def test_answered_alarms_are_shown_and_open_nothing() -> None:
    answered = a_shift_alarm(answered=True, open_since_ms=1)
    opened = a_shift_alarm(quantity="price", open_since_ms=7)
    record = a_shift_record(alarms=(answered, opened))

    assert ShiftRecord.decode(record.encode()) == record
    assert (record.open_alarms, record.open_since_ms) == ((opened,), 7)
    assert a_shift_record(alarms=(answered,)).open_since_ms is None


@pytest.mark.parametrize("decode", [ShiftRecord.decode, Rebaseline.decode])
def test_what_is_no_record_is_refused(decode: type) -> None:
    with pytest.raises(ContractError, match="not a "):
        decode(b'{"model": "codesearch", "version": "one"}')
