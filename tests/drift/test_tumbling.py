"""Event time decides where a ranking belongs and when a window is over."""

from collections.abc import Sequence
from typing import Any

import pytest

from drift.windows.reference import Reference
from drift.windows.segments import parse_segments
from drift.windows.tumbling import OpenWindows
from tests.builders import NOW_MS, a_ranking
from tests.drift.traffic import COLUMNS, PROFILE, in_parts, rankings

WINDOW_MS, LATENESS_MS = 1000, 300
REFERENCE = Reference.of(PROFILE)


def open_windows() -> OpenWindows:
    return OpenWindows(WINDOW_MS, LATENESS_MS, lambda model, version: REFERENCE)


def absorb(windows: OpenWindows, at_ms: Sequence[int], now_ms: int | None = None, **changes: Any) -> dict[str, int]:
    names = "".join(map(str, changes.values()))
    events = [a_ranking(f"r{ms}{names}", answered_ms=NOW_MS + ms, **changes) for ms in at_ms]
    return dict(windows.absorb(events, NOW_MS + (max(at_ms) if now_ms is None else now_ms)))


def spans(windows: OpenWindows) -> list[tuple[int, int, int]]:
    return [(w.key.start_ms - NOW_MS, w.key.end_ms - NOW_MS, w.seen) for w in windows.close()]


def test_a_window_ends_before_its_end() -> None:
    windows = open_windows()

    absorb(windows, [0, 999, 1000, 5000])

    assert spans(windows) == [(0, 1000, 2), (1000, 2000, 1)]


def test_a_window_waits_for_stragglers_as_long_as_lateness_allows() -> None:
    windows = open_windows()

    absorb(windows, [500, 1299])
    assert spans(windows) == []

    assert absorb(windows, [700], now_ms=1299) == {"absorbed": 1}
    absorb(windows, [1300])
    assert spans(windows) == [(0, 1000, 2)]


def test_what_comes_after_its_window_was_closed_is_late() -> None:
    windows = open_windows()
    absorb(windows, [500, 1300])
    windows.close()

    assert absorb(windows, [999, 1000], now_ms=1300) == {"late": 1, "absorbed": 1}
    absorb(windows, [9000])
    assert spans(windows) == [(1000, 2000, 2)]


def test_a_backlog_falls_into_the_windows_of_its_time() -> None:
    windows = open_windows()

    absorb(windows, range(0, 3000, 100), now_ms=3_600_000)

    assert len(windows) == 3
    assert spans(windows) == [(0, 1000, 10), (1000, 2000, 10)]


def test_a_clock_that_is_ahead_closes_nobody_elses_window() -> None:
    windows = open_windows()

    assert absorb(windows, [500, 801, 99_000], now_ms=500) == {"absorbed": 1, "misdated": 2}
    assert absorb(windows, [800], now_ms=500) == {"absorbed": 1}
    assert spans(windows) == []


def test_time_passes_without_traffic() -> None:
    windows = open_windows()
    absorb(windows, [500])

    windows.advance(NOW_MS + 1299)
    assert spans(windows) == []
    windows.advance(NOW_MS + 1300)
    assert spans(windows) == [(0, 1000, 1)]


def test_the_watermark_never_goes_back() -> None:
    windows = open_windows()
    windows.advance(NOW_MS + 2000)

    windows.advance(NOW_MS)

    assert windows.watermark_ms == NOW_MS + 1700


def test_a_clock_that_was_set_back_leaves_later_windows_out_and_goes_on() -> None:
    windows = open_windows()
    absorb(windows, [500, 9000])
    windows.close()

    assert not windows.set_back(NOW_MS + 8700)
    assert windows.set_back(NOW_MS + 1500)

    assert (len(windows), windows.watermark_ms) == (0, NOW_MS + 1200)
    assert absorb(windows, [1400], now_ms=1500) == {"absorbed": 1}
    windows.advance(NOW_MS + 2300)
    assert spans(windows) == [(1000, 2000, 1)]


def test_models_versions_and_arms_have_windows_of_their_own() -> None:
    windows = open_windows()
    for changes in ({}, {"model": "other"}, {"version": 2}, {"arm": "challenger"}):
        absorb(windows, [0], **changes)

    assert len(windows) == 4


def test_a_clock_that_is_a_little_ahead_takes_no_time_from_stragglers() -> None:
    windows = open_windows()

    absorb(windows, [500, 1310], now_ms=1050)

    assert spans(windows) == []
    assert windows.watermark_ms == NOW_MS + 750


def test_a_ranking_that_comes_again_counts_once_for_as_long_as_its_window_is_open() -> None:
    windows = open_windows()

    assert absorb(windows, [100, 100, 1250]) == {"absorbed": 2, "repeated": 1}
    assert absorb(windows, [100], now_ms=1250) == {"repeated": 1}
    absorb(windows, [1300])
    assert absorb(windows, [100], now_ms=1300) == {"late": 1}
    assert spans(windows) == [(0, 1000, 1)]
    assert len(windows.counted) == 2


def test_rankings_that_would_open_too_many_windows_are_left_out() -> None:
    asked: list[int] = []

    def reference_of(model: str, version: int) -> Reference:
        asked.append(version)
        return REFERENCE

    windows = OpenWindows(WINDOW_MS, LATENESS_MS, reference_of, most_windows=2)

    assert absorb(windows, [0, 1000, 2000, 2001], now_ms=2001) == {"absorbed": 2, "crowded": 2}
    assert (len(windows), len(asked)) == (2, 2)  # of versions without room nothing is read
    assert absorb(windows, [1001], now_ms=2001) == {"absorbed": 1}


def test_segments_are_counted_apart_and_together() -> None:
    parts = {"codesearch": parse_segments("codesearch:of_query<0")["codesearch"]}
    events = rankings(seed=41, lists=60, every_ms=1)
    whole, divided = open_windows(), OpenWindows(WINDOW_MS, LATENESS_MS, lambda *_: REFERENCE, segments=parts)
    for windows in (whole, divided):
        for part in in_parts(events, 7):
            windows.absorb(part, NOW_MS + WINDOW_MS)
        windows.advance(NOW_MS + 2 * WINDOW_MS)

    (expected,), (together, *apart) = whole.close(), divided.close()

    assert [window.key.segment for window in (together, *apart)] == ["", "0<=of_query", "of_query<0"]
    assert (together.key, together.lists) == (expected.key, expected.lists)
    assert together.pooled.mean == pytest.approx(expected.pooled.mean, rel=1e-9, abs=1e-12)
    assert together.blocks.spread == pytest.approx(expected.blocks.spread, rel=1e-9, abs=1e-12)
    of_query = COLUMNS.index("of_query")
    assert [window.pooled.mean[of_query] > 0 for window in apart] == [True, False]
    assert sum(window.lists for window in apart) == 60


def test_segments_go_on_after_a_restart_also_when_they_were_declared_meanwhile() -> None:
    segments = parse_segments("codesearch:of_query<0")
    events = rankings(seed=42, lists=40)
    first, again = open_windows(), OpenWindows(WINDOW_MS, LATENESS_MS, lambda *_: REFERENCE, segments=segments)
    first.absorb(events[:20], NOW_MS)

    again.restore(first.states())
    again.absorb(events[20:], NOW_MS)
    again.advance(NOW_MS + 2 * WINDOW_MS)

    together, *apart = again.close()
    assert (together.key.segment, together.lists) == ("", 40)
    assert sum(window.lists for window in apart) == 20
