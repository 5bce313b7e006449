"""Rows in a store of the user's own: its URL is checked at start, never shown with its password, and works."""

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from deploy.errors import SettingsError
from deploy.features.store import feature_client, feature_store
from deploy.features.url import FeaturesUrl, without_password
from deploy.machine.status import features_status
from deploy.settings import PlatformSettings, log_effective
from registry.contracts.features import row_key
from registry.contracts.ids import hash64
from tests.conftest import RedisServer
from tests.free_ports import free_port
from tests.redis_cluster import RedisCluster, running_cluster
from tests.serving.test_invalidation import RESYNC, Ear
from tests.suites.tier_suite import STORED, UPDATED_MS, VIEW, keys_of, store

HOME = Path("/data/sluice")


@pytest.fixture(scope="module")
def cluster() -> Iterator[RedisCluster]:
    with running_cluster() as cluster:
        yield cluster


@pytest.mark.parametrize(
    "url",
    [
        "localhost:6379",
        "http://host:6379",
        "redis://",
        "redis://a:1,b:2",
        "redis://host:port",
        "unix://",
        "redis+cluster://",
        "redis+cluster://host:0",
        "redis+cluster://host:99999",
        "redis+cluster://a:1,,b:2",
        "redis+cluster://a:1/3",
    ],
)
def test_a_url_that_names_no_store_fails_at_start(url: str) -> None:
    with pytest.raises(SettingsError, match=r"SLUICE_FEATURES_URL=.*: expected redis://host:port/db"):
        PlatformSettings(HOME, features_url=url)


def test_a_cluster_is_named_by_some_of_its_nodes() -> None:
    told = FeaturesUrl.parse("rediss+cluster://reader:p%40ss@a:7000,[::1]:7001,b")

    assert told.nodes == (("a", 7000), ("::1", 7001), ("b", 6379))
    assert (told.tls, told.username, told.password) == (True, "reader", "p@ss")


def test_a_url_that_cannot_be_read_is_refused_without_telling_its_password() -> None:
    with pytest.raises(SettingsError) as refused:
        PlatformSettings(HOME, features_url="redis+cluster://me:secret@host:0")

    assert "secret" not in str(refused.value)


def test_the_log_of_the_settings_tells_the_store_and_not_its_password(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        log_effective(PlatformSettings(HOME, features_url="redis://me:secret@host:6379/1"), {})

    assert vars(caplog.records[0])["settings"]["SLUICE_FEATURES_URL"] == "redis://me:***@host:6379/1"


@pytest.mark.parametrize("url", ["redis://:a@b@host", "rediss://u:a/b@host", "unix:///s?db=1&password=a"])
def test_no_form_shows_its_password(url: str) -> None:
    assert "***" in without_password(url)


def read_and_hear(settings: PlatformSettings) -> None:
    """Rows written by one side are read and heard of by the other."""
    client = feature_client(settings, 2.0)
    store(client, STORED)
    at_worker = feature_store(settings, 2.0)
    ear = Ear()
    listener = at_worker.listener(ear.changed, ear.resync)
    listener.start()
    try:
        assert at_worker.tier(VIEW).fetch(keys_of(*STORED)).updated_ms.tolist() == [UPDATED_MS] * len(STORED)
        ear.until(lambda heard: heard == RESYNC)
        until_told(ear, client)
    finally:
        listener.stop()
        client.close()


def until_told(ear: Ear, client: "redis.Redis | redis.RedisCluster") -> None:
    """Changes rows on every node until one is heard of from each: listeners come up one by one."""
    items = [f"item-{i}" for i in range(40)]
    missing = {hash64(item) for item in items}
    while missing:
        for item in items:
            client.set(row_key(VIEW, item), b"row")
        heard = ear.next()
        if not isinstance(heard, str):
            missing -= set(heard[1])


def test_rows_of_a_cluster_are_written_read_and_heard_of(cluster: RedisCluster) -> None:
    read_and_hear(PlatformSettings(HOME, features_url=cluster.url))


def test_rows_of_a_server_of_ones_own_are_written_read_and_heard_of(
    redis_server: RedisServer, server_client: redis.Redis
) -> None:
    read_and_hear(PlatformSettings(HOME, features_url=redis_server.url))
    assert server_client.exists(row_key(VIEW, "item-1"))


def test_without_a_url_rows_are_in_the_embedded_redis() -> None:
    client = feature_client(PlatformSettings(HOME), 1.0)

    assert client.get_connection_kwargs()["path"] == "/data/sluice/run/redis.sock"


def test_a_worker_may_start_before_its_cluster() -> None:
    settings = PlatformSettings(HOME, features_url=f"redis+cluster://127.0.0.1:{free_port()}")

    feature_store(settings, 0.1).tier(VIEW)  # connects when it is first asked
    with pytest.raises(redis.RedisError, match="cannot be connected"):
        feature_client(settings, 0.1)


def test_status_counts_the_nodes_that_answer(cluster: RedisCluster) -> None:
    found = features_status(PlatformSettings(HOME, features_url=cluster.url))
    nobody = features_status(PlatformSettings(HOME, features_url=f"redis://me:secret@127.0.0.1:{free_port()}"))

    assert found == {"url": cluster.url, "nodes": 3, "of": 3}
    assert nobody is not None
    assert (nobody["nodes"], nobody["of"]) == (0, 1)
    assert "secret" not in nobody["url"]
    assert features_status(PlatformSettings(HOME)) is None
