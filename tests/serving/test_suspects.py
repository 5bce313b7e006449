"""After a lost channel: held rows are looked up again, as fast as the budget allows and no faster."""

import numpy as np
import pytest

from serving.device.streams import CpuDevice
from serving.features.device import DeviceTier
from serving.features.host import HostTier
from serving.features.suspects import BURST_S, CheckRule
from serving.features.tier import RowKeys, Rows, TierAway
from tests.suites.tier_suite import DEFAULTS, VIEW, keys_of

ITEMS = [f"item-{i}" for i in range(40)]


class NotedStore:
    """Every row is `version` in all columns; notes what is asked for."""

    def __init__(self) -> None:
        self.version, self.away = 1, False
        self.hidden: set[bytes] = set()  # rows of a node that does not answer
        self.asked: list[list[bytes]] = []

    def fetch(self, keys: RowKeys) -> Rows:
        """See `RowTier`."""
        if self.away:
            raise TierAway("as told")
        self.asked.append(keys.ids())
        values = np.full((len(keys), len(DEFAULTS)), self.version, dtype=np.float32)
        hidden = np.array([item in self.hidden for item in keys.ids()], dtype=bool)
        values[hidden] = DEFAULTS
        return Rows(values, np.where(hidden, 0, self.version).astype(np.uint64), bool(hidden.any()))

    def rows_asked(self) -> int:
        """Since the last time."""
        asked = sum(map(len, self.asked))
        self.asked.clear()
        return asked


class Bench:
    """A warm tier over a store whose rows have changed unseen."""

    def __init__(self, rule: CheckRule) -> None:
        self.now_s, self.store = 100.0, NotedStore()
        self.tier = HostTier(VIEW.name, self.store, 1024, DEFAULTS, rule=rule, clock=lambda: self.now_s)
        self.tier.fetch(keys_of(*ITEMS))
        self.store.rows_asked()
        self.store.version = 2
        self.tier.distrust()

    def versions(self, *items: str) -> list[int]:
        return self.tier.fetch(keys_of(*items)).updated_ms.tolist()


def test_the_budget_begins_empty_and_grows_by_its_rate() -> None:
    bench = Bench(CheckRule(rows_per_s=256))

    assert bench.versions(*ITEMS) == [1] * 40
    bench.now_s += 4 / 256
    assert bench.versions(*ITEMS) == [2] * 4 + [1] * 36
    bench.now_s += 2 / 256
    assert bench.versions(*ITEMS) == [2] * 6 + [1] * 34
    assert bench.store.rows_asked() == 6


def test_while_one_node_is_away_the_rows_of_the_others_are_checked_and_its_own_remain_to_be() -> None:
    bench = Bench(CheckRule(within_s=0))
    bench.store.hidden = {b"item-1"}

    rows = bench.tier.fetch(keys_of("item-0", "item-1", "item-2"))

    assert (rows.updated_ms.tolist(), rows.away) == ([2, 1, 2], False)
    assert rows.unchecked is not None
    assert rows.unchecked.tolist() == [False, True, False]
    bench.store.hidden.clear()
    assert bench.versions("item-1") == [2]
    bench.store.rows_asked()
    assert bench.versions("item-0", "item-2") == [2, 2]
    assert bench.store.rows_asked() == 0


def test_an_idle_moment_does_not_save_up_more_than_a_burst() -> None:
    rule = CheckRule(rows_per_s=256)
    bench = Bench(rule)
    bench.now_s += 20.0

    bench.versions(*ITEMS)

    assert bench.store.rows_asked() == int(rule.rows_per_s * BURST_S)


@pytest.mark.parametrize("seed", range(5))
def test_the_rate_holds_whatever_is_asked_and_everything_is_right_in_the_end(seed: int) -> None:
    random = np.random.default_rng(seed)
    bench = Bench(CheckRule(rows_per_s=100))
    asked = 0
    for _ in range(60):
        bench.now_s += float(random.uniform(0, 0.03))
        bench.versions(*random.choice(ITEMS, 25, replace=False).tolist())
        asked += bench.store.rows_asked()
        assert asked <= (bench.now_s - 100.0) * 100

    assert asked <= 40
    bench.now_s += 10.0
    for item in ITEMS:
        bench.now_s += 0.01
        assert bench.versions(item) == [2]


