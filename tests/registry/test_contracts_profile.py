"""Laws of reference profiles: every value is in a bin, and confidence ignores how scores are scaled."""

from itertools import pairwise

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from registry.contracts.errors import ContractError
from registry.contracts.profile import ReferenceProfile, confidences, describe, followed
from tests.builders import a_profile

columns = hnp.arrays(np.float64, st.integers(0, 60), elements=st.floats(-1e6, 1e6) | st.just(np.nan) | st.just(0.0))


@given(columns, st.integers(1, 12))
def test_every_value_is_in_one_bin_or_missing(values: NDArray[np.float64], bins: int) -> None:
    found = describe("x", values, bins)
    missing = int(np.isnan(values).sum())

    assert found.count == len(values)
    assert sum(found.counts) == len(values) - missing
    assert round(found.missing_share * found.count) == missing
    assert round(found.zero_share * found.count) == int((values == 0).sum())
    assert len(found.counts) == len(found.edges) + 1 <= max(bins, 1)
    assert list(found.edges) == sorted(set(found.edges))


@given(columns, st.integers(1, 12))
def test_a_bin_holds_what_lies_between_its_edges(values: NDArray[np.float64], bins: int) -> None:
    found = describe("x", values, bins)
    inner = [-np.inf, *found.edges, np.inf]

    inside = [int(((low <= values) & (values < high)).sum()) for low, high in pairwise(inner)]
    assert inside == [*found.counts]


@given(columns)
def test_moments_are_those_of_what_is_present(values: NDArray[np.float64]) -> None:
    present = values[~np.isnan(values)]
    found = describe("x", values)

    if len(present):
        np.testing.assert_allclose((found.mean, found.std), (present.mean(), present.std()))
        assert (found.minimum, found.maximum) == (present.min(), present.max())
    else:
        assert (found.mean, found.std, found.minimum, found.maximum) == (0.0, 0.0, 0.0, 0.0)


def test_bins_of_a_smooth_quantity_have_equal_mass() -> None:
    assert set(describe("x", np.arange(1000.0)).counts) == {100}


def test_a_constant_has_one_bin() -> None:
    found = describe("x", np.full(50, 3.0))

    assert (found.edges, found.counts, found.std) == ((), (50,), 0.0)


@given(st.integers(0, 1000))
def test_a_profile_comes_back_as_it_was(seed: int) -> None:
    profile = a_profile(seed=seed)

    assert ReferenceProfile.decode(profile.encode()) == profile


def test_text_that_is_no_utf_8_is_refused() -> None:
    with pytest.raises(ContractError):
        ReferenceProfile.decode(b'{"fingerprint": "\xff"}')


@given(st.binary(max_size=40))
def test_garbage_is_refused(garbage: bytes) -> None:
    with pytest.raises(ContractError, match="not a reference profile"):
        ReferenceProfile.decode(garbage)


@st.composite
def lists_of_scores(draw: st.DrawFn) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """A few lists of several lengths, padded with -inf; scores that float32 moves about exactly enough."""
    counts = draw(st.lists(st.integers(1, 8), min_size=1, max_size=5))
    scores = np.full((len(counts), max(counts)), -np.inf, dtype=np.float32)
    for i, count in enumerate(counts):
        scores[i, :count] = draw(st.lists(st.integers(-64, 64).map(lambda x: x / 8), min_size=count, max_size=count))
    return scores, np.array(counts)


@given(lists_of_scores(), st.integers(-50, 50))
def test_confidence_ignores_a_shift(lists: tuple[NDArray[np.float32], NDArray[np.int64]], shift: int) -> None:
    scores, counts = lists
    before, after = confidences(scores, counts, 2.0), confidences(scores + np.float32(shift), counts, 2.0)

    np.testing.assert_allclose(after.margin, before.margin, atol=1e-9)
    np.testing.assert_allclose(after.entropy, before.entropy, atol=1e-9)


@given(lists_of_scores(), st.sampled_from([0.25, 0.5, 1.5, 4.0]))
def test_confidence_ignores_a_rescaling_that_the_reference_shares(
    lists: tuple[NDArray[np.float32], NDArray[np.int64]], scale: float
) -> None:
    scores, counts = lists
    before, after = confidences(scores, counts, 2.0), confidences(scores * np.float32(scale), counts, 2.0 * scale)

    np.testing.assert_allclose(after.margin, before.margin, atol=1e-9)
    np.testing.assert_allclose(after.entropy, before.entropy, atol=1e-9)


@given(lists_of_scores())
def test_confidence_ignores_order_and_padding(lists: tuple[NDArray[np.float32], NDArray[np.int64]]) -> None:
    scores, counts = lists
    together = confidences(scores, counts, 1.0)

    for i, count in enumerate(counts):
        alone = confidences(scores[i : i + 1, :count][:, ::-1].copy(), counts[i : i + 1], 1.0)
        assert alone.margin[0] == pytest.approx(together.margin[i], abs=1e-9)
        assert alone.entropy[0] == pytest.approx(together.entropy[i], abs=1e-9)


@given(lists_of_scores())
def test_confidence_stays_in_its_range(lists: tuple[NDArray[np.float32], NDArray[np.int64]]) -> None:
    found = confidences(*lists, 1.0)

    assert (found.margin >= 0).all()
    assert ((found.entropy >= 0) & (found.entropy <= 1 + 1e-12)).all()


def test_a_list_of_one_has_no_confidence_and_equal_scores_have_full_entropy() -> None:
    found = confidences(np.array([[3.0, -np.inf], [1.0, 1.0]], dtype=np.float32), np.array([1, 2]), 1.0)

    assert found.margin.tolist() == [0.0, 0.0]
    assert found.entropy.tolist() == [0.0, pytest.approx(1.0)]


@pytest.mark.parametrize("std", [0.0, -1.0])
def test_a_version_whose_scores_never_differed_is_standardised_by_one(std: float) -> None:
    scores, counts = np.array([[3.0, 1.0]], dtype=np.float32), np.array([2])

    assert confidences(scores, counts, std).margin.tolist() == [2.0]


def test_scores_follow_what_they_are_made_of_inside_of_lists() -> None:
    rng = np.random.default_rng(3)
    lists = [rng.normal(size=(20, 3)).astype(np.float32) for _ in range(50)]
    for matrix in lists:
        matrix[:, 2] = rng.normal()  # of the query: the same for all of its candidates
        matrix[::4, 1] = np.nan
    scores = [(2.0 * matrix[:, 0] + 7.0 * matrix[0, 2]).astype(np.float32) for matrix in lists]

    strong, none, of_query = followed(lists, scores)

    assert strong == pytest.approx(1.0)
    assert none < 0.1
    assert of_query == 0.0
    assert followed([], []) == ()


def test_a_profile_from_before_importance_keeps_its_bytes() -> None:
    profile = a_profile()

    assert b"importance" not in profile.encode()
    assert ReferenceProfile.decode(profile.encode()).importance == ()
    known = msgspec.structs.replace(profile, importance=(0.5, 0.25, 0.0))
    assert ReferenceProfile.decode(known.encode()) == known
