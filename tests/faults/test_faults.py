"""What breaks, stops, lies or comes back damaged, under load, on one running platform that all of it leaves whole.

Each test is a row of docs/faults.md. Clients rank and click all the while (`traffic.Traffic`); what they got a 200
for is in the archive in the end, once. `SLUICE_TEST_SEED` says which queries are asked and what is damaged.
"""

import random
import signal
import socket
import sqlite3
import tempfile
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from deploy import wiring
from deploy.client import GatewayClient
from deploy.control.admin_key import read_admin_key
from deploy.control.client import ControlClient
from deploy.errors import SluiceError
from registry.artefacts import PROGRAM_FILE, write
from registry.board import RedisBoard
from registry.contracts.features import row_key
from registry.contracts.traffic import TrafficPlan
from registry.stream import EVENT_STREAM
from tests.builders import a_package, a_view
from tests.e2e.platforms_under_fire import ITEMS, MODEL, Platform, until
from tests.faults.breakages import Proxy, full, no_larger_files, small_disk, stopped, unmount
from tests.faults.conftest import Settle
from tests.faults.traffic import Traffic

HELD = f"{MODEL}@1"
DISK_BYTES = 256 << 20  # a gateway's journal has 64 MB


@pytest.fixture(scope="module")
def platform() -> Iterator[Platform]:
    """A gateway, two workers that hold the model, archiver, monitor, controller; on a small disk where we may."""
    with ExitStack() as undone:
        home = Path(undone.enter_context(tempfile.TemporaryDirectory(prefix="sluice-", dir="/tmp"))) / "h"
        if small_disk(home, DISK_BYTES):
            undone.callback(unmount, home)
        started = Platform.start(home, workers=2, with_monitor=True)
        undone.callback(started.stop)
        started.serve()
        started.wait_until_held(HELD, 2)
        yield started


@pytest.fixture
def disk(platform: Platform) -> Path:
    """The small disk that the platform's data folder is on."""
    if not platform.settings.home.is_mount():
        pytest.skip("a small disk needs root: where it is not, archive and journal are tested by RLIMIT_FSIZE alone")
    return platform.settings.home


def back(platform: Platform, name: str, killed: int) -> None:
    until(lambda: platform.pid(name) not in (None, killed), f"{name} to be back")


def metric(platform: Platform, name: str) -> float:
    """The sum of a metric's series; of one, if its labels are there."""
    with urllib.request.urlopen(f"{platform.settings.gateway_url}/metrics") as answer:
        lines = answer.read().decode().splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith((f"{name}{{", f"{name} ")))


# kill -9


@pytest.mark.parametrize("name", ["worker-0", "archiver", "monitor", "controller"])
def test_a_killed_process_that_no_query_needs_alone_fails_none(
    name: str, platform: Platform, seed: int, nothing_lost: Settle
) -> None:
    with Traffic(platform, seed) as traffic:
        traffic.wait_for(50)
        killed = platform.kill(name)
        traffic.wait_for(50)
        back(platform, name, killed)
        traffic.wait_for(20)

    assert traffic.failed == []
    nothing_lost(traffic)


def test_a_killed_gateway_loses_nothing_that_it_had_answered(
    platform: Platform, seed: int, nothing_lost: Settle
) -> None:
    with Traffic(platform, seed, patience_s=60.0) as traffic:
        traffic.wait_for(50)
        killed = platform.kill("gateway-0")
        traffic.wait_for(50)
        back(platform, "gateway-0", killed)

    assert traffic.failed == []  # a client that asks again is answered
    nothing_lost(traffic)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM], ids=["killed", "restarted"])
def test_redis_may_die_or_be_restarted_and_nothing_is_lost(
    how: signal.Signals, platform: Platform, seed: int, nothing_lost: Settle
) -> None:
    with Traffic(platform, seed) as traffic:
        traffic.wait_for(200)  # the rows are in the workers' memory by now
        gone = platform.kill("redis", how)
        traffic.wait_for(50)
        back(platform, "redis", gone)
        traffic.wait_for(50)

    assert traffic.failed == []
    nothing_lost(traffic)


