"""The plan board in memory and on a real Redis."""

import pytest
import redis

from registry.board import BOARD_KEY, MemoryBoard, PlanBoard, RedisBoard
from registry.errors import StoreUnavailable
from tests.builders import a_plan
from tests.suites.plan_boards import PlanBoardSuite


class TestMemoryBoard(PlanBoardSuite):
    @pytest.fixture
    def board(self) -> PlanBoard:
        return MemoryBoard()


class TestRedisBoard(PlanBoardSuite):
    @pytest.fixture
    def board(self, redis_client: redis.Redis) -> PlanBoard:
        return RedisBoard(redis_client)


@pytest.mark.parametrize("garbage", [b"", b"{", b"null", b"7", b'{"revision": "x"}', b"\xff"])
def test_garbage_on_the_board_hides_no_other_plan_and_is_written_over(
    redis_client: redis.Redis, garbage: bytes
) -> None:
    board = RedisBoard(redis_client)
    board.publish(a_plan("sound"))
    redis_client.hset(BOARD_KEY, "codesearch", garbage)
    assert board.read() == {"sound": a_plan("sound")}

    board.publish(a_plan())
    assert board.read() == {"sound": a_plan("sound"), "codesearch": a_plan()}


def test_an_absent_redis_shows_no_board(absent_redis: redis.Redis) -> None:
    board = RedisBoard(absent_redis)

    with pytest.raises(StoreUnavailable, match="could not read the traffic plans"):
        board.read()
    with pytest.raises(StoreUnavailable, match="could not publish the traffic plan of 'codesearch'"):
        board.publish(a_plan())
    with pytest.raises(StoreUnavailable, match="could not unload 'codesearch'"):
        board.hold("codesearch", wanted=False)
    with pytest.raises(StoreUnavailable, match="could not read which models are unloaded"):
        board.held_back()
