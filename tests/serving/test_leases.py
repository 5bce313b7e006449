"""No row from before a change stays, however fetches, changes and their pushes fall together."""

from collections import deque

import numpy as np
import pytest

from registry.contracts.ids import hash64
from serving.features.host import HostTier
from serving.features.leases import MOST_REVOKED, Lease, Leases
from serving.features.suspects import CheckRule
from serving.features.tier import RowKeys, Rows
from serving.features.tiers import Tiers
from tests.suites.tier_suite import DEFAULTS, VIEW, keys_of

ITEMS = [f"item-{i}" for i in range(4)]


class VersionedStore:
    """Rows whose date is their version. meanwhile: what happens between a read and its arrival."""

    def __init__(self) -> None:
        self.versions = dict.fromkeys(ITEMS, 1)
        self.meanwhile = lambda: None

    def fetch(self, keys: RowKeys) -> Rows:
        """See `RowTier`."""
        versions = np.array([self.versions[item.decode()] for item in keys.ids()], dtype=np.uint64)
        self.meanwhile()
        return Rows(np.zeros((len(keys), len(DEFAULTS)), dtype=np.float32), versions)


def a_tier(store: VersionedStore, within_s: float = 0.0) -> HostTier:
    return HostTier(VIEW.name, store, 64, DEFAULTS, rule=CheckRule(within_s=within_s))


def test_a_change_during_a_fetch_pushes_out_the_row_that_it_brings() -> None:
    store = VersionedStore()
    tiers = Tiers()
    tier = tiers.of(VIEW.name, VIEW.fingerprint, lambda: a_tier(store))

    def change() -> None:
        store.meanwhile = lambda: None
        store.versions["item-1"] = 2
        tiers.changed(VIEW.name, [hash64("item-1")])

    store.meanwhile = change
    tiers.apply_changes()
    assert tier.fetch(keys_of("item-1")).updated_ms.tolist() == [1]

    tiers.apply_changes()

    assert tier.fetch(keys_of("item-1")).updated_ms.tolist() == [2]


def test_a_row_that_changed_after_it_was_fetched_ahead_is_not_kept_and_its_neighbour_is() -> None:
    store = VersionedStore()
    tier = a_tier(store)
    lease = tier.lease(keys_of("item-1", "item-2"))
    assert lease is not None
    before = store.fetch(lease.keys)
    store.versions["item-1"] = 2

    tier.drop([hash64("item-1")])
    tier.keep(lease, before)

    assert tier.size == 1
    assert tier.fetch(keys_of("item-1", "item-2")).updated_ms.tolist() == [2, 1]


def test_rows_under_way_or_held_are_not_fetched_ahead_again() -> None:
    store = VersionedStore()
    tier = a_tier(store)
    tier.fetch(keys_of("item-0"))
    first = tier.lease(keys_of("item-0", "item-1", "item-1"))
    assert first is not None
    assert first.keys.ids() == [b"item-1"]

    assert tier.lease(keys_of("item-1", "item-0")) is None

    tier.keep(first, None)  # the store was away: worth another try
    assert tier.lease(keys_of("item-1")) is not None


def test_what_was_fetched_ahead_from_the_nodes_that_answered_is_kept() -> None:
    tier = a_tier(VersionedStore())
    lease = tier.lease(keys_of("item-0", "item-1"))
    assert lease is not None

    values = np.zeros((2, len(DEFAULTS)), dtype=np.float32)
    tier.keep(lease, Rows(values, np.array([3, 0], dtype=np.uint64), away=True))

    assert tier.size == 1
    again = tier.lease(keys_of("item-0", "item-1"))
    assert again is not None
    assert again.keys.hashes.tolist() == [lease.keys.hashes[1]]


def test_too_many_changes_to_remember_revoke_everything() -> None:
    leases = Leases()
    lease = leases.grant(keys_of("item-1"))

    leases.revoke(range(MOST_REVOKED + 1))

    assert leases.end(lease).tolist() == [False]
    assert leases.end(leases.grant(keys_of("item-1"))).tolist() == [True]


STEPS = ("write", "push", "lose", "resync", "lease", "read", "keep", "fetch", "fetch")


@pytest.mark.parametrize("seed", range(40))
def test_what_is_served_is_never_older_than_the_last_push(seed: int) -> None:
    random = np.random.default_rng(seed)
    steps = zip(random.choice(STEPS, 500).tolist(), random.integers(0, 4, 500).tolist(), strict=True)
    store = VersionedStore()
    tier = a_tier(store)
    pushes: deque[str] = deque()
    known = dict.fromkeys(ITEMS, 1)  # versions that the tier was told of
    leased: list[tuple[Lease, list[Rows]]] = []
    for step, n in steps:
        item = ITEMS[n]
        if step == "write":
            store.versions[item] += 1
            pushes.append(item)
        elif step == "push" and pushes:
            pushed = pushes.popleft()
            tier.drop([hash64(pushed)])
            known[pushed] = store.versions[pushed] - pushes.count(pushed)
        elif step == "lose":
            pushes.clear()
        elif step == "resync":
            pushes.clear()
            tier.distrust()
            known = dict(store.versions)
        elif step == "lease":
            if (lease := tier.lease(keys_of(*ITEMS[: n + 1]))) is not None:
                leased.append((lease, []))
        elif step == "read" and leased:
            lease, rows = leased[n % len(leased)]
            rows.append(store.fetch(lease.keys))
        elif step == "keep" and leased:
            lease, rows = leased.pop(n % len(leased))
            tier.keep(lease, rows[0] if rows else None)
        elif step == "fetch":
            for served in ITEMS:
                assert tier.fetch(keys_of(served)).updated_ms[0] >= known[served], served
            tier.drop([hash64(item)])  # or soon nothing would be worth a lease
