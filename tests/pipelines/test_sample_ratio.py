"""Sample-ratio mismatch: the mixture by brute force, false alarms as stated at any look, and a lost share is found."""

from math import comb, log

import numpy as np
import pytest
from scipy.stats import betabinom, binom, dirichlet_multinomial, multinomial

from pipelines.gates.sample_ratio import sample_ratio

LOOKS = 14


def false_alarms(weights: list[float], kept: list[float], per_look: int, runs: int, seed: int) -> np.ndarray:
    """Look of the first alarm at 1 %, LOOKS if there is none. kept: share of each arm's units that are not lost."""
    rng = np.random.default_rng(seed)
    shares = np.array(weights) / sum(weights)
    drawn = rng.multinomial(per_look, shares, size=(runs, LOOKS))
    seen = rng.binomial(drawn, kept).cumsum(axis=1)
    alarms = [[sample_ratio(look.tolist(), weights).mismatch(0.01) for look in run] for run in seen]
    return np.array([run.index(True) if True in run else LOOKS for run in alarms])


@pytest.mark.parametrize(("seen", "share"), [((30, 70), 0.5), ((5, 95), 0.1), ((900, 100), 0.9), ((0, 4), 0.5)])
def test_two_arms_are_a_beta_binomial_over_a_binomial(seen: tuple[int, int], share: float) -> None:
    found = sample_ratio(seen, [share, 1 - share], concentrations=[50])

    mixture = betabinom(sum(seen), 50 * share, 50 * (1 - share)).logpmf(seen[0])
    assert found.log_e_value == pytest.approx(mixture - binom(sum(seen), share).logpmf(seen[0]), abs=1e-8)


def test_three_arms_are_a_dirichlet_multinomial_over_a_multinomial() -> None:
    seen, shares = [20, 30, 70], np.array([0.2, 0.2, 0.6])

    found = sample_ratio(seen, [1, 1, 3], concentrations=[40])

    mixture = dirichlet_multinomial.logpmf(seen, 40 * shares, 120)
    assert found.log_e_value == pytest.approx(mixture - multinomial(120, shares).logpmf(seen), abs=1e-8)


def test_the_e_value_is_one_on_average_if_the_shares_are_right() -> None:
    """Summed over every outcome: that is what makes it an e-value."""
    total = sum(
        comb(12, n) * 0.3**n * 0.7 ** (12 - n) * sample_ratio([n, 12 - n], [3, 7], [5, 20]).e_value for n in range(13)
    )

    assert total == pytest.approx(1.0)


@pytest.mark.parametrize("weights", [[1.0, 1.0], [1.0, 9.0]])
def test_right_shares_alarm_within_fourteen_looks_in_at_most_one_percent(weights: list[float]) -> None:
    runs = 2000
    first = false_alarms(weights, [1.0, 1.0], 4000, runs, seed=12)

    assert (first < LOOKS).mean() <= 0.01 + 3 * np.sqrt(0.01 * 0.99 / runs)


def test_a_loss_of_four_percent_in_one_arm_is_found_within_fourteen_looks() -> None:
    first = false_alarms([1.0, 1.0], [1.0, 0.96], 8000, 500, seed=13)

    assert (first < LOOKS).mean() >= 0.9
    assert np.median(first) + 1 <= 8


def test_a_gross_mismatch_shows_in_few_units() -> None:
    assert sample_ratio([390, 210], [1, 1]).mismatch(0.01)
    assert not sample_ratio([390, 210], [1, 1], [100_000.0]).mismatch(0.01)


def test_p_value_and_alarm_agree() -> None:
    found = sample_ratio([50_000, 48_500], [1, 1])

    assert found.p_value == pytest.approx(1 / found.e_value)
    assert found.mismatch(found.p_value * 1.001)
    assert not found.mismatch(found.p_value * 0.999)
    assert sample_ratio([0, 0], [1, 1]).p_value == 1.0


def test_a_hopeless_mismatch_is_a_number_still() -> None:
    assert sample_ratio([1_000_000, 1], [1, 1]).log_e_value > log(1e300)
    assert sample_ratio([1_000_000, 1], [1, 1]).mismatch(1e-12)


@pytest.mark.parametrize(("units", "planned"), [([1], [1]), ([1, 2], [1]), ([-1, 2], [1, 1]), ([1, 2], [0, 1])])
def test_what_cannot_be_is_refused(units: list[int], planned: list[float]) -> None:
    with pytest.raises(ValueError, match="expected"):
        sample_ratio(units, planned)
