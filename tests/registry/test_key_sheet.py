import pytest
import redis

from registry.contracts.errors import ContractError
from registry.errors import StoreUnavailable
from registry.key_sheet import SHEET_KEY, KeyBoard, MemoryKeyBoard, RedisKeyBoard
from tests.suites.key_boards import KeyBoardSuite, a_sheet


class TestMemoryKeyBoard(KeyBoardSuite):
    @pytest.fixture
    def board(self) -> KeyBoard:
        return MemoryKeyBoard()


class TestRedisKeyBoard(KeyBoardSuite):
    @pytest.fixture
    def board(self, redis_client: redis.Redis) -> KeyBoard:
        return RedisKeyBoard(redis_client)

    def test_what_is_no_sheet_is_said_to_be_none(self, board: KeyBoard, redis_client: redis.Redis) -> None:
        board.publish(a_sheet(1, "a"))
        redis_client.hset(SHEET_KEY, mapping={"tag": "x", "sheet": b"\xff"})

        with pytest.raises(ContractError, match="not a key sheet"):
            board.read()


def test_a_board_whose_redis_is_away_says_so(absent_redis: redis.Redis) -> None:
    for ask in (lambda board: board.read(), lambda board: board.publish(a_sheet()), lambda board: board.used_ms()):
        with pytest.raises(StoreUnavailable):
            ask(RedisKeyBoard(absent_redis))
