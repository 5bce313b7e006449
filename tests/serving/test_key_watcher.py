"""The key sheet followed: whole, kept on disk for its owner alone, and good on when the board is away."""

import stat
from pathlib import Path

import pytest
import redis

from registry.key_sheet import KeySheet, MemoryKeyBoard, RedisKeyBoard
from serving.identity.keys import KeyTable, KeyWatcher
from tests.suites.key_boards import a_sheet


def a_watcher(board: MemoryKeyBoard | RedisKeyBoard, copy: Path, told: list[KeySheet], **used: int) -> KeyWatcher:
    return KeyWatcher(board, copy, told.append, lambda: used, period_s=0.01, used_every_s=0.0)


def test_each_new_sheet_is_told_once_and_kept(tmp_path: Path) -> None:
    board, told = MemoryKeyBoard(), []
    watcher = a_watcher(board, tmp_path / "sub" / "keys.json", told)
    watcher.poll()
    board.publish(a_sheet(1, "a", "b"))
    watcher.poll()
    watcher.poll()
    board.publish(a_sheet(2, "b"))
    watcher.poll()

    assert told == [a_sheet(1, "a", "b"), a_sheet(2, "b")]
    kept = tmp_path / "sub" / "keys.json"
    assert KeySheet.decode(kept.read_bytes()) == a_sheet(2, "b")
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600


def test_a_start_without_the_board_goes_by_the_copy(
    tmp_path: Path, absent_redis: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    copy, told = tmp_path / "keys.json", []
    copy.write_bytes(a_sheet(3, "a").encode())
    watcher = a_watcher(RedisKeyBoard(absent_redis), copy, told)
    watcher.start()
    assert watcher.looked.wait(30)
    watcher.stop()
    watcher.join(30)

    assert told == [a_sheet(3, "a")]
    assert caplog.text.count("the key board is away") == 1


def test_a_copy_that_cannot_be_read_is_left_out(tmp_path: Path) -> None:
    copy, told, board = tmp_path / "keys.json", [], MemoryKeyBoard()
    copy.write_bytes(b"\xff{")
    board.publish(a_sheet(1, "a"))
    watcher = a_watcher(board, copy, told)
    watcher.start()
    assert watcher.looked.wait(30)
    watcher.stop()
    watcher.join(30)

    assert told == [a_sheet(1, "a")]


def test_a_board_that_was_wiped_takes_no_key_away(tmp_path: Path, redis_client: redis.Redis) -> None:
    board, told = RedisKeyBoard(redis_client), []
    watcher = a_watcher(board, tmp_path / "keys.json", told)
    board.publish(a_sheet(7, "a"))
    watcher.poll()
    redis_client.flushall()
    watcher.poll()

    assert told == [a_sheet(7, "a")]
    board.publish(a_sheet(8, "b"))
    watcher.poll()
    assert told[-1] == a_sheet(8, "b")


def test_uses_are_noted_to_the_minute(tmp_path: Path) -> None:
    board = MemoryKeyBoard()
    a_watcher(board, tmp_path / "keys.json", [], k1=1_000_000_123_456).poll()

    assert board.used_ms() == {"k1": 1_000_000_080_000}


def test_a_table_knows_what_its_sheet_says_and_nothing_else() -> None:
    table = KeyTable()
    assert not table.informed
    table.follow(a_sheet(1, "a"))

    assert table.informed
    assert [table.find(text) for text in (b"a" * 64, b"", b"\xff" * 300)] == [None] * 3  # a hash is no key
