"""Settings fail at start, naming key, value and rule."""

import re

import pytest

from drift.settings import (
    MonitorSettings,
    RankDiffSettings,
    RankLimits,
    Rule,
    ShiftSettings,
    parse_monitor,
    parse_rank_diff,
)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: MonitorSettings(window_s=0), "monitor.window_s=0: expected 1 <= s <= 2678400"),
        (lambda: MonitorSettings(lateness_s=-1), "monitor.lateness_s=-1: expected 0 <= s <= 86400"),
        (lambda: MonitorSettings(save_every_s=61), "monitor.save_every_s=61: expected 0 <= s <= 60"),
        (lambda: MonitorSettings(entries_a_read=0), "monitor.entries_a_read=0: expected 1 to 10000"),
        (lambda: MonitorSettings(wait_s=0), "monitor.wait_s=0: expected 0 < s <= 60"),
        (lambda: MonitorSettings(retry_s=float("nan")), "monitor.retry_s=nan: expected 0 < s <= 60"),
        (lambda: Rule(min_lists=1), "monitor.min_lists=1: expected at least 2"),
        (lambda: Rule(effect_floor_sd=0), "monitor.effect_floor_sd=0: expected 0 < sd <= 10"),
        (lambda: Rule(share_floor=1), "monitor.share_floor=1: expected 0 < share < 1"),
        (lambda: Rule(alpha=1.5), "monitor.alpha=1.5: expected 0 < alpha < 1"),
        (lambda: RankLimits(min_lists=1), "rank_diff.min_lists=1: expected at least 2"),
        (lambda: RankLimits(min_overlap=1.1), "rank_diff.min_overlap=1.1: expected 0 <= share <= 1"),
        (lambda: RankLimits(max_error_share=-1), "rank_diff.max_error_share=-1: expected 0 <= share <= 1"),
        (lambda: RankLimits(max_p99_ratio=0), "rank_diff.max_p99_ratio=0: expected 0 < ratio <= 1e6"),
        (lambda: RankLimits(fail_alpha=0.5), "rank_diff.fail_alpha=0.5: expected 0 < alpha < 0.5"),
        (lambda: RankDiffSettings(depth=9), "rank_diff.depth=9: expected overlap_k to 1000"),
        (lambda: RankDiffSettings(rbo_p=1), "rank_diff.rbo_p=1: expected 0 < p < 1"),
        (lambda: RankDiffSettings(window_s=0), "rank_diff.window_s=0: expected 1 <= s <= 86400"),
        (lambda: RankDiffSettings(most_steps=0), "rank_diff.most_steps=0: expected 1 to 10000"),
        (lambda: MonitorSettings(window_s=7.0), "window_s=7.0: expected a whole number of windows in a day of 86400 s"),
        (lambda: ShiftSettings(day_s=0), "shift.day_s=0: expected 1 <= s <= 2678400"),
        (lambda: ShiftSettings(k=0), "shift.k=0: expected 0 < sd <= 10"),
        (lambda: ShiftSettings(h=float("nan")), "shift.h=nan: expected 0 < sd <= 1000"),
        (lambda: ShiftSettings(anchor_days=13), "shift.anchor_days=13: expected 14 to 366"),
        (lambda: ShiftSettings(min_days=29), "shift.min_days=29: expected 1 to anchor_days"),
        (lambda: ShiftSettings(spread=0.5), "shift.spread=0.5: expected 1 <= sd <= 10"),
        (lambda: ShiftSettings(false_alarms_a_month=0), "shift.false_alarms_a_month=0: expected 0 < alarms <= 1000"),
    ],
)
def test_a_setting_out_of_range_is_refused_by_name(build: type, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        build()


def test_rank_diff_is_told_by_name_and_the_rest_stays_as_it_is() -> None:
    told = parse_rank_diff(" min_overlap=0.5, window_s=30,min_lists=10 ")

    assert told == RankDiffSettings(RankLimits(min_lists=10, min_overlap=0.5), window_s=30.0)
    assert parse_rank_diff("") == RankDiffSettings()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("overlap=1", "overlap=1: expected name=number, each name once, of min_lists, overlap_k, min_overlap"),
        ("min_lists=2,min_lists=3", "min_lists=3: expected name=number, each name once"),
        ("min_overlap", "min_overlap: expected name=number"),
        ("min_overlap=much", "min_overlap=much: expected a number"),
        ("min_lists=2.5", "min_lists=2.5: expected a whole number"),
        ("max_p99_ratio=inf", "rank_diff.max_p99_ratio=inf: expected 0 < ratio <= 1e6"),
        ("min_overlap=nan", "rank_diff.min_overlap=nan: expected 0 <= share <= 1"),
    ],
)
def test_what_rank_diff_cannot_be_told_is_refused_with_the_rule(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        parse_rank_diff(text)


def test_windows_and_days_are_told_in_one_line() -> None:
    told = parse_monitor("window_s=5, day_s=60,min_lists=20")

    assert told == MonitorSettings(window_s=5.0, shift=ShiftSettings(day_s=60.0, min_lists=20))
    assert parse_monitor("") == MonitorSettings()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("days=1", "days=1: expected name=number, each name once, of window_s, lateness_s, save_every_s"),
        ("min_lists=2.5", "min_lists=2.5: expected a whole number"),
        ("day_s=60", "monitor.window_s=300.0: expected a whole number of windows in a day of 60 s"),
    ],
)
def test_what_the_monitor_cannot_be_told_is_refused_with_the_rule(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        parse_monitor(text)
