"""Our distances against SciPy's."""

import warnings

import numpy as np
import pytest
import scipy.spatial
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from drift.statistics import (
    MOST_SPREAD,
    CountArray,
    FloatArray,
    jensen_shannon,
    ks,
    ks_of_samples,
    mean_shift,
    psi,
    psi_by_chance,
    spread_shift,
    two_sided_p,
    wasserstein_of_samples,
    wasserstein_scaled,
)

samples = st.integers(1, 20).flatmap(
    lambda n: st.tuples(
        hnp.arrays(np.float64, n, elements=st.integers(-4, 4).map(float)),
        hnp.arrays(np.float64, n, elements=st.integers(1, 5).map(float)),
    )
)
Sample = tuple[FloatArray, FloatArray]
counts = hnp.arrays(np.int64, st.just((3, 6)), elements=st.integers(0, 50)).filter(lambda c: bool(c.sum(axis=1).all()))


@given(counts, counts)
def test_ks_is_scipys_of_the_bin_numbers(reference: CountArray, current: CountArray) -> None:
    bins = np.arange(6)
    expected = [
        scipy.stats.ks_2samp(np.repeat(bins, r), np.repeat(bins, c), method="asymp").statistic
        for r, c in zip(reference, current, strict=True)
    ]

    assert ks(reference, current) == pytest.approx(expected, abs=1e-12)


@given(counts, counts, st.integers(0, 2**32 - 1))
def test_wasserstein_is_scipys_of_the_bin_centres(reference: CountArray, current: CountArray, seed: int) -> None:
    centres = np.sort(np.random.default_rng(seed).normal(size=(3, 6)), axis=1)
    std = np.array([0.5, 1.0, 2.0])
    expected = [
        scipy.stats.wasserstein_distance(centres[i], centres[i], reference[i], current[i]) / std[i] for i in range(3)
    ]

    assert wasserstein_scaled(reference, current, centres, std) == pytest.approx(expected, abs=1e-9)


@given(counts, counts)
def test_psi_is_the_jeffreys_divergence_of_smoothed_shares(reference: CountArray, current: CountArray) -> None:
    expected = []
    for r, c in zip(reference, current, strict=True):
        used = (r + c) > 0
        p, q = r[used] + 0.5, c[used] + 0.5
        expected.append(scipy.stats.entropy(p, q) + scipy.stats.entropy(q, p))

    assert psi(reference, current) == pytest.approx(expected, abs=1e-9)


@given(counts, counts)
def test_padding_with_empty_bins_changes_nothing(reference: CountArray, current: CountArray) -> None:
    padding = ((0, 0), (0, 3))
    wide_reference, wide_current = np.pad(reference, padding), np.pad(current, padding)
    centres, std = np.tile(np.arange(6.0), (3, 1)), np.ones(3)
    wide_centres = np.pad(centres, padding, mode="edge")

    assert psi(wide_reference, wide_current) == pytest.approx(psi(reference, current))
    assert ks(wide_reference, wide_current) == pytest.approx(ks(reference, current))
    assert wasserstein_scaled(wide_reference, wide_current, wide_centres, std) == pytest.approx(
        wasserstein_scaled(reference, current, centres, std)
    )


def test_a_side_without_values_has_no_distance() -> None:
    empty, full = np.zeros((1, 3), dtype=np.int64), np.ones((1, 3), dtype=np.int64)
    centres, std = np.arange(3.0)[None], np.ones(1)

    assert np.isnan(psi(full, empty)).all()
    assert np.isnan(ks(empty, full)).all()
    assert np.isnan(wasserstein_scaled(full, empty, centres, std)).all()


@given(hnp.arrays(np.float64, 5, elements=st.floats(-8, 8)), st.floats(0.1, 10))
def test_a_p_value_is_the_normal_distributions(difference: np.ndarray, error: float) -> None:
    expected = 2 * scipy.stats.norm.sf(np.abs(difference) / error)

    assert two_sided_p(difference, np.full(5, error)) == pytest.approx(expected, rel=1e-9)


def test_a_mean_shift_is_in_reference_deviations_whatever_the_spread_is_now() -> None:
    shift = mean_shift(np.array([1.0, 1.0]), np.array([2.0, 2.0]), np.array([2.0, 0.0]), np.array([0.1, 50.0]))

    assert shift.tolist() == [0.5, -0.5]


def test_rounding_of_a_constant_is_no_shift() -> None:
    same, std = np.array([0.1]), np.array([0.0])

    assert abs(mean_shift(same, std, same + 1e-17, std)[0]) < 1e-6
    assert abs(mean_shift(same, std, np.array([float(np.float32(0.1))]), std)[0]) < 0.2


def test_another_constant_is_the_largest_shift() -> None:
    none = np.zeros(2)

    assert mean_shift(np.array([0.1, 0.0]), none, np.array([0.2, -1.0]), none).tolist() == [100.0, -100.0]


def test_a_constant_that_begins_to_vary_is_measured_by_how_much_it_varies() -> None:
    shift = mean_shift(np.zeros(1), np.zeros(1), np.array([0.001]), np.array([0.03]))

    assert shift == pytest.approx([1 / 30])


