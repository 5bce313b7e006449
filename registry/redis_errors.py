"""Redis's errors, translated at the edge."""

from collections.abc import Iterator
from contextlib import contextmanager

import redis

from registry.errors import StoreUnavailable


@contextmanager
def redis_errors(what: str) -> Iterator[None]:
    """Raises StoreUnavailable, naming what was not done, where Redis would raise its own."""
    try:
        yield
    except redis.RedisError as error:
        raise StoreUnavailable(f"Redis could not {what}: {error}") from error
