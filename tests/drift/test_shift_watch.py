"""The watch: what it raises, what it leaves alone, and what deploys, retraining and declared changes do to it."""

from collections.abc import Iterable, Sequence
from dataclasses import replace

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from drift.days.characteristics import raised
from drift.days.means import DayMeans, Level
from drift.days.shift_watch import ShiftWatch, Watched, WatchState
from drift.days.simulated import DayWorld, ramp
from drift.settings import ShiftSettings
from registry.contracts.drift import ShiftAlarm

SETTINGS = ShiftSettings()
ANCHORED = SETTINGS.anchor_days
WORLD = DayWorld(features=4)
WATCHED = WORLD.watched
Days = Sequence[tuple[DayMeans, Level]]


def days(count: int, seed: int = 1, moved: np.ndarray | None = None, world: DayWorld = WORLD) -> Days:
    return list(world.days(count, np.random.default_rng(seed), moved))


def by_version(all_days: Days, deployed: int, jump: float = 0.0, profiled: float = 0.0) -> Days:
    """From a day on they are version 2's, whose shown items' features lie elsewhere; so does its profile."""
    changed = []
    for number, (day, made_on) in enumerate(all_days):
        if number >= deployed:
            there = np.concatenate([np.ones(WORLD.features), np.zeros(2 * WORLD.features)])
            day = replace(day, version=2, mean=day.mean + jump * there)
            made_on = replace(made_on, mean=made_on.mean + profiled * there)
        changed.append((day, made_on))
    return changed


def watch_all(
    all_days: Iterable[tuple[DayMeans, Level]], watch: ShiftWatch | None = None
) -> list[tuple[ShiftAlarm, ...]]:
    watch = watch or ShiftWatch(WATCHED, SETTINGS)
    return [watch.day(day, made_on) for day, made_on in all_days]


def test_a_quiet_season_stays_quiet_in_all_its_charts() -> None:
    assert raised(days(200), WATCHED, SETTINGS) == []


def test_an_alarm_tells_what_shifted_how_far_and_since_when() -> None:
    begins = ANCHORED + 5
    season = days(begins + 6, moved=ramp(begins + 6, 4, feature=2, begins=begins, over=1, to=0.3))

    told = watch_all(season)

    assert told[begins - 1] == ()
    first = next(number for number, alarms in enumerate(told) if alarms)
    alarm = next(alarm for alarm in told[first] if alarm.against == "anchor")
    assert first <= begins + 2
    assert (alarm.quantity, alarm.kind) == ("f2", "mean")
    assert alarm.effect == pytest.approx(0.3, abs=0.1)
    assert alarm.cusum > alarm.threshold
    assert (alarm.onset_ms, alarm.open_since_ms) == (season[begins][0].start_ms, season[first][0].end_ms)


def test_a_shift_back_closes_the_alarm_after_quiet_days() -> None:
    begins, over = ANCHORED + 2, ANCHORED + 12
    moved = ramp(over + 9, 4, 1, begins, 1, 0.4)
    moved[over:] = 0.0

    told = watch_all(days(over + 9, moved=moved))

    assert told[over - 1]
    assert told[over + SETTINGS.quiet_days - 2]
    assert told[over + SETTINGS.quiet_days] == ()


def test_one_odd_day_is_no_shift() -> None:
    odd = ANCHORED + 4
    moved = np.zeros((odd + 10, 4))
    moved[odd] = 0.4

    assert not any(watch_all(days(odd + 10, moved=moved)))


@pytest.mark.parametrize("day", [0, 3, ANCHORED + 3])
def test_a_feature_that_breaks_is_alarmed_on_the_same_day_even_without_history(day: int) -> None:
    season = days(day + 1)
    broken, made_on = season[day]
    missing = broken.mean.copy()
    missing[0], missing[4] = np.nan, 1.0  # no values any more: all missing
    season = [*season[:day], (replace(broken, mean=missing), made_on)]

    alarms = watch_all(season)[day]

    assert {(alarm.quantity, alarm.kind) for alarm in alarms} == {("f0", "missing_share")}


def test_a_skew_between_training_and_traffic_is_found_before_there_is_an_anchor() -> None:
    season = days(20, moved=np.tile([0.3, 0.0, 0.0, 0.0], (20, 1)))

    told = watch_all(season)

    assert told[6] == ()
    assert {alarm.against for alarms in told for alarm in alarms} == {"profile"}
    assert [alarm.quantity for alarm in told[-1]] == ["f0"]


def test_what_lies_within_the_floor_is_never_alarmed_on() -> None:
    season = days(ANCHORED + 60, moved=ramp(ANCHORED + 60, 4, 0, ANCHORED, 1, 0.05))

    assert not any(watch_all(season))


