"""Where feature rows are kept: with everything else, or in a Redis server or Redis Cluster of their own."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, cast

from deploy.features.url import FeaturesUrl
from deploy.redis_clients import cluster_client, patience, redis_errors_only, server_client
from deploy.settings import PlatformSettings

if TYPE_CHECKING:
    import redis
    from redis.connection import AbstractConnection

    from registry.contracts.features import FeatureView
    from serving.features.tier import RowTier

LISTENER_TIMEOUT_S = 2.0


class Listener(Protocol):
    """A thread that hears which rows changed."""

    def start(self) -> None:
        """Begins to listen."""
        ...

    def stop(self) -> None:
        """Ends within a second."""
        ...


@dataclass(frozen=True, slots=True)
class FeatureStore:
    """What a worker needs of it. tier: rows of a view. listener: of (changed, resync), as
    `serving.features.invalidation` has them."""

    tier: "Callable[[FeatureView], RowTier]"
    listener: "Callable[[Callable[[str, list[int]], None], Callable[[], None]], Listener]"


def feature_client(settings: PlatformSettings, timeout_s: float) -> "redis.Redis | redis.RedisCluster":
    """For writing and looking at rows; bytes in, bytes out. Raises redis.RedisError if a cluster does not answer;
    a server is connected when it is first asked."""
    where = FeaturesUrl.parse(settings.rows_url)
    return cluster_client(where, timeout_s) if where.nodes else server_client(where, timeout_s)


def stored_bytes(client: "redis.Redis | redis.RedisCluster", key: str) -> bytes | None:
    """What is stored under a key, None if nothing is. Raises redis.RedisError."""
    with redis_errors_only():
        return cast("bytes | None", client.get(key))


def primaries(client: "redis.Redis | redis.RedisCluster") -> "list[redis.Redis]":
    """A client of each server that keeps rows of its own. Raises redis.RedisError."""
    with redis_errors_only():
        cluster: Any = client
        if not hasattr(cluster, "get_primaries"):
            return [cluster]
        return [cluster.get_redis_connection(node) for node in cluster.get_primaries()]


def feature_store(settings: PlatformSettings, timeout_s: float) -> FeatureStore:
    """For reading rows. Connects when first asked: a worker may start before its store.

    timeout_s: the most a batch waits for rows.
    """
    where = FeaturesUrl.parse(settings.rows_url)
    return _from_cluster(where, timeout_s) if where.nodes else _from_server(where, timeout_s)


def _from_server(where: FeaturesUrl, timeout_s: float) -> FeatureStore:
    from redis.connection import AbstractConnection

    from serving.features.invalidation import InvalidationListener
    from serving.features.redis import RedisTier

    client = server_client(where, timeout_s)
    listening = server_client(where, LISTENER_TIMEOUT_S, protocol=3).connection_pool

    def listener(changed: Callable[[str, list[int]], None], resync: Callable[[], None]) -> InvalidationListener:
        return InvalidationListener(lambda: cast(AbstractConnection, listening.make_connection()), changed, resync)

    return FeatureStore(lambda view: RedisTier(client, view), listener)


def _from_cluster(where: FeaturesUrl, timeout_s: float) -> FeatureStore:
    from redis.connection import Connection, SSLConnection

    from serving.features.cluster import ClusterTier
    from serving.features.cluster_invalidation import ClusterInvalidation
    from serving.features.topology import ClusterMap

    cluster = ClusterMap(lambda: cluster_client(where, timeout_s))

    def connect(host: str, port: int) -> "AbstractConnection":
        kind = SSLConnection if where.tls else Connection
        options = {"username": where.username, "password": where.password, **patience(LISTENER_TIMEOUT_S)}
        return kind(host=host, port=port, protocol=3, **options)

    return FeatureStore(
        lambda view: ClusterTier(cluster, view, timeout_s),
        lambda changed, resync: ClusterInvalidation(cluster, connect, changed, resync),
    )
