"""Writes rows into Redis under the keys and in the packing that every tier reads."""

from collections.abc import Callable, Sequence

import numpy as np
import redis
from numpy.typing import NDArray

from registry.contracts.features import FeatureView, pack_rows, row_key
from serving.features.writing import write_chunk

ROWS_A_ROUND_TRIP = 500


def write_rows(
    client: redis.Redis | redis.RedisCluster,
    view: FeatureView,
    item_ids: Sequence[str],
    values: NDArray[np.float32],
    updated_ms: int,
    on_rows: Callable[[int], None],
) -> None:
    """Stores one row per item, replacing older ones; readers see each row whole.

    values: float32 (items, `row` columns), NaN where a value is missing. on_rows: told after each
    round trip how many rows are in. Raises ContractError on values that the view cannot hold, and
    redis.RedisError; rows written by then stay, and writing them again is harmless.
    """
    for start in range(0, len(item_ids), ROWS_A_ROUND_TRIP):
        stop = min(start + ROWS_A_ROUND_TRIP, len(item_ids))
        rows = pack_rows(view, values[start:stop], updated_ms)
        keys = [row_key(view, item) for item in item_ids[start:stop]]
        write_chunk(client, keys, rows)
        on_rows(stop)
