"""The in-memory form of a row store: for tests, demos and models without Redis."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from registry.contracts.features import FeatureView
from serving.features.tier import RowKeys, Rows


class MemoryTier:
    """A dictionary of rows. values: float32 (`row` columns,) by item id, NaN where one is missing."""

    def __init__(self, view: FeatureView, rows: Mapping[str, NDArray[np.float32]], updated_ms: int) -> None:
        self._defaults = view.defaults[view.positions("row")]
        self._rows = {item.encode(): values for item, values in rows.items()}
        self._updated_ms = updated_ms

    def fetch(self, keys: RowKeys) -> Rows:
        """Every row that was given, the default for the others."""
        values = np.tile(self._defaults, (len(keys), 1))
        updated_ms = np.zeros(len(keys), dtype=np.uint64)
        for place, item in enumerate(keys.ids()):
            if (found := self._rows.get(item)) is not None:
                values[place], updated_ms[place] = found, self._updated_ms
        if not (missing := np.isnan(values)).any():
            return Rows(values, updated_ms)
        values = np.where(missing, self._defaults, values)
        return Rows(values, updated_ms, missing=np.packbits(missing, axis=1, bitorder="little"))
