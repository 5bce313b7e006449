"""Group-sequential boundaries against published tables, scipy's normal integrals, and simulated walks."""

from math import inf

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import multivariate_normal, norm

from pipelines.gates.spending import Sides, Spending, boundaries, crossing, spent

LOOKS = 14


def amounts(shape: Spending, alpha: float, looks: int, sides: Sides = 1) -> list[float]:
    return [spent(shape, alpha, (look + 1) / looks, sides) for look in range(looks)]


def walks(information: list[float], runs: int, effect: float, seed: int) -> np.ndarray:
    """z statistics of simulated estimates. Shape (runs, looks)."""
    steps = np.diff([0.0, *information])
    noise = np.random.default_rng(seed).normal(size=(runs, len(steps)))
    score = (effect * steps + noise * np.sqrt(steps)).cumsum(axis=1)
    return score / np.sqrt(information)


def test_boundaries_are_those_of_the_published_tables() -> None:
    """Two-sided 5 %, five equal looks, Lan-DeMets: Reboussin et al., Controlled Clin. Trials 21(3), 2000."""
    obrien = boundaries([1, 2, 3, 4, 5], amounts("obrien_fleming", 0.05, 5, 2), 2)
    pocock = boundaries([1, 2, 3, 4, 5], amounts("pocock", 0.05, 5, 2), 2)

    assert obrien == pytest.approx([4.8769, 3.3569, 2.6803, 2.2898, 2.0310], abs=2e-4)
    assert pocock == pytest.approx([2.4380, 2.4268, 2.4101, 2.3966, 2.3859], abs=2e-4)


@pytest.mark.parametrize("sides", [1, 2])
def test_two_looks_agree_with_scipys_bivariate_normal(sides: Sides) -> None:
    information, used = [1.0, 2.7], [0.02, 0.05]
    first, second = boundaries(information, used, sides)
    correlation = np.sqrt(information[0] / information[1])
    below = -np.array([first, second]) if sides == 2 else np.array([-inf, -inf])

    stays = multivariate_normal.cdf(
        [first, second], [0, 0], [[1, correlation], [correlation, 1]], abseps=1e-9, releps=1e-9, lower_limit=below
    )

    assert first == pytest.approx(norm.isf(0.02 / sides), abs=1e-9)
    assert 1 - stays == pytest.approx(0.05, abs=1e-7)


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.floats(0.4, 5.0), min_size=1, max_size=8),
    st.sampled_from(["obrien_fleming", "pocock"]),
    st.sampled_from([1, 2]),
    st.floats(0.01, 0.2),
)
def test_what_is_spent_is_what_crosses_without_an_effect_however_unequal_the_looks(
    steps: list[float], shape: Spending, sides: Sides, alpha: float
) -> None:
    information = np.cumsum(steps).tolist()
    used = amounts(shape, alpha, len(steps), sides)
    upper = boundaries(information, used, sides)

    left = crossing(information, upper, 0.0, [-z for z in upper] if sides == 2 else None)

    assert (left.above + left.below).cumsum() == pytest.approx(used, abs=1e-9)


def test_boundaries_do_not_depend_on_the_unit_of_information() -> None:
    used = amounts("pocock", 0.05, 3)

    assert boundaries([1, 3, 4], used) == pytest.approx(boundaries([250, 750, 1000], used), rel=1e-9)


@pytest.mark.parametrize("shape", ["obrien_fleming", "pocock"])
@pytest.mark.parametrize("sides", [1, 2])
def test_fourteen_looks_cross_by_chance_as_often_as_stated(shape: Spending, sides: Sides) -> None:
    runs, information = 40_000, np.cumsum(np.random.default_rng(1).uniform(0.5, 2, LOOKS)).tolist()
    bounds = boundaries(information, amounts(shape, 0.05, LOOKS, sides), sides)
    z = walks(information, runs, 0.0, seed=2)

    crossed = ((np.abs(z) if sides == 2 else z) > bounds).any(axis=1).mean()

    assert crossed == pytest.approx(0.05, abs=3.5 * np.sqrt(0.05 * 0.95 / runs))


def test_power_by_recursion_is_that_of_simulated_walks() -> None:
    runs, information = 40_000, [2.0 * (look + 1) for look in range(LOOKS)]
    bounds = boundaries(information, amounts("obrien_fleming", 0.05, LOOKS))
    z = walks(information, runs, 0.5, seed=3)

    by_look = crossing(information, bounds, 0.5).by_look
    simulated = (z > bounds).cumsum(axis=1).clip(max=1).mean(axis=0)

    assert simulated == pytest.approx(by_look, abs=3.5 * 0.5 / np.sqrt(runs))
    assert 0.7 < by_look[-1] < 0.9


def test_a_lower_boundary_takes_its_walks_out_before_they_can_cross_above() -> None:
    runs, information = 40_000, [1.0, 2.0, 3.0, 4.0]
    upper, lower = [2.5, 2.4, 2.2, 2.0], [-0.5, 0.2, 0.8, 2.0]
    z = walks(information, runs, 0.8, seed=4)
    out = (z > upper) | (z < lower)
    first = out.argmax(axis=1)

    left = crossing(information, upper, 0.8, lower)
    above = np.bincount(first[(z > upper)[np.arange(runs), first]], minlength=4) / runs

    assert left.above.sum() + left.below.sum() == pytest.approx(1.0, abs=1e-9)
    assert above == pytest.approx(left.above, abs=3.5 * 0.5 / np.sqrt(runs))


def test_intervals_as_wide_as_the_boundaries_hold_the_truth_at_all_looks_at_once() -> None:
    """Jennison & Turnbull, JRSS B 51(3), 1989: what `online` gives as the interval adjusted for looking."""
    runs, effect, information = 20_000, 0.4, [1.5 * (look + 1) for look in range(LOOKS)]
    bounds = boundaries(information, amounts("pocock", 0.05, LOOKS, 2), 2)
    estimates = walks(information, runs, effect, seed=5) / np.sqrt(information)

    held = (np.abs(estimates - effect) <= bounds / np.sqrt(information)).all(axis=1).mean()

    assert held == pytest.approx(0.95, abs=3.5 * np.sqrt(0.05 * 0.95 / runs))


def test_a_look_with_nothing_to_spend_has_no_boundary() -> None:
    first, second = boundaries([1, 2], [0.0, 0.05])

    assert first == inf
    assert second == pytest.approx(norm.isf(0.05), abs=1e-9)


@pytest.mark.parametrize(
    ("information", "used", "says"),
    [
        ([], [], "no looks"),
        ([1, 2], [0.05], "one each"),
        ([2, 1], [0.01, 0.05], "look 2: information 1 after 2"),
        ([1, 1.0001], [0.01, 0.05], "1% more"),
        ([1, 2], [0.05, 0.01], "look 2: alpha used 0.01 after 0.05"),
        ([0, 2], [0.01, 0.05], "> 0"),
    ],
)
def test_looks_that_cannot_be_are_refused(information: list[float], used: list[float], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        boundaries(information, used)
