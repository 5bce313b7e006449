"""Clicks and rankings joined: what counts, and what is left out and counted."""

from collections.abc import Sequence

import pytest

from pipelines.archive_tables import feedback_table, rankings_table
from pipelines.judgements import ClickedLists, LeftOut, join
from registry.contracts.events import Click, Exposure, RankingEvent
from tests.builders import NOW_MS, a_click, a_ranking, an_exposure

LATER_MS = NOW_MS + 60_000


def joined(rankings: Sequence[RankingEvent], feedback: Sequence[Click | Exposure]) -> ClickedLists:
    return join(rankings_table(rankings), feedback_table(feedback), LATER_MS)


def test_a_click_labels_its_item_where_the_ranking_showed_it() -> None:
    rankings = [a_ranking("r1", ("a", "b")), a_ranking("r2", ("c", "b", "a"), unit="u2", version=2, arm="challenger")]

    lists = joined(rankings, [a_click("c1", "r2", "b", position=2), a_click("c2", "r1", "a")])

    assert lists.labels.tolist() == [1, 0, 0, 1, 0]
    assert lists.offsets.tolist() == [0, 2, 5]
    assert lists.units.tolist() == ["u1", "u2"]
    assert lists.versions.tolist() == [1, 2]
    assert lists.arms.tolist() == ["champion", "challenger"]
    assert lists.clicks.tolist() == [1, 1]
    assert set(lists.left_out.values()) == {0}


def test_a_ranking_without_a_click_stays() -> None:
    lists = joined([a_ranking("r1"), a_ranking("r2")], [a_click("c1", "r2")])

    assert len(lists) == 2
    assert lists.clicks.tolist() == [0, 1]


def test_an_exposure_is_no_click() -> None:
    lists = joined([a_ranking("r1")], [an_exposure("x1"), a_click("c1")])

    assert lists.labels.tolist() == [1, 0]
    assert lists.left_out[LeftOut.REPEATED] == 0


LEFT_OUT = {
    LeftOut.WITHOUT_RANKING: a_click("bad", "nobody"),
    LeftOut.ITEM_NOT_SHOWN: a_click("bad", item="z"),
    LeftOut.IMPOSSIBLE_POSITION: a_click("bad", item="b", position=1),
    LeftOut.BEFORE_RANKING: a_click("bad", item="b", received_ms=NOW_MS - 1),
    LeftOut.NOT_YET: a_click("bad", item="b", received_ms=LATER_MS + 1),
    LeftOut.REPEATED: a_click("bad", item="a"),
}


@pytest.mark.parametrize("reason", LeftOut)
def test_feedback_that_cannot_be_is_left_out_and_counted(reason: LeftOut) -> None:
    lists = joined([a_ranking("r1", ("a", "b"))], [a_click("good", item="a"), LEFT_OUT[reason]])

    assert lists.labels.tolist() == [1, 0]
    assert {left: count for left, count in lists.left_out.items() if count} == {reason: 1}


def test_a_clients_clock_that_is_hours_off_does_not_matter() -> None:
    lists = joined([a_ranking("r1")], [a_click("c1", clicked_ms=NOW_MS - 7_200_000)])

    assert lists.clicks.tolist() == [1]


@pytest.mark.parametrize("position", [0, -1, 3])
def test_positions_outside_the_list_are_impossible(position: int) -> None:
    lists = joined([a_ranking("r1", ("a", "b"))], [a_click("c1", position=position)])

    assert lists.left_out[LeftOut.IMPOSSIBLE_POSITION] == 1


def test_lists_of_a_click_model_and_of_people_are_told_apart() -> None:
    rankings = [a_ranking("model"), a_ranking("people"), a_ranking("nothing")]

    lists = joined(rankings, [a_click("c1", "model", simulated=True), an_exposure("x1", "people")])

    assert lists.simulated.tolist() == [True, False, False]


def test_lists_without_feedback_are_simulated_where_all_feedback_is() -> None:
    lists = joined([a_ranking("model"), a_ranking("nothing")], [a_click("c1", "model", simulated=True)])

    assert lists.simulated.tolist() == [True, True]


def test_nothing_joined_is_no_list() -> None:
    lists = joined([], [a_click("c1")])

    assert len(lists) == 0
    assert lists.clicks.tolist() == []
    assert lists.left_out[LeftOut.WITHOUT_RANKING] == 1
