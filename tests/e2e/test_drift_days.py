"""Days through the real processes: a monitor that is killed while it catches up tells what it would have told."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from deploy import wiring
from deploy.settings import PlatformSettings
from registry.artefacts import write
from registry.contracts.drift import ShiftRecord
from registry.contracts.events import RankingEvent, encode_event, join_events
from registry.contracts.manifest import ModelPackage
from registry.drift_board import RedisDriftBoard, latest_drift
from registry.stream import RedisStream
from tests.builders import a_package
from tests.deploy.platforms import ROOT, Platforms, pid_of, until
from tests.drift.traffic import PROFILE, rankings

DAY_MS = 20_000
DAYS, SHIFTED = 18, 15
LISTS = 60


@pytest.fixture
def platforms(tmp_path: Path) -> Iterator[Platforms]:
    """Days are short and lie in the past, so that all of them are over when the monitor starts."""
    quick = f"window_s=10,lateness_s=1,day_s={DAY_MS / 1000:g},min_lists=50,anchor_days=14"
    ports = {"gateway_port": 0, "grpc_port": 0, "mlflow_port": 0}
    with Platforms(PlatformSettings(home=tmp_path / "home", drift=quick, **ports)) as platforms:
        yield platforms


def a_season() -> list[RankingEvent]:
    begins_ms = (time.time_ns() // 1_000_000 // DAY_MS - DAYS - 1) * DAY_MS
    events = []
    for day in range(DAYS):
        moved = {"of_item": 1.5} if day >= SHIFTED else None
        events += rankings(100 + day, LISTS, moved, begins_ms + day * DAY_MS, DAY_MS // LISTS)
    return events


def test_a_monitor_killed_while_it_catches_up_counts_every_day_once(platforms: Platforms) -> None:
    settings = platforms.settings
    package = a_package()
    profiled = ModelPackage(package.program, package.manifest_json, PROFILE.encode())
    write(profiled, settings.versions_folder / "codesearch" / "1")
    supervisor = platforms.start("redis")
    platforms.ready(supervisor)
    with wiring.redis_client(settings) as client:
        events = [encode_event(event) for event in a_season()]
        RedisStream(client).append([join_events(events[i : i + 2]) for i in range(0, len(events), 2)])
    supervisor.send_signal(signal.SIGTERM)
    supervisor.wait(60)

    state = platforms.ready(platforms.start("monitor"))
    with wiring.redis_client(settings) as client:
        board = RedisDriftBoard(client)

        def told(days: int) -> ShiftRecord | None:
            """The champion's features, once so many days are known."""
            found = [one for one in latest_drift(board, "codesearch") if one.family == "features"]
            return found[0] if found and found[0].days >= days else None

        until(lambda: told(1), "the first day is told of")
        os.kill(pid_of(state, "monitor"), signal.SIGKILL)
        record = until(lambda: told(DAYS), "all days are told of, by the monitor that took over")

        assert (record.days, record.lists, record.verdict) == (DAYS, LISTS, "failed")
        alarm = record.alarms[0]
        assert (alarm.quantity, alarm.against) == ("of_item", "anchor")
        assert alarm.onset_ms == record.until_ms - (DAYS - SHIFTED) * DAY_MS

        shown = subprocess.run(
            [sys.executable, "-m", "deploy.cli", "drift", "show", "codesearch", "--json"],
            env=os.environ | settings.to_environment(),
            cwd=ROOT,
            capture_output=True,
            text=True,
        )
    assert (shown.returncode, shown.stderr) == (1, "")
    assert record in msgspec.json.decode(shown.stdout, type=list[ShiftRecord])
