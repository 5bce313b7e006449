"""What a sketch says of traffic: the same however it was grouped and added up, and unbiased where lists are drawn."""

import msgspec
import numpy as np
import pytest

from drift.errors import UnreadableSketch
from drift.sketches.categories import CategoryCounts, Codes
from drift.sketches.quantiles import rank_error
from drift.sketches.traffic import LISTS, OF_LISTS, SketchState, TrafficSketch
from drift.windows.reference import Reference
from registry.contracts.events import RankingEvent
from registry.contracts.profile import MOST_CATEGORIES, Distribution, describe
from tests.drift.traffic import COLUMNS, PROFILE, Traffic, in_parts

REFERENCE = Reference.of(PROFILE)


def lists(count: int, seed: int = 2, prefix: str = "r", **changes: object) -> list[RankingEvent]:
    return Traffic.of(seed, count).rankings(PROFILE.scores.std, prefix=prefix, **changes)


def sketch_of(events: list[RankingEvent], size: int = 500) -> TrafficSketch:
    sketch = TrafficSketch(REFERENCE.features, REFERENCE.codes)
    for part in in_parts(events, size):
        sketch.absorb(part)
    return sketch


def test_a_small_window_is_looked_at_whole() -> None:
    events = lists(60, row_age_s=4.0, degraded=("stale_rows:1/12",))
    sketch = sketch_of(events)

    assert sketch.rows.rows == sum(len(event.items) for event in events)
    assert sketch.degraded.shares() == {"stale_rows": 1.0}
    assert sketch.lists.quantiles([0.5])[OF_LISTS.index("ranking:row_age_s")] == [4.0]


def test_rows_that_were_not_stored_have_no_age_and_answers_that_lacked_nothing_are_complete() -> None:
    sketch = sketch_of(lists(20))

    assert np.isnan(sketch.lists.quantiles([0.5])[OF_LISTS.index("ranking:row_age_s")]).all()
    assert sketch.degraded.shares() == {"complete": 1.0}


def test_past_a_few_thousand_lists_those_drawn_stand_for_all() -> None:
    """Eight times as many as are looked at whole: counts and ranks are those of all, within what a draw allows."""
    events = lists(8 * LISTS)
    values = np.concatenate([event.feature_matrix() for event in events])
    sketch = sketch_of(events)

    assert sketch.seen == 8 * LISTS
    assert sketch.rows.rows == pytest.approx(len(values), rel=0.05)
    place = COLUMNS.index("of_item")
    median = sketch.rows.quantiles([0.5])[place, 0]
    drawn = LISTS * (2 + 1 + 1)  # all of 2, a half of 2, a quarter of 4
    chance = 4 * 0.5 / np.sqrt(drawn / 2)
    assert abs((values[:, place] <= median).mean() - 0.5) < rank_error(sketch.rows.k) + chance


