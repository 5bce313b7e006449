"""Receipts are forgotten by the running controller, so that their table does not grow for ever."""

import threading
import time
from pathlib import Path

from deploy.control.controller import Controller, now_ms
from pipelines.rollouts.engine import RolloutEngine
from pipelines.settings import RolloutSettings
from registry.board import MemoryBoard
from registry.counters import MemoryCounterBoard
from registry.receipts import KEPT_MS
from registry.traffic_control import SqlControl
from tests.suites.receipts import a_receipt

PATIENCE_S = 30.0


def test_a_running_controller_forgets_receipts_after_a_week(tmp_path: Path) -> None:
    control, board, stop = SqlControl(f"sqlite:///{tmp_path / 'control.db'}"), MemoryBoard(), threading.Event()
    control.keep_receipt(a_receipt("old", at_ms=now_ms() - KEPT_MS - 1000))
    control.keep_receipt(a_receipt("young", at_ms=now_ms() - KEPT_MS + 3_600_000))
    engine = RolloutEngine(control, board, MemoryCounterBoard(), lambda _: None)
    running = threading.Thread(target=Controller(control, board, engine, None, RolloutSettings()).run, args=(stop,))
    running.start()
    try:
        until_s = time.monotonic() + PATIENCE_S
        while control.receipt("ann", "old") is not None:
            assert time.monotonic() < until_s, "the old receipt is still there"
    finally:
        stop.set()
        running.join(PATIENCE_S)

    assert control.receipt("ann", "young") is not None
    control.close()
