"""Archiving, and collections that never lose a version in use."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deploy.control.errors import Conflict, NotThere
from deploy.control.traffic import taken_back
from registry.board import MemoryBoard
from registry.contracts.errors import ContractError
from registry.contracts.manifest import Lineage, ModelPackage
from registry.contracts.traffic import Experiment, Override
from registry.errors import RefusedVersion, StaleRevision, UnknownVersion
from registry.promotion import Promoter, previous_champion, promote, with_experiment, without_experiment
from registry.retirement import Collected, Retirement, ServableVersions, in_use
from registry.store import MemoryStore, ModelStore
from registry.traffic_control import MemoryControl
from tests.builders import NOW_MS, a_package

MODEL = "codesearch"
WORDS: dict[str, Any] = {"who": "ann", "why": "", "evidence": {}, "now_ms": NOW_MS}


@cache
def package(number: int, parent: int | None) -> ModelPackage:
    return a_package(lineage=Lineage("made-up", f"{number}", parent=parent))


class Registry:
    """Store, tables and board in memory, with everything that is done to them."""

    def __init__(self, versions: int = 0) -> None:
        self.store, self.control = MemoryStore(), MemoryControl()
        self.promoter = Promoter(self.store, self.control, MemoryBoard())
        self.rollouts: set[int] = set()
        self.retirement = self.retirement_over(self.store)
        self._registered = 0
        for _ in range(versions):
            self.register()

    def retirement_over(self, store: Any) -> Retirement:
        return Retirement(store, self.control, self.promoter, lambda model: self.rollouts)

    def register(self, parent: int | None = None) -> int:
        self._registered += 1
        return self.store.register(MODEL, package(self._registered, parent))

    def promote(self, version: int) -> None:
        self.promote_from(ServableVersions(self.store), version)

    def promote_from(self, store: ModelStore, version: int) -> None:
        """As everybody who gives traffic to a version: the plan first, the version then."""
        plan = self.control.plan(MODEL)
        self.promoter.apply(promote(plan, MODEL, version, store.get(MODEL, version).digest), **WORDS)

    def rollback(self) -> None:
        history = self.control.history(MODEL)
        self.promoter.apply(taken_back(history, MODEL, None, lambda: ServableVersions(self.store)), **WORDS)

    def test(self, version: int) -> None:
        plan = self.control.plan(MODEL)
        if plan:
            digest = ServableVersions(self.store).get(MODEL, version).digest
            experiment = Experiment("test", version, digest, 100)
            self.promoter.apply(with_experiment(plan, experiment, layer="l", salt="s"), **WORDS)

    def end_test(self) -> None:
        if plan := self.control.plan(MODEL):
            self.promoter.apply(without_experiment(plan, "test"), **WORDS)

    def override(self, version: int) -> None:
        if plan := self.control.plan(MODEL):
            digest = ServableVersions(self.store).get(MODEL, version).digest
            changed = msgspec.structs.replace(
                plan, revision=plan.revision + 1, overrides=(Override("ann", version, digest),)
            )
            self.promoter.apply(changed, **WORDS)

    def archive(self, version: int) -> None:
        self.retirement.archive(MODEL, version, NOW_MS)

    def unarchive(self, version: int) -> None:
        self.retirement.unarchive(MODEL, version)

    def collect(self, keep: int = 0, dry: bool = False, before_ms: int = NOW_MS + 1) -> Collected:
        return self.retirement.collect(
            MODEL, keep=keep, archived_before_ms=before_ms, who="ann", now_ms=NOW_MS, dry=dry
        )

    @property
    def stored(self) -> list[int]:
        return [stored.version for stored in self.store.versions(MODEL)]

    def serving(self) -> set[int]:
        """What answers."""
        plan = self.control.plan(MODEL)
        return set(plan.versions()) if plan else set()

    def rolled_back_to(self) -> set[int]:
        """What a rollback would let answer, if it is there."""
        return {previous_champion(self.control.history(MODEL))} & set(self.stored)


def test_an_archived_version_cannot_be_promoted_until_it_is_unarchived():
    registry = Registry(2)
    registry.promote(1)
    registry.archive(2)

    with pytest.raises(RefusedVersion, match="is archived: `sluice models unarchive codesearch 2` first"):
        registry.promote(2)
    registry.unarchive(2)
    registry.promote(2)
    assert registry.control.plan(MODEL).champion == 2  # type: ignore[union-attr]


def test_a_version_in_traffic_or_in_a_rollout_cannot_be_archived():
    registry = Registry(5)
    registry.promote(1)
    registry.test(2)
    registry.override(3)
    registry.rollouts.add(4)

    for version, told in (
        (1, "the champion"),
        (2, "in experiment 'test'"),
        (3, "for tester 'ann'"),
        (4, "in a rollout"),
    ):
        with pytest.raises(RefusedVersion, match=told):
            registry.archive(version)
    registry.archive(5)
    assert [stored.version for stored in registry.store.versions(MODEL) if stored.archived_ms] == [5]


def test_a_rollback_to_an_archived_version_is_refused():
    registry = Registry(2)
    registry.promote(1)
    registry.promote(2)
    registry.archive(1)

    with pytest.raises(RefusedVersion, match="version 1 of model 'codesearch' is archived"):
        registry.rollback()


def test_only_what_is_archived_and_not_in_use_is_deleted():
    registry = Registry(3)
    child = registry.register(parent=2)  # 4
    registry.register()  # 5
    for version in (1, 3, child):
        registry.promote(version)
    registry.store.set_alias(MODEL, "staging", 1)
    for version in (1, 2, 3, 5):
        registry.archive(version)

    assert registry.collect() == Collected(
        MODEL, (5,), {1: "alias 'staging'", 2: "the parent of 4", 3: "the champion that a rollback goes to"}
    )
    assert registry.stored == [1, 2, 3, 4]


def test_the_parent_of_a_version_that_could_be_promoted_stays():
    registry = Registry(2)
    registry.promote(1)
    child = registry.register(parent=2)
    registry.archive(2)
    assert registry.collect().kept == {2: f"the parent of {child}"}

    registry.archive(child)

    assert registry.collect().deleted == (2, child)


def test_a_version_in_a_rollout_is_kept():
    registry = Registry(2)
    registry.promote(1)
    registry.archive(2)
    registry.rollouts.add(2)

    assert registry.collect().kept == {2: "in a rollout"}


def test_the_newest_archived_ones_and_those_archived_lately_stay():
    registry = Registry(5)
    registry.promote(5)
    for version in (1, 2, 3):
        registry.archive(version)
    registry.store.archive(MODEL, 4, NOW_MS + 10)

    assert registry.collect(keep=2).deleted == (1, 2)
    assert registry.collect().kept == {4: "not archived long enough"}
    assert registry.stored == [4, 5]


def test_a_dry_run_says_what_would_go_and_changes_nothing():
    registry = Registry(3)
    registry.promote(1)
    registry.archive(2)
    revision = registry.control.plan(MODEL).revision  # type: ignore[union-attr]

    assert registry.collect(dry=True) == Collected(MODEL, (2,), {}, dry=True)
    assert registry.stored == [1, 2, 3]
    assert registry.control.plan(MODEL).revision == revision  # type: ignore[union-attr]


def test_a_collection_is_in_the_history_and_changes_no_traffic():
    registry = Registry(3)
    registry.promote(1)
    registry.promote(2)
    registry.archive(3)
    registry.collect()

    *_, before, change = registry.control.history(MODEL)
    assert (change.who, change.why) == ("ann", "delete archived versions 3: the plan stays as it is")
    assert msgspec.structs.replace(change.plan, revision=before.revision) == before.plan
    assert previous_champion(registry.control.history(MODEL)) == 1


def test_versions_of_a_model_that_never_had_traffic_are_kept():
    registry = Registry(1)
    registry.archive(1)

    assert list(registry.collect().kept) == [1]


class Crash(Exception):
    """The collection's process is gone."""


