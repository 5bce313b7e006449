"""By how much less a query is answered: each rung, what it says, and what is there without it."""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.contracts.features import Column, FeatureView
from registry.contracts.ids import hash64
from serving.features.tier import RowKeys, Rows
from serving.flow.ladder import LadderRules, Order, RecentOrders, Rung, rung_of
from serving.flow.settings import FlowSettings
from serving.ranking import RankQuery
from serving.router import CHALLENGER_AWAY, INTERLEAVING_AWAY
from serving.scoring import LoadedModel
from tests.builders import a_plan, a_tested_plan
from tests.serving.test_routing import ITEMS, Asker, Fickle, Load, asked, loader
from tests.serving.workbench import LENGTHS, a_loaded_model, rows_in_memory


def rules(**switched: Any) -> FlowSettings:
    return FlowSettings(ladder=LadderRules(**switched))


def items_of(answer: dict[str, Any]) -> list[str]:
    return [item["id"] for item in answer["items"]]


def test_the_lowest_reason_is_the_rung() -> None:
    assert rung_of(["stale_rows:1/2", "missing_rows:1/2"]) is Rung.DEFAULTS
    assert rung_of([CHALLENGER_AWAY, "stale_rows:1/2"]) is rung_of([INTERLEAVING_AWAY]) is Rung.CHAMPION_ONLY
    assert rung_of(["absent_columns:a,b"]) is rung_of(["features_away"]) is Rung.DEFAULTS


class Away:
    """A store that does not answer, as `HostTier` tells of it."""

    def fetch(self, keys: RowKeys) -> Rows:
        """See `RowTier`."""
        rows = rows_in_memory().fetch(keys)
        rows.updated_ms[:], rows.away = 0, True
        return rows


STALE = FeatureView(
    "items",
    "item",
    (
        Column("length", default=1.0, freshness_s=1),  # the rows are years old
        Column("match", source="candidate", default=0.5),
        Column("query_words", source="query"),
    ),
)


def loads(view: FeatureView | None = None, tier: Any = None) -> Load:
    def load(model: str, version: int, digest: str) -> LoadedModel:
        kept = {"view": view, "tier": rows_in_memory(view=view)} if view else {"tier": tier}
        return a_loaded_model(version=version, digest=digest, **kept)

    return load


COMPLETE = {"features": {"match": [0.5] * len(ITEMS)}, "query": {"features": {"query_words": 1.0}}}


@pytest.mark.parametrize(
    ("load", "reason", "rung"),
    [(loads(view=STALE), "stale_rows", "stale_features"), (loads(tier=Away()), "features_away", "defaults")],
)
def test_an_answer_with_stale_or_default_features_says_so_or_is_not_given(load: Load, reason: str, rung: str) -> None:
    with asked(load, plan=a_plan()) as (asker, _):
        assert asker.ask(**COMPLETE)["degraded"][0].startswith(reason)

    with asked(load, plan=a_plan(), flow=rules(**{rung: False})) as (asker, _):
        refused = asker.post(**COMPLETE)
        assert refused.status_code == 503
        assert f"such an answer is switched off, {rung}=0 in SLUICE_FLOW" in refused.text
        assert asker.gateway.rankings_logged() == 0


def test_without_the_champions_rung_an_experiments_unit_is_refused() -> None:
    plan = a_tested_plan(weight=1000)
    with asked(loader({2: Fickle()}), plan=plan, flow=rules(champion_only=False, cached_order=False)) as (asker, _):
        assert [asker.post(unit=f"user-{i}").status_code for i in range(3)] == [500] * 3
        assert asker.ask(unit="")["arm"] == "champion"


def lose_all(asker: Asker, replicas: Sequence[Any]) -> None:
    for replica in replicas:
        replica.stop()
    asker.gateway.until(lambda: not asker.gateway.pool.fleet.has("codesearch", 1))


def test_without_a_replica_a_query_gets_its_last_order_and_one_that_was_never_answered_a_503() -> None:
    with asked(plan=a_plan()) as (asker, replicas):
        first = asker.ask(**COMPLETE, unit="ann")
        lose_all(asker, replicas)
        again, other = asker.ask(**COMPLETE, unit="bob", deadline_ms=100), asker.post(candidates=["a"], deadline_ms=100)

        assert (first["degraded"], again["degraded"]) == ([], ["cached_order"])
        assert (items_of(again), again["version"], again["arm"]) == (items_of(first), 1, "outside")
        assert again["ranking_id"] != first["ranking_id"]
        assert (other.status_code, "no replica holds codesearch@1" in other.text) == (503, True)
        [event] = asker.events_of([again])
        assert (list(event.items), event.degraded, event.unit) == (items_of(first), ("cached_order",), "bob")
        assert (event.features, len(event.scores)) == (b"", 4 * len(event.items))
        counted = asker.counted()[1, "", "champion"]
        assert (counted.answered, counted.degraded, counted.away, counted.failed) == (2, 1, 1, 1)

        replicas[0].start()
        asker.gateway.until(lambda: asker.gateway.pool.fleet.has("codesearch", 1))
        assert asker.ask(**COMPLETE)["degraded"] == []