def test_what_is_looked_at_grows_by_as_much_with_each_doubling() -> None:
    """Up to twice LISTS all are, then LISTS more each time: the id's hash is a coin, 4 standard errors."""
    sketch, drawn = TrafficSketch(REFERENCE.features, REFERENCE.codes), [0]
    for part in in_parts(lists(16 * LISTS), LISTS):
        before = sketch.degraded.total
        each = max(sketch.seen // LISTS, 1)
        sketch.absorb(part)
        drawn.append(drawn[-1] + (sketch.degraded.total - before) // (1 << each.bit_length() - 1))

    assert drawn[2] == 2 * LISTS
    assert [drawn[2 * n] - drawn[n] for n in (2, 4, 8)] == pytest.approx([LISTS] * 3, abs=4 * np.sqrt(LISTS))


def test_parts_add_up_to_the_whole() -> None:
    events = lists(300)
    whole, parts = sketch_of(events), [sketch_of(events[:100]), sketch_of(events[100:130]), sketch_of(events[130:])]
    merged = parts[2].merge(parts[0].merge(parts[1]))

    assert merged.seen == whole.seen
    assert merged.degraded.counts == whole.degraded.counts
    assert merged.categories.counts.tolist() == whole.categories.counts.tolist()
    assert merged.rows.rows == whole.rows.rows
    apart = merged.rows.quantiles([0.1, 0.5, 0.9]) - whole.rows.quantiles([0.1, 0.5, 0.9])
    assert np.abs(apart[COLUMNS.index("of_item")]).max() < 0.1


def test_a_sketch_goes_on_after_it_was_restored() -> None:
    events = lists(200)
    state = msgspec.msgpack.decode(msgspec.msgpack.encode(sketch_of(events[:90], 30).state()), type=SketchState)
    restored = TrafficSketch.restore(state, REFERENCE.features, REFERENCE.codes)
    straight = sketch_of(events[:90], 30)
    for sketch in (restored, straight):
        sketch.absorb(events[90:])

    assert restored.state() == straight.state()


@pytest.mark.parametrize("field", ["rows", "lists", "categories", "newcomers", "degraded"])
@pytest.mark.parametrize("raw", [b"", b"\x00" * 7, b"\xff" * 100])
def test_damaged_bytes_are_refused(field: str, raw: bytes) -> None:
    state = msgspec.structs.replace(sketch_of(lists(20)).state(), **{field: raw})

    with pytest.raises(UnreadableSketch):
        TrafficSketch.restore(state, REFERENCE.features, REFERENCE.codes)


@pytest.mark.parametrize("seen", [-1, 1 << 63])
def test_a_number_of_lists_that_never_came_is_refused(seen: int) -> None:
    state = msgspec.structs.replace(sketch_of(lists(20)).state(), seen=seen)

    with pytest.raises(UnreadableSketch, match="expected 0 to"):
        TrafficSketch.restore(state, REFERENCE.features, REFERENCE.codes)


def test_a_sketch_of_other_features_is_refused() -> None:
    with pytest.raises(UnreadableSketch, match="expected 3 quantities"):
        TrafficSketch.restore(sketch_of(lists(20)).state(), 3, ())


def coded(values: list[float]) -> tuple[Distribution, Codes]:
    told = describe("code", np.array(values))
    return told, Codes.of(0, told.name, told.categories)


def test_whole_numbers_of_few_kinds_are_categories() -> None:
    assert describe("x", np.array([2.0, 0.0, 2.0, np.nan])).categories == ((0.0, 1), (2.0, 2))
    assert describe("x", np.array([0.5, 1.0])).categories == ()
    assert describe("x", np.arange(MOST_CATEGORIES + 1.0)).categories == ()
    assert len(describe("x", np.arange(float(MOST_CATEGORIES))).categories) == MOST_CATEGORIES
    assert describe("x", np.array([np.nan])).categories == ()


def test_a_value_that_the_version_never_saw_is_counted_and_named() -> None:
    _, codes = coded([1.0, 1.0, 2.0])
    counts = CategoryCounts([codes])

    counts.update(np.array([[1.0], [3.0], [3.0], [np.nan], [2.0], [-7.5]], dtype=np.float32), each=2)

    assert counts.counts[0, :2].tolist() == [2, 2]
    assert counts.counts[0, -1] == 6
    assert counts.newcomers.counts == {"code=3": 4, "code=-7.5": 2}


def test_categories_add_up() -> None:
    _, codes = coded([0.0, 1.0, 2.0])
    one, other, both = CategoryCounts([codes]), CategoryCounts([codes]), CategoryCounts([codes])
    for rows, into in (([0.0, 9.0], one), ([2.0, 9.0, 1.0], other)):
        column = np.array(rows, dtype=np.float32)[:, None]
        into.update(column)
        both.update(column)

    assert one.merge(other).counts.tolist() == both.counts.tolist()
    assert one.merge(other).newcomers.counts == both.newcomers.counts


def test_counts_below_nothing_are_refused() -> None:
    _, codes = coded([0.0, 1.0])
    counts = CategoryCounts([codes])
    counts.counts[0, 0] = -1

    with pytest.raises(UnreadableSketch, match="less than no time"):
        CategoryCounts.decode([codes], counts.encode(), counts.newcomers.encode())


def test_an_older_profile_has_the_bytes_it_had() -> None:
    """Profiles are part of a version's digest: what they did not say then must not be written now."""
    before = Distribution("x", 1, 0.5, 0.0, 0.5, 0.5, 0.0, 0.0, (), (1,))

    assert b"categories" not in msgspec.json.encode(before)
