"""Day blocks: windows put together are the day itself, whatever their order, and nothing of it is lost."""

from dataclasses import replace
from itertools import pairwise

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from drift.days.blocks import DayBlocks, level_of, means_of, places_of, watched
from drift.windows.reference import Reference
from drift.windows.window import Window, WindowKey
from tests.builders import NOW_MS
from tests.drift.traffic import COLUMNS, PROFILE, rankings

REFERENCE = Reference.of(PROFILE)
OTHER = replace(REFERENCE, digest="another")
LISTS = rankings(41, 120)
DAY_MS = 86_400_000
HOUR_MS = 3_600_000


def window(
    start_ms: int = NOW_MS, arm: str = "champion", version: int = 1, reference: Reference | None = REFERENCE
) -> Window:
    return Window(WindowKey(start_ms, start_ms + HOUR_MS, "codesearch", version, arm), reference)


def of(lists: list, **changes: object) -> Window:
    made = window(**changes)  # type: ignore[arg-type]
    made.absorb(lists)
    return made


@given(st.permutations(range(120)), st.lists(st.integers(0, 120), max_size=4))
def test_windows_put_together_in_any_order_are_the_whole_day(order: list[int], cuts: list[int]) -> None:
    whole = of(LISTS)
    edges = [0, *sorted(cuts), 120]
    days = DayBlocks(DAY_MS, lambda model, version: REFERENCE)

    for hour, (a, b) in enumerate(pairwise(edges)):
        days.add([of([LISTS[place] for place in order[a:b]], start_ms=NOW_MS + hour * HOUR_MS)])

    (day,) = days.close(NOW_MS + DAY_MS)
    assert (day.seen, day.lists) == (120, 120)
    np.testing.assert_array_equal(day.bins, whole.bins)
    for name in ("mean", "std", "error"):
        np.testing.assert_allclose(getattr(means_of(day), name), getattr(means_of(whole), name), rtol=1e-9, atol=1e-9)


def test_means_are_those_of_the_rows_with_the_error_of_lists() -> None:
    day = means_of(of(LISTS))

    rows = np.array([event.feature_matrix() for event in LISTS], dtype=np.float64)
    of_query = COLUMNS.index("of_query")
    assert day.mean[:2] == pytest.approx(rows.reshape(-1, len(COLUMNS)).mean(axis=0)[:2])
    assert day.error[of_query] == pytest.approx(rows[:, 0, of_query].std() / np.sqrt(119)), "rows of a list are one"
    missing = REFERENCE.names.index("often_missing", len(COLUMNS) + 3)
    assert day.mean[missing] == pytest.approx(np.isnan(rows).reshape(-1, len(COLUMNS)).mean(axis=0)[5])


def test_days_close_in_order_the_champion_s_first_and_stay_closed_out() -> None:
    days = DayBlocks(DAY_MS, lambda model, version: REFERENCE)
    days.add(
        [window(NOW_MS + DAY_MS), window(NOW_MS + HOUR_MS, "challenger", 2), window(), window(NOW_MS + 2 * HOUR_MS)]
    )

    assert days.close(NOW_MS + DAY_MS - 1) == []
    assert [day.key.arm for day in days.close(NOW_MS + DAY_MS)] == ["champion", "challenger"]
    assert len(days) == 1


def test_days_of_a_snapshot_go_on() -> None:
    days = DayBlocks(DAY_MS, lambda model, version: REFERENCE)
    days.add([of(LISTS[:70])])
    again = DayBlocks(DAY_MS, lambda model, version: REFERENCE)
    again.restore(days.states())
    for each in (days, again):
        each.add([of(LISTS[70:], start_ms=NOW_MS + HOUR_MS)])

    (one,), (other,) = days.close(NOW_MS + DAY_MS), again.close(NOW_MS + DAY_MS)
    assert one.state() == other.state()


@pytest.mark.parametrize(("reference", "lists"), [(None, 70), (OTHER, 70), (REFERENCE, 120)])
def test_what_was_counted_by_another_profile_adds_only_how_much_it_was(reference: Reference | None, lists: int) -> None:
    merged = of(LISTS[:70]).merge(of(LISTS[70:], reference=reference))

    assert (merged.seen, merged.lists) == (120, lists)


def test_a_day_that_began_without_a_profile_takes_the_one_that_was_found_since() -> None:
    merged = of(LISTS[:70], reference=None).merge(of(LISTS[70:]))

    assert (merged.seen, merged.lists, merged.reference) == (120, 50, REFERENCE)
    with pytest.raises(ValueError, match="has no reference"):
        means_of(of(LISTS, reference=None))


def test_families_share_out_every_quantity_and_weigh_what_is_not_named_as_the_mean() -> None:
    known = msgspec.structs.replace(PROFILE, importance=(0.8, 0.4, 0.0, 0.0, 0.0, 0.2, 0.0))
    features = watched(Reference.of(known), "features")
    confidence = watched(REFERENCE, "confidence")

    assert set(confidence.names) == {"ranking:margin", "ranking:entropy"}
    assert len(features.names) + 2 == len(REFERENCE.names)
    assert features.importance is not None
    weights = dict(zip(features.names, features.importance.tolist(), strict=True))
    assert (weights["of_item"], weights["of_query"], weights["ranking:scores"]) == (0.8, 0.0, pytest.approx(0.2))
    assert set(features.kinds) == {"mean", "missing_share", "zero_share"}


def test_the_level_is_the_profile_s_known_as_well_as_its_lists_allow() -> None:
    level = level_of(REFERENCE).of(places_of(REFERENCE, "features"))

    assert level.mean[0] == PROFILE.features[0].mean
    assert level.error[0] == pytest.approx(PROFILE.features[0].std / np.sqrt(4000))


def test_days_later_than_a_clock_that_was_set_back_are_left_out() -> None:
    days = DayBlocks(DAY_MS, lambda model, version: REFERENCE)
    days.add([of(LISTS[:60]), of(LISTS[60:], start_ms=NOW_MS + DAY_MS)])

    days.set_back(NOW_MS + HOUR_MS)

    assert [(day.key.start_ms, day.seen) for day in days.close(NOW_MS + 2 * DAY_MS)] == [(NOW_MS, 60)]
