"""Memory of a device shared by models: nobody takes what was promised to another."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.budget import MemoryBudget, parse_bytes
from serving.by_model import parse_by_model
from serving.footprint import Footprint, PeakMemory, together

MODELS = ["a", "b", "c", "d"]

footprints = st.builds(
    Footprint,
    st.integers(0, 100),
    st.integers(0, 50),
    st.dictionaries(st.sampled_from(["x", "y"]), st.just(30), max_size=2),
)


@given(st.lists(st.tuples(st.sampled_from(MODELS), footprints), max_size=30))
def test_what_is_admitted_never_exceeds_a_budget_or_the_device(asked: list[tuple[str, Footprint]]) -> None:
    budget = MemoryBudget({"a": 200, "b": 100}, total_bytes=500)
    held: dict[str, list[Footprint]] = {}
    for model, footprint in asked:
        if not budget.refusal(model, held, footprint):
            held.setdefault(model, []).append(footprint)

        taken = {name: together(prints) for name, prints in held.items()}
        assert taken.get("a", 0) <= 200
        assert taken.get("b", 0) <= 100
        assert sum(taken.values()) <= 500
        assert taken.get("c", 0) + taken.get("d", 0) <= 500 - 300


@given(st.lists(st.tuples(st.sampled_from(["b", "c"]), footprints), max_size=30), footprints)
def test_what_a_model_was_promised_is_there_whatever_the_others_did(
    asked: list[tuple[str, Footprint]], wanted: Footprint
) -> None:
    budget = MemoryBudget({"a": 250}, total_bytes=400)
    held: dict[str, list[Footprint]] = {}
    for model, footprint in asked:
        if not budget.refusal(model, held, footprint):
            held.setdefault(model, []).append(footprint)

    assert (budget.refusal("a", held, wanted) == "") == (together([wanted]) <= 250)


@given(st.lists(footprints, max_size=6), footprints)
def test_more_versions_take_more_and_no_more_than_each_alone(several: list[Footprint], one: Footprint) -> None:
    assert together(several) <= together([*several, one]) <= together(several) + together([one])


def test_without_a_budget_and_a_total_nothing_is_refused() -> None:
    assert MemoryBudget().refusal("a", {"a": [Footprint(10**15)]}, Footprint(10**15)) == ""


def test_more_than_the_device_cannot_be_promised() -> None:
    with pytest.raises(ValueError, match="model_budgets: 3000 MB promised, expected at most the device's 2000 MB"):
        MemoryBudget({"a": 1 * 10**9, "b": 2 * 10**9}, total_bytes=2 * 10**9)


@pytest.mark.parametrize("text", ["", "GB", "2XB", "-1GB", "1,5GB", "2 GB each"])
def test_a_size_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="expected a size as"):
        parse_bytes(text)


@pytest.mark.parametrize("text", ["a", "a=", "=1", "a=1,a=2"])
def test_what_does_not_name_a_value_for_each_model_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="expected model=value"):
        parse_by_model(text)


def test_the_peak_of_memory_is_seen_although_it_was_given_back() -> None:
    size = 200 << 20
    with PeakMemory("cpu") as memory:
        block = np.ones(size // 8)
        del block

    assert 0.9 * size < memory.bytes < 2 * size
