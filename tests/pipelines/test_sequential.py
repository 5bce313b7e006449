"""The confidence sequence covers the true share at every look, and closes in on it."""

from math import exp, lgamma, log

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.rollouts.sequential import share_bounds


def mixture_over_likelihood(hits: int, trials: int, share: float) -> float:
    """The martingale itself, from its definition: the mixture's likelihood over the share's."""
    grid = np.linspace(0, np.pi / 2, 20_001)[1:-1]
    shares = np.sin(grid) ** 2  # Jeffreys' prior is uniform in the angle
    logs = hits * np.log(shares) + (trials - hits) * np.log1p(-shares)
    own = hits * log(share) + (trials - hits) * log(1 - share)
    return float(np.mean(np.exp(logs - own)))


counts = st.integers(1, 5000).flatmap(lambda trials: st.tuples(st.integers(0, trials), st.just(trials)))


@given(counts, st.floats(1e-6, 0.5))
def test_bounds_hold_the_estimate_and_widen_as_alpha_shrinks(counted: tuple[int, int], alpha: float) -> None:
    hits, trials = counted
    low, high = share_bounds(hits, trials, alpha)
    lower, higher = share_bounds(hits, trials, alpha / 10)

    assert 0 <= lower <= low <= hits / trials <= high <= higher <= 1


@pytest.mark.parametrize(("hits", "trials"), [(5, 100), (1, 1000), (50, 80), (300, 4000)])
def test_bounds_are_where_the_martingale_reaches_one_over_alpha(hits: int, trials: int) -> None:
    for bound in share_bounds(hits, trials, 0.05):
        assert mixture_over_likelihood(hits, trials, bound) == pytest.approx(20, rel=0.01)


def test_nothing_seen_bounds_from_one_side_only() -> None:
    low, high = share_bounds(0, 1000, 0.01)
    log_mixture = lgamma(0.5) + lgamma(1000.5) - lgamma(1001) - 2 * lgamma(0.5) + lgamma(1)

    assert low == 0.0
    assert high == pytest.approx(1 - exp((log_mixture - log(100)) / 1000), rel=1e-6)
    assert share_bounds(1000, 1000, 0.01) == (pytest.approx(1 - high), 1.0)


@pytest.mark.parametrize("share", [0.003, 0.05, 0.5])
def test_the_true_share_is_left_out_at_any_of_many_looks_with_the_chance_stated(share: float) -> None:
    streams, alpha = 300, 0.1
    hits = np.random.default_rng(7).binomial(40, share, size=(streams, 60)).cumsum(axis=1)
    left_out = 0
    for stream in hits:
        bounds = (share_bounds(int(seen), 40 * (look + 1), alpha) for look, seen in enumerate(stream))
        left_out += any(not low <= share <= high for low, high in bounds)

    assert left_out / streams <= alpha


@pytest.mark.parametrize("wrong", [(-1, 5, 0.1), (6, 5, 0.1), (1, 5, 0.0), (1, 5, 1.0)])
def test_what_cannot_be_is_refused(wrong: tuple[int, int, float]) -> None:
    with pytest.raises(ValueError, match="expected"):
        share_bounds(*wrong)
