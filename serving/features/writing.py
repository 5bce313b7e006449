"""How a chunk of rows gets into Redis, standalone or Cluster."""

from collections.abc import Sequence

import redis
from redis.exceptions import RedisClusterException


def write_chunk(client: "redis.Redis | redis.RedisCluster", keys: Sequence[str], rows: Sequence[bytes]) -> None:
    """Stores the packed rows under their keys, aligned; returns when all of them are in.

    One MSET on a standalone server. A cluster takes one for each slot, all of a node's in one write:
    readers see each row whole, on either. Raises redis.RedisError; the rows written by then stay.
    """
    pairs = dict(zip(keys, rows, strict=True))
    if isinstance(client, redis.RedisCluster):
        try:
            client.mset_nonatomic(pairs)
        except RedisClusterException as error:  # which redis-py does not count among its RedisErrors
            raise redis.ConnectionError(str(error)) from error
    else:
        client.mset(pairs)
