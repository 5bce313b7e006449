"""Clients of a Redis server or a Redis Cluster, whichever a URL names; and of the platform's own."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

from deploy.features.url import FeaturesUrl
from deploy.settings import PlatformSettings

if TYPE_CHECKING:
    import redis


def platform_client(settings: PlatformSettings, timeout_s: float) -> "redis.Redis":
    """A client of what keeps events, plans and boards; bytes in, bytes out.

    Connects when it is first asked, so that a process starts, from its own copies, while Redis is away. Of a cluster
    it takes the commands of one key, or of keys with one hash tag, and looks like a server's client.
    """
    where = FeaturesUrl.parse(settings.redis_url)
    if not where.nodes:
        return server_client(where, timeout_s)
    return cast("redis.Redis", _WhenAsked(lambda: cluster_client(where, timeout_s)))


class _WhenAsked:
    """Stands for a cluster's client, which redis-py can only make when a node answers.

    Every call until then tries again, and raises redis.ConnectionError while none does.
    """

    def __init__(self, connect: "Callable[[], redis.RedisCluster]") -> None:
        self._connect, self._lock = connect, threading.Lock()
        self._client: redis.RedisCluster | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connected(), name)

    def __enter__(self) -> "_WhenAsked":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the connections, if there are any."""
        if self._client is not None:
            self._client.close()

    def _connected(self) -> "redis.RedisCluster":
        with self._lock:
            if self._client is None:
                self._client = self._connect()
            return self._client


@contextmanager
def redis_errors_only() -> Iterator[None]:
    """Makes what redis-py raises for a cluster, and does not count among its RedisErrors, one of them."""
    import redis
    from redis.exceptions import RedisClusterException

    try:
        yield
    except RedisClusterException as error:
        raise redis.ConnectionError(str(error)) from error


def server_client(where: FeaturesUrl, timeout_s: float, **options: Any) -> "redis.Redis":
    """Of a server; connects when it is first asked."""
    import redis
    from redis.backoff import NoBackoff
    from redis.retry import Retry

    # one more try, at once: redis-py's own ten with growing pauses would hold up whoever asked for seconds
    timeouts = {"socket_timeout": timeout_s} if where.url.startswith("unix:") else patience(timeout_s)
    return redis.Redis.from_url(where.url, retry=Retry(NoBackoff(), 1), **timeouts, **options)


def cluster_client(where: FeaturesUrl, timeout_s: float) -> "redis.RedisCluster":
    """Of a cluster. Raises redis.ConnectionError if no node answers."""
    import redis
    from redis.backoff import NoBackoff
    from redis.cluster import ClusterNode
    from redis.retry import Retry

    with redis_errors_only():
        client = redis.RedisCluster(
            startup_nodes=[ClusterNode(host, port) for host, port in where.nodes],  # type: ignore[no-untyped-call]
            require_full_coverage=False,  # with a node gone, the rows of the others are served
            retry=Retry(NoBackoff(), 3),
            username=where.username,
            password=where.password,
            ssl=where.tls,
            protocol=2,
            **patience(timeout_s),
        )
    _know_nodes_without_slots(client)
    return client


def _know_nodes_without_slots(client: "redis.RedisCluster") -> None:
    """Lets the client follow an ASK to a node that has no slot yet, the first that a new node gets.

    redis-py knows the nodes that CLUSTER SLOTS names, and follows one to any other with an AttributeError (its issue
    4015; seen in 8.1.0). Its pipelines share the manager of nodes, hence here and not in a subclass.
    """
    from redis.cluster import ClusterNode

    manager = client.nodes_manager
    known = manager.get_node
    others: dict[str, ClusterNode] = {}

    def get_node(
        host: str | None = None, port: int | None = None, node_name: str | None = None
    ) -> "ClusterNode | None":
        found = known(host, port, node_name)
        if found is not None or not node_name:
            return found
        if node_name not in others:
            where, _, at = node_name.rpartition(":")
            others[node_name] = ClusterNode(where, int(at))  # type: ignore[no-untyped-call]
        return others[node_name]

    manager.get_node = get_node  # type: ignore[method-assign]


def patience(timeout_s: float) -> dict[str, Any]:
    """Options of connections over a network."""
    return {"socket_timeout": timeout_s, "socket_connect_timeout": timeout_s, "socket_keepalive": True}
