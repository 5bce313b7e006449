"""Click-NDCG with its uncertainty: per version, per arm, simulated clicks apart."""

import json
from collections.abc import Sequence
from math import log2
from pathlib import Path

import numpy as np
import pytest

from pipelines.archive.files import Archive
from pipelines.archive.tables import feedback_table, rankings_table
from pipelines.feedback.click_ndcg import (
    CLICKS_WITHIN_MS,
    WINDOW_MS,
    ArmEvidence,
    EvidenceReport,
    Window,
    clicked_lists,
    clustered_error,
    evidence,
    per_arm,
)
from registry.contracts.events import Click, Event, RankingEvent, encode_event, join_events
from registry.contracts.manifest import CLICK_NDCG
from registry.stream import StreamEntry
from tests.builders import NOW_MS, a_click, a_ranking

UNTIL_MS = NOW_MS + WINDOW_MS


def arms_of(rankings: Sequence[RankingEvent], clicks: Sequence[Click]) -> tuple[ArmEvidence, ...]:
    table = rankings_table(rankings)
    return per_arm(table, clicked_lists(table, feedback_table(clicks), NOW_MS, UNTIL_MS))


def evidence_of(folder: Path, *events: Event) -> EvidenceReport:
    archive = Archive(folder)
    archive.write([StreamEntry("1-0", join_events([encode_event(event) for event in events]))])
    return evidence(archive, "codesearch", NOW_MS, UNTIL_MS)


def test_a_click_on_the_first_item_is_worth_one_and_on_the_second_less() -> None:
    first, second = a_ranking("r1", unit="u1"), a_ranking("r2", unit="u2")

    (arm,) = arms_of([first, second], [a_click("c1", "r1", "a"), a_click("c2", "r2", "b")])

    assert arm.mean == pytest.approx((1 + 1 / log2(3)) / 2, abs=1e-12)
    assert (arm.lists, arm.clicked_lists, arm.units, arm.clicks) == (2, 2, 2, 2)


def test_a_list_without_a_click_scores_zero_and_stays() -> None:
    (arm,) = arms_of([a_ranking("r1"), a_ranking("r2")], [a_click("c1", "r1", "a")])

    assert arm.mean == 0.5
    assert (arm.lists, arm.clicked_lists) == (2, 1)


def test_served_order_counts_not_the_scores() -> None:
    ranking = a_ranking("r1", ("a", "b"), scores=np.array([1.0, 9.0], "<f4").tobytes())  # b explored downwards

    (arm,) = arms_of([ranking], [a_click("c1", "r1", "a")])

    assert arm.mean == 1.0


def test_versions_and_arms_are_measured_apart() -> None:
    rankings = [
        a_ranking("r1", version=1),
        a_ranking("r2", version=2, arm="challenger"),
        a_ranking("r3", version=2, arm="champion"),
    ]

    arms = arms_of(rankings, [a_click("c1", "r2", "a")])

    assert [(arm.version, arm.arm, arm.mean) for arm in arms] == [
        (1, "champion", 0.0),
        (2, "challenger", 1.0),
        (2, "champion", 0.0),
    ]


def test_interleaved_lists_and_who_is_outside_are_in_no_arm_and_counted(tmp_path: Path) -> None:
    rankings = [
        a_ranking("r1"),
        a_ranking("r2", arm="interleaved", experiment="test", teams=b"\x00\x01", team_version=2),
        a_ranking("r3", arm="outside"),
        a_ranking("r4", arm="outside", version=2),
    ]

    report = evidence_of(tmp_path, *rankings, a_click("c1", "r2", "a"), a_click("c2", "r3", "a"))

    assert [(arm.version, arm.arm, arm.lists, arm.clicks) for arm in report.arms] == [(1, "champion", 1, 0)]
    assert (report.rankings, report.interleaved, report.outside) == (4, 1, 2)


def test_simulated_clicks_never_enter_the_figure_of_people() -> None:
    rankings = [a_ranking("r1"), a_ranking("r2"), a_ranking("r3")]
    clicks = [a_click("c1", "r1", "a", simulated=True), a_click("c2", "r2", "b")]

    people, simulated = arms_of(rankings, clicks)

    assert (people.simulated, people.lists) == (False, 2)
    assert people.mean == pytest.approx(0.5 / log2(3))
    assert (simulated.simulated, simulated.lists, simulated.mean) == (True, 1, 1.0)


