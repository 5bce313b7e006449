"""From the stream to the drift board: days close, watches remember, and a kill anywhere changes no verdict."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from prometheus_client import REGISTRY

from drift.days.confidence import DISAGREEMENT
from drift.days.reports import DayReports
from drift.days.watch import DayWatches, load
from drift.errors import UnreadableSnapshot
from drift.mirrors.monitor import GROUP, MirrorMonitor
from drift.moments import Moments
from drift.monitor import Monitor
from drift.settings import MonitorSettings, RankDiffSettings, RankLimits, Rule, ShiftSettings
from drift.windows.hours import Hours
from drift.windows.judge import DriftVerdict
from drift.windows.segments import Segments, parse_segments
from registry.contracts.drift import Rebaseline, ShiftRecord
from registry.contracts.events import Event, RankingEvent, encode_event, join_events
from registry.contracts.profile import ReferenceProfile
from registry.drift_board import MemoryDriftBoard, latest_drift
from registry.errors import StoreUnavailable
from registry.stream import MemoryStream
from tests.builders import NOW_MS
from tests.drift.mirrored import mirrors
from tests.drift.traffic import COLUMNS, PROFILE, rankings

DAY_MS = 20_000
LISTS = 60
SHIFT = ShiftSettings(day_s=DAY_MS / 1000, min_lists=50, anchor_days=14)
SETTINGS = MonitorSettings(
    Rule(min_lists=50), window_s=10.0, lateness_s=2.0, save_every_s=5.0, entries_a_read=4, wait_s=0.05, shift=SHIFT
)
MIRRORS = RankDiffSettings(RankLimits(min_lists=20), window_s=10.0, lateness_s=2.0, save_every_s=5.0)
ANCHORED = SHIFT.anchor_days


def a_day(number: int, moved: dict[str, float] | None = None, lists: int = LISTS, **changes: Any) -> list[RankingEvent]:
    """Ranking ids are the version's and the day's own."""
    seed = 1000 * changes.get("version", 1) + number
    return rankings(seed, lists, moved, NOW_MS + number * DAY_MS, DAY_MS // lists, **changes)


def season(days: int, broken_from: int | None = None, **changes: Any) -> list[RankingEvent]:
    events = []
    for day in range(days):
        moved = {"of_item": 1.5} if broken_from is not None and day >= broken_from else None
        events += a_day(day, moved, **changes)
    return events


@dataclass
class Platform:
    """A stream, a board and a clock, over which monitors can be started again."""

    folder: Path
    stream: MemoryStream = field(default_factory=MemoryStream)
    board: MemoryDriftBoard = field(default_factory=MemoryDriftBoard)
    now_s: float = NOW_MS / 1000
    told: list[ShiftRecord] = field(default_factory=list)
    verdicts: list[DriftVerdict] = field(default_factory=list)
    profiles: dict[int, ReferenceProfile] = field(default_factory=lambda: dict.fromkeys((1, 2), PROFILE))
    segments: dict[str, Segments] = field(default_factory=dict)

    def watches(self) -> DayWatches:
        reports = DayReports(self.folder / "reports")
        return DayWatches(self.folder / "days.watch", self.board, SHIFT, self.told.append, reports, self.segments)

    def monitor(self) -> Monitor:
        """A new one under the name of the last; as if that had been killed."""
        return Monitor(
            self.stream.reader("monitor", "monitor-0"),
            lambda model, version: self.profiles.get(version),
            self.verdicts.append,
            replace(SETTINGS, segments=self.segments),
            self.folder / "monitor.windows",
            lambda: self.now_s,
            self.watches(),
            Hours(self.folder / "reports", DAY_MS, round(SETTINGS.window_s * 1000)),
        )

    def mirror_monitor(self) -> MirrorMonitor:
        """As `monitor`, over mirrored lists."""
        return MirrorMonitor(
            self.stream.reader(GROUP, "monitor-0"),
            lambda model, version: (0.0, 1.0),
            lambda diff: None,
            MIRRORS,
            self.folder / "mirrors.windows",
            lambda: self.now_s,
            self.watches(),
            SHIFT,
        )

    def write(self, events: Sequence[Event]) -> None:
        parts = [events[start : start + 40] for start in range(0, len(events), 40)]
        self.stream.append([join_events([encode_event(event) for event in part]) for part in parts])

    def read_all(self, monitor: Monitor | MirrorMonitor) -> None:
        while monitor.step(0):
            pass

    def see(self, events: Sequence[Event], days: int) -> None:
        """Reads the events in one go, so many days after the beginning."""
        self.write(events)
        self.now_s = (NOW_MS + days * DAY_MS) / 1000 + SETTINGS.lateness_s
        monitor = self.monitor()
        self.read_all(monitor)
        monitor.step(0)

    def latest(self, family: str = "features", version: int | None = None) -> ShiftRecord:
        """The newest record of the champion, or of a version."""
        (record,) = [one for one in latest_drift(self.board, "codesearch", version) if one.family == family]
        return record


@pytest.fixture
def platform(tmp_path: Path) -> Platform:
    return Platform(tmp_path)


def test_quiet_days_are_inconclusive_for_a_week_and_then_pass(platform: Platform) -> None:
    platform.see(season(18), 18)

    verdicts = [(record.days, record.verdict) for record in platform.told if record.family == "features"]
    assert verdicts == [(day, "inconclusive" if day < SHIFT.min_days else "passed") for day in range(1, 19)]
    assert platform.latest("confidence").verdict == "passed"
    record = platform.latest()
    assert (record.since_ms, record.until_ms) == (NOW_MS + 17 * DAY_MS, NOW_MS + 18 * DAY_MS)
    assert (record.made_ms, record.lists, record.version, record.alarms) == (record.until_ms, LISTS, 1, ())


def test_a_shifted_feature_fails_the_day_and_is_named_with_its_size(platform: Platform) -> None:
    platform.profiles[1] = msgspec.structs.replace(PROFILE, importance=(0.8, 0.4, 0.1, 0.1, 0.1, 0.1, 0.0))
    platform.see(season(ANCHORED + 6, broken_from=ANCHORED + 2), ANCHORED + 6)

    record = platform.latest()
    assert record.verdict == "failed"
    assert record.why.startswith("of_item: mean +1.")
    alarm = record.alarms[0]
    assert (alarm.quantity, alarm.kind, alarm.importance > 1.0) == ("of_item", "mean", True)
    assert alarm.onset_ms == NOW_MS + (ANCHORED + 2) * DAY_MS
    labels = {"model": "codesearch", "arm": "champion", "quantity": "of_item", "kind": "mean"}
    assert REGISTRY.get_sample_value("drift_alarm_open", labels) == 1.0
    assert REGISTRY.get_sample_value("drift_day_shift", labels) == pytest.approx(alarm.effect, abs=0.5)
    assert REGISTRY.get_sample_value("drift_cusum_ratio", labels) >= 1.0
    kept = DayReports(platform.folder / "reports").read("codesearch")
    assert kept[-1].record == record
    assert len(kept) == 14, "the newest of twenty"
    shifts = [next(one.shift for one in report.quantities if one.quantity == "of_item") for report in kept]
    assert shifts[-1] == pytest.approx(alarm.effect)
    assert {shape.quantity for shape in kept[-1].shapes} > {"of_item", "of_both"}
    arm = {"model": "codesearch", "arm": "champion", "family": "features"}
    assert REGISTRY.get_sample_value("drift_alarms_open", arm) == len(record.open_alarms)


@pytest.mark.parametrize("steps", [1, 3, 8, 9, 10, 21, 22])
@pytest.mark.parametrize("saved", [True, False])
def test_a_kill_between_any_two_steps_leaves_the_same_record(platform: Platform, steps: int, saved: bool) -> None:
    days = ANCHORED + 4
    events = season(days, broken_from=ANCHORED + 1, lists=50)
    whole = Platform(platform.folder / "whole")
    whole.see(events, days)

    platform.write(events)
    platform.now_s = (NOW_MS + days * DAY_MS) / 1000 + SETTINGS.lateness_s
    killed = platform.monitor()
    for _ in range(steps):
        killed.step(0)
    if saved:
        killed.save()
    again = platform.monitor()
    platform.read_all(again)
    again.step(0)

    assert platform.board.latest("codesearch") == whole.board.latest("codesearch")
    assert platform.latest().verdict == "failed"


def test_a_kill_between_the_watches_file_and_the_snapshot_counts_no_day_twice(platform: Platform) -> None:
    days = ANCHORED + 3
    events = season(days, broken_from=ANCHORED + 1)
    platform.write(events)
    platform.now_s = (NOW_MS + days * DAY_MS) / 1000 + SETTINGS.lateness_s
    killed = platform.monitor()
    snapshots = []
    while killed.step(0):
        path = platform.folder / "monitor.windows"
        snapshots.append(path.read_bytes() if path.exists() else b"")
    killed.step(0)
    told = platform.latest()

    (platform.folder / "monitor.windows").write_bytes(snapshots[-1])  # older than the watches' file
    again = platform.monitor()
    platform.write([])
    platform.now_s += 30.0
    again.step(0)

    assert platform.latest() == told
    assert told.days == days


@pytest.mark.parametrize("restarted", [True, False])
def test_a_day_that_was_closed_by_a_clock_that_was_ahead_is_taken_once(platform: Platform, restarted: bool) -> None:
    platform.see(season(8), 8)
    monitor = platform.monitor()
    day = a_day(8, lists=100)
    platform.write(day[:60])
    platform.now_s = (NOW_MS + 9 * DAY_MS) / 1000 + SETTINGS.lateness_s  # 8 s ahead: the day seems to be over
    platform.read_all(monitor)
    taken, told = platform.latest(), len(platform.told)
    assert (taken.until_ms, taken.lists, taken.days) == (NOW_MS + 9 * DAY_MS, 60, 9)

    platform.now_s -= 10.0
    monitor = platform.monitor() if restarted else monitor
    platform.read_all(monitor)
    platform.write(day[60:])
    platform.now_s += 10.0
    platform.read_all(monitor)
    monitor.step(0)

    assert platform.latest() == taken
    assert {record.lists for record in platform.told[told:]} <= {60}, "what came later is no day of its own"
    assert DayReports(platform.folder / "reports").read("codesearch")[-1].record.lists == 60

    platform.see(a_day(9), 10)
    assert (platform.latest().days, platform.latest().lists) == (10, LISTS)


def test_what_a_clock_that_was_ahead_left_of_a_day_to_come_is_not_in_that_day(platform: Platform) -> None:
    platform.see(season(8), 8)
    monitor = platform.monitor()
    platform.write(a_day(9)[:40])
    platform.now_s = (NOW_MS + 9 * DAY_MS) / 1000 + 12.0  # a day ahead: the first window of its day is over
    platform.read_all(monitor)
    platform.now_s -= DAY_MS / 1000
    platform.read_all(monitor)

    platform.see(a_day(8)[40:], 9)
    platform.see(a_day(9, version=2), 10)

    assert (platform.latest().version, platform.latest().lists) == (2, LISTS)


def test_a_restarted_monitor_shows_its_records_on_an_empty_board(platform: Platform) -> None:
    platform.see(season(8), 8)
    shown, platform.board = platform.board.latest("codesearch"), MemoryDriftBoard()
    labels = {"model": "codesearch", "arm": "champion", "family": "features", "verdict": "passed"}
    counted = REGISTRY.get_sample_value("drift_day_verdicts_total", labels)

    platform.monitor().save()

    assert platform.board.latest("codesearch") == shown
    assert REGISTRY.get_sample_value("drift_day_verdicts_total", labels) == counted, "told again, and no new day"


class AwayBoard(MemoryDriftBoard):
    """A board that does not answer until it is told to."""

    away = True

    def publish(self, record: ShiftRecord) -> None:
        if self.away:
            raise StoreUnavailable("Redis could not publish: connection refused")
        super().publish(record)

    def declared(self, model: str) -> Rebaseline | None:
        if self.away:
            raise StoreUnavailable("Redis could not read: connection refused")
        return super().declared(model)


def test_records_wait_for_a_board_that_is_away(platform: Platform) -> None:
    platform.board = board = AwayBoard()
    platform.see(season(8), 8)
    assert board.latest("codesearch") == ()

    board.away = False
    platform.monitor().save()

    assert platform.latest().days == 8


def test_a_deploy_goes_on_with_the_champion_s_watch_and_a_challenger_has_its_own(platform: Platform) -> None:
    before = season(ANCHORED)
    challenger = [event for day in (4, 5) for event in a_day(day, version=2, arm="challenger")]
    after = [event for day in (ANCHORED, ANCHORED + 1) for event in a_day(day, version=2)]
    platform.see(sorted([*before, *challenger, *after], key=lambda event: event.answered_ms), ANCHORED + 2)

    champion = platform.latest()
    assert (champion.version, champion.days) == (2, ANCHORED + 2)
    challengers = [one for one in platform.board.latest("codesearch") if one.arm == "challenger"]
    assert {(one.version, one.days, one.family) for one in challengers} == {
        (2, 2, "features"),
        (2, 2, "confidence"),
    }


def test_a_day_of_two_champions_is_the_one_s_with_more_lists(platform: Platform) -> None:
    few = [event for event in a_day(0, version=2) if event.answered_ms % 5 == 0][:5]
    platform.see([*a_day(0), *few], 1)

    assert (platform.latest().version, platform.latest().lists) == (1, LISTS)


def test_interleaved_lists_are_watched_by_no_day(platform: Platform) -> None:
    platform.see(a_day(0, arm="interleaved"), 1)

    assert platform.board.latest("codesearch") == ()


def test_a_version_without_a_profile_is_errored_and_leaves_the_watch_as_it_is(platform: Platform) -> None:
    platform.see(season(3), 3)
    platform.see([*a_day(3, version=9), *a_day(4)], 5)

    verdicts = [(one.version, one.verdict, one.days) for one in platform.told if one.family == "features"]
    assert verdicts[-2:] == [(9, "errored", 3), (1, "inconclusive", 4)]


def test_rankings_that_do_not_fit_the_profile_are_errored(platform: Platform) -> None:
    platform.see([*a_day(0)[:50], *a_day(0, lists=61, fingerprint="another")[50:]], 1)

    assert platform.latest().verdict == "errored"
    assert platform.latest().why == "11 of 61 rankings do not fit the profile's feature view"


def test_a_declared_change_lays_the_anchor_anew(platform: Platform) -> None:
    shifted = ANCHORED + 2
    platform.see(season(shifted + 3, broken_from=shifted), shifted + 3)
    assert platform.latest().verdict == "failed"

    platform.board.declare(Rebaseline("codesearch", NOW_MS + (shifted + 3) * DAY_MS, "anna", "of_item counts in cents"))
    platform.see(season(shifted + 6, broken_from=0)[(shifted + 3) * LISTS :], shifted + 6)

    assert (platform.latest().verdict, platform.latest().alarms) == ("passed", ())


def test_another_feature_view_is_another_pipeline(platform: Platform) -> None:
    renamed = msgspec.structs.replace(PROFILE, fingerprint="another")
    platform.profiles[2] = renamed
    platform.see(season(ANCHORED + 2), ANCHORED + 2)
    platform.see(a_day(ANCHORED + 2, {"of_item": 1.5}, version=2, fingerprint="another"), ANCHORED + 3)

    assert all(alarm.against == "profile" for alarm in platform.latest().alarms)
    kept = {one.place.family: one for one in load(platform.folder / "days.watch").watches}
    assert (kept["features"].fingerprint, kept["features"].state.anchor) == ("another", b"")


def disagreements(watches: DayWatches, count: int, mean: float, first: int = 0, shadow: int = 2) -> None:
    for day in range(first, first + count):
        value = mean + 0.01 * np.sin(day)  # days lie a little apart
        moments = Moments(np.array([400.0]), np.array([value]), np.array([400.0 * 0.04]))
        watches.take_disagreement("codesearch", 1, shadow, NOW_MS + day * DAY_MS, NOW_MS + (day + 1) * DAY_MS, moments)


def test_a_shadow_that_begins_to_disagree_fails_the_champion_s_confidence(platform: Platform) -> None:
    platform.see(season(8), 8)
    watches = platform.watches()

    disagreements(watches, ANCHORED, 0.2)
    assert platform.latest("confidence").verdict == "passed"
    disagreements(watches, 4, 0.5, first=ANCHORED)

    record = platform.latest("confidence")
    assert (record.verdict, [alarm.quantity for alarm in record.alarms]) == ("failed", [DISAGREEMENT])
    assert platform.latest("features").verdict == "passed"
    platform.see(a_day(8), 9)
    assert platform.latest("confidence").alarms == record.alarms, "the next day of its own lists keeps it"


def test_another_shadow_is_another_pair(platform: Platform) -> None:
    platform.see(season(8), 8)
    watches = platform.watches()
    disagreements(watches, ANCHORED + 2, 0.2)

    disagreements(watches, 12, 0.9, first=ANCHORED + 2, shadow=3)

    assert platform.latest("confidence").alarms == ()


def test_mirrored_lists_reach_the_watch_by_day_and_through_a_restart(platform: Platform) -> None:
    platform.write(mirrors(3, 120, start_ms=NOW_MS, every_ms=250))  # a day and a half
    platform.now_s = NOW_MS / 1000 + 30
    first = platform.mirror_monitor()
    platform.read_all(first)
    first.save()
    platform.write(mirrors(4, 40, start_ms=NOW_MS + 30_000, every_ms=250))
    platform.now_s = NOW_MS / 1000 + 43
    second = platform.mirror_monitor()
    platform.read_all(second)
    second.step(0)

    (kept,) = load(platform.folder / "days.watch").watches
    assert (kept.place.arm, kept.state.days, kept.state.last_end_ms) == ("shadow", 2, NOW_MS + 2 * DAY_MS)


@pytest.mark.parametrize("restarted", [True, False])
def test_what_a_clock_that_was_ahead_left_of_a_day_of_mirrors_to_come_is_not_in_that_day(
    platform: Platform, restarted: bool
) -> None:
    monitor = platform.mirror_monitor()
    platform.write(mirrors(3, 80, start_ms=NOW_MS + DAY_MS, every_ms=250))
    platform.now_s = (NOW_MS + DAY_MS) / 1000 + 15.0  # a day ahead: the first window of its day is over
    platform.read_all(monitor)
    monitor.save()
    platform.now_s -= DAY_MS / 1000
    platform.read_all(monitor)
    monitor.save()
    monitor = platform.mirror_monitor() if restarted else monitor

    platform.write(mirrors(4, 30, start_ms=NOW_MS + DAY_MS, every_ms=600))
    platform.now_s = (NOW_MS + 2 * DAY_MS) / 1000 + 3.0
    platform.read_all(monitor)
    monitor.step(0)

    (kept,) = load(platform.folder / "days.watch").watches
    told = (kept.state.days, kept.state.last_end_ms)
    assert told == (0, NOW_MS + 2 * DAY_MS), "30 lists are too few for a day"


@pytest.mark.parametrize("content", [b"", b"\x93 half", msgspec.msgpack.encode({"watches": [], "schema": 99})])
def test_a_damaged_file_is_put_aside_and_watches_start_anew(platform: Platform, content: bytes) -> None:
    (platform.folder / "days.watch").write_bytes(content)
    with pytest.raises(UnreadableSnapshot):
        load(platform.folder / "days.watch")

    platform.see(a_day(0), 1)

    assert platform.latest().days == 1
    assert repr(platform.watches()) == "<DayWatches [2 watches | 2 records to tell]>"


def test_a_day_shows_its_figures_whoever_read_its_halves(platform: Platform) -> None:
    """Half of the day is read by a monitor that is killed, with a snapshot of what it knew."""
    events = a_day(0, {"rare_of_query": 4.0}, row_age_s=30.0, degraded=("stale_rows:1/12",))
    platform.see(events[:30], 0)
    platform.see(events[30:], 1)

    record = platform.latest()
    figures = {one.quantity: one for one in record.figures}
    assert figures["rare_of_query"].new_share == 1.0
    assert figures["rare_of_query"].newcomers[0] == "rare_of_query=4"
    assert abs(figures["of_item"].psi) < 0.5
    assert figures["of_item"].jensen_shannon is None
    assert record.row_ages is not None
    assert (record.row_ages.p50_s, record.row_ages.p99_s) == (30.0, 30.0)
    assert record.row_ages.lacking == {"stale_rows": 1.0}
    [report] = DayReports(platform.folder / "reports").read("codesearch")
    assert [one.quantity for one in report.categories] == ["rare_of_query"]
    assert report.row_ages == record.row_ages
    assert all(shape.quantiles for shape in report.shapes)
    confidence = platform.latest("confidence")
    assert {one.quantity for one in confidence.figures} == {"ranking:margin", "ranking:entropy"}
    assert confidence.row_ages is None


def test_a_window_is_shown_beside_the_same_hours_of_the_weeks_before(platform: Platform) -> None:
    platform.see(season(15, broken_from=14), 15)

    weeks = [max((one.weeks for one in verdict.season), default=0) for verdict in platform.verdicts]
    assert weeks == [0] * 14 + [1] * 14 + [2] * 2
    shifts = {(one.quantity, one.aspect): one.shift for one in platform.verdicts[-1].season}
    assert shifts["of_item", "mean"] > 1.0
    assert abs(shifts["of_both", "mean"]) < 0.5


LOW, HIGH = "of_query<0", "0<=of_query"


def divided_season(days: int, broken_from: int) -> list[RankingEvent]:
    """From then on `of_item` is half a deviation up, where `of_query` is below 0."""
    events = []
    for day in range(days):
        quiet, moved = (a_day(day, by, lists=4 * LISTS) for by in (None, {"of_item": 0.6}))
        of_query = COLUMNS.index("of_query")
        low = [one.feature_matrix()[0, of_query] < 0 for one in quiet]
        broken = day >= broken_from
        events += [b if broken and is_low else a for a, b, is_low in zip(quiet, moved, low, strict=True)]
    return events


def segment_records(platform: Platform, family: str = "features") -> dict[str, ShiftRecord]:
    return {one.segment: one for one in platform.board.latest("codesearch") if one.family == family and one.segment}


def test_a_shift_in_one_segment_is_found_there_and_in_no_other(platform: Platform) -> None:
    platform.segments = parse_segments("codesearch:of_query<0")

    platform.see(divided_season(ANCHORED + 8, ANCHORED), ANCHORED + 8)

    records = segment_records(platform)
    assert {name: record.verdict for name, record in records.items()} == {LOW: "failed", HIGH: "passed"}
    (alarm,) = [one for one in records[LOW].alarms if one.kind == "mean" and one.quantity == "of_item"]
    assert alarm.against == "anchor"
    assert alarm.effect == pytest.approx(0.7, abs=0.1)  # shown items vary less than all do
    assert records[LOW].lists + records[HIGH].lists == platform.latest().lists == 4 * LISTS
    assert set(segment_records(platform, "confidence")) == {LOW, HIGH}
    labels = {"model": "codesearch", "arm": "champion", "family": "features"}
    opened = [REGISTRY.get_sample_value("drift_segment_alarms_open", labels | {"segment": one}) for one in (LOW, HIGH)]
    assert opened == [len(records[LOW].alarms), 0]


def test_a_segment_is_held_against_no_profile_for_none_was_made_of_it(platform: Platform) -> None:
    platform.segments = parse_segments("codesearch:of_query<0")

    platform.see(divided_season(ANCHORED - 1, ANCHORED), ANCHORED - 1)

    assert all(record.alarms == () for record in segment_records(platform).values())  # though of_query is as declared


def test_segments_that_are_declared_no_more_are_neither_kept_nor_shown(platform: Platform) -> None:
    platform.segments = parse_segments("codesearch:of_query<0")
    platform.see(season(2), 2)
    assert set(segment_records(platform)) == {LOW, HIGH}

    platform.segments = {}
    platform.see(a_day(2), 3)

    assert segment_records(platform) == {}
    assert {kept.place.segment for kept in load(platform.folder / "days.watch").watches} == {""}


def test_the_whole_is_counted_with_segments_as_without(tmp_path: Path) -> None:
    plain, divided = Platform(tmp_path / "plain"), Platform(tmp_path / "divided")
    divided.segments = parse_segments("codesearch:of_query<0")
    for platform in (plain, divided):
        platform.see(season(3), 3)

    whole, together = plain.latest(), divided.latest()
    assert msgspec.structs.replace(whole, figures=()) == msgspec.structs.replace(together, figures=())
    for one, other in zip(whole.figures, together.figures, strict=True):  # sums of sums, in another order
        assert (other.quantity, other.psi, other.spread) == (
            one.quantity,
            pytest.approx(one.psi),
            pytest.approx(one.spread),
        )
