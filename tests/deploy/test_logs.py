import io
import json
import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.commands.logs import last_lines, new_lines, wanted_lines
from deploy.logs import JsonFormatter, adopt, configure_logging
from deploy.machine.pump import LogPump
from deploy.process import stop_on_signals
from tests.deploy.platforms import PATIENCE_S


@pytest.fixture
def written() -> Iterator[io.StringIO]:
    """Where this process logs while the test runs."""
    root, hooks = logging.getLogger(), (sys.excepthook, threading.excepthook)
    handlers, level = root.handlers[:], root.level
    root.handlers.clear()  # or they would be closed
    stream = io.StringIO()
    configure_logging("gateway-0", "INFO", stream)
    yield stream
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(False)
    sys.excepthook, threading.excepthook = hooks


def lines_of(stream: io.StringIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_record_is_one_line_with_what_it_was_given(written: io.StringIO):
    logging.getLogger("serving").info("ranked %d\nitems", 3, extra={"ranking_id": "r1", "trace_id": "t1"})

    (line,) = lines_of(written)
    assert line.pop("ts")
    assert line == {
        "level": "INFO",
        "logger": "serving",
        "message": "ranked 3\nitems",
        "process": "gateway-0",
        "ranking_id": "r1",
        "trace_id": "t1",
    }


def test_an_exception_is_part_of_its_line(written: io.StringIO):
    try:
        raise ValueError("no such row")
    except ValueError:
        logging.getLogger("serving").exception("failed")

    (line,) = lines_of(written)
    assert "ValueError: no such row" in str(line["exception"])


def test_an_exception_that_nobody_caught_is_logged_from_any_thread(written: io.StringIO):
    def fail() -> None:
        raise ValueError("lost")

    thread = threading.Thread(target=fail)
    thread.start()
    thread.join()

    (line,) = lines_of(written)
    assert (line["level"], line["message"]) == ("CRITICAL", "ValueError: lost")


def test_what_json_does_not_know_becomes_text():
    record = logging.makeLogRecord({"msg": "loaded", "path": Path("/data")})

    assert json.loads(JsonFormatter("worker-0").format(record))["path"] == "/data"


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (b'{"process":"redis","message":"m"}', {"process": "redis", "message": "m"}),
        (b'{"process":"another","message":"m"}', {"process": "redis", "message": "m"}),
        (b'{"message":"m"}', {"process": "redis", "message": "m"}),
        (
            b"2026/11/23 ERROR: disk full",
            {"process": "redis", "level": "ERROR", "message": "2026/11/23 ERROR: disk full"},
        ),
        (b"{not json", {"process": "redis", "level": "INFO", "message": "{not json"}),
        (b"\xff\xfe", {"process": "redis", "level": "INFO", "message": "��"}),
    ],
)
def test_every_line_names_its_process(raw: bytes, expected: dict[str, str]):
    line = json.loads(adopt("redis", raw + b"\n", now_s=0.0))

    assert {key: value for key, value in line.items() if key != "ts"} == expected


def test_the_pump_writes_all_lines_and_rotates(tmp_path: Path):
    pump = LogPump(tmp_path / "log", file_bytes=1500, older_files=2)
    read, write = os.pipe()
    pump.attach("redis", os.fdopen(read, "rb"))
    with os.fdopen(write, "wb") as stream:
        stream.writelines(b"line %d\n" % number for number in range(40))
    pump.close()

    assert sorted(path.name for path in tmp_path.iterdir()) == ["log", "log.1", "log.2"]
    found = last_lines(tmp_path / "log", 15, wanted_lines("redis", "INFO"))
    assert [line["message"] for line in found] == [f"line {number}" for number in range(25, 40)]


def test_a_full_pump_drops_lines_and_says_how_many(tmp_path: Path):
    os.mkfifo(tmp_path / "slow")  # a file that takes nothing until somebody reads it
    reader = os.open(tmp_path / "slow", os.O_RDONLY | os.O_NONBLOCK)
    pump = LogPump(tmp_path / "slow", file_bytes=0)
    for number in range(30_000):
        pump.put(f"line {number} " + "x" * 100)  # never waits

    os.set_blocking(reader, True)
    with os.fdopen(reader, "rb") as stream:
        lines = (line for line in stream if b"were dropped" in line)
        assert b"lines of log were dropped" in next(lines)
    # the reader is gone: what is still to be written is lost, the pump is not
    pump.close()


def test_levels_and_processes_are_filtered():
    wanted = wanted_lines("worker", "WARNING")

    assert wanted({"process": "worker-1", "level": "ERROR"})
    assert wanted({"process": "worker", "level": "WARNING"})
    assert not wanted({"process": "worker-1", "level": "INFO"})
    assert not wanted({"process": "celery-worker", "level": "ERROR"})


def test_following_goes_on_after_a_rotation(tmp_path: Path):
    log = tmp_path / "log"
    log.write_text('{"message":"old"}\n')
    found: list[str] = []
    attached = threading.Event()

    def follow() -> None:
        for line in new_lines(log, lambda line: True):
            found.append(line["message"])
            attached.set()
            if line["message"] == "last":
                break

    follower = threading.Thread(target=follow, daemon=True)
    follower.start()
    number = 0
    while not attached.wait(0.05):  # until it has opened the file and sees what is added
        number += 1
        with log.open("a") as stream:
            stream.write(f'{{"message":"{number}"}}\n')
    log.rename(tmp_path / "log.1")
    log.write_text('{"message":"last"}\n')

    follower.join(PATIENCE_S)
    assert "old" not in found and found[-1] == "last"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_sets_the_stop_event(number: signal.Signals):
    before = {each: signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT)}
    try:
        stop = stop_on_signals()
        assert not stop.is_set()
        signal.raise_signal(number)
        assert stop.wait(PATIENCE_S)
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
