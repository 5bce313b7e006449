"""Faults that want a platform of their own: another clock, database or network, a Redis Cluster.

`make faults` runs them; each is a row of docs/faults.md, as those of `test_faults`.
"""

import dataclasses
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
import redis

from deploy.client import GatewayClient
from deploy.control.admin_key import read_admin_key
from deploy.control.client import ControlClient
from deploy.errors import SluiceError
from deploy.features.store import feature_client
from registry.contracts.features import row_key
from registry.errors import RegistryError
from serving.features.materialiser import write_rows
from tests.builders import a_view
from tests.e2e.platforms_under_fire import ITEMS, MODEL, PATIENCE_S, Platform, until
from tests.faults.clock import WallClock
from tests.faults.conftest import Settle
from tests.faults.traffic import Traffic
from tests.faults.wire import Wire
from tests.postgres import PostgresServer, running_postgres
from tests.redis_cluster import running_cluster

pytestmark = pytest.mark.faults

HELD = f"{MODEL}@1"
HOUR_S = 3600


@contextmanager
def running(environment: Mapping[str, str] = MappingProxyType({}), **flags: Any) -> Iterator[Platform]:
    """environment: of its processes, beside the test's own."""
    with tempfile.TemporaryDirectory(prefix="sluice-", dir="/tmp") as folder:
        os.environ.update(environment)
        try:
            started = Platform.start(Path(folder) / "h", **flags)
        finally:
            for name in environment:
                del os.environ[name]
        try:
            started.serve()
            yield started
        finally:
            started.stop()


# the wall clock


@pytest.fixture
def clock(tmp_path: Path) -> WallClock:
    return WallClock(tmp_path / "clock")


@pytest.mark.parametrize("jump_s", [2 * HOUR_S, -2 * HOUR_S], ids=["ahead", "back"])
def test_a_wall_clock_that_jumps_fails_no_query_and_loses_nothing(
    jump_s: int, clock: WallClock, seed: int, nothing_lost: Settle
) -> None:
    with running(environment=clock.environment(), with_monitor=True) as platform:
        with Traffic(platform, seed) as traffic:
            traffic.wait_for(50)
            clock.ahead(jump_s)
            traffic.go_on_for(4.0)  # heartbeats, plans, windows: all have had their turn
            clock.ahead(0)
            traffic.go_on_for(2.0)

        assert traffic.failed == []
        nothing_lost(traffic)


# a worker on another machine, behind a bad line


@pytest.fixture
def wire(seed: int) -> Iterator[Wire]:
    with Wire.laid(seed) as wire:
        yield wire


@contextmanager
def remote_worker(platform: Platform, wire: Wire) -> Iterator[None]:
    """One more worker of the platform, in a network of its own, that the gateway reaches by TCP."""
    settings = dataclasses.replace(platform.settings, worker_host=wire.there, workers=2)
    argv = ["ip", "netns", "exec", wire.namespace, sys.executable, "-m", "deploy.process", "worker-1"]
    process = subprocess.Popen(argv, env=os.environ | settings.to_environment())
    try:
        platform.wait_until_held(HELD, 2)
        yield
    finally:
        process.terminate()
        process.wait(PATIENCE_S)


def test_a_line_that_loses_packets_fails_no_query(wire: Wire, seed: int, nothing_lost: Settle) -> None:
    with running() as platform, remote_worker(platform, wire):
        with Traffic(platform, seed) as traffic:
            traffic.wait_for(50)
            carried, wire.loss = wire.carried, 0.1
            until(lambda: wire.lost >= 50, "fifty lost packets")
            wire.loss = 0.0
            traffic.wait_for(50)

        assert wire.carried > carried
        assert traffic.failed == []
        nothing_lost(traffic)


def test_a_worker_whose_line_goes_dead_without_a_word_fails_no_query_and_is_asked_again_later(
    wire: Wire, seed: int, nothing_lost: Settle
) -> None:
    with running() as platform, remote_worker(platform, wire):
        with Traffic(platform, seed) as traffic:
            traffic.wait_for(50)
            wire.dead = True
            traffic.go_on_for(6.0)
            wire.dead, carried = False, wire.carried
            until(lambda: wire.carried > carried + 100, "queries over the line again")
            traffic.wait_for(50)

        assert wire.lost > 0
        assert traffic.failed == []
        nothing_lost(traffic)


