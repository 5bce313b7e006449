"""Our figures beside Evidently's: the ones of values are those of scipy, the ones of a profile those of the monitor."""

import numpy as np
import pytest
from scipy import stats

from drift.evidently_reports.figures import figures_of
from tests.drift.traffic import COLUMNS, PROFILE, Traffic

SHOWN = 8


@pytest.mark.parametrize("seed", range(5))
def test_distances_of_values_are_scipy_s(seed: int) -> None:
    rng = np.random.default_rng(seed)
    then, now = rng.normal(size=700), np.round(rng.normal(0.3, 1.4, size=900), 1)

    found = figures_of("x", np.append(then, np.nan), now)

    assert found.ks == pytest.approx(stats.ks_2samp(then, now).statistic, abs=1e-12)
    assert found.wasserstein == pytest.approx(stats.wasserstein_distance(then, now) / then.std(), rel=1e-9)
    assert found.shift == pytest.approx((now.mean() - then.mean()) / then.std(), rel=1e-9)
    assert (found.reference.values, found.reference.missing_share) == (701, pytest.approx(1 / 701))


def test_beside_a_profile_moments_are_the_profile_s_and_a_quiet_day_is_near() -> None:
    traffic = Traffic.of(seed=77, lists=1000)

    for place, name in enumerate(COLUMNS):
        profiled = PROFILE.features[place]
        found = figures_of(name, profiled, traffic.values[:, :SHOWN, place].ravel().astype(float))

        assert (found.reference.mean, found.reference.std) == (profiled.mean, profiled.std)
        # 1,000 lists: of a query's own feature, as good as 1,000 values; 0.15 sd are over 4 standard errors of its mean
        assert abs(found.shift or 0.0) < 0.15, name
        assert (found.ks or 0.0) < 0.1, name


def test_a_side_without_values_has_no_distance() -> None:
    for then, now in ((np.full(3, np.nan), np.ones(3)), (np.ones(3), np.full(3, np.nan)), (np.ones(3), np.ones(0))):
        found = figures_of("x", then, now)

        assert (found.psi, found.ks, found.wasserstein, found.shift) == (None, None, None, None)


def test_another_constant_is_far_and_the_same_one_is_not() -> None:
    same, other = (figures_of("x", np.ones(50), np.full(50, value)) for value in (1.0, 2.0))

    assert (same.shift, same.ks, same.wasserstein) == (0.0, 0.0, 0.0)
    assert other.shift == 100.0
    assert other.ks == 1.0
