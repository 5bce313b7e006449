"""A batch's sums are those that one gets row by row."""

from dataclasses import dataclass

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

from drift.moments import Moments
from drift.windows.batch import Batch
from drift.windows.reference import Reference
from registry.contracts.events import RankingEvent, encode_event, join_events, watched_rankings
from registry.contracts.features import Column, FeatureView
from registry.contracts.profile import ReferenceProfile, confidences, describe
from tests.builders import a_ranking

COLUMNS = 5
VIEW = FeatureView("batch", "item", tuple(Column(f"c{i}") for i in range(COLUMNS)))


def profile(seed: int = 1) -> ReferenceProfile:
    rng = np.random.default_rng(seed)
    values, scores = rng.normal(size=(400, COLUMNS)), rng.normal(size=(50, 8)).astype(np.float32)
    sure = confidences(scores, np.full(50, 8), 1.0)
    return ReferenceProfile(
        fingerprint=VIEW.fingerprint,
        population="made up",
        lists=50,
        features=tuple(describe(f"c{i}", values[:, i]) for i in range(COLUMNS)),
        scores=describe("scores", scores),
        margin=describe("margin", sure.margin),
        entropy=describe("entropy", sure.entropy),
    )


REFERENCE = Reference.of(profile())


def ranking(name: str, matrix: NDArray[np.float32], margin: float = 0.5) -> RankingEvent:
    items = tuple(f"i{place}" for place in range(len(matrix)))
    made = a_ranking(name, items, fingerprint=VIEW.fingerprint, features=matrix.astype("<f4").tobytes())
    scores = np.linspace(1, 0, len(matrix), dtype="<f4").tobytes()
    return msgspec.structs.replace(made, scores=scores, margin=margin)


@dataclass
class RowByRow:
    """The definition of `window`, one list after another."""

    pooled: Moments
    blocks: Moments

    @staticmethod
    def of(rankings: list[RankingEvent]) -> "RowByRow":
        pooled, blocks = Moments.empty(3 * COLUMNS), Moments.empty(3 * COLUMNS)
        for one in rankings:
            rows = one.feature_matrix().astype(np.float64)
            known = np.isfinite(rows)
            marks = np.hstack([np.where(known, rows, 0.0), ~known, rows == 0]).astype(np.float64)
            weights = np.hstack([known, np.ones((len(rows), 2 * COLUMNS))]).astype(np.float64)
            of_list = Moments.of(marks, weights)
            pooled = pooled.merge(of_list)
            blocks = blocks.merge(Moments.of(of_list.mean[None], of_list.weight[None] ** 2))
        return RowByRow(pooled, blocks)


def lists(seed: int, lengths: list[int], holes: bool) -> list[RankingEvent]:
    rng = np.random.default_rng(seed)
    made = []
    for place, length in enumerate(lengths):
        matrix = rng.normal([0, 50, -3, 0, 1e6], [1, 1, 2, 1, 5], size=(length, COLUMNS)).astype(np.float32)
        matrix[rng.random(matrix.shape) < 0.2] = 0.0
        if holes:
            matrix[rng.random(matrix.shape) < 0.1] = np.nan
            matrix[0, 0] = np.inf
        made.append(ranking(f"r{place}", matrix))
    return made


OF_FEATURES = np.r_[0:COLUMNS, COLUMNS + 3 : 3 * COLUMNS + 3]  # without what events say of lists


@pytest.mark.parametrize("holes", [False, True])
@pytest.mark.parametrize("lengths", [[10] * 60, [1, 7, 3, 10, 200, 2, 90, 5] * 3, [300, 2], [1]])
def test_sums_are_those_of_the_rows(lengths: list[int], holes: bool) -> None:
    rankings = lists(2, lengths, holes)

    found, expected = Batch.of(rankings, REFERENCE), RowByRow.of(rankings)

    for mine, theirs in ((found.pooled, expected.pooled), (found.blocks, expected.blocks)):
        assert mine.weight[OF_FEATURES] == pytest.approx(theirs.weight)
        assert mine.mean[OF_FEATURES] == pytest.approx(theirs.mean, rel=1e-12, abs=1e-9)
        assert mine.spread[OF_FEATURES] == pytest.approx(theirs.spread, rel=1e-9, abs=1e-7)


@pytest.mark.parametrize("holes", [False, True])
def test_bins_hold_the_values_between_their_edges(holes: bool) -> None:
    rankings = lists(3, [10, 3, 260], holes)
    values = np.vstack([one.feature_matrix() for one in rankings]).astype(np.float64)

    bins = Batch.of(rankings, REFERENCE).bins

    for column in range(COLUMNS):
        edges = REFERENCE.edges[column]
        present = values[np.isfinite(values[:, column]), column]
        expected = np.bincount(np.searchsorted(edges, present, side="right"), minlength=len(edges) + 1)
        assert bins[column].tolist() == expected.tolist()


def test_a_value_that_is_an_edge_lies_above_it_and_the_next_float_below_does_not() -> None:
    edge = np.float32(REFERENCE.edges[0][4])
    near = [np.nextafter(edge, np.float32(-np.inf)), edge, np.nextafter(edge, np.float32(np.inf))]
    matrix = np.zeros((3, COLUMNS), dtype=np.float32)
    matrix[:, 0] = near

    bins = Batch.of([ranking("r", matrix)], REFERENCE).bins[0]

    expected = np.searchsorted(REFERENCE.edges[0], np.array(near, dtype=np.float64), side="right")
    assert bins.tolist() == np.bincount(expected, minlength=len(bins)).tolist()


def test_a_far_constant_has_no_spread() -> None:
    matrix = np.full((10, COLUMNS), 16777215.0, dtype=np.float32)

    pooled = Batch.of([ranking(f"r{i}", matrix) for i in range(70)], REFERENCE).pooled

    assert pooled.mean[:COLUMNS].tolist() == [16777215.0] * COLUMNS
    assert pooled.spread[:COLUMNS].tolist() == [0.0] * COLUMNS


def test_views_into_a_payload_count_as_the_events_that_were_written() -> None:
    rankings = lists(4, [10, 3, 8], holes=True)
    payload = join_events([encode_event(one) for one in rankings])

    read, written = Batch.of(watched_rankings(payload), REFERENCE), Batch.of(rankings, REFERENCE)

    assert read.bins.tolist() == written.bins.tolist()
    assert read.pooled.mean.tolist() == written.pooled.mean.tolist()
