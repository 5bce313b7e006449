"""The same hours of earlier weeks: what comes back is no shift, what is kept is bounded, and no window is in twice."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from drift.settings import Rule
from drift.windows.hours import Hours, SeasonShift
from drift.windows.judge import judge
from drift.windows.reference import Reference
from drift.windows.window import Window, WindowKey
from tests.drift.traffic import PROFILE, rankings

DAY_MS, WINDOW_MS = 24_000, 500
HOUR_MS, WEEK_MS = 1_000, 7 * DAY_MS
REFERENCE = Reference.of(PROFILE)


@pytest.fixture
def hours(tmp_path: Path) -> Hours:
    return Hours(tmp_path, DAY_MS, WINDOW_MS, weeks=3)


def window(start_ms: int, seed: int = 0, moved: dict[str, float] | None = None, lists: int = 60, **key: Any) -> Window:
    reference = key.pop("reference", REFERENCE)
    named = {"model": "codesearch", "version": 1, "arm": "champion"} | key
    found = Window(WindowKey(start_ms, start_ms + WINDOW_MS, **named), reference)
    found.absorb(rankings(seed or start_ms + 1, lists, moved, version=named["version"], arm=named["arm"]))
    return found


def of_item(season: tuple[SeasonShift, ...]) -> SeasonShift:
    [found] = [one for one in season if (one.quantity, one.aspect) == ("of_item", "mean")]
    return found


def at(week: int, day: int = 0, hour: int = 0) -> int:
    return week * WEEK_MS + day * DAY_MS + hour * HOUR_MS


def test_what_comes_back_each_day_is_a_shift_from_the_profile_and_none_from_the_same_hours(hours: Hours) -> None:
    for week in range(3):
        for hour in range(2):
            hours.add(window(at(week, hour=hour), moved={"of_item": 0.8 * hour}))
    night = window(at(3, hour=1), moved={"of_item": 0.8})
    verdict = judge(night, Rule(min_lists=50), hours.beside(night))

    [of_profile] = [one for one in verdict.findings if (one.quantity, one.aspect) == ("of_item", "mean")]
    found = of_item(verdict.season)
    assert of_profile.moved
    assert (found.weeks, found.psi is not None, found.ks is not None) == (3, True, True)
    assert abs(found.shift) < 0.15
    assert found.between is not None
    assert found.between < 0.15


def test_what_is_new_is_a_shift_from_the_same_hours_too(hours: Hours) -> None:
    for week in range(3):
        hours.add(window(at(week)))
    broken = of_item(hours.beside(window(at(3), moved={"of_item": 1.0})))

    assert broken.shift == pytest.approx(1.0 / REFERENCE.std[0], abs=0.2)
    assert broken.between is not None
    assert abs(broken.shift) > 5 * broken.between
    assert broken.psi is not None
    assert broken.psi > 0.3


def test_windows_of_an_hour_are_one_block_and_each_is_in_it_once(hours: Hours) -> None:
    first, second = window(at(0)), window(at(0) + WINDOW_MS)
    for one in (first, second, first, second):
        hours.add(one)
    whole = first.merge(second)

    [file] = hours.folder.rglob("*.msgpack")
    later = window(at(1), seed=5)
    mean = float(whole.pooled.mean[0])
    assert of_item(hours.beside(later)).shift == pytest.approx((later.pooled.mean[0] - mean) / REFERENCE.std[0])
    hours.add(later)
    assert file.exists()


def test_other_hours_and_one_week_alone_say_what_they_can(hours: Hours) -> None:
    hours.add(window(at(0)))

    assert hours.beside(window(at(1, hour=1))) == ()
    assert hours.beside(window(at(0, day=1))) == ()
    assert of_item(hours.beside(window(at(1)))).between is None


def test_only_so_many_weeks_are_kept(hours: Hours) -> None:
    for week in range(8):
        for hour in range(4):
            hours.add(window(at(week, hour=hour), lists=5))

    kept = [int(file.name[:14]) for file in hours.folder.rglob("*.msgpack")]
    assert min(kept) >= at(4, hour=2)
    assert len(kept) <= 4 * (hours.weeks + 1)


def test_arms_lie_apart_and_those_that_are_gone_are_forgotten(hours: Hours) -> None:
    hours.add(window(at(0), arm="challenger", version=2))
    assert hours.beside(window(at(1))) == ()
    assert hours.beside(window(at(1), arm="challenger", version=2))

    for week in range(6):
        hours.add(window(at(week)))

    assert [home.name for home in (hours.folder / "codesearch" / "hours").iterdir()] == ["champion"]


def test_after_a_deploy_features_are_still_compared_and_scores_are_not(hours: Hours) -> None:
    hours.add(window(at(0)))
    retrained = Reference.of(msgspec.structs.replace(PROFILE, population="the next version's"))

    season = hours.beside(window(at(1), version=2, reference=retrained))

    assert of_item(season).weeks == 1
    assert of_item(season).psi is None
    assert not [one for one in season if one.quantity.startswith("ranking:")]


def test_a_window_that_could_not_be_counted_whole_is_no_yardstick(hours: Hours) -> None:
    unfit = window(at(0))
    unfit.seen += 1
    hours.add(unfit)
    hours.add(Window(unfit.key, None))

    assert not list(hours.folder.rglob("*.msgpack"))
    assert hours.beside(Window(unfit.key, None)) == ()


@pytest.mark.parametrize("damage", [lambda raw: b"", lambda raw: b"broken", lambda raw: raw[:400] + b"?" + raw[401:]])
def test_a_damaged_block_is_an_hour_that_is_not_known(hours: Hours, damage: Callable[[bytes], bytes]) -> None:
    hours.add(window(at(0)))
    [file] = hours.folder.rglob("*.msgpack")
    file.write_bytes(damage(file.read_bytes()))

    assert hours.beside(window(at(1))) == ()
    hours.add(window(at(0)))
    assert hours.beside(window(at(1)))


def test_a_missing_share_is_listed_where_it_changed(hours: Hours) -> None:
    hours.add(window(at(0)))
    holed = []
    for event in rankings(4, 60):
        matrix = event.feature_matrix().copy()
        matrix[:, 0] = np.nan
        holed.append(msgspec.structs.replace(event, features=matrix.tobytes()))
    broken = Window(window(at(1)).key, REFERENCE)
    broken.absorb(holed)

    shares = {one.quantity: one.shift for one in hours.beside(broken) if one.aspect == "missing_share"}
    assert shares["of_item"] == 1.0
    assert "of_query" not in shares
