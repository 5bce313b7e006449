"""Laws of summaries: merging is counting together; figures are those of the lists themselves."""

from itertools import pairwise

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from drift.mirrors.rank_summary import (
    BINS,
    EXAMPLES,
    LATENCY_BOUNDS_MS,
    LATENCY_GROWTH,
    MEASURES,
    NAMES,
    Gauge,
    RankSummary,
    SummaryState,
    measure,
)
from registry.contracts.events import MirrorEvent
from tests.builders import a_mirror
from tests.drift.mirrored import mirrors

GAUGE = Gauge(depth=50, k=10, p=0.9, champion=(0.0, 1.0), version=(0.1, 2.0))
EVENTS = mirrors(1, 300, noise=0.5, error_share=0.1)
WITH_LISTS = [event for event in EVENTS if not event.error]


def assert_alike(one: RankSummary, other: RankSummary) -> None:
    """Equal, but for the rounding of sums."""
    for name in ("mirrored", "compared", "unfit", "errors", "examples"):
        assert getattr(one, name) == getattr(other, name)
    np.testing.assert_array_equal(one.bins, other.bins)
    np.testing.assert_array_equal(one.latencies, other.latencies)
    for name in ("weight", "mean", "spread"):
        np.testing.assert_allclose(getattr(one.moments, name), getattr(other.moments, name), rtol=1e-9, atol=1e-9)


@given(st.permutations(range(300)), st.lists(st.integers(0, 300), max_size=4))
def test_summaries_of_parts_merge_into_that_of_the_whole(order: list[int], cuts: list[int]) -> None:
    edges = [0, *sorted(cuts), 300]
    parts = [[EVENTS[i] for i in order[a:b]] for a, b in pairwise(edges)]

    merged = RankSummary.empty()
    for part in parts:
        merged = merged.merge(RankSummary.of(part, GAUGE))

    assert_alike(merged, RankSummary.of(EVENTS, GAUGE))


def test_moments_and_quantiles_are_those_of_the_values() -> None:
    values = measure(WITH_LISTS, GAUGE)
    summary = RankSummary.of(EVENTS, GAUGE)

    for i, (name, low, high) in enumerate(MEASURES):
        known = values[np.isfinite(values[:, i]), i]
        assert len(known) > 200, name
        assert summary.moments.weight[i] == len(known)
        assert summary.moments.mean[i] == pytest.approx(known.mean())
        assert summary.moments.variance[i] == pytest.approx(known.var())
        for q in (0.05, 0.5, 0.95):
            exact = np.clip(np.quantile(known, q, method="inverted_cdf"), low, high)
            assert summary.quantile(i, q) == pytest.approx(exact, abs=(high - low) / BINS), name


def test_latencies_are_binned_within_their_growth() -> None:
    summary = RankSummary.of(EVENTS, GAUGE)

    for side, field in enumerate(("latency_ms", "mirror_latency_ms")):
        median = np.median([getattr(event, field) for event in WITH_LISTS])
        place = int(np.searchsorted(summary.latencies[side].cumsum(), len(WITH_LISTS) / 2))
        assert LATENCY_BOUNDS_MS[place] / LATENCY_GROWTH**2 < median < LATENCY_BOUNDS_MS[place] * LATENCY_GROWTH


def test_queries_without_a_list_are_counted_by_kind_and_compared_with_nothing() -> None:
    summary = RankSummary.of([a_mirror(error="504 late"), a_mirror(error="503: gone"), a_mirror(error=" ")], GAUGE)

    assert (summary.mirrored, summary.compared, summary.failed) == (3, 0, 3)
    assert summary.errors == {"503": 1, "504": 1, "unknown": 1}
    assert not summary.moments.weight.any() and not summary.latencies.any()


def test_kinds_of_errors_are_few_whatever_comes() -> None:
    summary = RankSummary.empty()
    for i in range(50):
        summary = summary.merge(RankSummary.of([a_mirror(error=f"kind-{i % 20} {i}")], GAUGE))

    assert len(summary.errors) == 9 and summary.failed == 50


@pytest.mark.parametrize(
    "contradiction",
    [
        a_mirror(items=("a", "a")),
        a_mirror(scores=b"\0" * 4),
        a_mirror(mirror_scores=np.array([1.0, np.nan], dtype="<f4").tobytes()),
        a_mirror(mirror_items=("a", "a")),
        a_mirror(latency_ms=float("nan")),
    ],
)
def test_an_event_that_contradicts_itself_is_counted_and_left_out(contradiction: MirrorEvent) -> None:
    summary = RankSummary.of([contradiction, a_mirror()], GAUGE)

    assert (summary.mirrored, summary.unfit, summary.compared) == (2, 1, 1)


def test_empty_lists_count_without_a_value() -> None:
    nothing = a_mirror(items=(), scores=b"", mirror_items=(), mirror_scores=b"")

    summary = RankSummary.of([nothing], GAUGE)

    assert summary.compared == 1
    assert summary.moments.weight[NAMES.index("overlap")] == 0
    assert summary.examples == ()


def test_examples_are_the_lists_that_differ_most_and_few() -> None:
    values = measure(WITH_LISTS, GAUGE)[:, NAMES.index("rank_biased_overlap")]
    expected = [WITH_LISTS[i].ranking_id for i in np.argsort(values)[:EXAMPLES]]

    examples = RankSummary.of(EVENTS, GAUGE).examples

    assert [example.ranking_id for example in examples] == expected
    by_id = {event.ranking_id: event for event in WITH_LISTS}
    assert all(example.items == by_id[example.ranking_id].items for example in examples)
    assert all(example.mirror_items == by_id[example.ranking_id].mirror_items for example in examples)


def test_lists_that_agree_are_no_examples() -> None:
    assert RankSummary.of(mirrors(2, 20, noise=0.0), GAUGE).examples == ()


def test_a_summary_comes_back_as_it_was() -> None:
    summary = RankSummary.of(EVENTS, GAUGE)
    stored = msgspec.msgpack.decode(msgspec.msgpack.encode(summary.state()), type=SummaryState)

    assert_alike(RankSummary.restore(stored), summary)
    with pytest.raises(ValueError, match="reshape"):
        RankSummary.restore(msgspec.structs.replace(stored, bins=stored.bins[:-8]))
