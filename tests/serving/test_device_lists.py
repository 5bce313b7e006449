"""Ranking on the device against numpy: ragged lists, ties, scores that are not finite."""

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from registry.contracts.profile import confidences
from serving.device.lists import BROKEN, ENTROPY, MARGIN, MEAN, STD, RankedLists, rank_lists
from serving.scoring import top_of_lists

# few distinct values, zeros of both signs among them: ties everywhere
SCORES = arrays(np.float32, st.integers(1, 40), elements=st.sampled_from([-1.5, -0.0, 0.0, 0.25, 3.0]))
LISTS = st.lists(SCORES, min_size=1, max_size=6)


def ranked(lists: list[NDArray[np.float32]], top: int, padding: int = 0) -> RankedLists:
    counts = torch.tensor([len(scores) for scores in lists])
    scores = torch.from_numpy(np.concatenate([*lists, np.full(padding, np.nan, np.float32)]))
    return rank_lists(scores, counts.cumsum(0), int(counts.max()), top, 2.0)


@given(lists=LISTS, padding=st.integers(0, 5), data=st.data())
def test_the_best_come_first_and_ties_keep_the_given_order(
    lists: list[NDArray[np.float32]], padding: int, data: st.DataObject
) -> None:
    counts = np.array([len(scores) for scores in lists])
    top = data.draw(st.integers(1, int(counts.max())))

    found = ranked(lists, top, padding)

    expected, _ = top_of_lists(np.concatenate(lists), counts, top)
    for i, places in enumerate(expected):
        order = places[: counts[i]]
        shown = found.order[i, : len(order)].tolist()
        assert shown == order.tolist()
        assert found.scores[i, : len(order)].numpy().tobytes() == lists[i][shown].tobytes()
        assert found.rows[i, : len(order)].tolist() == [int(counts[:i].sum()) + place for place in shown]
    assert int(found.rows.min()) >= 0 and int(found.rows.max()) < counts.sum()


@given(lists=LISTS)
def test_confidence_and_moments_are_the_contracts(lists: list[NDArray[np.float32]]) -> None:
    counts = np.array([len(scores) for scores in lists])
    _, padded = top_of_lists(np.concatenate(lists), counts, 1)

    found = ranked(lists, 1).statistics.numpy()

    sure = confidences(padded, counts, 2.0)
    np.testing.assert_allclose(found[:, MARGIN], sure.margin, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(found[:, ENTROPY], sure.entropy, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(found[:, MEAN], [scores.mean(dtype=np.float64) for scores in lists], atol=1e-12)
    np.testing.assert_allclose(found[:, STD], [scores.std(dtype=np.float64) for scores in lists], atol=1e-6)
    assert (found[:, BROKEN] == 0).all()


def test_scores_that_are_not_finite_are_counted_in_their_list_alone() -> None:
    broken = np.array([1.0, np.nan, np.inf, -np.inf], dtype=np.float32)
    sound = np.array([2.0, 5.0], dtype=np.float32)

    found = ranked([sound, broken, sound], top=2)

    assert found.statistics[:, BROKEN].tolist() == [0, 3, 0]
    assert found.order[0].tolist() == found.order[2].tolist() == [1, 0]
    assert torch.isfinite(found.statistics).all()


def test_the_largest_finite_scores_keep_finite_statistics() -> None:
    found = ranked([np.array([3e38, -3e38], dtype=np.float32)], top=2)

    assert found.statistics[0, BROKEN] == 0
    assert torch.isfinite(found.statistics).all()
