"""The shelf: champions first, ready when all of them are there, patient with what fails."""

import logging
from collections.abc import Callable
from itertools import pairwise

import pytest
from prometheus_client import REGISTRY

from registry.contracts.traffic import TrafficPlan
from serving.budget import UNLIMITED, MemoryBudget
from serving.footprint import Footprint
from serving.scoring import LoadedModel
from serving.shelf import LEAVE_S, MAX_RETRY_S, Shelf
from tests.builders import a_plan, a_tested_plan
from tests.serving.workbench import a_loaded_model

UNLOAD_AFTER_S = 30.0


def with_challenger(model: str = "codesearch") -> TrafficPlan:
    return a_tested_plan(model, weight=100)


class Bench:
    """A shelf, its clock, what it loaded, and what shall not load."""

    def __init__(self, budget: MemoryBudget = UNLIMITED) -> None:
        self.now_s = 1000.0
        self.loaded: list[str] = []
        self.broken: set[str] = set()
        self.seen: list[tuple[list[str], bool]] = []
        self.meanwhile: Callable[[], None] = lambda: None
        self.megabytes: dict[str, int] = {}
        self.shelf = Shelf(self._load, self._changed, UNLOAD_AFTER_S, lambda: self.now_s, budget)

    def follow(self, *plans: TrafficPlan) -> None:
        self.shelf.follow({plan.model: plan for plan in plans})
        self.shelf.settle()

    def after(self, seconds: float) -> None:
        self.now_s += seconds
        self.shelf.settle()

    @property
    def held(self) -> list[str]:
        return [f"{loaded.model}@{loaded.version}" for _, loaded in sorted(self.shelf.stock.slots.items())]

    @property
    def leaving(self) -> list[str]:
        return [f"{loaded.model}@{loaded.version}" for _, loaded in sorted(self.shelf.stock.leaving.items())]

    @property
    def failures(self) -> dict[str, str]:
        return {f"{failed.model}@{failed.version}": failed.reason for failed in self.shelf.stock.state("w", 1).failures}

    @property
    def ready(self) -> bool:
        return self.shelf.stock.ready

    def _load(self, model: str, version: int, digest: str) -> LoadedModel:
        name = f"{model}@{version}"
        self.loaded.append(name)
        self.meanwhile()
        if name in self.broken:
            raise RuntimeError(f"{name}: PytorchStreamReader failed")
        loaded = a_loaded_model(model=model, version=version, digest=digest)
        loaded.footprint = Footprint(program_bytes=self.megabytes.get(name, 0) * 10**6)
        return loaded

    def _changed(self) -> None:
        self.seen.append((self.held, self.ready))


@pytest.fixture
def bench() -> Bench:
    return Bench()


def failed_loads(model: str) -> float:
    return REGISTRY.get_sample_value("serving_failed_loads_total", {"model": model}) or 0.0


def test_an_empty_shelf_is_not_ready(bench: Bench) -> None:
    bench.shelf.settle()

    assert (bench.held, bench.ready, bench.seen) == ([], False, [])


def test_champions_are_loaded_before_challengers(bench: Bench) -> None:
    bench.follow(with_challenger("a"), with_challenger("b"))

    assert bench.loaded == ["a@1", "b@1", "a@2", "b@2"]


def test_the_shelf_is_ready_when_the_last_champion_is_loaded(bench: Bench) -> None:
    bench.follow(with_challenger("a"), a_plan("b"))

    assert bench.seen == [(["a@1"], False), (["a@1", "b@1"], True), (["a@1", "b@1", "a@2"], True)]


def test_a_new_champion_is_loaded_while_the_old_one_stays(bench: Bench) -> None:
    bench.follow(a_plan(revision=1, champion=1))
    bench.follow(a_plan(revision=2, champion=2))

    assert (bench.held, bench.ready) == (["codesearch@1", "codesearch@2"], True)


def test_settling_again_changes_nothing(bench: Bench) -> None:
    bench.follow(with_challenger())
    seen = list(bench.seen)
    bench.after(1.0)

    assert (bench.seen, bench.loaded) == (seen, ["codesearch@1", "codesearch@2"])


@pytest.mark.parametrize("broken", ["a@1", "a@2"])
def test_a_version_that_cannot_be_loaded_stops_no_other(
    bench: Bench, broken: str, caplog: pytest.LogCaptureFixture
) -> None:
    bench.broken = {broken}
    before = failed_loads("a")
    bench.follow(with_challenger("a"), a_plan("b"))

    assert bench.held == [name for name in ("a@1", "b@1", "a@2") if name != broken]
    assert bench.ready == (broken == "a@2")
    assert failed_loads("a") - before == 1
    [told] = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert told == f"could not load {broken}, next try in 1 s"


