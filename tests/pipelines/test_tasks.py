"""The Celery tasks on a real worker with a real broker: idempotent by window, JSON only."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from celery import Celery
from celery.contrib.testing.worker import start_worker
from prometheus_client import REGISTRY

from pipelines.archive.files import Archive
from pipelines.feedback.click_ndcg import CLICKS_WITHIN_MS, WINDOW_MS
from pipelines.tasks import COMPACT_AFTER_S, Chore, PipelineWiring, make_celery
from registry.contracts.events import Event, encode_event, join_events
from registry.stream import StreamEntry
from tests.builders import NOW_MS, a_click, a_ranking
from tests.conftest import RedisServer

# Celery 5.7 stores results with a command that redis-py 8 calls deprecated
pytestmark = pytest.mark.filterwarnings("ignore:Call to deprecated setex:DeprecationWarning")

HOUR_MS = 3_600_000
CLOSED_MS = NOW_MS + WINDOW_MS + CLICKS_WITHIN_MS
PATIENCE_S = 30


class Platform:
    """An archive, a clock that is set by hand, and the app with one worker thread."""

    def __init__(self, folder: Path, redis_socket: Path) -> None:
        self.now_ms = CLOSED_MS
        self.archive = Archive(folder / "archive")
        self.reports = folder / "reports"
        chore = Chore("look-around", 20.0, lambda now_ms: [f"looked at {now_ms}"])
        wiring = PipelineWiring(
            *(self.archive, self.reports, lambda: ["codesearch"], lambda: self.now_ms / 1000), chores=(chore,)
        )
        url = f"redis+socket://{redis_socket}"
        self.app = make_celery(url, url, wiring)

    def write(self, entry_id: str, *events: Event) -> None:
        self.archive.write([StreamEntry(entry_id, join_events([encode_event(event) for event in events]))])

    def run(self, task: str, *arguments: Any) -> Any:
        """The task's result, by way of broker, worker and result store."""
        return self.app.send_task(task, arguments).get(timeout=PATIENCE_S)


@pytest.fixture
def platform(tmp_path: Path, redis_server: RedisServer, server_client: redis.Redis) -> Iterator[Platform]:
    made = Platform(tmp_path, redis_server.socket)
    with start_worker(made.app, pool="solo", perform_ping_check=False, loglevel="ERROR"):
        yield made


def shown(metric: str, **labels: str) -> float | None:
    return REGISTRY.get_sample_value(metric, {"model": "codesearch", **labels})


def test_evidence_of_the_last_closed_window_is_written_and_shown(platform: Platform) -> None:
    platform.write("1-0", a_ranking("r1"), a_ranking("r2", unit="u2"), a_click("c1", "r1", simulated=True))

    path = platform.run("pipelines.measure_clicks")[-1]

    assert path == str(platform.reports / "evidence" / "codesearch" / "20260101T0000.json")
    report = json.loads(Path(path).read_text())
    assert (report["since_ms"], report["arms"][0]["mean"], report["arms"][0]["simulated"]) == (NOW_MS, 0.5, True)
    arm = {"version": "1", "arm": "champion", "simulated": "true"}
    assert shown("pipelines_click_ndcg", **arm) == 0.5
    assert shown("pipelines_click_ndcg_standard_error", **arm) == 0.5
    assert shown("pipelines_click_ndcg_lists", **arm) == 2
    assert shown("pipelines_feedback_left_out_events", reason="without_ranking") == 0


def test_another_room_s_chore_has_its_turn_and_its_place_in_the_schedule(platform: Platform) -> None:
    done = platform.run("pipelines.look_around")

    assert done == [f"looked at {CLOSED_MS}"]
    planned = platform.app.conf.beat_schedule["look-around"]
    assert (planned["task"], planned["schedule"]) == ("pipelines.look_around", 20.0)


def test_a_closed_window_is_measured_once_and_a_missed_one_later(platform: Platform) -> None:
    first = platform.run("pipelines.measure_clicks")
    assert platform.run("pipelines.measure_clicks") == []

    platform.now_ms += 3 * WINDOW_MS  # no worker was there for two of them
    later = platform.run("pipelines.measure_clicks")

    assert len(first) == 12
    assert [Path(path).stem for path in later] == ["20260101T0005", "20260101T0010", "20260101T0015"]


def test_a_window_measured_again_gives_the_same_file(platform: Platform) -> None:
    platform.write("1-0", a_ranking("r1"), a_click("c1"))

    (first,) = platform.run("pipelines.measure_clicks", NOW_MS)
    content = Path(first).read_bytes()
    (second,) = platform.run("pipelines.measure_clicks", NOW_MS)

    assert second == first
    assert Path(second).read_bytes() == content
    assert len(list(Path(first).parent.iterdir())) == 1


def test_closed_hours_are_compacted_and_damaged_ones_left_alone(platform: Platform) -> None:
    for i in range(3):
        platform.write(f"{i}-0", a_ranking(f"r{i}"), a_ranking(f"r{i}", model="damaged"))
    (damaged,) = (platform.archive.folder / "model=damaged").rglob("0-0-*.parquet")
    damaged.write_bytes(b"not parquet")

    platform.now_ms = NOW_MS + HOUR_MS + COMPACT_AFTER_S * 1000 - 1
    assert platform.run("pipelines.compact_archive") == 0
    platform.now_ms += 1
    assert platform.run("pipelines.compact_archive") == 3

    assert len(platform.archive.rankings("codesearch", NOW_MS, NOW_MS + 1)) == 3
    assert len(list((platform.archive.folder / "model=damaged").rglob("*.parquet"))) == 3


def test_a_pickle_is_not_even_looked_at(platform: Platform) -> None:
    before = platform.app.send_task("pipelines.measure_clicks", serializer="pickle")

    platform.run("pipelines.measure_clicks")  # is behind it in the queue

    assert before.state == "PENDING"
    assert before.result is None


def test_beat_asks_for_every_task_there_is(tmp_path: Path) -> None:
    app: Celery = make_celery("memory://", "cache+memory://", PipelineWiring(Archive(tmp_path), tmp_path, list))
    ours = {name for name in app.tasks if name.startswith("pipelines.")}

    assert {entry["task"] for entry in app.conf.beat_schedule.values()} == ours
    assert app.conf.accept_content == ["json"]
    assert app.conf.task_acks_late is True
