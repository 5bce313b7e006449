"""One stored row as a person reads it: value by value, with age and freshness."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import redis

from deploy.errors import SluiceError
from deploy.features.store import stored_bytes
from registry.contracts.errors import CorruptRecord
from registry.contracts.features import FeatureView, missing_columns, row_key, unpack_rows


@dataclass(frozen=True, slots=True)
class StoredValue:
    """default: the value is the column's default; missing: because none was given. stale: older than the
    column's limit, which marks answers degraded."""

    column: str
    value: float
    default: bool
    missing: bool
    stale: bool
    freshness_s: float | None


@dataclass(frozen=True, slots=True)
class StoredRow:
    """age_s: since the values were true, by the clock that was given."""

    view: str
    item: str
    fingerprint: str
    updated_ms: int
    age_s: float
    values: tuple[StoredValue, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def stored_row(
    client: redis.Redis | redis.RedisCluster, name: str, views: Sequence[FeatureView], item: str, now_ms: int
) -> StoredRow | None:
    """The row of the item, read by the one view that it was written for; None if there is none.

    views: layouts of the view called `name`, one or more. Raises SluiceError if the row is of
    none of them, and redis.RedisError.
    """
    row = stored_bytes(client, row_key(views[0], item))
    if row is None:
        return None
    written_for = row[:8].hex()
    view = next((view for view in views if view.fingerprint == written_for), None)
    try:
        found = unpack_rows(view, [row]) if view is not None else None
    except CorruptRecord:
        found = None
    if view is None or found is None:
        known = ", ".join(view.fingerprint for view in views)
        raise SluiceError(
            f"the row of {item!r} was written for layout {written_for} of view {name!r}, not for {known}",
            "sluice features load",
        )
    columns = view.of_source("row")
    lacking = [False] * len(columns) if found.missing is None else missing_columns(found.missing, len(columns))[0]
    updated_ms = int(found.updated_ms[0])
    age_s = (now_ms - updated_ms) / 1000
    values = tuple(
        StoredValue(
            column.name,
            value,
            default=value == column.default,
            missing=bool(missing),
            stale=column.freshness_s is not None and age_s > column.freshness_s,
            freshness_s=column.freshness_s,
        )
        for column, value, missing in zip(columns, found.values[0].tolist(), lacking, strict=True)
    )
    return StoredRow(name, item, view.fingerprint, updated_ms, age_s, values)
