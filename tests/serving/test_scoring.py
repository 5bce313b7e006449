"""One batch: scores as if every query were alone, and an honest account of what was missing."""

import itertools
from collections.abc import Callable, Sequence
from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from registry.contracts.features import Column, FeatureView
from registry.contracts.manifest import ModelPackage, TensorSpec
from registry.contracts.profile import confidences
from serving.frames import FailedReply, FrameBuffer, RankedReply, ScoreRequest
from serving.program import TorchProgram, warm_up
from serving.scoring import NEVER_STALE_MS, LoadedModel, ScoreRefused, check, mean_age_s, score_batch, top_of_lists
from tests.builders import NOW_MS, a_manifest, a_package, a_profile, exported_program
from tests.models import UNGUARDED
from tests.serving.rankers import STORED, Workbench, assert_alike
from tests.serving.workbench import (
    LENGTH,
    LENGTHS,
    MATCH,
    VIEW,
    WORDS,
    a_loaded_model,
    a_request,
    rows_in_memory,
)


class AboveListMean(torch.nn.Module):
    """Listwise: how far a row's weighted sum lies above the mean of its list."""

    def __init__(self) -> None:
        super().__init__()
        self.weights = torch.nn.Parameter(torch.tensor([1.0, -2.0, 0.5]))

    def forward(self, features: torch.Tensor, query_index: torch.Tensor) -> torch.Tensor:
        raw = features @ self.weights
        sums = torch.zeros_like(raw).index_add(0, query_index, raw)
        rows = torch.zeros_like(raw).index_add(0, query_index, torch.ones_like(raw))
        return raw - (sums / rows)[query_index]


@cache
def pointwise() -> TorchProgram:
    return TorchProgram(a_package(scale=1.25), "cpu")


@cache
def listwise() -> TorchProgram:
    inputs = {"features": torch.zeros(4, 3), "query_index": torch.zeros(4, dtype=torch.int64)}
    specs = (TensorSpec("features", "FP32", (-1, 3)), TensorSpec("query_index", "INT64", (-1,)))
    program = exported_program(AboveListMean(), inputs)
    return TorchProgram(ModelPackage.of(program, a_manifest(inputs=specs), a_profile()), "cpu")


PROGRAMS = pytest.mark.parametrize("program", [pointwise, listwise], ids=["pointwise", "listwise"])


def replies_to(
    loaded: LoadedModel, requests: Sequence[ScoreRequest], now_ms: int = NOW_MS
) -> list[RankedReply | FailedReply]:
    return score_batch(loaded, requests, [0.0] * len(requests), now_ms)


def ranked(loaded: LoadedModel, requests: Sequence[ScoreRequest], now_ms: int = NOW_MS) -> list[RankedReply]:
    replies = [reply for reply in replies_to(loaded, requests, now_ms) if isinstance(reply, RankedReply)]
    assert len(replies) == len(requests)
    return replies


@st.composite
def batches(draw: st.DrawFn) -> list[ScoreRequest]:
    """Queries of 1 to 30 items, some rows missing, some features inline.

    Features are multiples of 1/64 below 4, weights of 1/4: float32 adds such numbers exactly, in
    any order. So a score cannot depend on where in a batch its row lies, and the law below is
    equality; what rounding does to real models is `test_batched_equals_single`'s.
    """
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    known = [*LENGTHS, *(f"unknown-{i}" for i in range(5))]
    requests = []
    for number, size in enumerate(draw(st.lists(st.integers(1, 30), min_size=1, max_size=8))):
        items = random.choice(known, size, replace=False).tolist()
        in_query = {WORDS: random.integers(-256, 256) / 64} if draw(st.booleans()) else {}
        in_candidates = {MATCH: (random.integers(-256, 256, size) / 64).tolist()}
        if draw(st.booleans()):
            in_candidates[LENGTH] = (random.integers(-256, 256, size) / 64).tolist()
        requests.append(a_request(items, in_query, in_candidates, draw(st.integers(1, 40)), number))
    return requests


