"""Rows in a real Redis Cluster, with nodes that die, hang and hand over."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pytest
import redis

from registry.contracts.features import row_key
from serving.device.streams import CpuDevice
from serving.features.cluster import ClusterTier
from serving.features.device import DeviceTier
from serving.features.host import HostTier
from serving.features.tier import TierAway
from serving.features.topology import ClusterMap
from tests.redis_cluster import RedisCluster, running_cluster, until
from tests.suites.tier_suite import DEFAULTS, STORED, UPDATED_MS, VIEW, TierSuite, keys_of, store

MANY = {f"item-{i}": (float(i), float(-i)) for i in range(10_000)}  # the second column is an int16


@pytest.fixture(scope="module")
def cluster() -> Iterator[RedisCluster]:
    """Shared by the tests that leave it as it was."""
    with running_cluster() as cluster:
        yield cluster


@pytest.fixture
def frail_cluster() -> Iterator[RedisCluster]:
    """For one test that does harm."""
    with running_cluster() as cluster:
        yield cluster


def tier_of(cluster: RedisCluster, **options: float) -> ClusterTier:
    return ClusterTier(ClusterMap(lambda: cluster.client(socket_timeout=1.0)), VIEW, timeout_s=1.0, **options)


class TestClusterTier(TierSuite):
    @pytest.fixture(autouse=True)
    def _cluster(self, cluster: RedisCluster) -> None:
        self.cluster = cluster

    def make_tier(self, rows: Mapping[str, Sequence[float]]) -> ClusterTier:
        with self.cluster.client() as client:
            store(client, rows)
        return tier_of(self.cluster)

    def test_more_rows_than_a_round_trip_takes_stand_where_their_keys_stand(self) -> None:
        tier = self.make_tier(MANY)
        items = [*MANY, "nobody"]

        rows = tier.fetch(keys_of(*items))

        np.testing.assert_array_equal(rows.values[:-1], np.array(list(MANY.values()), np.float32))
        assert rows.updated_ms.tolist() == [UPDATED_MS] * len(MANY) + [0]

    def test_an_update_is_seen_by_the_next_fetch(self) -> None:
        tier = self.make_tier(STORED)
        tier.fetch(keys_of("item-1"))

        with self.cluster.client() as client:
            store(client, {"item-1": (5.0, 6.0)})

        assert tier.fetch(keys_of("item-1")).values.tolist() == [[5.0, 6.0]]

    def test_a_key_with_a_hash_tag_is_found_in_the_slot_of_its_tag(self) -> None:
        tier = self.make_tier({"{shop}:1": (1.0, 1.0), "a{}b": (2.0, 2.0), "open{": (3.0, 3.0)})

        assert tier.fetch(keys_of("{shop}:1", "a{}b", "open{")).updated_ms.tolist() == [UPDATED_MS] * 3

    def test_a_key_that_holds_no_row_is_a_miss_and_spoils_no_other(self) -> None:
        tier = self.make_tier(STORED)
        with self.cluster.client() as client:
            client.delete(row_key(VIEW, "item-7"))
            client.hset(row_key(VIEW, "item-7"), "field", "value")

            rows = tier.fetch(keys_of("item-7", "item-8"))

            client.delete(row_key(VIEW, "item-7"))
        assert rows.updated_ms.tolist() == [0, UPDATED_MS]
        assert not rows.away


def test_the_rows_of_a_killed_node_are_away_the_others_are_served_and_all_are_when_it_is_back(
    frail_cluster: RedisCluster,
) -> None:
    with frail_cluster.client() as client:
        store(client, STORED)
    tier = tier_of(frail_cluster, retry_after_s=0.01)
    items = list(STORED)
    owners = [frail_cluster.owner(row_key(VIEW, item)) for item in items]
    dead = owners[0]
    assert not tier.fetch(keys_of(*items)).away

    dead.kill()
    rows = tier.fetch(keys_of(*items))

    assert rows.away
    assert rows.updated_ms.tolist() == [0 if owner is dead else UPDATED_MS for owner in owners]
    with pytest.raises(TierAway):
        tier.fetch(keys_of(items[0]))
    living = [item for item, owner in zip(items, owners, strict=True) if owner is not dead]
    assert not tier.fetch(keys_of(*living)).away

    dead.start()
    frail_cluster.wait_until_ok()
    with frail_cluster.client() as client:
        store(client, STORED)  # the node keeps nothing on disk
    until(lambda: not tier.fetch(keys_of(*items)).away, "the node's rows to be served again")
    assert tier.fetch(keys_of(*items)).updated_ms.tolist() == [UPDATED_MS] * len(items)


def test_what_the_living_nodes_gave_is_held_while_another_is_away(frail_cluster: RedisCluster) -> None:
    with frail_cluster.client() as client:
        store(client, STORED)
    items = list(STORED)
    dead = frail_cluster.owner(row_key(VIEW, items[0]))
    living = [item for item in items if frail_cluster.owner(row_key(VIEW, item)) is not dead]
    below = tier_of(frail_cluster)
    host = HostTier(VIEW.name, below, 1024, DEFAULTS)
    device = DeviceTier(VIEW.name, HostTier(VIEW.name, below, 1024, DEFAULTS), 1024, len(DEFAULTS), CpuDevice())

    dead.kill()
    assert host.fetch(keys_of(*items)).away
    located = device.locate(keys_of(*items))

    assert located.away
    assert len(located.placed_cells) == len(living)
    assert (host.size, device.size) == (len(living), len(living))
    for node in frail_cluster.nodes:
        node.kill()
    rows = host.fetch(keys_of(*living))
    assert not rows.away
    np.testing.assert_array_equal(rows.values, np.array([STORED[item] for item in living], np.float32))


def test_writing_to_a_cluster_with_a_dead_node_fails_and_what_the_others_took_stays(
    frail_cluster: RedisCluster,
) -> None:
    dead = frail_cluster.owner(row_key(VIEW, "item-1"))
    living = next(f"item-{i}" for i in range(40) if frail_cluster.owner(row_key(VIEW, f"item-{i}")) is not dead)
    tier = tier_of(frail_cluster)
    with frail_cluster.client() as client:
        dead.kill()
        store(client, {living: (1.0, 1.0)})
        with pytest.raises(redis.RedisError):
            store(client, STORED)

    assert tier.fetch(keys_of(living)).updated_ms.tolist() == [UPDATED_MS]


def test_a_node_that_hangs_is_asked_again_only_after_a_while(frail_cluster: RedisCluster) -> None:
    with frail_cluster.client() as client:
        store(client, STORED)
    now_s = 10.0
    cluster_map = ClusterMap(frail_cluster.client)
    tier = ClusterTier(cluster_map, VIEW, timeout_s=0.05, retry_after_s=0.5, clock=lambda: now_s)
    hanging = frail_cluster.owner(row_key(VIEW, "item-1"))
    keys = keys_of(*STORED)
    assert not tier.fetch(keys).away

    hanging.freeze()
    assert tier.fetch(keys).away
    hanging.thaw()
    frail_cluster.wait_until_ok()

    now_s = 10.49
    assert tier.fetch(keys).away
    now_s = 10.5
    assert not tier.fetch(keys).away


def test_a_slot_is_followed_while_it_moves_and_after_it_has_moved(frail_cluster: RedisCluster) -> None:
    tag = "{moving}"
    stays, moves = f"{tag}-stays", f"{tag}-moves"
    with frail_cluster.client() as client:
        store(client, {stays: (1.0, 1.0), moves: (2.0, 2.0)})
    tier = tier_of(frail_cluster)
    assert tier.fetch(keys_of(stays, moves)).updated_ms.tolist() == [UPDATED_MS] * 2
    source = frail_cluster.owner(row_key(VIEW, stays))
    target = frail_cluster.add()
    frail_cluster.wait_until_ok()
    slot = str(source.command("CLUSTER", "KEYSLOT", row_key(VIEW, stays)))

    target.command("CLUSTER", "SETSLOT", slot, "IMPORTING", source.name)
    source.command("CLUSTER", "SETSLOT", slot, "MIGRATING", target.name)
    source.command("MIGRATE", "127.0.0.1", str(target.port), row_key(VIEW, moves), "0", "5000")
    half_way = tier.fetch(keys_of(stays, moves, f"{tag}-nobody"))
    source.command("MIGRATE", "127.0.0.1", str(target.port), row_key(VIEW, stays), "0", "5000")
    for node in (target, source):
        node.command("CLUSTER", "SETSLOT", slot, "NODE", target.name)
    moved = tier.fetch(keys_of(stays, moves, f"{tag}-nobody"))

    for rows in (half_way, moved):
        assert rows.values.tolist() == [[1.0, 1.0], [2.0, 2.0], [1.5, -3.0]]
        assert rows.updated_ms.tolist() == [UPDATED_MS, UPDATED_MS, 0]
        assert not rows.away


def test_a_cluster_that_starts_after_its_tier_is_found(frail_cluster: RedisCluster) -> None:
    for node in frail_cluster.nodes:
        node.kill()
    tier = tier_of(frail_cluster)
    with pytest.raises(TierAway):
        tier.fetch(keys_of("item-1"))

    for node in frail_cluster.nodes:
        node.start()
    frail_cluster.wait_until_ok()

    def served() -> bool:
        try:
            return not tier.fetch(keys_of("item-1")).away
        except TierAway:
            return False

    until(served, "the cluster's rows to be served")