@dataclass
class Interrupted:
    """The store as a collection sees it: before each of its calls something else happens."""

    store: MemoryStore
    before: Callable[[str], None]

    def __getattr__(self, name: str) -> Any:
        self.before(name)
        return getattr(self.store, name)


def others(registry: Registry) -> dict[str, Callable[[int], object]]:
    """What people and rollouts do, by name."""
    return {
        "register": lambda version: registry.register(),
        "promote": registry.promote,
        "rollback": lambda version: registry.rollback(),
        "test": registry.test,
        "end test": lambda version: registry.end_test(),
        "override": registry.override,
        "archive": registry.archive,
        "unarchive": registry.unarchive,
    }


OFTEN = ("promote", "archive", "promote", "archive", "unarchive")  # what a loss is made of
ACTIONS = st.tuples(st.sampled_from(OFTEN) | st.sampled_from(sorted(others(Registry()))), st.integers(1, 3))


def act(registry: Registry, action: tuple[str, int]) -> None:
    with suppress(RefusedVersion, UnknownVersion, StaleRevision, ContractError, Conflict, NotThere):
        others(registry)[action[0]](action[1])


def test_the_champion_that_a_rollback_goes_to_is_kept_as_of_the_collection():
    """A rollback meanwhile makes an older one the next: archived, it could not have had traffic again."""
    registry = Registry(3)
    for version in (3, 1, 2):
        registry.promote(version)
    registry.archive(3)

    assert registry.collect().deleted == (3,)
    registry.rollback()
    assert registry.serving() == {1}
    with pytest.raises(UnknownVersion):
        registry.rollback()


