"""Where feature rows are kept: the embedded Redis, another Redis server, or a Redis Cluster.

Rows only. Events, plans, the replica board and Celery's queue stay on the embedded Redis: they use
commands on several keys at once, which a cluster takes only within a slot.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, cast

from deploy.features.url import FeaturesUrl
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
    where = FeaturesUrl.parse(settings.features_url) if settings.features_url else FeaturesUrl(settings.redis_url)
    return _cluster(where, timeout_s) if where.nodes else _server(where, timeout_s)


def stored_bytes(client: "redis.Redis | redis.RedisCluster", key: str) -> bytes | None:
    """What is stored under a key, None if nothing is. Raises redis.RedisError."""
    with redis_errors_only():
        return cast("bytes | None", client.get(key))


def primaries(client: "redis.Redis | redis.RedisCluster") -> "list[redis.Redis]":
    """A client of each server that keeps rows of its own. Raises redis.RedisError."""
    import redis

    if not isinstance(client, redis.RedisCluster):
        return [client]
    with redis_errors_only():
        return [client.get_redis_connection(node) for node in client.get_primaries()]  # type: ignore[no-untyped-call]


@contextmanager
def redis_errors_only() -> Iterator[None]:
    """Makes what redis-py raises for a cluster, and does not count among its RedisErrors, one of them."""
    import redis
    from redis.exceptions import RedisClusterException

    try:
        yield
    except RedisClusterException as error:
        raise redis.ConnectionError(str(error)) from error


def feature_store(settings: PlatformSettings, timeout_s: float) -> FeatureStore:
    """For reading rows. Connects when first asked: a worker may start before its store.

    timeout_s: the most a batch waits for rows.
    """
    where = FeaturesUrl.parse(settings.features_url) if settings.features_url else FeaturesUrl(settings.redis_url)
    return _from_cluster(where, timeout_s) if where.nodes else _from_server(where, timeout_s)


def _from_server(where: FeaturesUrl, timeout_s: float) -> FeatureStore:
    from redis.connection import AbstractConnection

    from serving.features.invalidation import InvalidationListener
    from serving.features.redis import RedisTier

    client = _server(where, timeout_s)
    listening = _server(where, LISTENER_TIMEOUT_S, protocol=3).connection_pool

    def listener(changed: Callable[[str, list[int]], None], resync: Callable[[], None]) -> InvalidationListener:
        return InvalidationListener(lambda: cast(AbstractConnection, listening.make_connection()), changed, resync)

    return FeatureStore(lambda view: RedisTier(client, view), listener)


def _from_cluster(where: FeaturesUrl, timeout_s: float) -> FeatureStore:
    from redis.connection import Connection, SSLConnection

    from serving.features.cluster import ClusterTier
    from serving.features.cluster_invalidation import ClusterInvalidation
    from serving.features.topology import ClusterMap

    cluster = ClusterMap(lambda: _cluster(where, timeout_s))

    def connect(host: str, port: int) -> "AbstractConnection":
        kind = SSLConnection if where.tls else Connection
        options = {"username": where.username, "password": where.password, **_patience(LISTENER_TIMEOUT_S)}
        return kind(host=host, port=port, protocol=3, **options)

    return FeatureStore(
        lambda view: ClusterTier(cluster, view, timeout_s),
        lambda changed, resync: ClusterInvalidation(cluster, connect, changed, resync),
    )


def _server(where: FeaturesUrl, timeout_s: float, **options: Any) -> "redis.Redis":
    import redis
    from redis.backoff import NoBackoff
    from redis.retry import Retry

    # one more try, at once: redis-py's own ten with growing pauses would hold up whoever asked for seconds
    patience = {"socket_timeout": timeout_s} if where.url.startswith("unix:") else _patience(timeout_s)
    return redis.Redis.from_url(where.url, retry=Retry(NoBackoff(), 1), **patience, **options)


def _cluster(where: FeaturesUrl, timeout_s: float) -> "redis.RedisCluster":
    import redis
    from redis.backoff import NoBackoff
    from redis.cluster import ClusterNode
    from redis.retry import Retry

    with redis_errors_only():
        return redis.RedisCluster(
            startup_nodes=[ClusterNode(host, port) for host, port in where.nodes],  # type: ignore[no-untyped-call]
            require_full_coverage=False,  # with a node gone, the rows of the others are served
            retry=Retry(NoBackoff(), 3),
            username=where.username,
            password=where.password,
            ssl=where.tls,
            protocol=2,
            **_patience(timeout_s),
        )


def _patience(timeout_s: float) -> dict[str, Any]:
    return {"socket_timeout": timeout_s, "socket_connect_timeout": timeout_s, "socket_keepalive": True}
