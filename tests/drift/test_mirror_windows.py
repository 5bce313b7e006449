"""Windows by event time and steps over all of it: late events count, what is kept is bounded."""

import pytest

from drift.mirrors.rank_summary import NAMES, Standard
from drift.mirrors.windows import MOST_LATE_MS, MirrorWindows, Shadow
from drift.settings import RankDiffSettings
from tests.builders import NOW_MS, a_mirror
from tests.drift.mirrored import mirrors

SETTINGS = RankDiffSettings(window_s=10.0, lateness_s=2.0, most_windows=3, most_steps=2)
WINDOW_MS = 10_000


def no_standard(model: str, version: int) -> Standard | None:
    return None


def windows(standard_of: object = no_standard) -> MirrorWindows:
    return MirrorWindows(SETTINGS, standard_of)  # type: ignore[arg-type]


def test_windows_close_when_lateness_has_passed_oldest_first_each_with_its_step() -> None:
    open_ = windows()
    open_.absorb(mirrors(1, 25, every_ms=1000), NOW_MS + 25_000)

    closed = open_.close()

    assert [(window.start_ms - NOW_MS, window.summary.mirrored) for _, window, _ in closed] == [(0, 10), (10_000, 10)]
    assert [(step.start_ms, step.end_ms - NOW_MS, step.summary.mirrored) for _, _, step in closed] == [
        (NOW_MS, 10_000, 10),
        (NOW_MS, 20_000, 20),
    ]
    assert len(open_) == 1


def test_a_late_event_is_counted_in_the_step_and_in_no_window() -> None:
    open_ = windows()
    open_.absorb(mirrors(1, 15, every_ms=1000), NOW_MS + 15_000)
    assert [window.summary.mirrored for _, window, _ in open_.close()] == [10]

    outcomes = open_.absorb(mirrors(2, 3), NOW_MS + 15_000)
    open_.advance(NOW_MS + 30_000)

    assert outcomes == {"late": 3}
    (_, window, step) = open_.close()[0]
    assert (window.summary.mirrored, step.summary.mirrored) == (5, 18)


@pytest.mark.parametrize("off_ms", [3000, -MOST_LATE_MS - 1])
def test_a_wrong_clock_is_counted_and_moves_nothing(off_ms: int) -> None:
    open_ = windows()

    assert open_.absorb([a_mirror(mirrored_ms=NOW_MS + off_ms)], NOW_MS) == {"misdated": 1}
    assert (len(open_), open_.steps()) == (0, ())


def test_a_clock_that_was_set_back_leaves_later_windows_out_and_goes_on() -> None:
    open_ = windows()
    open_.absorb(mirrors(1, 1, start_ms=NOW_MS + 7_200_000), NOW_MS + 7_200_000)

    assert open_.set_back(NOW_MS)
    assert not open_.set_back(NOW_MS)

    assert len(open_) == 0
    assert open_.absorb(mirrors(2, 3), NOW_MS + 1000) == {"absorbed": 3}


def test_versions_experiments_and_revisions_are_kept_apart() -> None:
    open_ = windows()
    events = [*mirrors(1, 2), *mirrors(2, 3, version=3), *mirrors(3, 4, plan_revision=2)]
    open_.absorb(events, NOW_MS)
    open_.advance(NOW_MS + 20_000)

    closed = {shadow: step.summary.mirrored for shadow, _, step in open_.close()}

    assert closed == {
        Shadow("codesearch", "test", 1, 2, 1): 2,
        Shadow("codesearch", "test", 1, 3, 1): 3,
        Shadow("codesearch", "test", 1, 2, 2): 4,
    }


def test_windows_and_steps_are_bounded_the_longest_silent_step_is_forgotten() -> None:
    open_ = windows()
    counted = [open_.absorb(mirrors(v, 1, version=v), NOW_MS) for v in range(2, 7)]
    assert counted == [{"absorbed": 1}] * 3 + [{"crowded": 1}] * 2
    open_.advance(NOW_MS + 20_000)
    open_.close()

    assert [step.shadow.version for step in open_.steps()] == [3, 4]
    open_.absorb(mirrors(3, 1, version=3), NOW_MS)  # late, but heard of
    open_.absorb(mirrors(9, 1, version=9), NOW_MS)
    assert [step.shadow.version for step in open_.steps()] == [3, 9]


def test_scores_are_standardised_by_each_sides_version() -> None:
    asked = []

    def standard_of(model: str, version: int) -> Standard:
        asked.append((model, version))
        return {1: (0.0, 1.0), 2: (7.0, 3.0)}[version]

    open_ = windows(standard_of)
    rescaled = mirrors(1, 50, noise=0.0, scale=3.0)
    open_.absorb(rescaled, NOW_MS)
    open_.advance(NOW_MS + 20_000)
    (_, window, _) = open_.close()[0]

    assert sorted(asked) == [("codesearch", 1), ("codesearch", 2)]
    shift = window.summary.moments.mean[NAMES.index("score_shift")]
    assert shift == pytest.approx(-7.0 / 3.0, abs=1e-5)


def test_a_restored_state_goes_on_as_if_nothing_had_been() -> None:
    events = mirrors(1, 60, every_ms=1000)
    straight, first = windows(), windows()
    for open_ in (straight, first):
        open_.absorb(events[:25], NOW_MS + 25_000)
        open_.close()
    second = MirrorWindows(SETTINGS, no_standard, first.watermark_ms)
    second.restore(first.windows(), first.steps())

    for open_ in (straight, second):
        open_.absorb(events[25:], NOW_MS + 60_000)

    def told(open_: MirrorWindows) -> list[tuple[int, object, object]]:
        return [(w.start_ms, w.summary.state(), s.summary.state()) for _, w, s in open_.close()]

    ours, theirs = told(second), told(straight)
    assert len(ours) == 3
    assert ours == theirs
