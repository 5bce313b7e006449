"""Windows count what came, in bounded memory, however it was grouped."""

from dataclasses import astuple

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from drift.windows.reference import OF_LISTS, Reference
from drift.windows.window import Window, WindowKey
from registry.contracts.events import RankingEvent
from tests.builders import NOW_MS
from tests.drift.traffic import COLUMNS, PROFILE, REFERENCE_TRAFFIC, SHOWN, in_parts, rankings

REFERENCE = Reference.of(PROFILE)
KEY = WindowKey(NOW_MS, NOW_MS + 1000, "codesearch", 1, "champion")
LISTS = rankings(seed=2, lists=60)


def window_of(*parts: list[RankingEvent]) -> Window:
    window = Window(KEY, REFERENCE)
    for part in parts:
        window.absorb(part)
    return window


def assert_same(one: Window, other: Window) -> None:
    assert (one.seen, one.lists, one.bins.tolist()) == (other.seen, other.lists, other.bins.tolist())
    for mine, theirs in ((one.pooled, other.pooled), (one.blocks, other.blocks)):
        assert np.array(astuple(mine)) == pytest.approx(np.array(astuple(theirs)), rel=1e-9, abs=1e-9)


@given(st.permutations(LISTS), st.integers(1, 60))
def test_order_and_grouping_change_nothing(events: list[RankingEvent], size: int) -> None:
    assert_same(window_of(*map(list, in_parts(events, size))), window_of(LISTS))


def test_the_profiles_own_lists_give_the_profile_back() -> None:
    window = window_of(REFERENCE_TRAFFIC.rankings(PROFILE.scores.std))

    assert window.bins.tolist() == REFERENCE.counts.tolist()
    assert window.pooled.weight == pytest.approx(REFERENCE.weight)
    assert window.pooled.mean == pytest.approx(REFERENCE.mean, abs=1e-6)
    assert np.sqrt(window.pooled.variance[: len(COLUMNS)]) == pytest.approx(REFERENCE.std[: len(COLUMNS)], abs=1e-6)
    assert np.sqrt(window.pooled.variance[-1]) == pytest.approx(REFERENCE.std[-1], abs=1e-6)


def test_lists_of_different_lengths_count_by_their_rows() -> None:
    long, short = rankings(seed=3, lists=2)
    short = msgspec.structs.replace(short, items=short.items[:2], features=short.features[: 2 * 4 * len(COLUMNS)])
    rows = np.vstack([long.feature_matrix(), short.feature_matrix()]).astype(np.float64)

    window = window_of([long, short])

    assert window.pooled.mean[: len(COLUMNS)] == pytest.approx(np.nanmean(rows, axis=0))
    assert window.pooled.variance[: len(COLUMNS)] == pytest.approx(np.nanvar(rows, axis=0))
    assert window.pooled.mean[-2 * len(COLUMNS) : -len(COLUMNS)] == pytest.approx(np.isnan(rows).mean(axis=0))
    assert window.pooled.mean[-len(COLUMNS) :] == pytest.approx((rows == 0).mean(axis=0))


def test_the_size_of_a_window_does_not_grow_with_traffic() -> None:
    few, many = window_of(LISTS[:1]), window_of(*[LISTS] * 20)

    assert len(many.state().moments) == len(few.state().moments)
    assert len(many.state().bins) == len(few.state().bins)
    assert many.lists == 1200


def test_a_window_goes_on_after_it_was_restored() -> None:
    state = msgspec.msgpack.encode(window_of(LISTS[:40]).state())
    restored = Window.restore(msgspec.msgpack.decode(state, type=type(window_of().state())), REFERENCE)

    restored.absorb(LISTS[40:])

    assert_same(restored, window_of(LISTS[:40], LISTS[40:]))


def test_a_window_counted_by_another_profile_only_remembers_how_many_it_saw() -> None:
    other = Reference.of(msgspec.structs.replace(PROFILE, population="other"))

    restored = Window.restore(window_of(LISTS).state(), other)

    assert repr(restored) == f"<Window codesearch@1 champion from {NOW_MS} [0 of 60 lists]>"


@pytest.mark.parametrize(
    "unfit",
    [
        {"fingerprint": "0" * 16},
        {"features": b""},
        {"features": LISTS[0].features[4:]},
        {"items": (), "features": b""},
    ],
)
def test_a_ranking_that_does_not_fit_is_seen_but_not_counted(unfit: dict[str, object]) -> None:
    window = window_of([LISTS[0], msgspec.structs.replace(LISTS[1], **unfit)])

    assert (window.seen, window.lists) == (2, 1)
    assert window.pooled.weight[0] == SHOWN


def test_a_list_whose_confidence_is_not_a_number_leaves_only_that_out() -> None:
    window = window_of([LISTS[0], msgspec.structs.replace(LISTS[1], entropy=float("nan"))])

    confidence = slice(len(COLUMNS), len(COLUMNS) + len(OF_LISTS))
    assert window.pooled.weight[confidence].tolist() == [1, 1, LISTS[0].candidates]
    assert np.isfinite(window.pooled.mean).all()
    assert window.pooled.weight[0] == 2 * SHOWN
