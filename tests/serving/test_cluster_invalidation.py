"""Pushes from every primary of a real Redis Cluster, whoever that is at the moment."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from redis.connection import Connection

from registry.contracts.features import row_key
from registry.contracts.ids import hash64
from serving.features.cluster_invalidation import ClusterInvalidation
from serving.features.topology import ClusterMap
from tests.redis_cluster import Node, RedisCluster, running_cluster, until
from tests.serving.test_invalidation import PATIENCE_S, RESYNC, Ear
from tests.suites.tier_suite import STORED, VIEW, store


@pytest.fixture
def cluster() -> Iterator[RedisCluster]:
    with running_cluster() as cluster:
        yield cluster


@contextmanager
def listening(cluster: RedisCluster, ear: Ear) -> Iterator[ClusterInvalidation]:
    listener = ClusterInvalidation(
        ClusterMap(cluster.client),
        lambda host, port: Connection(host=host, port=port, protocol=3, socket_timeout=2.0),
        ear.changed,
        ear.resync,
        look_s=0.05,
        retry_s=0.01,
    )
    listener.start()
    try:
        until_heard(listener, *cluster.nodes)
        yield listener
    finally:
        listener.stop()
        listener.join(PATIENCE_S)
        assert not listener.is_alive()


def until_heard(listener: ClusterInvalidation, *nodes: Node) -> None:
    names = {f"127.0.0.1:{node.port}" for node in nodes}
    until(lambda: listener.heard == names, f"listening to just {names}")


def changes_of(ear: Ear, item: str) -> None:
    """Waits until this item is said to have changed."""
    ear.until(lambda heard: not isinstance(heard, str) and hash64(item) in heard[1])


def test_a_change_on_any_node_is_heard(cluster: RedisCluster) -> None:
    ear = Ear()
    missing = {hash64(item) for item in STORED}
    with listening(cluster, ear), cluster.client() as client:
        store(client, STORED)
        while missing:
            heard = ear.next()
            if not isinstance(heard, str):
                assert heard[0] == VIEW.name
                missing -= set(heard[1])


def test_a_node_that_was_away_asks_for_a_resync_and_is_heard_again(cluster: RedisCluster) -> None:
    ear = Ear()
    node = cluster.owner(row_key(VIEW, "item-1"))
    others = [other for other in cluster.nodes if other is not node]
    with listening(cluster, ear) as listener:
        for _ in cluster.nodes:
            assert ear.next() == RESYNC

        node.kill()
        until_heard(listener, *others)
        node.start()
        cluster.wait_until_ok()

        assert ear.next() == RESYNC
        node.command("SET", row_key(VIEW, "item-1"), "row")
        changes_of(ear, "item-1")


def test_a_replica_that_takes_over_is_followed_after_a_resync(cluster: RedisCluster) -> None:
    ear = Ear()
    primary = cluster.owner(row_key(VIEW, "item-1"))
    others = [node for node in cluster.nodes if node is not primary]
    with listening(cluster, ear) as listener:
        replica = cluster.add_replica(primary)
        for _ in range(3):
            assert ear.next() == RESYNC

        primary.kill()
        until_heard(listener, *others, replica)

        assert ear.next() == RESYNC
        replica.command("SET", row_key(VIEW, "item-1"), "row")
        changes_of(ear, "item-1")


def test_a_node_that_hands_over_its_slots_is_left(cluster: RedisCluster) -> None:
    primary = cluster.owner(row_key(VIEW, "item-1"))
    others = [node for node in cluster.nodes if node is not primary]
    with listening(cluster, Ear()) as listener:
        replica = cluster.add_replica(primary)
        primary.command("SET", row_key(VIEW, "item-1"), "row")  # Redis 6.2 waits for ever at offset 0
        replica.command("CLUSTER", "FAILOVER")

        until_heard(listener, *others, replica)


def test_a_node_that_hangs_is_lost_and_asks_for_a_resync_when_it_goes_on(cluster: RedisCluster) -> None:
    ear = Ear()
    node = cluster.nodes[0]
    with listening(cluster, ear) as listener:
        for _ in cluster.nodes:
            assert ear.next() == RESYNC

        node.freeze()
        until_heard(listener, *cluster.nodes[1:])
        node.thaw()
        until_heard(listener, *cluster.nodes)

        assert ear.next() == RESYNC
