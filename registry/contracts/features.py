"""FeatureView: what a model sees of a candidate, in which order, and how a row lies in a store.

A column comes from one of three places:

- `row`: stored per item, fetched by id through the feature tiers;
- `query`: sent with the query, the same for all its candidates;
- `candidate`: sent with each candidate (a match score between query and candidate, say).

The model's input matrix is float32, (candidates, columns), columns in the view's order whatever
their source. Storage types are those that float32 holds exactly.

A stored row is `fingerprint[8] updated_ms[8] columns... missing[]`, little-endian and packed, under
the key of `row_key`. The fingerprint makes a row of another layout a miss instead of wrong numbers.
A missing value is stored as its column's default; a row that lacks some ends with a bit a column,
the first column's the lowest of the first byte, set where the value is missing.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from registry.contracts.errors import ContractError, CorruptRecord

Source = Literal["row", "query", "candidate"]
StorageType = Literal["float32", "float16", "int16", "uint8"]

_VIEW_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
ROW_HEADER = np.dtype([("fingerprint", "S8"), ("updated_ms", "<u8")])


class Column(msgspec.Struct, frozen=True):
    """One feature.

    default: what a missing value becomes, in the feature's own unit.
    freshness_s: a stored value older than this marks the answer degraded; None: never stale.
    """

    name: str
    source: Source = "row"
    dtype: StorageType = "float32"
    default: float = 0.0
    freshness_s: float | None = None

    def __post_init__(self) -> None:
        # 3600 and 3600.0 are one limit, and must be one fingerprint, before and after they were JSON
        msgspec.structs.force_setattr(self, "default", float(self.default))
        if self.freshness_s is not None:
            msgspec.structs.force_setattr(self, "freshness_s", float(self.freshness_s))


@dataclass(frozen=True)
class FeatureView:
    """The columns of a model's input matrix, in order.

    Raises ContractError on a name that is not 1 to 64 of letters, digits, '.', '_' and '-' (it is
    part of row keys), on an empty view, a repeated or empty column name, or a default that is not
    finite or not exact in the column's storage type.
    """

    name: str
    entity: str
    columns: tuple[Column, ...]

    def __post_init__(self) -> None:
        if not _VIEW_NAME.fullmatch(self.name):
            raise ContractError(f"feature view {self.name!r}: expected 1 to 64 of letters, digits, '.', '_' and '-'")
        if not self.columns:
            raise ContractError(f"feature view {self.name!r} has no columns: expected at least one")
        found = Counter(column.name for column in self.columns)
        if repeated := sorted(name for name, times in found.items() if times > 1 or not name):
            raise ContractError(f"feature view {self.name!r}: column names {repeated} are repeated or empty")
        for column in self.columns:
            with np.errstate(over="ignore", invalid="ignore"):  # what does not fit is refused below, in words
                stored = np.asarray(column.default).astype(column.dtype)
                served = np.float32(column.default)
                exact = float(stored) == float(served)
            if not np.isfinite(served) or (column.source == "row" and not exact):
                raise ContractError(
                    f"feature view {self.name!r}, column {column.name!r}: default {column.default} "
                    f"is not a finite {column.dtype}"
                )

    @cached_property
    def fingerprint(self) -> str:
        """16 hex characters over name, entity and every property of every column, in order."""
        canonical = msgspec.json.encode(self.to_json(), order="deterministic")
        return hashlib.sha256(canonical).hexdigest()[:16]

    def of_source(self, source: Source) -> tuple[Column, ...]:
        """The columns that come from there, in the view's order."""
        return tuple(column for column in self.columns if column.source == source)

    def positions(self, source: Source) -> NDArray[np.intp]:
        """Where in the matrix the columns of a source go. Shape (columns of that source,)."""
        return np.array([i for i, column in enumerate(self.columns) if column.source == source], dtype=np.intp)

    @cached_property
    def defaults(self) -> NDArray[np.float32]:
        """Shape (columns,)."""
        return np.array([column.default for column in self.columns], dtype=np.float32)

    @cached_property
    def row_dtype(self) -> np.dtype[np.void]:
        """A stored row: header and the `row` columns, packed, little-endian."""
        body = [(f"c{i}", np.dtype(c.dtype).newbyteorder("<")) for i, c in enumerate(self.of_source("row"))]
        return np.dtype([("header", ROW_HEADER), *body])

    @property
    def missing_bytes(self) -> int:
        """How much longer a stored row is that says which of its values are missing."""
        return (len(self.of_source("row")) + 7) // 8

    def to_json(self) -> dict[str, Any]:
        """Plain values, for a manifest."""
        columns = [msgspec.to_builtins(column) for column in self.columns]
        return {"name": self.name, "entity": self.entity, "columns": columns}

    @staticmethod
    def from_json(plain: Mapping[str, Any]) -> "FeatureView":
        """Raises ContractError naming what does not fit."""
        try:
            columns = msgspec.convert(plain["columns"], tuple[Column, ...])
            return FeatureView(str(plain["name"]), str(plain["entity"]), columns)
        except (msgspec.ValidationError, KeyError, TypeError) as error:
            raise ContractError(f"not a feature view: {error}") from error