@given(counts, counts)
def test_jensen_shannon_is_scipys_distance_in_bits(reference: CountArray, current: CountArray) -> None:
    expected = scipy.spatial.distance.jensenshannon(reference, current, base=2, axis=1)

    assert jensen_shannon(reference, current) == pytest.approx(np.nan_to_num(expected), abs=1e-6)


@given(counts, counts, counts)
def test_jensen_shannon_is_a_metric(a: CountArray, b: CountArray, c: CountArray) -> None:
    assert jensen_shannon(a, b) == pytest.approx(jensen_shannon(b, a), abs=1e-9)
    assert jensen_shannon(a, a) == pytest.approx(np.zeros(3), abs=1e-7)
    assert (jensen_shannon(a, c) <= jensen_shannon(a, b) + jensen_shannon(b, c) + 1e-7).all()


@given(samples, samples)
def test_distances_of_samples_are_scipys(reference: Sample, current: Sample) -> None:
    (a, v), (b, w) = reference, current
    repeated = (np.repeat(a, v.astype(int)), np.repeat(b, w.astype(int)))

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of a p-value that it finds no way to: nobody asks for it
        statistic = scipy.stats.ks_2samp(*repeated).statistic
    assert ks_of_samples(a, b, v, w) == pytest.approx(statistic)
    assert wasserstein_of_samples(a, b, v, w) == pytest.approx(scipy.stats.wasserstein_distance(a, b, v, w), abs=1e-9)


@given(counts, counts)
def test_binned_ks_is_the_samples_where_each_value_has_its_bin(reference: CountArray, current: CountArray) -> None:
    bins = np.arange(6, dtype=np.float64)
    weights = [(r.astype(np.float64), c.astype(np.float64)) for r, c in zip(reference, current, strict=True)]
    expected = [ks_of_samples(bins[r > 0], bins[c > 0], r[r > 0], c[c > 0]) for r, c in weights]

    assert ks(reference, current) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(("bins", "lists", "alike"), [(10, 300, 0.0), (50, 300, 0.0), (10, 60, 0.5)])
def test_psi_less_what_chance_makes_of_it_is_nothing_on_average(bins: int, lists: int, alike: float) -> None:
    """Lists of 5 rows, quiet; design effect 1 + 4 alike. 400 windows, mean within 4 of its standard errors.

    The bias that is left (half a count in every bin, variance of the logarithm) is of second order: allow 10 %.
    """
    rng, size = np.random.default_rng(2), 5
    edges = scipy.stats.norm.ppf(np.linspace(0, 1, bins + 1)[1:-1])

    def counted(of: int) -> CountArray:
        own, shared = rng.normal(size=(of, size)), rng.normal(size=(of, 1))
        values = np.sqrt(1 - alike) * own + np.sqrt(alike) * shared
        return np.bincount(np.searchsorted(edges, values.ravel()), minlength=bins)[None]

    found = np.array([(counted(20 * lists), counted(lists)) for _ in range(400)])[:, :, 0]
    seen = psi(found[:, 0], found[:, 1])
    # bins of rows that are alike by `alike` are alike by less: measured on the counts' own variance
    shares = found[:, 1] / (lists * size)
    design = (shares.var(axis=0) / ((1 / bins) * (1 - 1 / bins) / (lists * size))).mean()
    expected = psi_by_chance(found[:, 0], found[:, 1], design)

    assert np.abs((seen - expected).mean()) < 4 * seen.std() / np.sqrt(400) + 0.1 * expected.mean()
    assert design == pytest.approx(1.0, abs=0.15) if not alike else design > 1.2


def test_psi_by_chance_is_the_ideal_samples_that_decisions_names() -> None:
    """At n = 300 against a large reference, 10 bins: 9 / 300 nats."""
    reference, current = np.full((1, 10), 10**9), np.full((1, 10), 30)

    assert psi_by_chance(reference, current) == pytest.approx([0.03], rel=1e-6)
    assert np.isnan(psi_by_chance(reference, np.zeros((1, 10), dtype=np.int64))).all()


def test_a_ks_distance_of_samples_is_scipys() -> None:
    rng = np.random.default_rng(3)
    a, b = rng.normal(size=400), rng.normal(0.2, size=300)
    theirs = scipy.stats.ks_2samp(a, b, method="asymp")
    distance = np.array([ks_of_samples(a, b, np.ones(400), np.ones(300))])

    assert distance == pytest.approx([theirs.statistic])


def test_spread_is_in_logarithms_of_its_ratio() -> None:
    assert spread_shift(np.array([1.0, 2.0]), np.array([np.e, 2.0])).tolist() == [1.0, 0.0]
    assert spread_shift(np.zeros(2), np.array([0.0, 1e-9])).tolist() == [0.0, MOST_SPREAD]
    assert spread_shift(np.ones(1), np.zeros(1)).tolist() == [-MOST_SPREAD]


def test_an_empty_sample_has_no_distance() -> None:
    empty, one = np.zeros(0), np.ones(1)

    assert np.isnan(ks_of_samples(empty, one, empty, one))
    assert np.isnan(wasserstein_of_samples(one, empty, one, empty))
    assert np.isnan(jensen_shannon(np.ones((1, 3), dtype=np.int64), np.zeros((1, 3), dtype=np.int64))).all()
