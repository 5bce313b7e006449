"""Redis's errors, translated at the edge; and which server of a cluster keeps a key."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

import redis
from redis.exceptions import RedisClusterException

from registry.errors import StoreUnavailable


@contextmanager
def redis_errors(what: str) -> Iterator[None]:
    """Raises StoreUnavailable, naming what was not done, where Redis would raise its own."""
    try:
        yield
    except (redis.RedisError, RedisClusterException) as error:  # the second is none of the first's kind
        raise StoreUnavailable(f"Redis could not {what}: {error}") from error


def server_of(client: redis.Redis, key: str) -> redis.Redis:
    """A client of the server that keeps the key: the client itself, unless it is a cluster's."""
    if not hasattr(client, "get_node_from_key"):
        return client
    cluster = cast(redis.RedisCluster, client)
    return cluster.get_redis_connection(cluster.get_node_from_key(key))  # type: ignore[no-untyped-call]