@settings(max_examples=300)
@given(
    first=st.lists(ACTIONS, min_size=4, max_size=12),
    between=st.lists(st.lists(ACTIONS, max_size=2), max_size=15),
    crash_at=st.none() | st.integers(0, 15),
)
def test_whatever_happens_meanwhile_no_version_in_use_is_lost(
    first: list[tuple[str, int]], between: list[list[tuple[str, int]]], crash_at: int | None
):
    registry = Registry(3)
    for action in first:
        act(registry, action)
    calls = 0
    planned = iter(between)

    def meanwhile(_call: str) -> None:
        nonlocal calls
        for action in next(planned, []):
            act(registry, action)
            assert registry.serving() <= set(registry.stored)
        calls += 1
        if calls - 1 == crash_at:
            raise Crash

    retirement = registry.retirement_over(Interrupted(registry.store, meanwhile))
    with suppress(Crash, StaleRevision):
        retirement.collect(MODEL, keep=0, archived_before_ms=NOW_MS + 1, who="gc", now_ms=NOW_MS)

    assert registry.serving() <= set(registry.stored)
    for version in registry.serving():
        assert registry.store.package(MODEL, version)
    needed = registry.serving() | registry.rolled_back_to()
    registry.collect()  # after a crash: what is condemned is deleted, or spared
    assert needed <= set(registry.stored)
    if registry.control.plan(MODEL):
        assert not [stored for stored in registry.store.versions(MODEL) if stored.condemned]


@given(
    actions=st.lists(ACTIONS | st.just(("collect", 0)) | st.tuples(st.just("child of"), st.integers(1, 6)), max_size=40)
)
def test_what_may_be_promoted_keeps_its_parent(actions: list[tuple[str, int]]):
    registry = Registry(3)
    for name, version in actions:
        if name == "collect":
            before = registry.store.versions(MODEL)
            parents = {stored.manifest.lineage.parent for stored in before if stored.servable} & set(registry.stored)
            registry.collect()
            assert parents <= set(registry.stored)
        elif name == "child of":
            registry.register(parent=version)
        else:
            act(registry, (name, version))


def test_a_collection_decides_again_if_the_plan_changes_under_it():
    registry = Registry(4)
    registry.promote(1)
    registry.archive(2)
    registry.archive(3)

    def promote_2(call: str) -> None:
        """As by a promoter that asked for the version before it was archived."""
        if call == "condemn" and registry.control.plan(MODEL).champion != 2:  # type: ignore[union-attr]
            registry.promote_from(registry.store, 2)

    collected = registry.retirement_over(Interrupted(registry.store, promote_2)).collect(
        MODEL, keep=0, archived_before_ms=NOW_MS + 1, who="gc", now_ms=NOW_MS
    )

    assert collected == Collected(MODEL, (3,), {2: "the champion"})
    assert not registry.store.get(MODEL, 2).condemned


def test_who_decided_before_the_collection_has_lost():
    """He read the plan and the version, then the collection went through, then he changes the plan."""
    registry = Registry(3)
    registry.promote(1)
    plan = registry.control.plan(MODEL)
    assert plan
    digest = ServableVersions(registry.store).get(MODEL, 3).digest
    registry.archive(3)
    registry.collect()

    with pytest.raises(StaleRevision):
        registry.promoter.apply(with_experiment(plan, Experiment("t", 3, digest, 1), layer="l", salt="s"), **WORDS)
    with pytest.raises(UnknownVersion):
        registry.test(3)


def test_what_is_being_deleted_is_not_unarchived():
    registry = Registry(2)
    registry.promote(1)
    registry.archive(2)
    registry.store.condemn(MODEL, 2, wanted=True)

    with pytest.raises(RefusedVersion, match="is being deleted: register it again"):
        registry.unarchive(2)


def test_in_use_says_why_most_important_first():
    registry = Registry(3)
    registry.promote(1)
    registry.promote(2)
    registry.test(1)

    assert in_use(registry.control.plan(MODEL), registry.control.history(MODEL), (), {"champion": 2, "old": 3}) == {
        2: "the champion",
        1: "in experiment 'test'",
        3: "alias 'old'",
    }