# stopped, slow, silent


def test_a_worker_that_stops_and_goes_on_costs_no_answer(platform: Platform, seed: int, nothing_lost: Settle) -> None:
    platform.wait_until_held(HELD, 2)
    with Traffic(platform, seed) as traffic:
        traffic.wait_for(50)
        with stopped(platform, f"worker-{seed % 2}"):
            traffic.wait_for(100)
        traffic.wait_for(50)

    assert traffic.failed == []
    nothing_lost(traffic)


def test_a_gateway_that_stops_and_goes_on_answers_whom_it_kept_waiting(
    platform: Platform, seed: int, nothing_lost: Settle
) -> None:
    with Traffic(platform, seed) as traffic:
        traffic.wait_for(50)
        with stopped(platform, "gateway-0") as pid:
            until(lambda: _is_stopped(pid), "the gateway to hold still")
            before = len(traffic.answered)
            with pytest.raises(SluiceError), GatewayClient(platform.settings.gateway_url, timeout_s=1.0) as late:
                late.get("/v1/status")
            assert len(traffic.answered) <= before + traffic.clients
        traffic.wait_for(50)

    assert traffic.failed == []
    nothing_lost(traffic)


def test_redis_may_hang_and_nothing_that_was_answered_or_acknowledged_is_lost(
    platform: Platform, seed: int, nothing_lost: Settle
) -> None:
    with Traffic(platform, seed) as traffic:
        traffic.wait_for(50)
        with stopped(platform, "redis"):
            told = len(traffic.told)
            traffic.wait_for(50)
            until(lambda: len(traffic.told) > told, "feedback to be acknowledged all the same")
        traffic.wait_for(50)

    assert traffic.failed == []
    nothing_lost(traffic)


def test_a_slow_redis_slows_no_query_and_loses_nothing(platform: Platform, seed: int, nothing_lost: Settle) -> None:
    with Traffic(platform, seed) as traffic:
        traffic.wait_for(50)
        with Proxy.before_socket(platform.settings.redis_socket) as proxy:
            proxy.delay_s = 0.1
            _reconnect_all(platform)
            until(lambda: proxy.carried > 10_000, "processes to talk through the proxy")
            traffic.wait_for(100)
        traffic.wait_for(20)

    assert traffic.failed == []
    nothing_lost(traffic)


def test_a_redis_whose_line_went_dead_without_a_word_loses_nothing(
    platform: Platform, seed: int, nothing_lost: Settle
) -> None:
    with Traffic(platform, seed) as traffic:
        traffic.wait_for(50)
        with Proxy.before_socket(platform.settings.redis_socket) as proxy:
            _reconnect_all(platform)
            until(lambda: proxy.carried > 10_000, "processes to talk through the proxy")
            proxy.silent = True  # connections stay open, new ones are taken, nothing comes back
            told = len(traffic.told)
            traffic.go_on_for(wiring.REDIS_TIMEOUT_S + 1.0)  # whoever waited has given up by then
            assert len(traffic.told) > told
            proxy.silent = False
        traffic.wait_for(50)

    assert traffic.failed == []
    nothing_lost(traffic)


def test_clients_whose_lines_went_dead_cost_the_others_nothing(
    platform: Platform, seed: int, nothing_lost: Settle
) -> None:
    source, where = random.Random(seed), ("127.0.0.1", platform.settings.gateway_port)
    body = b'{"candidates": ["item-1", "item-2"], "top_k": 1}'
    request = b"POST /v1/models/%b/rank HTTP/1.1\r\nhost: sluice\r\ncontent-type: application/json\r\n" % MODEL.encode()
    request += b"content-length: %d\r\n\r\n%b" % (len(body), body)
    with ExitStack() as dead, Proxy.before_port(*where) as (proxy, port), Traffic(platform, seed) as traffic:
        lines = [dead.enter_context(socket.create_connection(("127.0.0.1", port))) for _ in range(100)]
        for line in lines:  # half a request: the other half never comes
            line.sendall(request[: source.randrange(1, len(request))])
        until(lambda: proxy.carried > len(lines) * 20, "the gateway to have got what was sent")
        proxy.silent = True
        traffic.wait_for(150)

    assert traffic.failed == []
    nothing_lost(traffic)


