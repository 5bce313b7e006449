"""What every row tier keeps, whatever lies behind it."""

from collections.abc import Mapping, Sequence

import numpy as np
import pytest
import redis
from numpy.typing import NDArray

from registry.contracts.features import Column, FeatureView, missing_columns
from registry.contracts.ids import hash64
from serving.features.materialiser import write_rows
from serving.features.tier import RowKeys, RowTier

VIEW = FeatureView(
    name="functions",
    entity="function",
    columns=(
        Column("length", "row", default=1.5),
        Column("match", "candidate"),
        Column("depth", "row", "int16", default=-3),
    ),
)
DEFAULTS: NDArray[np.float32] = VIEW.defaults[VIEW.positions("row")]
UPDATED_MS = 1_700_000_000_000
STORED = {
    "json.loads": (12.25, 2.0),
    "os.path:join": (-0.5, 7.0),  # an id may hold the separator of keys
    "größe 大小": (1e30, -32768.0),
    **{f"item-{i}": (float(i), float(-i)) for i in range(40)},
}


def keys_of(*item_ids: str) -> RowKeys:
    """The keys of these items, as a query on the wire brings them."""
    hashes = np.array([hash64(item) for item in item_ids], dtype=np.uint64)
    return RowKeys(hashes, "\x00".join(item_ids).encode())


def store(
    client: redis.Redis | redis.RedisCluster, rows: Mapping[str, Sequence[float]], view: FeatureView = VIEW
) -> None:
    """Writes rows to Redis as ingestion does, updated at UPDATED_MS."""
    write_rows(client, view, list(rows), np.array(list(rows.values()), np.float32), UPDATED_MS, on_rows=lambda _: None)


class TierSuite:
    """Subclasses supply `make_tier`: a tier over VIEW that holds `rows`, updated at UPDATED_MS."""

    def make_tier(self, rows: Mapping[str, Sequence[float]]) -> RowTier:
        """A tier with these rows behind it; values by item id, in the order of the `row` columns."""
        raise NotImplementedError

    def test_rows_stand_where_their_keys_stand(self) -> None:
        tier = self.make_tier(STORED)
        items = list(STORED)

        rows = tier.fetch(keys_of(*items))

        np.testing.assert_array_equal(rows.values, np.array([STORED[item] for item in items], dtype=np.float32))
        assert rows.values.dtype == np.float32
        assert rows.updated_ms.tolist() == [UPDATED_MS] * len(items)
        assert not rows.away

    def test_a_row_that_does_not_exist_is_the_defaults_and_was_never_updated(self) -> None:
        tier = self.make_tier(STORED)

        rows = tier.fetch(keys_of("nobody", "json.loads", "nobody either"))

        assert rows.values.tolist() == [DEFAULTS.tolist(), [12.25, 2.0], DEFAULTS.tolist()]
        assert rows.updated_ms.tolist() == [0, UPDATED_MS, 0]
        assert not rows.away

    def test_a_value_that_a_row_lacks_is_the_default_and_told_as_missing_whoever_holds_the_row(self) -> None:
        tier = self.make_tier({**STORED, "half": (np.nan, 5.0), "empty": (np.nan, np.nan)})
        keys = keys_of("item-3", "half", "nobody", "empty")

        for rows in (tier.fetch(keys), tier.fetch(keys)):
            assert rows.values.tolist() == [[3.0, -3.0], [1.5, 5.0], [1.5, -3.0], [1.5, -3.0]]
            assert rows.updated_ms.tolist() == [UPDATED_MS, UPDATED_MS, 0, UPDATED_MS]
            assert rows.missing is not None
            missing = missing_columns(rows.missing, 2)
            assert missing.tolist() == [[False, False], [True, False], [False, False], [True, True]]
        alone = tier.fetch(keys_of("item-3")).missing
        assert alone is None or not alone.any()

    def test_asking_again_gives_the_same(self) -> None:
        tier = self.make_tier(STORED)
        keys = keys_of("item-3", "nobody", "item-5")

        first, second = tier.fetch(keys), tier.fetch(keys)

        np.testing.assert_array_equal(first.values, second.values)
        np.testing.assert_array_equal(first.updated_ms, second.updated_ms)

    def test_an_answer_is_the_callers_own(self) -> None:
        tier = self.make_tier(STORED)
        tier.fetch(keys_of("item-3")).values[:] = 99.0

        assert tier.fetch(keys_of("item-3")).values.tolist() == [[3.0, -3.0]]

    @pytest.mark.parametrize("seed", range(10))
    def test_company_and_order_change_nothing(self, seed: int) -> None:
        tier = self.make_tier(STORED)
        items = np.random.default_rng(seed).choice([*STORED, "nobody", "nobody:else"], 60).tolist()
        alone = {item: tier.fetch(keys_of(item)) for item in set(items)}

        together = tier.fetch(RowKeys.join([keys_of(*items[:7]), keys_of(*items[7:])]))

        for place, item in enumerate(items):
            assert together.values[place].tolist() == alone[item].values[0].tolist()
            assert together.updated_ms[place] == alone[item].updated_ms[0]
