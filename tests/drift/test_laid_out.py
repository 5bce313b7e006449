"""A profile as values: its bins, shares and moments come back."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from drift.evidently_reports.laid_out import laid_out
from registry.contracts.profile import Distribution, describe
from tests.drift.traffic import PROFILE

VALUES = 8000


@pytest.mark.parametrize("distribution", [*PROFILE.features, PROFILE.margin, PROFILE.entropy], ids=lambda one: one.name)
def test_bins_shares_and_moments_come_back(distribution: Distribution) -> None:
    filled = laid_out(distribution, VALUES)

    again = describe(distribution.name, filled)
    known = filled[~np.isnan(filled)]
    counts = np.bincount(np.searchsorted(distribution.edges, known, "right"), minlength=len(distribution.counts))
    assert again.missing_share == pytest.approx(distribution.missing_share, abs=1 / VALUES)
    assert again.zero_share == pytest.approx(distribution.zero_share, abs=1 / VALUES)
    # whole values stand for the bins' shares
    assert counts / len(known) == pytest.approx(np.array(distribution.counts) / sum(distribution.counts), abs=0.001)
    assert abs(again.mean - distribution.mean) <= 0.05 * distribution.std
    assert again.std == pytest.approx(distribution.std, rel=0.05)
    assert distribution.minimum <= again.minimum <= again.maximum <= distribution.maximum


def test_the_order_tells_nothing_and_is_the_seed_s() -> None:
    filled = laid_out(PROFILE.features[0], VALUES, seed=3)

    assert np.array_equal(filled, laid_out(PROFILE.features[0], VALUES, seed=3))
    assert not np.array_equal(filled, laid_out(PROFILE.features[0], VALUES, seed=4))
    # of 8,000 values in an order that tells nothing, correlation with the place has sd 0.011: 5 sd
    assert abs(np.corrcoef(filled, np.arange(VALUES))[0, 1]) < 0.056


@given(
    st.lists(st.floats(-1e6, 1e6, width=32) | st.just(0.0) | st.just(float("nan")), min_size=1, max_size=60),
    st.integers(0, 200),
)
def test_whatever_was_profiled_can_be_laid_out(values: list[float], wanted: int) -> None:
    distribution = describe("x", np.array(values))

    filled = laid_out(distribution, wanted)

    known = filled[~np.isnan(filled)]
    assert len(filled) == wanted
    slack = 1e-9 * (1 + abs(distribution.minimum) + abs(distribution.maximum))
    assert ((known >= distribution.minimum - slack) & (known <= distribution.maximum + slack) | (known == 0)).all()
