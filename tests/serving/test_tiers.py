"""The tiers of a worker go with the last version that needs them."""

import gc
import weakref
from dataclasses import replace

import numpy as np
from prometheus_client import REGISTRY

from registry.contracts.features import FeatureView
from serving.features.host import HostTier
from serving.features.memory import MemoryTier
from serving.features.tiers import Tiers
from serving.loaded import LoadedProgram
from serving.scoring import LoadedModel
from serving.shelf import LEAVE_S, Shelf
from tests.builders import NOW_MS, a_plan
from tests.serving.workbench import SumOfFeatures, a_loaded_model
from tests.suites.tier_suite import DEFAULTS, VIEW, keys_of

UNLOAD_AFTER_S = 30.0
OTHER = replace(VIEW, name="others")
VIEWS = {"a": VIEW, "b": VIEW, "c": OTHER}


class Bench:
    """A shelf whose versions rank over tiers: models a and b share a view, c has one of its own."""

    def __init__(self) -> None:
        self.now_s, self.tiers = 1000.0, Tiers()
        self.made: list[weakref.ref[HostTier]] = []
        self.released: list[str] = []
        self.broken = False
        self.shelf = Shelf(self._load, lambda: None, UNLOAD_AFTER_S, lambda: self.now_s, kept=self._kept)

    def follow(self, *models: str, after_s: float = 0.0) -> None:
        """Plans for these models alone, so many seconds later."""
        self.now_s += after_s
        self.shelf.follow({model: a_plan(model) for model in models})
        self.shelf.settle()

    @property
    def alive(self) -> list[bool]:
        """Whether the tiers that were made are still in memory."""
        gc.collect()
        return [tier() is not None for tier in self.made]

    def _load(self, model: str, version: int, digest: str) -> LoadedProgram:
        view = VIEWS[model]
        tier = self.tiers.of(view.name, view.fingerprint, lambda: self._tier(view))
        tier.fetch(keys_of("item-1"))
        if self.broken:
            raise RuntimeError("it does not warm up")
        loaded = a_loaded_model(SumOfFeatures(), tier, view, version, digest, model)
        loaded.release = lambda: self.released.append(model)
        return loaded

    def _tier(self, view: FeatureView) -> HostTier:
        rows = {"item-1": np.ones(len(DEFAULTS), np.float32)}
        tier = HostTier(view.name, MemoryTier(view, rows, NOW_MS), 64, DEFAULTS)
        self.made.append(weakref.ref(tier))
        return tier

    def _kept(self, held: object) -> None:
        assert isinstance(held, list)
        self.tiers.keep({loaded.view.fingerprint for loaded in held if isinstance(loaded, LoadedModel)})


def rows_held(view: FeatureView) -> float:
    return REGISTRY.get_sample_value("serving_tier_rows", {"view": view.name}) or 0.0


def test_a_views_rows_leave_memory_with_the_last_version_that_ranks_by_it() -> None:
    bench = Bench()
    bench.follow("a", "b", "c")
    assert (bench.alive, rows_held(VIEW), rows_held(OTHER)) == ([True, True], 1, 1)

    bench.follow("b", "c")
    bench.follow("b", "c", after_s=UNLOAD_AFTER_S)
    bench.follow("b", "c", after_s=LEAVE_S)
    assert (bench.alive, bench.released) == ([True, True], ["a"])

    bench.follow("c")
    bench.follow("c", after_s=UNLOAD_AFTER_S)
    assert bench.alive == [True, True]  # what was sent before it left is still to be answered
    bench.follow("c", after_s=LEAVE_S)

    assert (bench.alive, bench.released) == ([False, True], ["a", "b"])
    assert (rows_held(VIEW), rows_held(OTHER)) == (0, 1)


def test_a_view_that_comes_back_gets_a_new_tier_which_hears_of_changes() -> None:
    bench = Bench()
    bench.follow("a", "c")
    for after_s in (0.0, UNLOAD_AFTER_S, LEAVE_S):
        bench.follow("c", after_s=after_s)
    bench.follow("a", "c")

    [_, _, again] = bench.made
    tier = again()
    assert tier is not None
    assert tier.size == 1
    bench.tiers.changed(VIEW.name, keys_of("item-1").hashes.tolist())
    bench.tiers.apply_changes()
    assert tier.size == 0


def test_a_version_that_does_not_load_leaves_no_tier_behind() -> None:
    bench = Bench()
    bench.broken = True
    bench.follow("a")
    assert rows_held(VIEW) == 0

    bench.broken = False
    bench.follow("a")

    assert (len(bench.made), rows_held(VIEW)) == (2, 1)