# full disks


def test_a_full_disk_holds_the_archive_up_and_loses_nothing(
    disk: Path, platform: Platform, seed: int, nothing_lost: Settle
) -> None:
    """Everything is there: archive, Redis' append-only file, logs, snapshots, metrics, the supervisor's state."""
    pids = {name: platform.pid(name) for name in ("gateway-0", "archiver", "redis")}
    with Traffic(platform, seed) as traffic:
        traffic.wait_for(50)
        with full(disk):
            told = len(traffic.told)
            traffic.wait_for(100)
            until(lambda: len(traffic.told) > told, "feedback to be acknowledged all the same")
            platform.kill("worker-0")  # the supervisor has something to write down
            traffic.wait_for(50)
        traffic.wait_for(50)

    assert traffic.failed == []
    assert {name: platform.pid(name) for name in pids} == pids
    assert platform.supervisor.poll() is None
    nothing_lost(traffic)


def test_an_archive_that_the_kernel_refuses_to_write_is_written_later(
    platform: Platform, seed: int, nothing_lost: Settle
) -> None:
    failures = metric(platform, "pipelines_archive_failures_total")
    with Traffic(platform, seed) as traffic:
        pid = until(lambda: platform.pid("archiver"), "the archiver to run")
        with no_larger_files(pid):
            until(lambda: metric(platform, "pipelines_archive_failures_total") > failures, "a refused write, counted")
            traffic.wait_for(50)
        traffic.wait_for(20)

    assert traffic.failed == []
    assert platform.pid("archiver") == pid
    nothing_lost(traffic)


# wrong data


def test_rows_that_are_no_rows_are_missing_rows_and_nothing_worse(
    platform: Platform, seed: int, nothing_lost: Settle
) -> None:
    source, client, view = random.Random(seed), wiring.redis_client(platform.settings), a_view()
    spoilt = source.sample(ITEMS, 40)
    sound = {item: client.get(row_key(view, item)) for item in spoilt}
    query = {"candidates": spoilt, "top_k": 5, "deadline_ms": 30_000}
    with GatewayClient(platform.settings.gateway_url) as gateway, Traffic(platform, seed) as traffic:
        traffic.wait_for(20)
        for item in spoilt:
            key = row_key(view, item)
            client.delete(key)
            if source.random() < 0.2:
                client.lpush(key, b"not even a string")
            else:
                client.set(key, source.randbytes(source.randrange(60)))

        def all_missing() -> bool:
            answer = gateway.post(f"/v1/models/{MODEL}/rank", query)
            return "missing_rows:40/40" in answer["degraded"]

        until(all_missing, "the damaged rows to be missing ones")
        traffic.wait_for(50)
        for item, row in sound.items():
            client.delete(row_key(view, item))
            client.set(row_key(view, item), row)

        def none_missing() -> bool:
            answer = gateway.post(f"/v1/models/{MODEL}/rank", query)
            return not any(reason.startswith("missing_rows") for reason in answer["degraded"])

        until(none_missing, "the rows as they were")

    assert traffic.failed == []
    nothing_lost(traffic)


