"""Settings fail at start, naming key, value and rule."""

import re

import pytest

from drift.settings import MonitorSettings, Rule


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
    ],
)
def test_a_setting_out_of_range_is_refused_by_name(build: type, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        build()
