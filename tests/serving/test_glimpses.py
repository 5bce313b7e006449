"""A few answers for who watches: as many whatever the traffic, and never anybody's name."""

import redis

from registry.glimpse_board import MemoryGlimpseBoard, RedisGlimpseBoard
from serving.glimpses import MOST_WAITING, GlimpsePublisher, Glimpses
from tests.builders import a_glimpse


def test_a_model_is_due_once_in_a_while_whatever_its_traffic() -> None:
    glimpses = Glimpses(every_ms=500)

    assert [glimpses.due("m", 10_000 + 100 * i) for i in range(11)] == [i in (0, 5, 10) for i in range(11)]


def test_a_clock_that_is_set_back_blinds_nobody() -> None:
    glimpses = Glimpses(every_ms=500)

    assert [glimpses.due("m", now_ms) for now_ms in (10_000, 2_000, 2_100, 2_500)] == [True, True, False, True]


def test_a_busy_model_takes_no_turn_of_a_quiet_one() -> None:
    glimpses = Glimpses(every_ms=500)

    assert glimpses.due("busy", 10_000)
    assert glimpses.due("quiet", 10_100)
    assert not glimpses.due("busy", 10_200)


def test_what_nobody_drains_is_bounded_and_the_newest_stay() -> None:
    glimpses = Glimpses()
    for i in range(MOST_WAITING + 5):
        glimpses.take(a_glimpse(f"r{i}"))

    drained = glimpses.drain()

    assert [one.ranking_id for one in drained] == [f"r{i}" for i in range(5, MOST_WAITING + 5)]
    assert glimpses.drain() == []


def test_glimpses_are_dropped_while_the_board_is_away_and_come_again_after(absent_redis: redis.Redis) -> None:
    glimpses, board = Glimpses(), MemoryGlimpseBoard()
    glimpses.take(a_glimpse("lost"))
    GlimpsePublisher(glimpses, RedisGlimpseBoard(absent_redis)).publish()
    glimpses.take(a_glimpse("seen"))
    GlimpsePublisher(glimpses, board).publish()

    assert [one.ranking_id for one in board.newest("codesearch")] == ["seen"]
