"""What is shown of a window beside its verdict, and that none of it decides."""

from typing import Any

import msgspec
import numpy as np
import pytest
import scipy.stats

from drift.settings import Rule
from drift.sketches.quantiles import rank_error
from drift.sketches.traffic import TrafficSketch
from drift.windows.judge import judge
from drift.windows.reference import Reference
from drift.windows.shapes import CategoryShift, Shape, categories_of, row_ages_of, shapes_of
from drift.windows.sketched import OpenSketches
from drift.windows.window import Window, WindowKey
from registry.contracts.events import RankingEvent
from tests.builders import NOW_MS
from tests.drift.traffic import COLUMNS, PROFILE, REFERENCE_TRAFFIC, rankings

REFERENCE = Reference.of(PROFILE)
KEY = WindowKey(NOW_MS, NOW_MS + 1000, "codesearch", 1, "champion")


def window_of(events: list[RankingEvent], sketched: bool = True) -> Window:
    window = Window(KEY, REFERENCE)
    window.absorb(events)
    if sketched:
        window.sketch = TrafficSketch(REFERENCE.features, REFERENCE.codes)
        window.sketch.absorb(events)
    return window


def shape(window: Window, quantity: str) -> Shape:
    [found] = [one for one in shapes_of(window, REFERENCE) if one.quantity == quantity]
    return found


def codes(window: Window) -> CategoryShift:
    [found] = categories_of(window, REFERENCE)
    return found


def test_quiet_windows_of_any_size_have_no_psi_beyond_chance() -> None:
    """Mean over 30 windows of 50 lists: within 4 standard errors of 0, where plain psi is far from it."""
    found = [shape(window_of(rankings(seed, 50), sketched=False), "of_item") for seed in range(300, 330)]
    beyond = np.array([one.psi - one.psi_by_chance for one in found])

    assert abs(beyond.mean()) < 4 * beyond.std() / np.sqrt(len(beyond))
    assert np.mean([one.psi for one in found]) > 8 * beyond.std() / np.sqrt(len(beyond))


def test_rows_that_are_alike_in_their_list_make_more_of_psi_chance() -> None:
    window = window_of(rankings(5, 200), sketched=False)

    assert shape(window, "of_query").psi_by_chance > 4 * shape(window, "of_item").psi_by_chance


def test_a_spread_that_doubles_is_seen_where_no_mean_moved() -> None:
    events = []
    for event in rankings(7, 300):
        matrix = event.feature_matrix().copy()
        matrix[:, COLUMNS.index("of_item")] *= 2.0
        events.append(msgspec.structs.replace(event, features=matrix.tobytes()))
    twice, once = window_of(events), window_of(rankings(7, 300))

    grown = shape(twice, "of_item").spread - shape(once, "of_item").spread
    assert grown == pytest.approx(np.log(2), abs=1e-6)
    assert shape(once, "constant").spread == 0.0


def test_quantiles_are_those_of_the_rows_within_the_sketchs_error() -> None:
    events = rankings(8, 1000)
    rows = np.concatenate([event.feature_matrix()[:, COLUMNS.index("often_missing")] for event in events])
    known = rows[np.isfinite(rows)]

    quantiles = shape(window_of(events), "often_missing").quantiles

    assert quantiles is not None
    ranks = [scipy.stats.percentileofscore(known, value) / 100 for value in quantiles]
    assert ranks == pytest.approx([0.05, 0.5, 0.95], abs=rank_error(200) / 0.9)


def test_a_new_category_is_counted_and_named() -> None:
    window = window_of(rankings(9, 100, {"rare_of_query": 4.0}))

    assert codes(window).quantity == "rare_of_query"
    assert codes(window).new_share == 1.0
    assert codes(window).jensen_shannon == 1.0
    assert codes(window).newcomers[0] == "rare_of_query=4"


