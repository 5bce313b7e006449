"""Looked at a thousand times the sequence leaves out the truth as rarely as stated; against the mixture itself."""

from math import inf

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import norm

from pipelines.gates.confidence_sequence import ConfidenceSequence


def mixture(z: float, information: float, prior: float, sides: int) -> float:
    """The martingale from its definition: likelihood ratios over effects, weighted by a normal or half of one."""
    score = z * np.sqrt(information)

    def weighted(effect: float) -> float:
        return float(np.exp(effect * score - effect**2 * information / 2) * norm.pdf(effect, scale=prior**-0.5))

    peak = score / (information + prior)
    width = 12 / np.sqrt(information + prior)
    low = max(0.0, peak - width) if sides == 1 else peak - width
    return quad(weighted, low, peak + width, epsabs=1e-12)[0] * (2 if sides == 1 else 1)


@pytest.mark.parametrize("sides", [1, 2])
@pytest.mark.parametrize("information", [3.0, 100.0, 5000.0])
def test_bounds_are_where_the_mixture_reaches_one_over_alpha(sides: int, information: float) -> None:
    sequence = ConfidenceSequence(0.05, 100.0, sides)  # type: ignore[arg-type]

    assert mixture(sequence.z(information), information, sequence._prior, sides) == pytest.approx(20, rel=1e-6)


def test_bounds_are_narrowest_where_they_are_asked_to_be() -> None:
    there = ConfidenceSequence(0.05, 400.0).z(400.0)

    assert there == pytest.approx(min(ConfidenceSequence(0.05, at).z(400.0) for at in np.geomspace(40, 4000, 401)))
    assert ConfidenceSequence(0.05, 40.0).z(400.0) == pytest.approx(1.07 * there, rel=0.01)
    assert ConfidenceSequence(0.05, 4000.0).z(400.0) == pytest.approx(1.26 * there, rel=0.01)
    assert there > norm.isf(0.025)


def test_one_side_is_tighter_than_two() -> None:
    for information in (10.0, 100.0, 1000.0):
        assert ConfidenceSequence(0.05, 100.0, 1).z(information) < ConfidenceSequence(0.05, 100.0).z(information)


@pytest.mark.parametrize("sides", [1, 2])
@pytest.mark.parametrize("first", [1, 50])
def test_a_thousand_looks_leave_out_the_truth_no_more_often_than_stated(sides: int, first: int) -> None:
    runs, looks, alpha = 4000, 1000, 0.05
    information = np.arange(first, first + looks, dtype=float)
    sequence = ConfidenceSequence(alpha, 300.0, sides)  # type: ignore[arg-type]
    bound = np.array([sequence.z(i) for i in information])
    noise = np.random.default_rng(9).normal(size=(runs, looks))
    noise[:, 0] *= np.sqrt(first)
    z = noise.cumsum(axis=1) / np.sqrt(information)

    left_out = ((np.abs(z) if sides == 2 else z) > bound).any(axis=1).mean()

    assert 0.3 * alpha < left_out <= alpha + 3 * np.sqrt(alpha / runs)


def test_a_skewed_mean_with_its_own_variance_is_held_too() -> None:
    """Values as click-NDCG has them: nearly half are 0. Variance is estimated, looks begin at 100 values."""
    runs, size, alpha = 1500, 3000, 0.05
    rng = np.random.default_rng(10)
    values = np.where(rng.random((runs, size)) < 0.46, 0.0, rng.beta(2, 1, size=(runs, size)))
    count = np.arange(1, size + 1)
    means = values.cumsum(axis=1) / count
    variances = ((values**2).cumsum(axis=1) / count - means**2).clip(1e-9)
    information = (count / variances)[:, 99::20]
    sequence = ConfidenceSequence(alpha, 1000 / 0.14)
    grid = np.geomspace(information.min(), information.max(), 400)
    bound = np.interp(np.log(information), np.log(grid), [sequence.z(i) for i in grid])

    off = np.abs(means[:, 99::20] - 0.54 * 2 / 3) * np.sqrt(information)

    assert (off > bound).any(axis=1).mean() <= alpha + 3 * np.sqrt(alpha / runs)


def test_nothing_measured_bounds_nothing() -> None:
    sequence = ConfidenceSequence(0.05, 100.0)

    assert sequence.z(0.0) == inf
    assert sequence.bounds(0.3, float("nan")) == (-inf, inf)
    assert sequence.bounds(0.3, 0.0) == (-inf, inf)
    low, high = sequence.bounds(0.3, 0.1)
    assert (low + high) / 2 == pytest.approx(0.3)


@pytest.mark.parametrize(("alpha", "at"), [(0.0, 1.0), (0.5, 1.0), (0.05, 0.0), (0.05, inf)])
def test_what_cannot_be_is_refused(alpha: float, at: float) -> None:
    with pytest.raises(ValueError, match="expected"):
        ConfidenceSequence(alpha, at)
