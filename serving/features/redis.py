"""Rows in Redis: one MGET a batch, and a breaker so that an absent Redis costs nothing."""

import time
from collections.abc import Callable, Sequence
from typing import cast

import numpy as np
import redis

from registry.contracts.errors import CorruptRecord
from registry.contracts.features import FeatureView, row_key, unpack_rows
from serving import metrics
from serving.features.tier import RowKeys, Rows, TierAway


class RedisTier:
    """The rows of one view, as the materialiser wrote them.

    client: of bytes, with a short `socket_timeout` and a retry that never waits, say
    `Retry(NoBackoff(), 1)`: the default one holds a batch up for seconds while Redis is away.
    retry_after_s: after a failure the store counts as away for so long without being asked.
    A row written for another layout of the view is no row (and counted): wrong numbers are worse.
    """

    def __init__(
        self,
        client: redis.Redis,
        view: FeatureView,
        retry_after_s: float = 0.5,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._client, self._view = client, view
        self._prefix = row_key(view, "").encode()
        self._defaults = view.defaults[view.positions("row")]
        self._retry_after_s, self._clock = retry_after_s, clock
        self._away_until_s = float("-inf")

    def fetch(self, keys: RowKeys) -> Rows:
        """Raises TierAway while Redis does not answer."""
        if self._clock() < self._away_until_s:
            raise TierAway("Redis did not answer a moment ago")
        try:
            stored = cast(Sequence[bytes | None], self._client.mget([self._prefix + item for item in keys.ids()]))
        except redis.RedisError as error:
            self._away_until_s = self._clock() + self._retry_after_s
            raise TierAway(str(error)) from error
        rows = Rows(np.tile(self._defaults, (len(keys), 1)), np.zeros(len(keys), dtype=np.uint64))
        present = [place for place, row in enumerate(stored) if row is not None]
        self._unpack(rows, present, [row for row in stored if row is not None])
        return rows

    def _unpack(self, rows: Rows, places: list[int], packed: list[bytes]) -> None:
        if not places:
            return
        try:
            unpacked = unpack_rows(self._view, packed)
            rows.values[places], rows.updated_ms[places] = unpacked.values, unpacked.updated_ms
        except CorruptRecord:
            if len(places) == 1:
                metrics.REFUSED_ROWS.labels(self._view.name).inc()
                return
            for place, row in zip(places, packed, strict=True):
                self._unpack(rows, [place], [row])
