"""From the keys of a view to its rows, whichever Redis keeps them."""

from collections.abc import Sequence

import numpy as np

from registry.contracts.errors import CorruptRecord
from registry.contracts.features import FeatureView, row_key, unpack_rows
from serving import metrics
from serving.features.tier import RowKeys, Rows


class StoredRows:
    """What the stores of one view have in common: where a row lies and how it reads.

    A row written for another layout of the view is no row (and counted): wrong numbers are worse.
    """

    def __init__(self, view: FeatureView) -> None:
        self._view = view
        self._prefix = row_key(view, "").encode()
        self._defaults = view.defaults[view.positions("row")]

    def keys(self, keys: RowKeys) -> list[bytes]:
        """Where the rows lie, aligned with the keys."""
        prefix = self._prefix
        return [prefix + item for item in keys.ids()]

    def read(self, stored: Sequence[bytes | None], away: bool = False) -> Rows:
        """Rows of what Redis returned, aligned with it; None where it has nothing, or did not answer."""
        rows = Rows(np.tile(self._defaults, (len(stored), 1)), np.zeros(len(stored), dtype=np.uint64), away)
        present = [place for place, row in enumerate(stored) if row is not None]
        self._unpack(rows, present, [row for row in stored if row is not None])
        return rows

    def _unpack(self, rows: Rows, places: list[int], packed: list[bytes]) -> None:
        if not places:
            return
        try:
            unpacked = unpack_rows(self._view, packed)
            rows.values[places], rows.updated_ms[places] = unpacked.values, unpacked.updated_ms
            if unpacked.missing is not None:
                if rows.missing is None:
                    rows.missing = np.zeros((len(rows.values), self._view.missing_bytes), dtype=np.uint8)
                rows.missing[places] = unpacked.missing
        except CorruptRecord:
            if len(places) == 1:
                metrics.REFUSED_ROWS.labels(self._view.name).inc()
                return
            for place, row in zip(places, packed, strict=True):
                self._unpack(rows, [place], [row])