def test_rows_served_before_their_check_are_told_apart() -> None:
    bench = Bench(CheckRule(rows_per_s=256))
    bench.now_s += 1 / 256

    rows = bench.tier.fetch(keys_of("item-1", "item-2", "new"))

    assert rows.unchecked is not None
    assert rows.unchecked.tolist() == [False, True, False]
    assert rows.updated_ms.tolist() == [2, 1, 2]


def test_past_the_limit_nothing_is_served_without_a_look() -> None:
    bench = Bench(CheckRule(rows_per_s=1, within_s=30.0))
    bench.now_s += 30.0

    assert bench.versions(*ITEMS) == [2] * 40
    assert bench.versions(*ITEMS) == [2] * 40
    assert bench.store.rows_asked() == 40


def test_while_the_store_is_away_what_is_held_is_served_and_remains_to_be_checked() -> None:
    bench = Bench(CheckRule(rows_per_s=256))
    bench.now_s += 60.0
    bench.store.away = True

    held = bench.tier.fetch(keys_of("item-1"))
    assert (held.updated_ms.tolist(), held.away) == ([1], False)

    bench.store.away = False
    assert bench.versions("item-1") == [2]


def test_a_row_that_came_since_is_not_checked_again() -> None:
    bench = Bench(CheckRule(rows_per_s=256))
    bench.tier.fetch(keys_of("new"))
    bench.tier.drop(keys_of("item-1").hashes.tolist())
    assert bench.versions("item-1") == [2]
    bench.store.rows_asked()
    bench.now_s += 30.0

    assert bench.versions("new", "item-1") == [2, 2]
    assert bench.store.rows_asked() == 0


def test_a_row_that_a_batch_wants_often_is_fetched_once() -> None:
    bench = Bench(CheckRule())

    rows = bench.tier.fetch(keys_of("new", "other", "new", "new"))

    assert bench.store.asked == [[b"new", b"other"]] or bench.store.asked == [[b"other", b"new"]]
    assert rows.updated_ms.tolist() == [2] * 4


def test_rows_that_a_tier_below_did_not_check_are_not_kept_above_it() -> None:
    bench = Bench(CheckRule(rows_per_s=256))
    above = HostTier(VIEW.name, bench.tier, 64, DEFAULTS)
    assert above.fetch(keys_of("item-1")).updated_ms.tolist() == [1]

    bench.now_s += 1 / 256

    assert above.fetch(keys_of("item-1")).updated_ms.tolist() == [2]


class DeviceBench(Bench):
    """The same with rows resident on a device; both tiers keep the rule."""

    def __init__(self, rule: CheckRule) -> None:
        super().__init__(rule)
        self.store.version = 1
        self.below = self.tier
        self.above = DeviceTier(VIEW.name, self.below, 1024, len(DEFAULTS), CpuDevice(), rule, lambda: self.now_s)
        self.now_s += 60.0
        self.above.locate(keys_of(*ITEMS))
        self.store.version = 2
        self.above.distrust()


def test_resident_rows_are_checked_within_the_same_budget() -> None:
    bench = DeviceBench(CheckRule(rows_per_s=256))
    assert len(bench.above.locate(keys_of(*ITEMS)).missed) == 0
    bench.store.rows_asked()
    bench.now_s += 4 / 256

    located = bench.above.locate(keys_of(*ITEMS))

    assert located.updated_ms.tolist() == [2] * 4 + [1] * 36
    assert located.unchecked is not None
    assert located.unchecked.tolist() == [False] * 4 + [True] * 36
    assert bench.store.rows_asked() == 4
    assert bench.above.locate(keys_of(*ITEMS[:4])).missed.tolist() == []


def test_a_resident_row_is_served_while_nothing_below_can_check_it() -> None:
    bench = DeviceBench(CheckRule(rows_per_s=256))
    bench.now_s += 60.0
    bench.below.drop(keys_of("item-1").hashes.tolist())
    bench.store.away = True

    away = bench.above.locate(keys_of("item-1", "new"))
    assert (away.missed.tolist(), away.away, away.updated_ms.tolist()) == ([1], True, [1, 0])

    bench.store.away = False
    assert bench.above.locate(keys_of("item-1", "new")).updated_ms.tolist() == [2, 2]
