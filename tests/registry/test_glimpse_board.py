"""The glimpse board in memory and on a real Redis, and the record it shows."""

import math

import pytest
import redis

from registry.contracts.errors import ContractError
from registry.contracts.glimpses import Glimpse
from registry.errors import StoreUnavailable
from registry.glimpse_board import GLIMPSES_PREFIX, GlimpseBoard, MemoryGlimpseBoard, RedisGlimpseBoard
from tests.builders import a_glimpse
from tests.suites.glimpse_boards import GlimpseBoardSuite


class TestMemoryGlimpseBoard(GlimpseBoardSuite):
    @pytest.fixture
    def glimpses(self) -> GlimpseBoard:
        return MemoryGlimpseBoard()


class TestRedisGlimpseBoard(GlimpseBoardSuite):
    @pytest.fixture
    def glimpses(self, redis_client: redis.Redis) -> GlimpseBoard:
        return RedisGlimpseBoard(redis_client)


def test_glimpses_do_not_outlive_their_hour(redis_client: redis.Redis) -> None:
    RedisGlimpseBoard(redis_client).publish([a_glimpse()])

    assert 0 < redis_client.ttl(f"{GLIMPSES_PREFIX}codesearch") <= 3600


@pytest.mark.parametrize("garbage", [b"", b"{", b"null", b'{"ranking_id": 1}', b"\xff"])
def test_garbage_hides_no_other_glimpse(redis_client: redis.Redis, garbage: bytes) -> None:
    board, sound = RedisGlimpseBoard(redis_client), a_glimpse()
    board.publish([sound])
    redis_client.lpush(f"{GLIMPSES_PREFIX}codesearch", garbage)

    assert board.newest("codesearch") == (sound,)


def test_an_absent_redis_has_no_glimpses(absent_redis: redis.Redis) -> None:
    board = RedisGlimpseBoard(absent_redis)

    with pytest.raises(StoreUnavailable, match="could not read glimpses"):
        board.newest("codesearch")
    with pytest.raises(StoreUnavailable, match="could not publish glimpses"):
        board.publish([a_glimpse()])


def test_a_score_that_is_no_number_is_shown_as_none() -> None:
    found = Glimpse.decode(a_glimpse(scores=(math.nan, 1.0)).encode())

    assert found.scores == (None, 1.0)


def test_a_glimpse_names_neither_unit_nor_query() -> None:
    assert not {"unit", "query_id", "query", "features", "trace_id"} & set(Glimpse.__struct_fields__)
    with pytest.raises(ContractError, match="not a glimpse"):
        Glimpse.decode(b"[]")
