"""Rows in Redis: pipelined MGETs, and a breaker so that an absent Redis costs nothing."""

import time
from collections.abc import Callable
from itertools import chain
from typing import cast

import redis

from registry.contracts.features import FeatureView
from serving.features.outage import Outage
from serving.features.stored import StoredRows
from serving.features.tier import RowKeys, Rows, TierAway

KEYS_A_COMMAND = 256  # Redis serves nobody else during a command: one MGET of thousands holds everyone up
DEFAULT_TIMEOUT_S = 0.25
COMMANDS_A_ROUND_TRIP = 16  # bounds what one fetch makes Redis and us buffer


class RedisTier:
    """The rows of one view, as the materialiser wrote them.

    client: of bytes, with a short `socket_timeout` and a retry that never waits, say
    `Retry(NoBackoff(), 1)`: the default one holds a batch up for seconds while Redis is away.
    retry_after_s: after a failure the store counts as away for so long without being asked, see `outage`.
    """

    def __init__(
        self,
        client: redis.Redis,
        view: FeatureView,
        retry_after_s: float = 0.5,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._client, self._stored = client, StoredRows(view)
        self._timeout_s: float = client.connection_pool.connection_kwargs.get("socket_timeout") or DEFAULT_TIMEOUT_S
        self._outage = Outage(self._timeout_s, retry_after_s, clock)

    def fetch(self, keys: RowKeys) -> Rows:
        """Raises TierAway while Redis does not answer, or not within the keys' patience."""
        if self._outage.lasts:
            raise TierAway("Redis did not answer a moment ago")
        asked = self._stored.keys(keys)
        try:
            hurried = keys.patience_s < self._timeout_s
            found = self._ask_within(asked, keys.patience_s) if hurried else self._ask(asked)
        except _TooLong as error:
            self._outage.gave_up(keys.patience_s)
            raise TierAway(f"Redis did not answer within {keys.patience_s * 1000:.0f} ms") from error
        except redis.RedisError as error:
            self._outage.failed()
            raise TierAway(str(error)) from error
        self._outage.answered()
        return self._stored.read(found)

    def _ask(self, keys: list[bytes]) -> list[bytes | None]:
        if len(keys) <= KEYS_A_COMMAND:
            return cast(list[bytes | None], self._client.mget(keys))
        found: list[bytes | None] = []
        for asked in _round_trips(keys):
            with self._client.pipeline(transaction=False) as pipeline:
                for part in _commands(asked):
                    pipeline.mget(part)
                found.extend(chain.from_iterable(pipeline.execute()))
        return found

    def _ask_within(self, keys: list[bytes], patience_s: float) -> list[bytes | None]:
        """As `_ask`; raises _TooLong as soon as that has taken longer."""
        until_s = time.monotonic() + patience_s
        found: list[bytes | None] = []
        for asked in _round_trips(keys):
            try:
                found += self._round_trip(asked, until_s)
            except redis.TimeoutError as error:
                raise _TooLong from error
            except redis.ConnectionError:  # closed while it lay in the pool, as after a restart of Redis
                found += self._round_trip(asked, until_s)
        return found

    def _round_trip(self, keys: list[bytes], until_s: float) -> list[bytes | None]:
        pool = self._client.connection_pool
        connection = pool.get_connection()
        try:
            parts = _commands(keys)
            packed = connection.pack_commands([("MGET", *part) for part in parts])  # type: ignore[no-untyped-call]
            connection.send_packed_command(packed)  # type: ignore[no-untyped-call]
            found: list[bytes | None] = []
            for _ in parts:
                found += connection.read_response(timeout=max(0.001, until_s - time.monotonic()))
            return found
        except BaseException:
            connection.disconnect()  # type: ignore[no-untyped-call]
            raise
        finally:
            pool.release(connection)


class _TooLong(Exception):
    """Redis may be well, and would have been too late."""


def _round_trips(keys: list[bytes]) -> list[list[bytes]]:
    size = KEYS_A_COMMAND * COMMANDS_A_ROUND_TRIP
    return [keys[start : start + size] for start in range(0, len(keys), size)]


def _commands(keys: list[bytes]) -> list[list[bytes]]:
    return [keys[start : start + KEYS_A_COMMAND] for start in range(0, len(keys), KEYS_A_COMMAND)]
