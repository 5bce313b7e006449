"""`SLUICE_REDIS` and `SLUICE_BROKER`: which client of what, and what runs here then."""

from dataclasses import replace
from pathlib import Path

import pytest
import redis

from deploy.errors import SettingsError
from deploy.machine.home import as_running, claim_ports, prepare
from deploy.machine.processes import platform_processes
from deploy.machine.status import redis_status
from deploy.settings import PlatformSettings
from deploy.wiring import redis_client
from registry.board import RedisBoard
from registry.contracts.traffic import TrafficPlan
from registry.errors import StoreUnavailable
from registry.redis_errors import redis_errors
from tests.conftest import RedisServer
from tests.redis_cluster import running_cluster

HOME = Path("/data/sluice")
CLUSTER = "redis+cluster://a:7000,b:7000"


def test_a_process_that_starts_before_its_cluster_uses_it_when_it_is_there() -> None:
    with running_cluster() as cluster:
        board = RedisBoard(redis_client(PlatformSettings(HOME, redis=cluster.url), 1.0))
        plan = TrafficPlan("search", 1, champion=1, champion_digest="0" * 64)
        for node in cluster.nodes:
            node.kill()
        with pytest.raises(StoreUnavailable, match="could not publish the traffic plan of 'search'"):
            board.publish(plan)

        for node in cluster.nodes:
            node.start()
        cluster.wait_until_ok()
        board.publish(plan)

        assert board.read() == {"search": plan}
        found = redis_status(PlatformSettings(HOME, redis=cluster.url), now_ms=0)
        assert found["redis"]["keys"] == 1
        assert [one["model"] for one in found["traffic"]] == ["search"]


def test_the_first_slot_of_a_new_node_is_followed_while_it_moves() -> None:
    with running_cluster() as cluster:
        client = redis_client(PlatformSettings(HOME, redis=cluster.url), 1.0)
        client.set("here", "before")
        source, target, slot = cluster.owner("new"), cluster.add(), str(cluster.slot("new"))
        cluster.wait_until_ok()
        target.command("CLUSTER", "SETSLOT", slot, "IMPORTING", source.name)
        source.command("CLUSTER", "SETSLOT", slot, "MIGRATING", target.name)

        client.set("new", "moving")
        with client.pipeline(transaction=False) as pipeline:
            pipeline.get("new")
            pipeline.get("here")
            found = pipeline.execute()

        assert found == [b"moving", b"before"]
        assert cluster.owner("new") is source


def test_a_server_of_ones_own_is_used(redis_server: RedisServer, server_client: redis.Redis) -> None:
    redis_client(PlatformSettings(HOME, redis=redis_server.url)).set("here", "yes")

    assert server_client.get("here") == b"yes"


def test_what_a_cluster_cannot_do_is_an_error_of_redis() -> None:
    with (
        running_cluster() as cluster,
        cluster.client() as client,
        pytest.raises(StoreUnavailable, match="Redis could not read two rows"),
        redis_errors("read two rows"),
    ):
        client.mget("a", "b")


@pytest.mark.parametrize(
    ("told", "embedded", "broker"),
    [
        ({}, True, "redis+socket:///data/sluice/run/redis.sock"),
        ({"redis": "redis://r:1/2"}, False, "redis://r:1/2"),
        ({"redis": "unix:///r.sock"}, False, "redis+socket:///r.sock"),
        ({"redis": CLUSTER}, True, "redis+socket:///data/sluice/run/redis.sock"),
        ({"redis": CLUSTER, "broker": "rediss://me:p@q:6379/0"}, False, "rediss://me:p@q:6379/0"),
    ],
)
def test_a_redis_runs_here_if_nothing_else_was_named_or_celery_has_nowhere_to_go(
    told: dict[str, str], embedded: bool, broker: str
) -> None:
    settings = PlatformSettings(HOME, **told)  # type: ignore[arg-type]

    assert (settings.embedded_redis, settings.broker_url) == (embedded, broker)
    assert not replace(settings, redis=CLUSTER, with_celery=False).embedded_redis


def test_processes_do_not_wait_for_a_redis_that_is_not_theirs(tmp_path: Path) -> None:
    settings = PlatformSettings(tmp_path, redis="redis://r:1")
    prepare(settings)

    specs = platform_processes(settings)

    assert "redis" not in [spec.name for spec in specs]
    assert {name for spec in specs for name in spec.needs} <= {spec.name for spec in specs}


def test_commands_find_the_redis_that_the_platform_was_started_with(tmp_path: Path) -> None:
    started = PlatformSettings(tmp_path, gateway_port=0, grpc_port=0, mlflow_port=0, redis="redis://me:secret@r:1")
    prepare(started)
    claim_ports(started)

    assert as_running(PlatformSettings(tmp_path)).redis == "redis://me:secret@r:1"


def test_celery_takes_no_cluster() -> None:
    with pytest.raises(SettingsError, match=r"SLUICE_BROKER=.*Celery takes no cluster"):
        PlatformSettings(HOME, broker=CLUSTER)


def test_replicas_are_counted() -> None:
    with pytest.raises(SettingsError, match="SLUICE_EVENT_REPLICAS=9: expected 0 to 8"):
        PlatformSettings(HOME, event_replicas=9)