def row_key(view: FeatureView, item_id: str) -> str:
    """Where the item's row lies in Redis.

    >>> row_key(FeatureView("stdlib", "function", (Column("length"),)), "json.loads")
    'sluice:row:stdlib:json.loads'
    """
    return f"sluice:row:{view.name}:{item_id}"


def pack_rows(view: FeatureView, values: NDArray[np.float32], updated_ms: int) -> list[bytes]:
    """Stored rows for values of shape (rows, `row` columns), NaN standing for a missing value.

    Raises ContractError if the shape differs or a value does not fit its storage type.
    """
    stored = view.of_source("row")
    if values.ndim != 2 or values.shape[1] != len(stored):
        raise ContractError(f"rows of shape {values.shape}: view {view.name!r} stores {len(stored)} columns")
    packed = np.empty(len(values), dtype=view.row_dtype)
    packed["header"]["fingerprint"] = bytes.fromhex(view.fingerprint)
    packed["header"]["updated_ms"] = updated_ms
    missing = np.isnan(values)
    for i, column in enumerate(stored):
        given = values[:, i]
        filled = np.where(missing[:, i], np.float32(column.default), given)
        with np.errstate(over="ignore", invalid="ignore"):
            packed[f"c{i}"] = filled
            tolerance = 1e-3 if column.dtype == "float16" else 0.0
            back = packed[f"c{i}"].astype(np.float32)
            fits = np.isfinite(back).all() and (np.abs(back - filled) <= tolerance * np.abs(filled)).all()
        if not fits:
            raise ContractError(f"column {column.name!r}: a value is infinite or does not fit {column.dtype}")
    raw, size = packed.tobytes(), view.row_dtype.itemsize
    rows = [raw[start : start + size] for start in range(0, len(raw), size)]
    lacking = np.flatnonzero(missing.any(axis=1))
    for place, bits in zip(lacking.tolist(), _bits_of(missing[lacking]), strict=True):
        rows[place] += bits.tobytes()
    return rows


def _bits_of(missing: NDArray[np.bool_]) -> NDArray[np.uint8]:
    return np.packbits(missing, axis=1, bitorder="little")


def missing_columns(bits: NDArray[np.uint8], columns: int) -> NDArray[np.bool_]:
    """Which values are missing, bool (rows, columns), from the bits of `UnpackedRows`."""
    return np.unpackbits(bits, axis=1, count=columns, bitorder="little").view(np.bool_)


@dataclass(frozen=True, slots=True)
class UnpackedRows:
    """values: float32 (rows, `row` columns); updated_ms: uint64 (rows,). missing: uint8 (rows, a bit a
    column), see `missing_columns`; None if no value is missing."""

    values: NDArray[np.float32]
    updated_ms: NDArray[np.uint64]
    missing: NDArray[np.uint8] | None = None


def unpack_rows(view: FeatureView, rows: Sequence[bytes]) -> UnpackedRows:
    """The values of stored rows.

    Raises CorruptRecord if one is of another length or written for another layout of the view.
    """
    size, missing = view.row_dtype.itemsize, None
    if any(len(row) != size for row in rows):
        rows, missing = _apart(view, rows)
    packed = np.frombuffer(b"".join(rows), dtype=view.row_dtype)
    # numpy strips trailing zero bytes of S8, so compare the raw bytes
    prints = packed["header"]["fingerprint"].copy().view(np.uint8).reshape(len(rows), 8)
    if len(rows) and (prints != np.frombuffer(bytes.fromhex(view.fingerprint), np.uint8)).any():
        raise CorruptRecord(f"a row was written for another layout of view {view.name!r}: load its features again")
    stored = view.of_source("row")
    values = np.empty((len(rows), len(stored)), dtype=np.float32)
    if all(column.dtype == "float32" for column in stored):  # the common case, in one copy
        body = packed.view(np.uint8).reshape(len(rows), size)[:, ROW_HEADER.itemsize :]
        values[:] = np.ascontiguousarray(body).view("<f4")
    else:
        for i in range(len(stored)):
            values[:, i] = packed[f"c{i}"]
    return UnpackedRows(values, packed["header"]["updated_ms"].astype(np.uint64), missing)


def _apart(view: FeatureView, rows: Sequence[bytes]) -> tuple[list[bytes], NDArray[np.uint8]]:
    """Rows without their bits, and the bits of all."""
    size, bits = view.row_dtype.itemsize, view.missing_bytes
    if any(len(row) not in (size, size + bits) for row in rows):
        raise CorruptRecord(f"a row of view {view.name!r} has the wrong length: expected {size} or {size + bits} bytes")
    ends = b"".join([row[size:] or bytes(bits) for row in rows])
    return [row[:size] for row in rows], np.frombuffer(ends, np.uint8).reshape(len(rows), bits)