def test_lists_without_feedback_are_simulated_where_all_feedback_is(tmp_path: Path) -> None:
    rankings, simulated = [a_ranking("r1"), a_ranking("r2")], a_click("c1", "r1", simulated=True)

    (alone,) = arms_of(rankings, [simulated])
    of_people, _ = arms_of([*rankings, a_ranking("r3")], [simulated, a_click("c3", "r3")])

    assert (alone.simulated, alone.lists) == (True, 2)
    assert (of_people.simulated, of_people.lists) == (False, 2)


def test_the_error_is_that_of_a_mean_when_every_unit_has_one_list() -> None:
    values = np.random.default_rng(1).random(50)

    error = clustered_error(values, np.arange(50))

    assert error == pytest.approx(values.std(ddof=1) / np.sqrt(50))


def test_repeating_each_list_of_a_unit_adds_no_certainty() -> None:
    values = np.random.default_rng(2).random(50)

    once = clustered_error(values, np.arange(50))
    five_times = clustered_error(np.repeat(values, 5), np.repeat(np.arange(50), 5))

    assert five_times == pytest.approx(once)


def test_the_error_covers_the_truth_when_units_differ() -> None:
    rng = np.random.default_rng(3)
    inside = 0
    for _ in range(300):
        sizes = rng.integers(1, 8, 200)
        unit_of = np.repeat(np.arange(200), sizes)
        values = rng.normal(0.3, 0.2, 200)[unit_of] + rng.normal(0, 0.1, len(unit_of))
        error = clustered_error(values, unit_of)
        assert error is not None
        inside += abs(values.mean() - 0.3) < 1.96 * error
    assert 0.91 <= inside / 300 <= 0.98  # 95 % within three binomial standard errors; unclustered: 66 %


def test_one_unit_says_nothing_about_the_error() -> None:
    assert clustered_error(np.array([0.1, 0.9]), np.array([0, 0])) is None


def test_evidence_is_of_the_windows_rankings_and_of_clicks_that_come_soon_after(tmp_path: Path) -> None:
    report = evidence_of(
        tmp_path,
        a_ranking("before", answered_ms=NOW_MS - 1),
        a_ranking("r1"),
        a_ranking("r2", answered_ms=UNTIL_MS - 1, unit="u2"),
        a_ranking("after", answered_ms=UNTIL_MS),
        a_click("c0", "before"),
        a_click("c1", "r1", received_ms=UNTIL_MS + CLICKS_WITHIN_MS - 1),
        a_click("c2", "r2", received_ms=UNTIL_MS + CLICKS_WITHIN_MS),
        a_click("c3", "after", received_ms=UNTIL_MS + 1),
        a_click("c4", "nobody"),
        a_click("c5", "nobody", received_ms=UNTIL_MS + 1),
    )

    (arm,) = report.arms
    assert (report.rankings, arm.lists, arm.clicks, arm.mean) == (2, 2, 1, 0.5)
    assert {reason: count for reason, count in report.left_out.items() if count} == {"without_ranking": 1}


def test_a_report_says_what_is_simulated_and_by_which_definition(tmp_path: Path) -> None:
    report = evidence_of(
        tmp_path, a_ranking("r1"), a_ranking("r2"), a_click("c1", "r1", simulated=True), a_click("c2", "r2")
    )

    plain = json.loads(report.encode())

    assert plain["simulated_share"] == 0.5
    assert [arm["simulated"] for arm in plain["arms"]] == [False, True]
    assert plain["arms"][0]["standard_error"] is None
    assert plain["metric"] == CLICK_NDCG.digest


def test_a_window_without_rankings_is_an_empty_report(tmp_path: Path) -> None:
    report = evidence(Archive(tmp_path), "codesearch", NOW_MS, UNTIL_MS)

    assert (report.arms, report.rankings, report.simulated_share) == ((), 0, 0.0)


def test_a_window_closes_when_its_last_click_may_have_come() -> None:
    closed_ms = UNTIL_MS + CLICKS_WITHIN_MS

    assert Window.closed(closed_ms, 1) == [Window(NOW_MS)]
    assert Window.closed(closed_ms - 1, 1) == [Window(NOW_MS - WINDOW_MS)]


def test_no_window_begins_in_the_middle_of_another() -> None:
    with pytest.raises(ValueError, match="expected a multiple of 300000"):
        Window(NOW_MS + 1)
