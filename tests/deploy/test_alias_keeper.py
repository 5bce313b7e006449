"""Aliases follow the tables by themselves, sooner or later, and hold nobody up."""

import threading
from collections.abc import Callable, Iterator

import pytest

from deploy.control.alias_keeper import AliasKeeper
from pipelines.settings import RolloutSettings
from registry.board import MemoryBoard
from registry.errors import StoreUnavailable
from registry.promotion import Promoter, promote
from registry.store import MemoryStore, ModelStore
from registry.traffic_control import MemoryControl
from tests.builders import NOW_MS, a_package
from tests.deploy.platforms import until

SOON = RolloutSettings(repair_s=1.0, retry_s=0.01)


class StoreThatMayBeAway(MemoryStore):
    away = False

    def set_alias(self, model: str, alias: str, version: int) -> None:
        if self.away:
            raise StoreUnavailable("MLflow is away")
        super().set_alias(model, alias, version)


class Kept:
    """Two models with two versions each, and a keeper over them."""

    def __init__(self) -> None:
        self.store, self.control, self.board = StoreThatMayBeAway(), MemoryControl(), MemoryBoard()
        for model in ("one", "two"):
            for scale in (1.0, 2.0):
                self.store.register(model, a_package(scale, model=model))
        self.opened: Callable[[], ModelStore] = lambda: self.store
        self.keeper = AliasKeeper(lambda: self.opened(), lambda store: Promoter(store, self.control, self.board), SOON)

    def promote(self, model: str, version: int) -> None:
        """Decided; nobody is told."""
        plan = self.control.plan(model)
        planned = promote(plan, model, version, self.store.get(model, version).digest)
        revision = plan.revision if plan else 0
        self.control.change(planned, expected_revision=revision, who="ann", why="now", evidence={}, now_ms=NOW_MS)

    def champion(self, model: str) -> int | None:
        """As the alias says."""
        return self.store.aliases(model).get("champion")


@pytest.fixture
def kept() -> Iterator[Kept]:
    kept = Kept()
    yield kept
    kept.keeper.stop()
    kept.keeper.join(30)
    assert not kept.keeper.is_alive()


def test_everything_is_kept_at_the_start(kept: Kept) -> None:
    kept.promote("one", 1)
    kept.promote("two", 2)
    kept.keeper.start()

    until(lambda: (kept.champion("one"), kept.champion("two")) == (1, 2), "both aliases")


def test_who_is_told_of_a_plan_points_its_aliases(kept: Kept) -> None:
    kept.promote("one", 1)
    kept.keeper.start()
    until(lambda: kept.champion("one") == 1, "the first alias")

    kept.promote("one", 2)
    kept.keeper.decided("one")
    until(lambda: kept.champion("one") == 2, "the second")


def test_what_nobody_told_of_is_found_at_the_next_repair(kept: Kept) -> None:
    kept.promote("one", 1)
    kept.keeper.start()
    until(lambda: kept.champion("one") == 1, "the first alias")

    kept.promote("one", 2)
    until(lambda: kept.champion("one") == 2, "the repair")


def test_a_store_that_was_away_gets_everything_when_it_is_back(kept: Kept) -> None:
    kept.promote("one", 1)
    kept.promote("two", 1)
    kept.keeper.start()
    until(lambda: kept.champion("two") == 1, "the first aliases")
    kept.store.away = True
    for model in ("one", "two"):
        kept.promote(model, 2)
        kept.keeper.decided(model)
    until(lambda: kept.board.read()["two"].champion == 2, "a try that shows the board")
    assert kept.champion("one") == 1

    kept.store.away = False
    until(lambda: (kept.champion("one"), kept.champion("two")) == (2, 2), "both aliases")


def test_a_store_that_cannot_be_opened_yet_is_opened_later_and_telling_does_not_wait_for_it(
    kept: Kept, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "deploy")
    may_open, tries = threading.Event(), list[int]()

    def open_store() -> ModelStore:
        tries.append(1)
        if not may_open.is_set():
            raise StoreUnavailable("MLflow is not there yet")
        return kept.store

    kept.opened = open_store
    kept.promote("one", 2)
    kept.keeper.start()
    kept.keeper.decided("one")
    until(lambda: len(tries) > 3, "several tries")
    with pytest.raises(StoreUnavailable, match="the model registry is not open yet"):
        kept.keeper.store()

    may_open.set()
    until(lambda: kept.champion("one") == 2, "the alias")
    assert kept.keeper.store() is kept.store
    until(lambda: "aliases are as decided again" in caplog.messages, "the word of it")
    assert [message.partition(",")[0] for message in caplog.messages] == [
        "aliases wait",
        "aliases are as decided again",
    ]