def test_an_event_that_is_none_is_set_aside_and_counted_by_archiver_and_monitor(
    platform: Platform, seed: int, nothing_lost: Settle
) -> None:
    source, client = random.Random(seed), wiring.redis_client(platform.settings)
    counters = ("pipelines_archive_rejected_events_total", 'drift_events_total{outcome="unreadable"}')
    before = {name: metric(platform, name) for name in counters}
    pids = {name: platform.pid(name) for name in ("archiver", "monitor")}
    with Traffic(platform, seed) as traffic:
        for _ in range(5):
            traffic.wait_for(20)
            client.xadd(EVENT_STREAM, {b"e": source.randbytes(source.randrange(1, 200))})
            client.xadd(EVENT_STREAM, {b"other": b"field"})
        traffic.wait_for(20)

    assert traffic.failed == []
    nothing_lost(traffic)
    for name in counters:
        until(lambda name=name: metric(platform, name) >= before[name] + 10, f"{name} to count them")
    assert {name: platform.pid(name) for name in pids} == pids


def test_a_damaged_version_is_refused_by_name_and_the_champion_goes_on(
    platform: Platform, seed: int, nothing_lost: Settle
) -> None:
    package = a_package(scale=3.0)
    folder = platform.settings.versions_folder / MODEL / "2"
    write(package, folder)
    _flip_a_bit(folder / PROGRAM_FILE, seed)
    board = RedisBoard(wiring.redis_client(platform.settings))
    platform.wait_until_held(HELD, 2)
    with Traffic(platform, seed) as traffic:
        traffic.wait_for(20)
        board.publish(TrafficPlan(MODEL, 2, champion=2, champion_digest=package.digest))

        def reasons() -> list[str]:
            return [str(one["failures"].get(f"{MODEL}@2", "")) for one in platform.status().get("replicas", ())]

        until(lambda: len(reasons()) == 2 and all(reasons()), "both workers to say why")
        traffic.wait_for(50)
        assert platform.status()["plans"][MODEL]["champion"] == 1
        write(package, folder)  # repaired
        until(lambda: platform.status()["plans"][MODEL]["champion"] == 2, "the whole version to be served")
        traffic.wait_for(20)

    assert traffic.failed == []
    nothing_lost(traffic)


# the control plane's database


def test_a_locked_database_fails_changes_in_words_and_no_query(
    platform: Platform, seed: int, nothing_lost: Settle
) -> None:
    database = Path(platform.settings.control_database.removeprefix("sqlite:///"))
    with Traffic(platform, seed) as traffic, _control(platform) as control:
        made = control.post("/v1/keys", {"name": "before", "role": "viewer"})
        with closing(sqlite3.connect(database, isolation_level=None)) as intruder:
            intruder.execute("BEGIN EXCLUSIVE")
            with pytest.raises(SluiceError, match="control database"):
                control.post("/v1/keys", {"name": "meanwhile", "role": "viewer"})
            traffic.wait_for(50)
            intruder.execute("ROLLBACK")
        control.post("/v1/keys", {"name": "after", "role": "viewer"})
        names = {key["name"] for key in control.get("/v1/keys")["keys"]}

    assert made
    assert {"before", "after"} <= names
    assert "meanwhile" not in names
    assert traffic.failed == []
    nothing_lost(traffic)


def _control(platform: Platform) -> ControlClient:
    key = until(lambda: read_admin_key(platform.settings.admin_key_file), "the admin's key")
    return ControlClient(platform.settings.gateway_url, key, "faults", patience_s=0.0)


def _reconnect_all(platform: Platform) -> None:
    """Cuts everybody's connections to Redis; they connect again, to whoever listens at its socket now."""
    moved = platform.settings.redis_socket.with_suffix(".real")
    client = wiring.redis_client(platform.settings)
    client.connection_pool.connection_kwargs["path"] = str(moved)
    for kind in ("normal", "pubsub"):
        client.execute_command("CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes")
    client.close()


def _is_stopped(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "T"


def _flip_a_bit(file: Path, seed: int) -> None:
    content = bytearray(file.read_bytes())
    content[random.Random(seed).randrange(len(content))] ^= 1
    file.write_bytes(bytes(content))