@PROGRAMS
@settings(max_examples=40)
@given(requests=batches())
def test_a_batched_query_is_answered_as_if_it_were_alone(
    program: Callable[[], TorchProgram], requests: list[ScoreRequest]
) -> None:
    loaded = a_loaded_model(program())

    for request, together in zip(requests, ranked(loaded, requests), strict=True):
        [alone] = ranked(loaded, [request])
        assert together.number == request.number
        assert together.order.tolist() == alone.order.tolist()
        assert together.features == alone.features
        assert (together.missing_rows, together.stale_rows) == (alone.missing_rows, alone.stale_rows)
        np.testing.assert_equal(together.row_age_s, alone.row_age_s)
        assert together.scores.tolist() == alone.scores.tolist()
        for sure in ("score_mean", "score_std", "margin", "entropy"):
            np.testing.assert_allclose(getattr(together, sure), getattr(alone, sure), rtol=1e-5, atol=1e-6)


@PROGRAMS
def test_a_query_is_not_moved_by_the_largest_numbers_of_its_neighbours(program: Callable[[], TorchProgram]) -> None:
    loaded = a_loaded_model(program())
    request = a_request(["item-1", "item-2", "unknown"])
    loud = a_request(["item-1", "item-2"], in_candidates={MATCH: [1e30, -1e30]})
    [alone] = ranked(loaded, [request])

    together = ranked(loaded, [loud, request, loud])[1]

    assert together.order.tolist() == alone.order.tolist()
    np.testing.assert_allclose(together.scores, alone.scores, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(together.margin, alone.margin, rtol=1e-6)


@given(st.lists(arrays(np.float32, st.integers(1, 12), elements=st.floats(-2, 2, width=16)), min_size=1), st.data())
def test_the_top_is_the_best_first_and_ties_keep_the_given_order(
    lists: list[NDArray[np.float32]], data: st.DataObject
) -> None:
    most = data.draw(st.integers(1, 15))
    counts = np.array([len(scores) for scores in lists])

    places, padded = top_of_lists(np.concatenate(lists), counts, most)

    assert places.shape == (len(lists), min(most, counts.max()))
    for i, scores in enumerate(lists):
        best = sorted(range(len(scores)), key=lambda place: -scores[place])[:most]
        assert places[i, : len(best)].tolist() == best
        assert padded[i, : len(scores)].tolist() == scores.tolist()
        assert np.isneginf(padded[i, len(scores) :]).all()


def test_equal_candidates_come_back_in_the_order_given() -> None:
    [reply] = ranked(a_loaded_model(pointwise()), [a_request(["unknown-c", "unknown-a", "unknown-b"])])

    assert reply.order.tolist() == [0, 1, 2]


def test_a_reply_says_what_the_model_saw_best_first() -> None:
    request = a_request(["item-20", "item-30", "nobody"], {WORDS: 4.0}, {MATCH: [0.1, 0.2, 0.3]}, top_k=2)

    [reply] = ranked(a_loaded_model(pointwise()), [request])

    seen = np.frombuffer(reply.features, np.float32).reshape(2, 3)
    expected = np.array([[1.0, 0.3, 4.0], [LENGTHS["item-30"], 0.2, 4.0]], dtype=np.float32)
    np.testing.assert_array_equal(seen, expected)
    np.testing.assert_allclose(reply.scores, 1.25 * expected.sum(axis=1), rtol=1e-6)
    assert reply.order.tolist() == [2, 1]


def test_what_a_query_does_not_send_is_the_default() -> None:
    [reply] = ranked(a_loaded_model(pointwise()), [a_request(["nobody"])])

    assert np.frombuffer(reply.features, np.float32).tolist() == [1.0, 0.5, 0.0]


def test_what_a_query_sends_stands_over_the_stored_row() -> None:
    per_candidate = a_request(["item-1", "item-2"], in_candidates={LENGTH: [8.0, 9.0]})
    for_all = a_request(["item-1", "item-2"], in_query={LENGTH: 5.0}, number=2)

    one, other = ranked(a_loaded_model(pointwise()), [per_candidate, for_all])

    assert np.frombuffer(one.features, np.float32)[0::3].tolist() == [9.0, 8.0]
    assert np.frombuffer(other.features, np.float32)[0::3].tolist() == [5.0, 5.0]


def test_missing_rows_are_counted_per_query() -> None:
    requests = [a_request(["item-1", "item-2"]), a_request(["nobody", "item-3", "none"]), a_request(["nobody"])]

    assert [reply.missing_rows for reply in ranked(a_loaded_model(pointwise()), requests)] == [0, 2, 1]


@pytest.mark.parametrize(("age_ms", "stale"), [(59_000, 0), (60_000, 0), (60_001, 2)])
def test_rows_past_their_freshness_are_counted_and_missing_ones_are_not_stale(age_ms: int, stale: int) -> None:
    view = FeatureView("functions", "function", (Column("length", freshness_s=60), *VIEW.columns[1:]))
    loaded = a_loaded_model(pointwise(), view=view)

    [reply] = ranked(loaded, [a_request(["item-1", "nobody", "item-2"])], NOW_MS + age_ms)

    assert (reply.stale_rows, reply.missing_rows) == (stale, 1)
    assert reply.row_age_s == age_ms / 1000


def test_the_age_of_rows_is_of_those_that_were_stored() -> None:
    """Of two lists and a third of which nothing was; one row is dated ahead of the clock."""
    updated_ms = np.array([NOW_MS - 4000, 0, NOW_MS - 2000, NOW_MS + 500, NEVER_STALE_MS, 0], dtype=np.uint64)

    ages_s = mean_age_s(updated_ms, np.array([3, 2, 1]), NOW_MS)

    np.testing.assert_equal(ages_s, [3.0, 0.0, np.nan])


@pytest.mark.parametrize("company", [[], [a_request(["item-1", "nobody"], number=2)]])
def test_a_query_that_brings_its_rows_misses_none_and_has_no_stale_ones(company: list[ScoreRequest]) -> None:
    view = FeatureView("functions", "function", (Column("length", freshness_s=60), *VIEW.columns[1:]))
    loaded = a_loaded_model(pointwise(), view=view)

    query = a_request(["item-1", "nobody"], in_candidates={LENGTH: [3.0, 2.0]})
    reply = ranked(loaded, [query, *company], NOW_MS + 99_000)[0]

    assert (reply.stale_rows, reply.missing_rows) == (0, 0)
    assert np.isnan(reply.row_age_s)
    assert np.frombuffer(reply.features, np.float32)[0::3].tolist() == [3.0, 2.0]


def test_a_view_without_stored_columns_needs_no_rows() -> None:
    view = FeatureView("pairs", "pair", (Column("a", "candidate"), Column("b", "candidate"), Column("c", "query")))

    loaded = a_loaded_model(pointwise(), rows_in_memory({}, view), view)

    [reply] = ranked(loaded, [a_request(["x", "y"], {2: 1.0}, {0: [1.0, 2.0]})])

    assert (reply.order.tolist(), reply.missing_rows) == ([1, 0], 0)


def test_a_query_without_finite_scores_fails_alone() -> None:
    loaded = a_loaded_model(pointwise())
    good = a_request(["item-1", "item-2"])
    overflowing = a_request(["item-1", "item-2"], in_candidates={MATCH: [3e38, 1.0], LENGTH: [3e38, 1.0]}, number=7)
    [alone] = ranked(loaded, [good])

    before, failed, after = replies_to(loaded, [good, overflowing, good])

    assert isinstance(failed, FailedReply)
    assert (failed.number, failed.status) == (7, 500)
    assert "not finite" in failed.message
    for reply in (before, after):
        assert isinstance(reply, RankedReply)
        np.testing.assert_allclose(reply.scores, alone.scores, rtol=1e-6)
        assert (reply.score_mean, reply.margin) == pytest.approx((alone.score_mean, alone.margin))


def test_infinities_of_one_list_do_not_reach_another_through_a_listwise_model() -> None:
    bench = Workbench(UNGUARDED)
    good = a_request(["item-1", "item-2", "item-3"])
    [alone] = bench.on_host([good])
    assert isinstance(alone, RankedReply)

    for value in (np.nan, np.inf, -np.inf):
        bad = a_request(["item-4", "item-5"], in_candidates={STORED: [value, 1.0]}, number=9)
        before, failed, after = bench.on_host([good, bad, good])

        assert isinstance(failed, FailedReply)
        assert (failed.number, failed.status) == (9, 500)
        assert_alike([before, after], [alone, alone])


def test_a_reply_with_the_largest_finite_scores_fits_its_frame() -> None:
    loaded = a_loaded_model(TorchProgram(a_package(scale=1.0), "cpu"))
    loaded.reference_std = 1e-3

    [reply] = ranked(loaded, [a_request(["item-1", "item-2"], in_candidates={MATCH: [3e38, -3e38]})])
    [(_, body)] = FrameBuffer().feed(reply.encode())

    assert RankedReply.decode(body).margin == pytest.approx(6e41)


@settings(max_examples=30)
@given(requests=batches())
def test_confidence_is_that_of_the_list_alone(requests: list[ScoreRequest]) -> None:
    loaded = a_loaded_model(pointwise())

    for request, reply in zip(requests, ranked(loaded, requests), strict=True):
        request.top_k = 100
        [whole] = ranked(loaded, [request])
        sure = confidences(whole.scores[None, :], np.array([request.candidates]), loaded.reference_std)
        assert reply.margin == pytest.approx(sure.margin[0], rel=1e-5, abs=1e-6)
        assert reply.entropy == pytest.approx(sure.entropy[0], rel=1e-5, abs=1e-6)
        assert reply.score_mean == pytest.approx(whole.scores.mean(), rel=1e-5, abs=1e-5)
        assert reply.score_std == pytest.approx(whole.scores.std(), rel=1e-4, abs=1e-4)


def test_stages_are_timed_apart() -> None:
    ticks = itertools.count()

    [reply] = score_batch(
        a_loaded_model(pointwise()), [a_request(["item-1"])], [250.0], NOW_MS, clock=lambda: 2.0 ** next(ticks)
    )

    assert isinstance(reply, RankedReply)
    assert (reply.queue_us, reply.features_us, reply.device_us) == (250.0, 1e6, 2e6)


@pytest.mark.parametrize("request_", [a_request(["a"], in_query={3: 1.0}), a_request(["a"], in_candidates={9: [1.0]})])
def test_a_column_that_the_view_does_not_have_is_refused(request_: ScoreRequest) -> None:
    with pytest.raises(ScoreRefused, match=r"column \d: model 'codesearch' has 3 columns"):
        check(a_loaded_model(pointwise()), request_)


@PROGRAMS
def test_a_sound_program_warms_up(program: Callable[[], TorchProgram]) -> None:
    warm_up(program(), columns=3)


def test_a_program_that_gives_no_finite_score_per_row_does_not_warm_up() -> None:
    class Constant:
        def __init__(self, answer: float, extra: int) -> None:
            self.answer, self.extra = answer, extra

        def score(
            self, features: NDArray[np.float32], query_index: NDArray[np.int64], timeout_s: float | None = None
        ) -> NDArray[np.float32]:
            return np.full(len(features) + self.extra, self.answer, dtype=np.float32)

    for broken in (Constant(float("nan"), 0), Constant(1.0, 1)):
        with pytest.raises(ValueError, match="scores of shape"):
            warm_up(broken, columns=3)