def test_another_query_over_the_same_candidates_has_an_order_of_its_own() -> None:
    with asked(plan=a_plan()) as (asker, replicas):
        asker.ask(**COMPLETE)
        lose_all(asker, replicas)

        other = {"query": {"features": {"query_words": 2.0}}}
        assert asker.post(**(COMPLETE | other), deadline_ms=50).status_code == 503
        assert asker.post(**COMPLETE, top_k=3, deadline_ms=50).status_code == 503
        assert asker.post(**COMPLETE, deadline_ms=50).status_code == 200


@pytest.mark.parametrize(("given", "status", "degraded"), [(False, 503, None), (True, 200, ["given_order"])])
def test_the_callers_own_order_is_given_only_where_that_is_wanted(
    given: bool, status: int, degraded: list[str] | None
) -> None:
    with asked(plan=a_plan(), flow=rules(cached_order=False, given_order=given)) as (asker, replicas):
        asker.ask(**COMPLETE)
        lose_all(asker, replicas)
        answer = asker.post(**COMPLETE, top_k=4, deadline_ms=50)

        assert answer.status_code == status
        if degraded:
            assert (items_of(answer.json()), answer.json()["degraded"]) == (ITEMS[:4], degraded)


def test_a_champion_that_fails_on_most_is_spared_the_queries_that_have_an_order_until_it_is_well() -> None:
    fickle = Fickle()
    fickle.well = True
    with asked(loader({1: fickle}), plan=a_plan()) as (asker, _):
        whole = asker.ask(**COMPLETE)
        fickle.well = False
        lower = [asker.ask(**COMPLETE) for _ in range(60)]
        asker.gateway.until(lambda: asker.gateway.ranker.router.breakers() != {})

        assert {tuple(one["degraded"]) for one in lower} == {("cached_order",)}
        assert {tuple(items_of(one)) for one in lower} == {tuple(items_of(whole))}
        states = asker.gateway.ranker.router.breakers()
        assert states[("codesearch", 1)].value in ("open", "half_open")
        assert fickle.failures < 40  # the others were not sent
        asker.connection.request("GET", "/v1/status")
        told = json.loads(asker.connection.getresponse().read())
        assert told["breakers"]["codesearch@1"] in ("open", "half_open")
        assert [one["breaker"] for one in told["replicas"]] == ["closed"]

        fickle.well = True
        asker.gateway.until(lambda: asker.ask(**COMPLETE)["degraded"] == [])


# the orders that are kept


def a_query(items: Sequence[str], top_k: int = 10, model: str = "m") -> RankQuery:
    hashes = np.array([hash64(item) for item in items], dtype=np.uint64)
    return RankQuery(model, items, "\x00".join(items).encode(), hashes, top_k, 1000)


def an_order(items: Sequence[str], version: int = 1) -> Order:
    return Order(version, list(items), bytes(4 * len(items)))


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(1, 40)), max_size=120))
def test_orders_take_no_more_room_than_they_may_and_the_last_is_the_one_that_is_found(
    kept: list[tuple[int, int]],
) -> None:
    orders = RecentOrders(most_bytes=20_000, kept_s=60.0)
    for version, (start, count) in enumerate(kept):
        items = [f"item-{start + i}" for i in range(count)]
        orders.keep(a_query(items), *an_order(items, version), now_s=0.0)
        assert orders.size_bytes <= 20_000
        found = orders.of(a_query(items), now_s=60.0)
        assert found is not None and found.version == version


def test_an_order_is_found_while_it_is_young_and_the_oldest_leaves_first() -> None:
    items = [sorted(LENGTHS)[i : i + 5] for i in range(100)]
    orders = RecentOrders(most_bytes=10_000, kept_s=60.0)
    for some in items:
        orders.keep(a_query(some), *an_order(some), now_s=0.0)

    assert orders.of(a_query(items[0]), 0.0) is None
    assert orders.of(a_query(items[-1]), 60.0) == an_order(items[-1])
    assert orders.of(a_query(items[-1], model="other"), 0.0) is None
    assert orders.of(a_query(items[-1]), 60.1) is None
