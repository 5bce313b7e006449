"""Rows in Redis: pipelined MGETs, and a breaker so that an absent Redis costs nothing."""

import time
from collections.abc import Callable
from itertools import chain
from typing import cast

import redis

from registry.contracts.features import FeatureView
from serving.features.stored import StoredRows
from serving.features.tier import RowKeys, Rows, TierAway

KEYS_A_COMMAND = 256  # Redis serves nobody else during a command: one MGET of thousands holds everyone up
COMMANDS_A_ROUND_TRIP = 16  # bounds what one fetch makes Redis and us buffer


class RedisTier:
    """The rows of one view, as the materialiser wrote them.

    client: of bytes, with a short `socket_timeout` and a retry that never waits, say
    `Retry(NoBackoff(), 1)`: the default one holds a batch up for seconds while Redis is away.
    retry_after_s: after a failure the store counts as away for so long without being asked.
    """

    def __init__(
        self,
        client: redis.Redis,
        view: FeatureView,
        retry_after_s: float = 0.5,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._client, self._stored = client, StoredRows(view)
        self._retry_after_s, self._clock = retry_after_s, clock
        self._away_until_s = float("-inf")

    def fetch(self, keys: RowKeys) -> Rows:
        """Raises TierAway while Redis does not answer."""
        if self._clock() < self._away_until_s:
            raise TierAway("Redis did not answer a moment ago")
        try:
            return self._stored.read(self._ask(self._stored.keys(keys)))
        except redis.RedisError as error:
            self._away_until_s = self._clock() + self._retry_after_s
            raise TierAway(str(error)) from error

    def _ask(self, keys: list[bytes]) -> list[bytes | None]:
        if len(keys) <= KEYS_A_COMMAND:
            return cast(list[bytes | None], self._client.mget(keys))
        found: list[bytes | None] = []
        round_trip = KEYS_A_COMMAND * COMMANDS_A_ROUND_TRIP
        for start in range(0, len(keys), round_trip):
            asked = keys[start : start + round_trip]
            with self._client.pipeline(transaction=False) as pipeline:
                for first in range(0, len(asked), KEYS_A_COMMAND):
                    pipeline.mget(asked[first : first + KEYS_A_COMMAND])
                found.extend(chain.from_iterable(pipeline.execute()))
        return found