def test_what_failed_is_tried_again_ever_more_seldom_but_for_ever(bench: Bench) -> None:
    bench.broken = {"codesearch@1"}
    bench.follow(a_plan())
    tries_until = [len(bench.loaded)]
    for _ in range(10):
        for _ in range(60):
            bench.after(1.0)
        tries_until.append(len(bench.loaded))

    in_a_minute = [after - before for before, after in pairwise(tries_until)]
    assert in_a_minute[0] > in_a_minute[-1] == 60 / MAX_RETRY_S
    bench.broken = set()
    bench.after(MAX_RETRY_S)
    assert bench.ready


def test_a_new_plan_tries_what_failed_at_once(bench: Bench) -> None:
    bench.broken = {"codesearch@1"}
    bench.follow(a_plan(revision=1))
    bench.broken = set()

    bench.follow(a_plan(revision=2))

    assert bench.ready


def test_a_version_that_no_plan_names_is_dropped_after_its_time(bench: Bench) -> None:
    bench.follow(a_plan(revision=1, champion=1))
    bench.follow(a_plan(revision=2, champion=2))

    bench.after(UNLOAD_AFTER_S - 1)
    assert bench.held == ["codesearch@1", "codesearch@2"]

    bench.after(1.0)
    assert (bench.held, bench.ready) == (["codesearch@2"], True)
    assert bench.seen[-1] == (["codesearch@2"], True)


def test_a_version_that_is_wanted_again_in_time_is_not_loaded_again(bench: Bench) -> None:
    bench.follow(a_plan(revision=1, champion=1))
    bench.follow(a_plan(revision=2, champion=2))
    bench.after(UNLOAD_AFTER_S - 1)
    bench.follow(a_plan(revision=3, champion=1))

    bench.after(UNLOAD_AFTER_S - 1)
    assert bench.held == ["codesearch@1", "codesearch@2"]
    bench.after(1.0)
    assert bench.held == ["codesearch@1"]
    assert bench.loaded == ["codesearch@1", "codesearch@2"]


def test_a_rollback_during_a_load_keeps_what_it_rolls_back_to(bench: Bench) -> None:
    bench.follow(a_plan(revision=1, champion=1))
    bench.follow(a_plan(revision=2, champion=2))
    bench.now_s += UNLOAD_AFTER_S
    bench.meanwhile = lambda: bench.shelf.follow({"codesearch": a_plan(revision=4, champion=1)})
    bench.follow(a_plan(revision=3, champion=3))

    assert "codesearch@1" in bench.held


def test_a_slot_never_changes_its_meaning(bench: Bench) -> None:
    bench.follow(a_plan(revision=1, champion=1))
    bench.follow(a_plan(revision=2, champion=2))
    bench.after(UNLOAD_AFTER_S)
    bench.follow(a_plan(revision=3, champion=1))

    assert {slot: loaded.version for slot, loaded in bench.shelf.stock.slots.items()} == {1: 2, 2: 1}


def test_another_digest_of_the_same_version_is_another_load(bench: Bench) -> None:
    bench.follow(a_plan(revision=1))
    bench.follow(a_plan(revision=2, champion_digest="f" * 64))

    assert [loaded.digest for loaded in bench.shelf.stock.slots.values()] == [f"{1:064x}", "f" * 64]


def test_gateways_are_told_what_is_held_and_what_its_columns_are(bench: Bench) -> None:
    bench.follow(a_plan())

    state = bench.shelf.stock.state("worker-0", pid=42)

    assert (state.replica, state.pid, state.ready) == ("worker-0", 42, True)
    [loaded] = state.versions
    assert (loaded.slot, loaded.model, loaded.version) == (0, "codesearch", 1)
    assert loaded.columns == ("length", "match", "query_words")
    assert loaded.sources == ("row", "candidate", "query")


def test_an_old_champion_stays_as_long_as_the_new_one_cannot_be_loaded(bench: Bench) -> None:
    bench.follow(a_plan(revision=1, champion=1))
    bench.broken = {"codesearch@2"}
    bench.follow(a_plan(revision=2, champion=2))

    bench.after(10 * UNLOAD_AFTER_S)

    assert (bench.held, bench.ready) == (["codesearch@1"], True)


def test_what_is_dropped_is_not_told_any_more_and_answers_a_little_longer(bench: Bench) -> None:
    bench.follow(a_plan(revision=1, champion=1))
    bench.follow(a_plan(revision=2, champion=2))
    bench.after(UNLOAD_AFTER_S)

    assert (bench.held, bench.leaving) == (["codesearch@2"], ["codesearch@1"])
    assert bench.shelf.stock.at(0) is not None

    bench.after(LEAVE_S)
    assert (bench.held, bench.leaving) == (["codesearch@2"], [])
    assert bench.shelf.stock.at(0) is None