def test_slow_drift_is_found_though_every_retraining_follows_it() -> None:
    count, every = ANCHORED + 200, 14
    slow = np.outer(np.maximum(np.arange(count) - ANCHORED, 0) * 0.0015, [1.0, 0.0, 0.0, 0.0])
    season = []
    for number, (day, made_on) in enumerate(days(count, moved=slow)):
        trained = number // every * every
        mean = made_on.mean.copy()
        mean[0] += slow[trained, 0]
        season.append((replace(day, version=number // every), replace(made_on, mean=mean)))

    told = watch_all(season)

    found = next(number for number, alarms in enumerate(told) if alarms)
    assert {(alarm.quantity, alarm.against) for alarm in told[found]} == {("f0", "anchor")}
    assert 0.05 <= slow[found, 0] <= 0.2, "days and the anchor's level are known to some 0.02"
    assert all(alarm.against == "anchor" for alarms in told for alarm in alarms)
    assert told[-1][0].answered, "the newest version was trained on what it sees"


def test_the_jump_of_a_deploy_is_no_drift() -> None:
    deployed = ANCHORED + 6
    season = by_version(days(deployed + 40), deployed, jump=0.5, profiled=0.5)

    assert not any(watch_all(season))


def test_a_deploy_while_the_anchor_is_laid_is_no_drift() -> None:
    season = by_version(days(ANCHORED + 40), ANCHORED - 10, jump=0.5, profiled=0.5)

    assert not any(watch_all(season))


def test_a_shift_after_a_deploy_that_jumped_is_found_from_where_it_jumped_to() -> None:
    deployed, begins = ANCHORED + 6, ANCHORED + 16
    season = days(begins + 14, moved=ramp(begins + 14, 4, 3, begins, 14, 0.35))

    told = watch_all(by_version(season, deployed, jump=0.5, profiled=0.5))

    first = next(number for number, alarms in enumerate(told) if alarms)
    assert begins < first < begins + 9
    assert {alarm.quantity for alarm in told[first]} == {"f3"}


def test_a_new_version_that_sees_something_else_than_it_was_made_on_is_alarmed_on_while_the_anchor_rests() -> None:
    deployed = ANCHORED + 6
    told = watch_all(by_version(days(deployed + 4), deployed, jump=0.5, profiled=0.0))

    assert {alarm.against for alarm in told[deployed + SETTINGS.settle_days - 1]} == {"profile"}


def test_retraining_on_what_shifted_answers_the_alarm() -> None:
    begins, deployed = ANCHORED + 2, ANCHORED + 14
    season = days(deployed + 8, moved=ramp(deployed + 8, 4, 0, begins, 1, 0.3))

    told = watch_all(by_version(season, deployed, profiled=0.3)[: deployed + 8])

    assert told[deployed - 1]
    assert not any(alarm.answered for alarm in told[deployed - 1])
    after = {alarm.quantity: alarm for alarm in told[-1] if alarm.quantity == "f0"}
    assert after["f0"].answered, "still off its anchor, and the version knows"


def test_a_declared_change_lays_the_anchor_anew_and_silences_the_profile() -> None:
    begins = ANCHORED + 2
    season = days(begins + 80, moved=ramp(begins + 80, 4, 0, begins, 1, 3.0))
    watch = ShiftWatch(WATCHED, SETTINGS)
    assert watch_all(season[: begins + 2], watch)[-1]

    for again in (1, 2):
        watch.rebaseline(season[begins + 2][0].start_ms)
        told = watch_all(season[begins + 2 * again : begins + 38 * again], watch)
        assert not any(told)

    assert watch.anchored
    assert repr(watch) == "<ShiftWatch 12 quantities [anchored | 0 alarms open]>"


def test_a_day_told_again_changes_nothing_and_a_thin_one_leaves_alarms_as_they_are() -> None:
    begins = ANCHORED + 2
    season = days(begins + 6, moved=ramp(begins + 6, 4, 0, begins, 1, 1.0))
    watch = ShiftWatch(WATCHED, SETTINGS)
    told = watch_all(season[:-1], watch)
    state = watch.state()

    assert watch.day(*season[-2]) == told[-1] == watch.day(replace(season[-1][0], lists=3), season[-1][1])
    assert msgspec.structs.replace(watch.state(), last_end_ms=state.last_end_ms) == state


def test_an_alarm_on_a_feature_that_then_has_no_values_keeps_its_last_size() -> None:
    season = list(days(ANCHORED + 6, moved=ramp(ANCHORED + 6, 4, 0, ANCHORED, 1, 0.5)))
    lost, made_on = season[-1]
    mean = lost.mean.copy()
    mean[0] = np.nan
    season[-1] = replace(lost, mean=mean), made_on

    before, after = watch_all(season)[-2:]

    assert [alarm.effect for alarm in after if alarm.quantity == "f0"] == [alarm.effect for alarm in before]
    assert all(np.isfinite(alarm.effect) for alarm in after)


@pytest.mark.parametrize("stopped", [1, 9, ANCHORED - 1, ANCHORED + 1, ANCHORED + 7, ANCHORED + 9, ANCHORED + 12])
def test_a_watch_that_is_restored_goes_on_as_if_it_had_not_stopped(stopped: int) -> None:
    begins = ANCHORED + 10
    season = by_version(days(begins + 20, moved=ramp(begins + 20, 4, 0, begins, 9, 0.5)), ANCHORED + 6, jump=0.4)
    whole = watch_all(season)

    watch = ShiftWatch(WATCHED, SETTINGS)
    before = watch_all(season[:stopped], watch)
    kept = msgspec.msgpack.encode(watch.state())
    again = ShiftWatch.restore(msgspec.msgpack.decode(kept, type=WatchState), WATCHED, SETTINGS)

    assert [*before, *watch_all(season[stopped:], again)] == whole
    assert any(whole)


def test_the_state_of_another_watch_is_refused() -> None:
    with pytest.raises(ValueError, match="other quantities"):
        ShiftWatch.restore(ShiftWatch(WATCHED, SETTINGS).state(), Watched(("x",), ("mean",)), SETTINGS)


@given(st.floats(-100.0, 100.0), st.floats(0.01, 100.0))
def test_another_origin_and_unit_of_a_feature_change_no_alarm(by: float, unit: float) -> None:
    season = days(ANCHORED + 8, moved=ramp(ANCHORED + 8, 4, 0, ANCHORED, 8, 0.5))
    is_mean = np.arange(12) < 4

    def moved(values: np.ndarray) -> np.ndarray:
        return np.where(is_mean, values * unit + by, values)

    def scaled(values: np.ndarray) -> np.ndarray:
        return np.where(is_mean, values * unit, values)

    elsewhere = [
        (
            replace(day, mean=moved(day.mean), std=scaled(day.std), error=scaled(day.error)),
            Level(moved(made_on.mean), scaled(made_on.std), scaled(made_on.error)),
        )
        for day, made_on in season
    ]

    one, other = watch_all(season), watch_all(elsewhere)
    assert [[(alarm.quantity, alarm.against) for alarm in alarms] for alarms in one] == [
        [(alarm.quantity, alarm.against) for alarm in alarms] for alarms in other
    ]
    for alarm, same in zip(one[-1], other[-1], strict=True):
        assert same.effect == pytest.approx(alarm.effect, rel=1e-6)
    assert one[-1]


def test_what_matters_to_the_ranker_has_the_lower_threshold_and_is_told_first() -> None:
    weighed = replace(WATCHED, importance=np.array([1.0, 8.0, 1.0, 1.0] * 3))
    moved = ramp(ANCHORED + 9, 4, 0, ANCHORED, 1, 0.5) + ramp(ANCHORED + 9, 4, 1, ANCHORED, 1, 0.4)

    watch = ShiftWatch(weighed, SETTINGS)
    alarms = watch_all(days(ANCHORED + 9, moved=moved), watch)[-1]

    assert watch.thresholds[1] < SETTINGS.h < watch.thresholds[0]
    assert alarms[0].quantity == "f1"
    assert alarms[0].importance == pytest.approx(8.0 / 2.75)


def test_versions_on_other_scales_are_standardised_by_their_own_profiles() -> None:
    watched = Watched(("ranking:scores",), ("mean",), by_version=frozenset({"ranking:scores"}))
    season = []
    for day, made_on in days(ANCHORED + 30, world=DayWorld(features=1)):
        scale = 7.0 if day.start_ms >= days(1)[0][0].start_ms + (ANCHORED + 4) * 86_400_000 else 1.0
        day = replace(day.of(slice(1)), version=int(scale), mean=day.mean[:1] * scale, error=day.error[:1] * scale)
        made_on = made_on.of(slice(1))
        season.append((day, Level(made_on.mean * scale, made_on.std * scale, made_on.error * scale)))

    assert not any(watch_all(season, ShiftWatch(watched, SETTINGS)))
    assert season[-1][0].version == 7


def test_lengths_that_do_not_go_together_are_refused() -> None:
    with pytest.raises(ValueError, match="as many names as kinds"):
        Watched(("a", "b"), ("mean",))