# rows in a Redis Cluster, the control plane's database


def test_a_replica_that_takes_a_dead_primarys_place_serves_its_rows_and_their_updates(
    seed: int, nothing_lost: Settle
) -> None:
    with running_cluster() as cluster:
        primary = cluster.nodes[seed % len(cluster.nodes)]
        replica = cluster.add_replica(primary)
        with running(features_url=cluster.url) as platform, GatewayClient(platform.settings.gateway_url) as gateway:
            view = a_view()
            its_own = [item for item in ITEMS if cluster.owner(row_key(view, item)) is primary]
            query = {"candidates": its_own, "top_k": 1, "deadline_ms": 30_000}
            until(lambda: replica.command("DBSIZE") == primary.command("DBSIZE"), "the replica to have every row")
            with Traffic(platform, seed) as traffic:
                traffic.wait_for(50)
                primary.kill()
                until(lambda: replica.command("ROLE")[0] == b"master", "the replica to be promoted")
                client = feature_client(platform.settings, 5.0)
                best = its_own[0]
                values = np.array([[1e6]], np.float32)
                until(lambda: _written(lambda: write_rows(client, view, [best], values, 2, lambda _: None)), "a write")

                def ranked_first() -> bool:
                    answer = gateway.post(f"/v1/models/{MODEL}/rank", query)
                    without = [one for one in answer["degraded"] if not one.startswith("absent_columns")]
                    return answer["items"][0]["id"] == best and not without

                until(ranked_first, "the update in the scores, and every row of that node")
            assert traffic.failed == []
            nothing_lost(traffic)


def _written(write: Callable[[], object]) -> bool:
    """Whether it went through: not before the client has heard of the new primary."""
    try:
        write()
    except (redis.RedisError, RegistryError):
        return False
    return True


@pytest.fixture
def database() -> Iterator[PostgresServer]:
    with running_postgres() as server:
        yield server


def test_a_stopped_postgres_fails_changes_in_words_and_no_query_and_keeps_those_it_took(
    database: PostgresServer, seed: int, nothing_lost: Settle
) -> None:
    with running(control_url=database.url()) as platform:
        key = until(lambda: read_admin_key(platform.settings.admin_key_file), "the admin's key")
        control = ControlClient(platform.settings.gateway_url, key, "faults", patience_s=0.0)
        with control, Traffic(platform, seed) as traffic:
            control.post("/v1/keys", {"name": "before", "role": "viewer"})
            database.kill()
            with pytest.raises(SluiceError, match="control database"):
                control.post("/v1/keys", {"name": "meanwhile", "role": "viewer"})
            traffic.wait_for(50)
            database.start()
            until(lambda: _made(control, "after"), "changes to be taken again")
            names = {one["name"] for one in control.get("/v1/keys")["keys"]}

        assert {"before", "after"} <= names
        assert "meanwhile" not in names
        assert traffic.failed == []
        nothing_lost(traffic)


def _made(control: ControlClient, name: str) -> bool:
    try:
        control.post("/v1/keys", {"name": name, "role": "viewer"})
    except SluiceError:
        return False
    return True


# Celery


@pytest.mark.parametrize("name", ["celery-worker", "celery-runs", "celery-beat"])
def test_a_killed_process_of_the_pipelines_is_back_and_no_query_noticed(
    name: str, pipelines: Platform, seed: int, nothing_lost: Settle
) -> None:
    with Traffic(pipelines, seed) as traffic:
        traffic.wait_for(50)
        killed = pipelines.kill(name)
        traffic.wait_for(50)
        until(lambda: pipelines.pid(name) not in (None, killed), f"{name} to be back")
        traffic.wait_for(20)

    assert traffic.failed == []
    nothing_lost(traffic)


@pytest.fixture(scope="module")
def pipelines() -> Iterator[Platform]:
    with running(with_celery=True) as platform:
        yield platform
