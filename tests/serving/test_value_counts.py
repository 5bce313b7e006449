"""Freshness belongs to the feature: each is counted against its own limit."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import REGISTRY

from registry.contracts.features import Column, FeatureView
from serving import tally
from serving.device.streams import CpuDevice
from serving.features.device import DeviceTier
from serving.features.freshness import ValueCounts
from serving.features.host import HostTier
from serving.features.memory import MemoryTier
from tests.suites.tier_suite import keys_of

NOW_MS = 1_700_000_000_000
VIEW = FeatureView(
    "aging",
    "item",
    (
        Column("price", freshness_s=60.0),
        Column("clicked", "query", freshness_s=1.0),
        Column("stock", freshness_s=10.0),
        Column("colour"),
        Column("rating", freshness_s=60.0),
    ),
)
STORED = [column for column in VIEW.columns if column.source == "row"]


def counted(metric: str) -> dict[str, float]:
    """The counter by stored column."""
    tally.flush()
    found = {c.name: REGISTRY.get_sample_value(metric, {"view": VIEW.name, "column": c.name}) for c in STORED}
    return {name: value or 0.0 for name, value in found.items()}


def stale_and_missing(ages_ms: list[int | None]) -> tuple[dict[str, float], dict[str, float]]:
    """What one batch of rows adds to the counters; None: no row."""
    before = [counted("serving_stale_values_total"), counted("serving_missing_values_total")]
    updated_ms = np.array([0 if age is None else NOW_MS - age for age in ages_ms], dtype=np.uint64)

    ValueCounts(VIEW, lambda: NOW_MS).count(updated_ms)

    after = [counted("serving_stale_values_total"), counted("serving_missing_values_total")]
    stale, missing = ({name: new[name] - old[name] for name in new} for old, new in zip(before, after, strict=True))
    return stale, missing


def test_a_value_is_stale_only_past_the_limit_of_its_own_column():
    stale, missing = stale_and_missing([0, 10_000, 10_001, 60_000, 60_001])

    assert stale == {"price": 1, "stock": 3, "colour": 0, "rating": 1}
    assert set(missing.values()) == {0}


def test_where_there_is_no_row_every_stored_value_is_missing_and_none_is_stale():
    stale, missing = stale_and_missing([None, 5_000, None])

    assert set(stale.values()) == {0}
    assert missing == {"price": 2, "stock": 2, "colour": 2, "rating": 2}


@given(st.lists(st.none() | st.integers(0, 120_000), max_size=40))
def test_counting_a_batch_is_counting_its_rows(ages_ms: list[int | None]):
    stale, missing = stale_and_missing(ages_ms)

    for column in STORED:
        limit_ms = float("inf") if column.freshness_s is None else column.freshness_s * 1000
        assert stale[column.name] == sum(age is not None and age > limit_ms for age in ages_ms)
        assert missing[column.name] == ages_ms.count(None)


def test_a_host_tier_counts_rows_whether_they_were_held_or_fetched():
    rows = {"old": np.zeros(len(STORED), dtype=np.float32)}
    tier = HostTier(
        VIEW.name,
        MemoryTier(VIEW, rows, updated_ms=NOW_MS - 30_000),
        rows=32,
        defaults=VIEW.defaults[VIEW.positions("row")],
        counts=ValueCounts(VIEW, lambda: NOW_MS),
    )
    stale, missing = counted("serving_stale_values_total"), counted("serving_missing_values_total")

    for _ in range(2):
        tier.fetch(keys_of("old", "nobody"))

    assert counted("serving_stale_values_total")["stock"] - stale["stock"] == 2
    assert counted("serving_stale_values_total")["price"] == stale["price"]
    assert counted("serving_missing_values_total")["colour"] - missing["colour"] == 2


INCOMPLETE = {
    "whole": np.array([1, 2, 3, 4], dtype=np.float32),
    "half": np.array([np.nan, 2, np.nan, 4], dtype=np.float32),
}


def missing_since(before: dict[str, float]) -> dict[str, float]:
    return {name: value - before[name] for name, value in counted("serving_missing_values_total").items()}


def test_values_that_stored_rows_lack_are_counted_by_feature_whether_held_or_fetched():
    tier = HostTier(
        VIEW.name,
        MemoryTier(VIEW, INCOMPLETE, NOW_MS),
        rows=32,
        defaults=VIEW.defaults[VIEW.positions("row")],
        counts=ValueCounts(VIEW, lambda: NOW_MS),
    )
    before = counted("serving_missing_values_total")

    tier.fetch(keys_of("whole", "half", "nobody"))
    tier.fetch(keys_of("half", "whole"))
    tier.fetch(keys_of("whole"))

    assert missing_since(before) == {"price": 3, "stock": 1, "colour": 3, "rating": 1}


def test_a_device_tier_counts_what_it_holds_what_it_fetches_and_nothing_twice():
    store = MemoryTier(VIEW, INCOMPLETE, NOW_MS - 30_000)
    host = HostTier(VIEW.name, store, rows=32, defaults=VIEW.defaults[VIEW.positions("row")])
    counts = ValueCounts(VIEW, lambda: NOW_MS)
    tier = DeviceTier(VIEW.name, host, 32, len(STORED), CpuDevice(), counts=counts)
    missing, stale = counted("serving_missing_values_total"), counted("serving_stale_values_total")

    tier.locate(keys_of("whole", "half", "nobody"))
    tier.locate(keys_of("half", "whole"))
    assert missing_since(missing) == {"price": 3, "stock": 1, "colour": 3, "rating": 1}
    tier.fetch(keys_of("half"))

    assert missing_since(missing) == {"price": 4, "stock": 1, "colour": 4, "rating": 1}
    assert counted("serving_stale_values_total")["stock"] - stale["stock"] == 5
