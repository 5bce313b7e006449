"""The monitor's process, killed again and again while it reads: every ranking counts once."""

from pathlib import Path

import numpy as np

from drift import snapshot
from registry.contracts.events import encode_event, join_events
from registry.stream import EVENT_STREAM, RedisStream
from tests.deploy.platforms import until
from tests.drift.traffic import PROFILE, in_parts, rankings
from tests.monitor_process import MonitorProcess, monitor_process

AN_ENTRY, ENTRIES, KILLS = 10, 120, 3


def now_ms(monitor: MonitorProcess) -> int:
    seconds, microseconds = monitor.client.time()
    return int(seconds) * 1000 + int(microseconds) // 1000


def test_killed_while_it_reads_it_loses_no_ranking_and_counts_none_twice(tmp_path: Path) -> None:
    rng = np.random.default_rng(11)
    drift = "window_s=86400,lateness_s=3600,save_every_s=0.05"  # what is counted stays in sight: nothing closes
    with monitor_process(tmp_path / "home", drift=drift) as monitor:
        monitor.add_version("codesearch", 1, PROFILE)
        events = rankings(seed=51, lists=AN_ENTRY * ENTRIES, start_ms=now_ms(monitor))
        payloads = [join_events([encode_event(event) for event in part]) for part in in_parts(events, AN_ENTRY)]
        stream = RedisStream(monitor.client)
        for part in in_parts(range(ENTRIES), ENTRIES // (KILLS + 1))[:KILLS]:
            monitor.start()
            written = [append(stream, monitor, payloads[place]) for place in part]
            reached = written[int(rng.integers(len(written)))]
            until(lambda at=reached: order(monitor.delivered()["monitor"]) >= order(at), "it reads on")  # type: ignore[misc]
            monitor.kill()
            again = rng.integers(part[-1] + 1, size=3).tolist()  # a gateway that was killed too ships again
            stream.append([payloads[place] for place in again])
        monitor.start()
        stream.append(payloads[ENTRIES - ENTRIES // (KILLS + 1) :])
        until(lambda: monitor.has_read_all() and not monitor.waiting(), "all is acknowledged")
        monitor.stop()
        kept = snapshot.load(monitor.settings.journal_folder / "monitor.windows")

    assert kept is not None
    assert sum(window.lists for window in kept.windows) == len(events) == AN_ENTRY * ENTRIES
    assert {window.key.arm for window in kept.windows} == {"champion"}


def append(stream: RedisStream, monitor: MonitorProcess, payload: bytes) -> bytes:
    """The entry's id."""
    stream.append([payload])
    newest: bytes = monitor.client.xinfo_stream(EVENT_STREAM)["last-generated-id"]
    return newest


def order(entry_id: bytes) -> tuple[int, ...]:
    """As Redis orders entries."""
    return tuple(map(int, entry_id.split(b"-")))
