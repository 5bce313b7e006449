"""Adjusted p-values against SciPy's and the procedures step by step; what weights may and may not do."""

from typing import get_args

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from drift.corrections import adjusted, benjamini_hochberg, weights_of
from drift.moments import FloatArray
from drift.settings import Correction

CORRECTIONS: tuple[Correction, ...] = get_args(Correction)
p_values = hnp.arrays(np.float64, st.integers(1, 30), elements=st.floats(0, 1))
weighted = st.integers(1, 12).flatmap(
    lambda n: st.tuples(
        hnp.arrays(np.float64, n, elements=st.floats(0, 1)), hnp.arrays(np.float64, n, elements=st.floats(0.1, 10))
    )
)


@given(p_values)
def test_benjamini_hochberg_is_scipys(p: FloatArray) -> None:
    assert adjusted(p, "benjamini_hochberg") == pytest.approx(scipy.stats.false_discovery_control(p), abs=1e-12)


@given(p_values, st.sampled_from([0.001, 0.05, 0.2]))
def test_benjamini_hochberg_rejects_what_scipys_adjusted_p_values_do(p: FloatArray, alpha: float) -> None:
    theirs = scipy.stats.false_discovery_control(p)
    clear = np.abs(theirs - alpha) > 1e-12  # on the boundary rounding decides

    assert (benjamini_hochberg(p, alpha) == (theirs <= alpha))[clear].all()


@given(weighted, st.floats(0.01, 0.99))
def test_holm_is_its_step_down_procedure(of: tuple[FloatArray, FloatArray], alpha: float) -> None:
    p, weights = of
    rejected, left = set[int](), set(range(len(p)))
    while left:
        first = min(left, key=lambda at: p[at] / weights[at])
        allowed = alpha * weights[first] / sum(weights[list(left)])
        if abs(p[first] - allowed) < 1e-9:
            return  # on the boundary rounding decides
        if p[first] > allowed:
            break
        rejected.add(first)
        left.remove(first)

    assert set(np.flatnonzero(adjusted(p, "holm", weights) <= alpha).tolist()) == rejected


@given(p_values)
def test_holm_never_rejects_less_than_bonferroni_nor_more_than_benjamini_hochberg(p: FloatArray) -> None:
    bonferroni, holm, hochberg = (adjusted(p, each) for each in ("bonferroni", "holm", "benjamini_hochberg"))

    assert (holm <= bonferroni + 1e-12).all()
    assert (hochberg <= holm + 1e-12).all()


@pytest.mark.parametrize("correction", CORRECTIONS)
@given(of=weighted, scale=st.floats(0.1, 10))
def test_only_relative_weights_count(correction: Correction, of: tuple[FloatArray, FloatArray], scale: float) -> None:
    p, weights = of

    assert adjusted(p, correction, weights * scale) == pytest.approx(adjusted(p, correction, weights), abs=1e-9)
    assert adjusted(p, correction, np.full(len(p), scale)) == pytest.approx(adjusted(p, correction), abs=1e-9)


@pytest.mark.parametrize("correction", ["holm", "bonferroni"])
def test_the_chance_of_any_false_alarm_is_the_budgets_however_it_is_split(correction: Correction) -> None:
    """20,000 families of 20 quiet quantities: 5 % +- 4 standard errors (0.15 points each)."""
    rng = np.random.default_rng(1)
    weights = weights_of(rng.exponential(size=20))
    wrong = [(adjusted(rng.random(20), correction, weights) <= 0.05).any() for _ in range(20_000)]

    assert np.mean(wrong) == pytest.approx(0.05, abs=0.0062)


def test_more_weight_finds_more() -> None:
    p = np.array([0.01, 0.01])

    assert (adjusted(p, "bonferroni", np.array([3.0, 1.0])) <= 0.015).tolist() == [True, False]


def test_weights_are_bounded_so_that_nothing_is_given_up_on() -> None:
    assert weights_of(np.array([0.0, 0.0, 300.0, 0.0])).tolist() == [0.1, 0.1, 4.0, 0.1]
    assert weights_of(np.zeros(3)).tolist() == [1.0, 1.0, 1.0]
    assert weights_of(np.zeros(0)).tolist() == []


@pytest.mark.parametrize("correction", CORRECTIONS)
def test_nothing_to_adjust_is_nothing(correction: Correction) -> None:
    assert adjusted(np.zeros(0), correction).tolist() == []


def test_weights_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="one each"):
        adjusted(np.zeros(2), "holm", np.ones(3))
    with pytest.raises(ValueError, match="all above 0"):
        adjusted(np.zeros(2), "holm", np.array([1.0, 0.0]))