def test_a_model_held_back_goes_at_once_and_another_stays(bench: Bench) -> None:
    bench.follow(with_challenger("a"), a_plan("b"))
    bench.shelf.hold_back(frozenset({"a"}))
    bench.after(0.0)

    assert (bench.held, bench.leaving, bench.ready) == (["b@1"], ["a@1", "a@2"], True)


def test_a_model_held_back_before_its_plan_is_not_loaded(bench: Bench) -> None:
    bench.shelf.hold_back(frozenset({"a"}))
    bench.follow(a_plan("a"), a_plan("b"))

    assert bench.loaded == ["b@1"]


def test_a_model_that_is_wanted_again_is_loaded_again_by_the_same_plan(bench: Bench) -> None:
    bench.follow(a_plan())
    bench.shelf.hold_back(frozenset({"codesearch"}))
    bench.after(0.0)
    assert bench.held == []

    bench.shelf.hold_back(frozenset())
    bench.after(0.0)
    assert (bench.held, bench.ready) == (["codesearch@1"], True)


def test_a_shelf_that_is_to_hold_nothing_is_ready(bench: Bench) -> None:
    bench.follow(a_plan())
    bench.shelf.hold_back(frozenset({"codesearch"}))
    bench.after(0.0)

    assert bench.ready


def test_gateways_are_told_why_a_version_is_not_there(bench: Bench) -> None:
    bench.broken = {"a@2"}
    bench.follow(with_challenger("a"))
    assert bench.failures == {"a@2": "a@2: PytorchStreamReader failed"}

    bench.broken = set()
    bench.after(MAX_RETRY_S)
    assert bench.failures == {}


def test_a_version_over_its_models_budget_is_refused_and_what_serves_stays() -> None:
    bench = Bench(MemoryBudget({"codesearch": 100 * 10**6}))
    bench.megabytes = {"codesearch@1": 60, "codesearch@2": 60}
    bench.follow(a_plan(revision=1, champion=1))
    bench.follow(a_plan(revision=2, champion=2))

    assert (bench.held, bench.ready) == (["codesearch@1"], True)
    assert bench.failures == {
        "codesearch@2": "120 MB needed (60 MB more than its other versions take), the budget is 100 MB: "
        "raise it in SLUICE_MODEL_BUDGETS"
    }
    bench.after(10 * UNLOAD_AFTER_S)
    assert bench.held == ["codesearch@1"]


def test_what_did_not_fit_is_loaded_again_only_when_there_is_room() -> None:
    bench = Bench(MemoryBudget({"codesearch": 130 * 10**6}))
    bench.megabytes = {"codesearch@1": 60, "codesearch@2": 60, "codesearch@3": 60}
    bench.follow(a_plan(revision=1, champion=1))
    bench.follow(a_plan(revision=2, champion=2))
    bench.follow(a_plan(revision=3, champion=3))
    for _ in range(int(UNLOAD_AFTER_S) - 1):
        bench.after(1.0)
    assert bench.held == ["codesearch@1", "codesearch@2"]
    assert bench.loaded == ["codesearch@1", "codesearch@2", "codesearch@3"]

    for _ in range(5):  # the lingering version goes, the one that serves does not
        bench.after(1.0)
    assert bench.held == ["codesearch@2", "codesearch@3"]


def test_no_models_load_costs_another_model_anything() -> None:
    bench = Bench(MemoryBudget({"a": 100 * 10**6}, total_bytes=200 * 10**6))
    bench.megabytes = {"a@1": 50, "b@1": 50, "c@1": 60, "b@2": 40}
    bench.follow(a_plan("b"))
    bench.follow(a_plan("b"), a_plan("c"))
    bench.follow(a_plan("b"), a_plan("c"), a_plan("a"))

    assert (bench.held, bench.ready) == (["b@1", "a@1"], False)
    assert bench.failures == {
        "c@1": "60 MB needed, 50 MB left of the device's 200 MB: unload a model, or give it a budget in "
        "SLUICE_MODEL_BUDGETS"
    }


def test_a_champion_gets_the_room_before_a_challenger() -> None:
    bench = Bench(MemoryBudget({"a": 100 * 10**6}))
    bench.megabytes = {"a@1": 60, "a@2": 60}
    bench.follow(with_challenger("a"))

    assert (bench.held, bench.ready) == (["a@1"], True)


def test_the_room_of_a_model_held_back_is_free_for_others() -> None:
    bench = Bench(MemoryBudget(total_bytes=100 * 10**6))
    bench.megabytes = {"a@1": 60, "b@1": 60}
    bench.follow(a_plan("a"), a_plan("b"))
    assert bench.held == ["a@1"]

    bench.shelf.hold_back(frozenset({"a"}))
    for _ in range(10):
        bench.after(1.0)
    assert bench.held == ["b@1"]
