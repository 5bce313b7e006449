"""What a tier is: keys in, rows out, honest about what it did not find."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray


class TierAway(Exception):
    """The store behind a tier does not answer; say nothing of its rows."""


class RowKeys(msgspec.Struct):
    """Which rows are wanted. hashes: uint64 (keys,); ids: their UTF-8 text, aligned. patience_s: how long whoever asks
    can wait for them; a store waits no longer than it does anyway.

    The text is cut from the wire's blob only when somebody needs it: a slab does not.
    """

    hashes: NDArray[np.uint64]
    blob: bytes
    _ids: list[bytes] | None = None
    patience_s: float = float("inf")

    def __len__(self) -> int:
        return len(self.hashes)

    def ids(self) -> list[bytes]:
        """One id per key."""
        if self._ids is None:
            self._ids = self.blob.split(b"\x00")
        return self._ids

    def pick(self, places: NDArray[np.intp]) -> "RowKeys":
        """The keys at these places."""
        ids = self.ids()
        picked = [ids[place] for place in places.tolist()]
        return RowKeys(self.hashes[places], b"", picked, self.patience_s)

    @staticmethod
    def join(parts: Sequence["RowKeys"]) -> "RowKeys":
        """Several queries' keys as one."""
        if len(parts) == 1:
            return parts[0]
        patience_s = min([part.patience_s for part in parts])
        if any(part._ids is not None for part in parts):  # picked keys have no blob
            ids = [item for part in parts for item in part.ids()]
            return RowKeys(np.concatenate([part.hashes for part in parts]), b"", ids, patience_s)
        blob = b"\x00".join([part.blob for part in parts])
        return RowKeys(np.concatenate([part.hashes for part in parts]), blob, None, patience_s)


class Fetched(NamedTuple):
    """What was asked of a store beyond this process: how many rows, and how long that took, microseconds."""

    rows: int = 0
    us: float = 0.0


NOTHING_FETCHED = Fetched()


class Rows(msgspec.Struct):
    """values: float32 (keys, `row` columns), defaults where there is no row.
    updated_ms: uint64 (keys,), when the row was written; 0 where there is none.
    away: a store did not answer, so that missing rows may exist after all.
    unchecked: bool (keys,), rows that may have changed unseen since; None if there are none.
    missing: uint8 (keys, a bit a column), values that are missing in rows that are there, see
    `registry.contracts.features.missing_columns`; None if there are none.
    fetched: what tiers in memory had to ask for."""

    values: NDArray[np.float32]
    updated_ms: NDArray[np.uint64]
    away: bool = False
    unchecked: NDArray[np.bool_] | None = None
    missing: NDArray[np.uint8] | None = None
    fetched: Fetched = NOTHING_FETCHED

    def pick(self, places: NDArray[np.bool_]) -> "Rows":
        """The rows at these places."""
        unchecked = None if self.unchecked is None else self.unchecked[places]
        missing = None if self.missing is None else self.missing[places]
        return Rows(self.values[places], self.updated_ms[places], self.away, unchecked, missing, self.fetched)


def sure_rows(rows: Rows) -> NDArray[np.bool_] | None:
    """Which of them may be remembered, (keys,); None: all. Not those that are to be asked for again, nor,
    while a store is away, those that look absent."""
    sure = None if rows.unchecked is None else ~rows.unchecked
    if not rows.away:
        return sure
    arrived = rows.updated_ms > 0
    return arrived if sure is None else arrived & sure


class RowTier(Protocol):
    """Rows of one feature view."""

    def fetch(self, keys: RowKeys) -> Rows:
        """The rows, aligned with the keys. Raises TierAway if nothing can be said of them."""
        ...
