"""Our figures on real, judged lists are SciPy's and Evidently's, of the values and of what monitors keep of them."""

import warnings
from pathlib import Path

import numpy as np
import pytest
import scipy.spatial
import scipy.stats
from numpy.typing import NDArray

from drift import statistics
from drift.sketches.quantiles import QuantileSketch, rank_error
from pipelines.sources.letor import load
from registry.contracts.profile import describe

pd = pytest.importorskip("pandas", reason="pandas is not installed: pip install '.[reports]' in the clone")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # what they import warns of itself
    pytest.importorskip("evidently", reason="Evidently is not installed: pip install '.[reports]' in the clone")
    from evidently.legacy.calculations import stattests
    from evidently.legacy.calculations.stattests.utils import get_binned_data
    from evidently.legacy.core import ColumnType

LIGHTGBM = Path(__file__).parents[3] / "shared" / "data" / "lightgbm-lambdarank"
pytestmark = pytest.mark.skipif(not LIGHTGBM.exists(), reason=f"needs the judged lists in {LIGHTGBM}")
Values = NDArray[np.float64]


@pytest.fixture(scope="module")
def halves() -> tuple[Values, Values]:
    """Rows of the training queries and of the test queries: other queries, so that nothing is quite the same."""
    matrices = [split.features.astype(np.float64) for split in (load(LIGHTGBM).train, load(LIGHTGBM).test)]
    return matrices[0], matrices[1]


def columns(halves: tuple[Values, Values], continuous: bool, most: int = 12) -> list[tuple[Values, Values]]:
    """Some that vary, on both sides."""
    then, now = halves
    found = []
    for place in range(then.shape[1]):
        kinds = len(np.unique(then[:, place]))
        if (kinds > 20) == continuous and kinds > 1 and then[:, place].std() > 0.001:
            found.append((then[:, place], now[:, place]))
    return found[:: max(len(found) // most, 1)][:most]


def theirs(name: str, then: Values, now: Values, kind: object = None) -> float:
    """Evidently's figure: a distance, or a p-value."""
    test = getattr(stattests, f"{name}_stat_test")
    return float(test.func(pd.Series(then), pd.Series(now), kind or ColumnType.Numerical, 0.1)[0])


def ones(values: Values) -> Values:
    return np.ones(len(values))


def test_wasserstein_is_both_of_theirs(halves: tuple[Values, Values]) -> None:
    for then, now in columns(halves, continuous=True):
        ours = statistics.wasserstein_of_samples(then, now, ones(then), ones(now)) / then.std()

        assert ours == pytest.approx(theirs("wasserstein", then, now), rel=1e-9)
        assert ours * then.std() == pytest.approx(scipy.stats.wasserstein_distance(then, now), rel=1e-9)


def test_kolmogorov_smirnov_is_both_of_theirs(halves: tuple[Values, Values]) -> None:
    """Evidently tells the p-value alone: it is held against Kolmogorov's limit law of our distance."""
    for then, now in columns(halves, continuous=True):
        ours = statistics.ks_of_samples(then, now, ones(then), ones(now))
        alike = len(then) * len(now) / (len(then) + len(now))

        assert ours == pytest.approx(scipy.stats.ks_2samp(then, now, method="asymp").statistic, abs=1e-12)
        assert scipy.special.kolmogorov(np.sqrt(alike) * ours) == pytest.approx(theirs("ks", then, now), abs=0.02)


def test_jensen_shannon_of_categories_is_both_of_theirs(halves: tuple[Values, Values]) -> None:
    """Evidently's is in nats, ours in bits."""
    compared = columns(halves, continuous=False)
    assert compared
    for then, now in compared:
        values = np.union1d(then, now)
        counts = [np.array([[int((side == value).sum()) for value in values]]) for side in (then, now)]
        ours = statistics.jensen_shannon(*counts)[0]

        assert ours * np.sqrt(np.log(2)) == pytest.approx(
            theirs("jensenshannon", then, now, ColumnType.Categorical), abs=1e-6
        )
        assert ours == pytest.approx(scipy.spatial.distance.jensenshannon(*(c[0] for c in counts), base=2), abs=1e-6)


def test_psi_is_evidentlys_over_the_same_bins_where_all_of_them_are_used(halves: tuple[Values, Values]) -> None:
    """Theirs puts 0.0001 into empty bins, ours half a count into all: the same to 2 % where none is nearly empty."""
    compared = 0
    for then, now in columns(halves, continuous=True, most=60):
        shares = get_binned_data(pd.Series(then), pd.Series(now), ColumnType.Numerical, 30, False)
        counts = [
            np.rint(share * len(side)).astype(np.int64)[None] for share, side in zip(shares, (then, now), strict=True)
        ]
        if min(int(side.min()) for side in counts) < 5:
            continue
        compared += 1
        assert statistics.psi(*counts)[0] == pytest.approx(theirs("psi", then, now), rel=0.02, abs=1e-3)
    few = [np.array([0.0, 0.0, 1.0, 1.0, 1.0, 2.0] * 50), np.array([0.0, 1.0, 1.0, 2.0, 2.0, 2.0] * 50)]
    counts = [np.array([[int((side == value).sum()) for value in range(3)]]) for side in few]
    assert statistics.psi(*counts)[0] == pytest.approx(theirs("psi", *few), rel=0.02)


def test_what_a_monitor_keeps_gives_the_figures_of_the_values(halves: tuple[Values, Values]) -> None:
    """Bins of the profile: no further from the values' distances than their width allows. Sketches, of two monitors
    added up: KS within both rank errors."""
    k = 256
    for then, now in columns(halves, continuous=True):
        told = describe("x", then)
        counts = np.bincount(np.searchsorted(told.edges, now, side="right"), minlength=len(told.counts))[None]
        binned = statistics.ks(np.array([told.counts]), counts)[0]
        raw = statistics.ks_of_samples(then, now, ones(then), ones(now))
        assert binned <= raw + 1e-12
        assert raw - binned <= max(told.counts) / sum(told.counts) + counts.max() / counts.sum()

        sides = []
        for side in (then, now):
            one, other = QuantileSketch(1, k), QuantileSketch(1, k)
            one.update(side[::2, None].astype(np.float32))
            other.update(side[1::2, None].astype(np.float32))
            sides.append(one.merge(other).sample(0))
        (a, v), (b, w) = sides
        assert statistics.ks_of_samples(a, b, v, w) == pytest.approx(raw, abs=2 * rank_error(k) + 1e-3)
