import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
import redis

from deploy.commands.status import failures, lag_text, open_breakers, silence
from deploy.machine.status import EVENTS, event_lag, gateway_status
from deploy.models.copies import fetch_copy
from deploy.settings import PlatformSettings
from registry.errors import StoreUnavailable

GROUP = "archiver"


def read(client: redis.Redis, count: int) -> None:
    client.xreadgroup(GROUP, "one", {EVENTS: ">"}, count=count)


def test_lag_is_the_age_of_the_oldest_entry_that_is_not_acknowledged(redis_client: redis.Redis):
    for written_ms in (1000, 2000, 3000):
        redis_client.xadd(EVENTS, {"e": b""}, id=f"{written_ms}-0")
    redis_client.xgroup_create(EVENTS, GROUP, id="0")
    assert event_lag(redis_client, now_ms=5000) == {GROUP: {"pending": 0, "lag_s": 4.0}}

    read(redis_client, count=2)
    assert event_lag(redis_client, now_ms=5000) == {GROUP: {"pending": 2, "lag_s": 4.0}}

    redis_client.xack(EVENTS, GROUP, "1000-0")
    assert event_lag(redis_client, now_ms=5000) == {GROUP: {"pending": 1, "lag_s": 3.0}}

    read(redis_client, count=1)
    redis_client.xack(EVENTS, GROUP, "2000-0", "3000-0")
    assert event_lag(redis_client, now_ms=5000) == {GROUP: {"pending": 0, "lag_s": 0.0}}


def test_an_entry_that_is_waiting_behind_an_acknowledged_one_counts(redis_client: redis.Redis):
    redis_client.xadd(EVENTS, {"e": b""}, id="1000-0")
    redis_client.xgroup_create(EVENTS, GROUP, id="$")
    redis_client.xadd(EVENTS, {"e": b""}, id="2000-0")

    assert event_lag(redis_client, now_ms=2500) == {GROUP: {"pending": 0, "lag_s": 0.5}}


def test_without_a_stream_nobody_lags(redis_client: redis.Redis):
    assert event_lag(redis_client, now_ms=0) == {}


def test_a_group_that_was_left_alone_is_named_with_what_ends_it():
    assert lag_text("monitor", {"pending": 2, "lag_s": 1.0}) == "monitor: 2 pending, 1 s behind"

    left = {"pending": 0, "lag_s": 2 * 86_400.0}
    assert lag_text("rank-diff", left).endswith("or `redis-cli XGROUP DESTROY sluice:events rank-diff`")
    assert lag_text("archiver", left).endswith("the stream grows: start the archiver")


def test_only_breakers_that_are_not_closed_are_named():
    gateway = {
        "breakers": {"search@3": "half_open", "search@2": "closed"},
        "replicas": [{"replica": "worker-0", "breaker": "closed"}, {"replica": "worker-1", "breaker": "open"}],
    }

    assert open_breakers(gateway) == {"search@3": "half open", "worker-1": "open"}
    assert open_breakers({}) == {}


class _Guarded(BaseHTTPRequestHandler):
    """A gateway that says how it is to the keys `ours` and `ann's`, and is not fit to say it to the key `early`."""

    def do_GET(self) -> None:
        key = self.headers.get("authorization", "").removeprefix("Bearer ")
        status, said = {
            "ours": (200, {"ready": True}),
            "ann's": (200, {"ready": True}),
            "early": (503, {"error": "nobody says which keys are good"}),
        }.get(key, (401, {"error": "expected a key"}))
        self.send_response(status)
        self.end_headers()
        self.wfile.write(json.dumps(said).encode())

    def log_message(self, format: str, *args: object) -> None:
        """Not to the terminal."""


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[PlatformSettings]:
    with HTTPServer(("127.0.0.1", 0), _Guarded) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield PlatformSettings(tmp_path, gateway_port=server.server_port, auth="all")
        server.shutdown()
        thread.join()


def test_a_gateway_is_asked_with_the_key_that_was_told_or_the_data_folder_s(guarded: PlatformSettings):
    assert gateway_status(guarded, "ann's") == {"ready": True}
    guarded.admin_key_file.write_text("ours\n")

    assert gateway_status(guarded) == {"ready": True}
    assert silence(gateway_status(guarded)) == ""


def test_a_gateway_that_wants_another_key_is_not_one_that_does_not_answer(guarded: PlatformSettings):
    refused = {key: gateway_status(guarded, key) for key in ("", "bob's", "early")}

    assert refused[""] == refused["bob's"] == {"refused": 401, "why": "expected a key"}
    assert silence(refused[""]) == ", needs a key: expected a key; try: SLUICE_KEY=… of a viewer of all models"
    assert silence(refused["early"]) == ", answers 503: nobody says which keys are good"


def test_a_gateway_that_is_away_does_not_answer(tmp_path: Path):
    assert silence(gateway_status(PlatformSettings(tmp_path, gateway_port=1))) == ", does not answer"


def test_a_version_that_workers_cannot_load_is_named_once_with_the_reason_and_their_names():
    damaged = {"search@3": "digest of program:\n  expected another"}
    gateway = {
        "replicas": [
            {"replica": "worker-0", "failures": damaged},
            {"replica": "worker-1", "failures": damaged | {"ads@1": "out of memory"}},
            {"replica": "worker-2"},
        ]
    }

    assert failures(gateway) == [
        ("ads@1", "out of memory", ["worker-1"]),
        ("search@3", "digest of program: expected another", ["worker-0", "worker-1"]),
    ]
    assert failures({}) == []


def test_what_keeps_a_version_from_being_fetched_is_told_in_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    settings = PlatformSettings(tmp_path, mlflow="http://127.0.0.1:9")
    monkeypatch.setenv("SLUICE_WORKERS", "many")

    with pytest.raises(StoreUnavailable, match=r"^search@7 could not be fetched .* SLUICE_WORKERS='?many'?: expected"):
        fetch_copy(settings, "search", 7, tmp_path / "search-7")
