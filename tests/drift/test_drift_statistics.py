"""Our distances against SciPy's."""

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from drift.statistics import (
    CountArray,
    benjamini_hochberg,
    ks,
    mean_shift,
    psi,
    two_sided_p,
    wasserstein_scaled,
)

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


@given(
    hnp.arrays(np.float64, st.integers(1, 30), elements=st.floats(0, 1)),
    st.sampled_from([0.001, 0.05, 0.2]),
)
def test_benjamini_hochberg_rejects_what_scipys_adjusted_p_values_do(p: np.ndarray, alpha: float) -> None:
    adjusted = scipy.stats.false_discovery_control(p)
    clear = np.abs(adjusted - alpha) > 1e-12  # on the boundary rounding decides

    assert (benjamini_hochberg(p, alpha) == (adjusted <= alpha))[clear].all()


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
