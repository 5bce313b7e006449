"""Shrunken lifts are right on average where picked ones are not, and the prior says where it comes from."""

import numpy as np
import pytest

from pipelines.gates.shrinkage import DEFAULT_SD, LEAST_DECISIONS, Prior, prior_of, shrink


def some_past(decisions: int, mean: float, sd: float, error: float, seed: int) -> list[tuple[float, float]]:
    rng = np.random.default_rng(seed)
    return [(float(lift + rng.normal(0, error)), error) for lift in rng.normal(mean, sd, size=decisions)]


def test_the_prior_of_many_decisions_is_that_of_their_true_lifts() -> None:
    found = prior_of(some_past(2000, 0.003, 0.012, 0.01, seed=1))

    # standard errors: of the mean 0.0156 / sqrt(2000), of the variance 0.0156 ** 2 * sqrt(2 / 2000)
    assert found.mean == pytest.approx(0.003, abs=4 * 0.0156 / 2000**0.5)
    assert found.sd**2 == pytest.approx(0.012**2, abs=4 * 0.0156**2 * (2 / 2000) ** 0.5)
    assert "of the model's last 2000 decisions" in found.words()


def test_few_decisions_and_those_that_measured_nothing_give_the_cautious_default() -> None:
    past = [*some_past(LEAST_DECISIONS - 1, 0.1, 0.01, 0.01, seed=2), (0.2, float("nan")), (0.3, 0.0)]

    assert prior_of(past) == Prior(0.0, DEFAULT_SD, 0)
    assert "cautious default" in prior_of(past).words()


def test_lifts_that_chance_alone_explains_are_shrunken_to_their_mean() -> None:
    found = prior_of([(0.01, 0.02), (-0.01, 0.02), (0.0, 0.02), (0.005, 0.02), (-0.005, 0.02)])

    assert found.sd == 0
    assert shrink(0.05, 0.02, found).lift == pytest.approx(found.mean)


def test_what_was_picked_for_its_estimate_is_right_on_average_only_when_shrunken() -> None:
    rng = np.random.default_rng(3)
    true = rng.normal(0.0, 0.01, size=20_000)
    seen = true + rng.normal(0, 0.01, size=len(true))
    picked = np.flatnonzero(seen > 0.015)
    prior = Prior(0.0, 0.01, 100)
    shrunken = [shrink(float(seen[one]), 0.01, prior) for one in picked]
    # standard error of a mean of so many posteriors, whose sd is 0.01 / sqrt(2)
    error = 0.01 / 2**0.5 / len(picked) ** 0.5

    assert np.mean([one.lift for one in shrunken]) == pytest.approx(true[picked].mean(), abs=4 * error)
    assert np.mean([one.raw for one in shrunken]) > true[picked].mean() + 0.005
    covered = np.mean([one.low <= lift <= one.high for one, lift in zip(shrunken, true[picked], strict=True)])
    assert covered == pytest.approx(0.95, abs=4 * (0.95 * 0.05 / len(picked)) ** 0.5)
