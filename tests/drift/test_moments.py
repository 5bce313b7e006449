"""Laws of merging: however values are split and ordered, the moments are those of all of them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from drift.moments import FloatArray, Moments

values_of = st.floats(-1e6, 1e6)
samples = st.integers(0, 12).flatmap(
    lambda n: st.tuples(
        hnp.arrays(np.float64, (n, 2), elements=values_of),
        hnp.arrays(np.float64, (n, 2), elements=st.integers(0, 9).map(float)),
    )
)
Sample = tuple[FloatArray, FloatArray]


def assert_same(one: Moments, other: Moments) -> None:
    assert one.weight.tolist() == other.weight.tolist()
    present = one.weight > 0
    assert one.mean[present] == pytest.approx(other.mean[present], rel=1e-9, abs=1e-6)
    assert one.spread == pytest.approx(other.spread, rel=1e-9, abs=1e-2)


@given(samples, samples)
def test_merged_moments_are_those_of_all_values(one: Sample, other: Sample) -> None:
    both = (np.vstack([one[0], other[0]]), np.vstack([one[1], other[1]]))

    assert_same(Moments.of(*one).merge(Moments.of(*other)), Moments.of(*both))


@given(samples, samples)
def test_merging_commutes(one: Sample, other: Sample) -> None:
    assert_same(Moments.of(*one).merge(Moments.of(*other)), Moments.of(*other).merge(Moments.of(*one)))


@given(samples, samples, samples)
def test_merging_is_associative(one: Sample, two: Sample, three: Sample) -> None:
    a, b, c = Moments.of(*one), Moments.of(*two), Moments.of(*three)

    assert_same(a.merge(b).merge(c), a.merge(b.merge(c)))


@given(samples)
def test_merging_nothing_changes_nothing(sample: Sample) -> None:
    moments = Moments.of(*sample)

    assert_same(moments.merge(Moments.empty(2)), moments)
    assert_same(Moments.empty(2).merge(moments), moments)


@given(st.lists(hnp.arrays(np.float64, st.integers(1, 6), elements=values_of), min_size=1, max_size=6))
def test_means_with_the_variance_inside_them_give_the_moments_of_the_rows(lists: list[FloatArray]) -> None:
    rows = np.concatenate(lists)[:, None]
    means, sizes, inside = (np.array([[f(part)] for part in lists]) for f in (np.mean, len, np.var))

    assert_same(Moments.of(means, sizes.astype(np.float64), inside), Moments.of(rows, np.ones_like(rows)))


def test_small_spread_on_a_large_mean_survives() -> None:
    rng = np.random.default_rng(0)
    values = 1e9 + rng.normal(size=(10_000, 1))
    merged = Moments.empty(1)
    for part in np.split(values, 100):
        merged = merged.merge(Moments.of(part, np.ones_like(part)))

    assert merged.variance == pytest.approx(values.var(axis=0), rel=1e-6)
