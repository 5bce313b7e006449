"""The classifier test finds what can be told apart, list by list, names it, and says nothing where there is nothing."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from drift.joint.explain import explain
from drift.joint.two_sample import JointSettings, Lists, auc, tell_apart

NAMES = tuple(f"f{i}" for i in range(6))
FAST = JointSettings(most_lists=150, trees=15, permutations=499)
Change = Callable[[NDArray[np.float64], np.random.Generator], None]


def unchanged(rows: NDArray[np.float64], rng: np.random.Generator) -> None:
    pass


def lists(seed: int, count: int = 150, change: Change = unchanged, day_sd: float = 0.0) -> Lists:
    """Rows of a list share what its query is like, and those of a day what the day was like."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, 9, size=count)
    of_query = np.repeat(rng.normal(size=(count, len(NAMES))), sizes, axis=0)
    rows = of_query + rng.normal(size=of_query.shape) + day_sd * rng.normal(size=len(NAMES))
    change(rows, rng)
    return Lists(rows.astype(np.float32), sizes)


def shifted(rows: NDArray[np.float64], rng: np.random.Generator) -> None:
    rows[:, 2] += 1.2


def holed(rows: NDArray[np.float64], rng: np.random.Generator) -> None:
    rows[rng.random(len(rows)) < 0.3, 4] = np.nan


def correlated(rows: NDArray[np.float64], rng: np.random.Generator) -> None:
    """No feature's own distribution changes: of the second and third, the signs go together."""
    rows[:, 2] = np.abs(rows[:, 2]) * np.sign(rows[:, 1])


def doubled(rows: NDArray[np.float64], rng: np.random.Generator) -> None:
    rows[:, 2] += 1.2
    rows[:, 3] = rows[:, 2]


@given(hnp.arrays(np.float64, 12, elements=st.integers(0, 5).map(float)), st.integers(1, 11))
def test_the_area_is_scikit_learns(scores: NDArray[np.float64], positives: int) -> None:
    is_current = np.arange(12) < positives

    assert auc(scores, is_current) == pytest.approx(roc_auc_score(is_current, scores))


@pytest.mark.parametrize("change", [shifted, holed, correlated])
def test_what_changed_is_told_apart(change: Change) -> None:
    found = tell_apart(lists(1), lists(2, change=change), JointSettings(most_lists=150, trees=30), seed=0)

    assert found.p_value <= 0.01
    assert found.auc > 0.6


def test_with_nothing_to_find_it_rejects_no_more_often_than_it_says() -> None:
    """40 tests of lists whose rows are alike: at 20 % at most 8 rejections are expected, and 4 standard errors more
    allowed."""
    found = [tell_apart(lists(2 * seed, 80), lists(2 * seed + 1, 80), FAST, seed) for seed in range(100, 140)]

    assert sum(one.p_value <= 0.2 for one in found) <= 8 + 4 * np.sqrt(40 * 0.2 * 0.8)
    assert np.mean([one.auc for one in found]) == pytest.approx(0.5, abs=0.04)


def test_the_same_lists_and_seed_are_the_same_figures() -> None:
    first, again = (tell_apart(lists(5), lists(6, change=shifted), FAST, seed=3) for _ in range(2))

    assert (first.auc, first.p_value) == (again.auc, again.p_value)


def test_the_larger_side_is_drawn_from() -> None:
    assert tell_apart(lists(1, 40), lists(2, 400), FAST, seed=0).lists == 40


@pytest.mark.parametrize(("change", "at"), [(shifted, {"f2"}), (holed, {"f4"})])
def test_the_feature_that_changed_is_named_and_explains_all(change: Change, at: set[str]) -> None:
    found = explain([lists(seed, 80, day_sd=0.02) for seed in range(4)], lists(9, change=change), NAMES, FAST, seed=0)

    assert found.is_unusual
    assert {one.feature for one in found.named} == at
    assert found.explained
    [named] = found.named
    assert named.auc_without < found.auc
    assert named.shift == pytest.approx(1.2 / np.sqrt(2), abs=0.3) if change is shifted else named.missing > 0.2


def test_two_copies_of_what_changed_are_both_named() -> None:
    found = explain([lists(seed, 80) for seed in range(3)], lists(9, change=doubled), NAMES, FAST, seed=0)

    assert {one.feature for one in found.named} >= {"f2", "f3"}
    assert found.explained


def test_a_day_like_the_others_is_not_unusual_and_nothing_is_named() -> None:
    """Days lie as far apart as this one: significance alone would call it drift."""
    days = [lists(seed, 150, day_sd=0.5) for seed in range(20, 25)]

    found = explain(days, lists(31, 150, day_sd=0.3), NAMES, FAST, seed=0)

    assert len(found.usual) == 5
    assert not found.is_unusual
    assert found.named == ()


def test_progress_is_told_to_its_end() -> None:
    told: list[tuple[int, int]] = []
    explain([lists(1, 40)], lists(2, 40), NAMES, FAST, seed=0, progress=lambda done, of: told.append((done, of)))

    assert [done for done, _ in told] == sorted(done for done, _ in told)
    assert told[-1][0] == told[-1][1]


@given(st.lists(st.integers(1, 5), min_size=1, max_size=8), st.data())
def test_taken_lists_are_those(sizes: list[int], data: st.DataObject) -> None:
    rows = np.arange(sum(sizes), dtype=np.float32)[:, None]
    given_ = Lists(rows, np.array(sizes))
    places = data.draw(st.lists(st.integers(0, len(sizes) - 1), min_size=1, max_size=6))
    parts = np.split(rows, np.cumsum(sizes)[:-1])

    taken = given_.take(np.array(places))

    assert taken.rows.tolist() == np.concatenate([parts[place] for place in places]).tolist()
    fewer = given_.fewer(2, np.random.default_rng(0))
    assert fewer.sizes.tolist() == [min(size, 2) for size in sizes]
    kept = np.split(fewer.rows, np.cumsum(fewer.sizes)[:-1])
    assert all(set(k.ravel().tolist()) <= set(p.ravel().tolist()) for k, p in zip(kept, parts, strict=True))


def test_lists_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="2 lists of 3 rows"):
        Lists(np.zeros((4, 2), dtype=np.float32), np.array([1, 2]))
    with pytest.raises(ValueError, match="expected at least 4 of each"):
        tell_apart(lists(1, 3), lists(2), FAST, seed=0)
    with pytest.raises(ValueError, match="expected the same"):
        tell_apart(lists(1), Lists(np.zeros((150, 2), dtype=np.float32), np.ones(150, dtype=np.int64)), FAST, seed=0)
    with pytest.raises(ValueError, match=r"joint\.folds=1: expected 2 to 20"):
        JointSettings(folds=1)
