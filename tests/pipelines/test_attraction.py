"""What items attract: near the truth where they were seldom seen, their own clicks where they were seen often."""

import numpy as np
import pytest

from pipelines.feedback.attraction import Attraction, Kinds, attraction

SHOWN = 10
RANKS = 20
QUERIES = 300


def kinds_of(theirs: np.ndarray) -> Kinds:
    """Of queries with twenty items each, in the order of the champion; the last ten come by chance."""
    query, place = np.divmod(np.arange(QUERIES * RANKS), RANKS)
    return Kinds(query, place + 1, theirs.ravel() + 1, place >= SHOWN, SHOWN)


def drawn(kinds: Kinds, wanted: np.ndarray, looks_within: int, looks_beyond: int, seed: int) -> Attraction:
    """From clicks on items of this attraction, each looked at so often, with certainty."""
    looks = np.where(kinds.by_chance, looks_beyond, looks_within).astype(float)
    clicks = np.random.default_rng(seed).binomial(looks.astype(int), wanted).astype(float)
    return attraction(clicks, looks, looks, kinds)


def wanted_of(kinds: Kinds, spread: float, seed: int) -> np.ndarray:
    """Falling with both ranks, higher for some queries, and scattered about that."""
    rng = np.random.default_rng(seed)
    level = rng.gamma(10, 0.1, QUERIES)[kinds.query]
    usual = 0.5 * level * kinds.ours**-0.4 * kinds.theirs**-0.2
    return np.minimum(usual * rng.gamma(1 / spread, spread, len(usual)), 1.0)


def an_order(seed: int) -> np.ndarray:
    """Another policy's rank of each item, from 0: the champion's, disturbed."""
    rng = np.random.default_rng(seed)
    return np.argsort(np.argsort(np.arange(RANKS) + rng.normal(0, 4, (QUERIES, RANKS)), axis=1), axis=1)


def test_items_seldom_seen_are_expected_to_be_like_others_of_their_kind() -> None:
    kinds = kinds_of(an_order(1))
    wanted = wanted_of(kinds, 0.3, seed=2)

    found = drawn(kinds, wanted, looks_within=50, looks_beyond=1, seed=3)

    aside = kinds.by_chance & (kinds.theirs <= SHOWN)
    assert found.pooled[aside].mean() == pytest.approx(wanted[aside].mean(), rel=0.1)
    one_by_one = drawn(kinds, wanted, 50, 1, seed=3).expected[aside]
    assert np.corrcoef(one_by_one, wanted[aside])[0, 1] > 0.3


def test_an_item_seen_often_is_what_was_clicked_of_it() -> None:
    kinds = kinds_of(an_order(4))
    wanted = wanted_of(kinds, 0.3, seed=5)

    found = drawn(kinds, wanted, looks_within=20_000, looks_beyond=20_000, seed=6)

    np.testing.assert_allclose(found.pooled, wanted, atol=0.02)


def test_pooled_is_nearer_to_the_truth_than_kinds_or_clicks_alone() -> None:
    kinds = kinds_of(an_order(7))
    wanted = wanted_of(kinds, 0.3, seed=8)

    found = drawn(kinds, wanted, looks_within=8, looks_beyond=8, seed=9)
    alone = np.random.default_rng(9).binomial(8, wanted) / 8

    off = [float(((one - wanted) ** 2).mean()) for one in (found.pooled, found.expected, alone)]
    assert off[0] < 0.9 * min(off[1:])


@pytest.mark.parametrize("spread", [0.1, 0.5])
def test_how_far_items_are_apart_is_read_from_pairs_of_clicks(spread: float) -> None:
    kinds = kinds_of(np.tile(np.arange(RANKS), (QUERIES, 1)))
    rng = np.random.default_rng(10)
    wanted = 0.2 * kinds.ours**-0.4 * rng.gamma(1 / spread, spread, QUERIES * RANKS)

    found = drawn(kinds, np.minimum(wanted, 1.0), looks_within=60, looks_beyond=60, seed=11)

    assert 1 / found.shape == pytest.approx(spread, rel=0.2)


def test_queries_that_are_alike_are_not_told_apart_by_chance() -> None:
    kinds = kinds_of(np.tile(np.arange(RANKS), (QUERIES, 1)))
    wanted = 0.3 * kinds.ours**-0.4

    found = drawn(kinds, wanted, looks_within=5, looks_beyond=5, seed=12)

    by_query = np.bincount(kinds.query, weights=found.expected) / RANKS
    assert by_query.std() / by_query.mean() < 0.05  # of their clicks alone: 0.15


def test_what_chance_brings_in_may_be_another_kind_of_its_own() -> None:
    kinds = kinds_of(an_order(13))
    wanted = np.where(kinds.by_chance, 0.3, 0.5 * kinds.ours**-0.8)  # better than the ranks let one think

    found = drawn(kinds, wanted, looks_within=100, looks_beyond=2, seed=14)

    assert found.expected[kinds.by_chance].mean() == pytest.approx(0.3, rel=0.1)


def test_nothing_looked_at_is_refused() -> None:
    kinds = kinds_of(an_order(15))
    none = np.zeros(QUERIES * RANKS)

    with pytest.raises(ValueError, match="with looks"):
        attraction(none, none, none, kinds)