def test_categories_of_quiet_traffic_are_near_the_profiles() -> None:
    found = codes(window_of(rankings(9, 1000)))

    assert found.new_share == 0
    assert found.jensen_shannon < 0.1
    assert codes(window_of(REFERENCE_TRAFFIC.rankings(PROFILE.scores.std)[:2000])).jensen_shannon < 0.05


def test_ages_of_rows_are_told_by_how_many_lists_lie_below() -> None:
    events = [msgspec.structs.replace(e, row_age_s=float(i)) for i, e in enumerate(rankings(3, 100))]
    events[7] = msgspec.structs.replace(events[7], degraded=("stale_rows:3/12", "missing_rows:1/12"))

    ages = row_ages_of(window_of(events))

    assert ages is not None
    assert (ages.p50_s, ages.p95_s, ages.p99_s) == (49.0, 94.0, 98.0)
    assert ages.lacking == {"stale_rows": 0.01, "missing_rows": 0.01}


def test_without_a_sketch_the_rest_is_told() -> None:
    window = window_of(rankings(3, 100), sketched=False)

    assert row_ages_of(window) is None
    assert categories_of(window, REFERENCE) == ()
    assert shape(window, "of_item").quantiles is None


@pytest.mark.parametrize("change", [{"row_age_s": 1e9}, {"degraded": ("stale_rows:12/12",)}])
def test_what_is_only_shown_fails_no_window(change: dict[str, Any]) -> None:
    quiet, changed = (judge(window_of(rankings(11, 2000, **kind)), Rule()) for kind in ({}, change))

    assert (changed.verdict, changed.findings) == (quiet.verdict, quiet.findings)
    assert changed.row_ages != quiet.row_ages


def test_a_feature_that_matters_more_is_allowed_more_of_the_budget() -> None:
    importance = tuple(5.0 if name == "of_item" else 1.0 for name in COLUMNS)
    weighted = Reference.of(msgspec.structs.replace(PROFILE, importance=importance))
    window = Window(KEY, weighted)
    window.absorb(rankings(12, 300))

    for correction in ("holm", "bonferroni", "benjamini_hochberg"):
        adjusted = {
            (finding.quantity, finding.aspect): (finding.p_value, finding.adjusted_p)
            for finding in judge(window, Rule(correction=correction)).findings
        }
        for p_value, after in adjusted.values():
            assert 0 <= p_value * 0.1 <= after <= 1
    even, uneven = (
        {f.quantity: f.adjusted_p for f in judge(of, Rule(correction="bonferroni")).findings if f.aspect == "mean"}
        for of in (window_of(rankings(12, 300)), window)
    )
    assert uneven["of_item"] < even["of_item"] or even["of_item"] == 1.0


def test_only_so_many_windows_have_a_sketch_at_once() -> None:
    sketches = OpenSketches(most=2)
    keys = [msgspec.structs.replace(KEY, version=version) for version in range(3)]
    for key in keys:
        sketches.absorb(key, rankings(1, 5), REFERENCE)

    assert len(sketches) == 2
    assert sketches.take(keys[2]) is None
    taken = sketches.take(keys[0])
    assert taken is not None
    assert taken.seen == 5
    sketches.absorb(keys[2], rankings(1, 5), None)
    assert sketches.take(keys[2]) is None


def test_sketches_are_restored_of_the_same_profile_alone() -> None:
    sketches = OpenSketches()
    sketches.absorb(KEY, rankings(1, 30), REFERENCE)
    kept = sketches.states()
    other = Reference.of(msgspec.structs.replace(PROFILE, population="other"))
    again, elsewhere, damaged = OpenSketches(), OpenSketches(), OpenSketches()

    again.restore(kept, {KEY: REFERENCE})
    elsewhere.restore(kept, {KEY: other})
    broken = msgspec.structs.replace(kept[0].sketch, rows=b"broken")
    damaged.restore([msgspec.structs.replace(kept[0], sketch=broken)], {KEY: REFERENCE})

    assert again.states() == kept
    assert len(elsewhere) == len(damaged) == 0
