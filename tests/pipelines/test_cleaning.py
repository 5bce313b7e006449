"""Rankings and feedback cleaned: what counts, what is dropped under which reason, and what the report says."""

import random
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.archive.tables import feedback_table, rankings_table
from pipelines.feedback.cleaning import CleaningRules, DroppedFeedback, DroppedRanking, Impressions, clean
from registry.contracts.events import Click, Exposure, RankingEvent
from registry.contracts.ids import RankingIds, model_tag
from serving.gateway.schema import read_feedback
from serving.settings import GatewaySettings
from tests.builders import NOW_MS, a_click, a_ranking, an_exposure

WINDOW_MS = 60_000
LATER_MS = NOW_MS + 10 * WINDOW_MS
RULES = CleaningRules(clicks_within_ms=WINDOW_MS, rankings_per_minute=5, clicks_per_minute=5)


def cleaned(
    rankings: Sequence[RankingEvent],
    feedback: Sequence[Click | Exposure] = (),
    rules: CleaningRules = RULES,
    now_ms: int = LATER_MS,
) -> Impressions:
    return clean(rankings_table(rankings), feedback_table(feedback), rules, now_ms)


def floats(*values: float) -> bytes:
    return np.array(values, "<f4").tobytes()


def dropped(counted: dict[str, int]) -> dict[str, int]:
    return {reason: count for reason, count in counted.items() if count}


def test_a_click_marks_its_item_where_the_ranking_showed_it() -> None:
    rankings = [a_ranking("r1", ("a", "b")), a_ranking("r2", ("c", "b", "a"), unit="u2", version=2, arm="challenger")]

    found = cleaned(rankings, [a_click("c1", "r2", "b", position=2), a_click("c2", "r1", "a")])

    assert found.clicks.tolist() == [True, False, False, True, False]
    assert found.positions.tolist() == [1, 2, 1, 2, 3]
    assert found.offsets.tolist() == [0, 2, 5]
    assert found.item_ids[found.items].tolist() == ["a", "b", "c", "b", "a"]
    assert found.versions.tolist() == [1, 2]
    assert found.ranking_ids.tolist() == ["r1", "r2"]
    assert (found.report.clicks, found.report.clicked_rankings, found.report.units) == (2, 2, 2)


FEEDBACK = {
    DroppedFeedback.REPEATED_EVENT: a_click("good", item="a"),
    DroppedFeedback.WITHOUT_RANKING: a_click("bad", "nobody"),
    DroppedFeedback.BOT: a_click("bad", "bot0", "a"),
    DroppedFeedback.RANKING_DROPPED: a_click("bad", "drafted", "a"),
    DroppedFeedback.ITEM_NOT_SHOWN: a_click("bad", item="z"),
    DroppedFeedback.IMPOSSIBLE_POSITION: a_click("bad", item="b", position=1),
    DroppedFeedback.BEFORE_RANKING: a_click("bad", item="b", received_ms=NOW_MS - 1),
    DroppedFeedback.NOT_YET: a_click("bad", item="b", received_ms=LATER_MS + 1),
    DroppedFeedback.LATE: a_click("bad", item="b", received_ms=NOW_MS + WINDOW_MS + 1),
    DroppedFeedback.REPEATED_ITEM: a_click("bad", item="a"),
}


@pytest.mark.parametrize("reason", DroppedFeedback)
def test_feedback_that_cannot_be_is_dropped_and_counted(reason: DroppedFeedback) -> None:
    bots = [a_ranking(f"bot{i}", ("a",), unit="bot") for i in range(6)]
    rankings = [a_ranking("r1"), a_ranking("drafted", arm="interleaved"), *bots]

    found = cleaned(rankings, [a_click("good", item="a"), FEEDBACK[reason]])

    assert found.clicks.tolist() == [True, False]
    assert dropped(found.report.dropped_feedback) == {reason: 1}
    assert set(found.report.dropped_feedback) == set(DroppedFeedback)


RANKINGS = {
    DroppedRanking.REPEATED: [a_ranking("good")],
    DroppedRanking.WINDOW_OPEN: [a_ranking("bad", answered_ms=LATER_MS - WINDOW_MS + 1)],
    DroppedRanking.BOT: [a_ranking(f"bot{i}", unit="bot") for i in range(6)],
    DroppedRanking.OTHER_ARM: [a_ranking("bad", arm="interleaved"), a_ranking("worse", arm="outside")],
    DroppedRanking.EMPTY: [a_ranking("bad", ())],
    DroppedRanking.ITEM_TWICE: [a_ranking("bad", ("a", "b", "a"))],
    DroppedRanking.IMPOSSIBLE_PROPENSITY: [
        a_ranking("zero", propensities=floats(1.0, 0.0)),
        a_ranking("above", propensities=floats(1.0, 1.1)),
        a_ranking("nan", propensities=floats(1.0, np.nan)),
    ],
}


@pytest.mark.parametrize("reason", DroppedRanking)
def test_rankings_that_cannot_count_are_dropped_and_counted(reason: DroppedRanking) -> None:
    found = cleaned([a_ranking("good", unit="u9"), *RANKINGS[reason]])

    assert found.ranking_ids.tolist() == ["good"]
    assert dropped(found.report.dropped_rankings) == {reason: len(RANKINGS[reason])}
    assert found.report.arms == {"champion": 1}


def test_a_unit_that_clicks_too_fast_is_a_bot_and_one_at_the_limit_is_not() -> None:
    items = tuple("abcdef")
    rankings = [a_ranking("r1", items, unit="fast"), a_ranking("r2", items, unit="people")]
    clicks = [a_click(f"f{item}", "r1", item) for item in items] + [a_click(f"p{item}", "r2", item) for item in "abcde"]

    found = cleaned(rankings, clicks)

    assert found.ranking_ids.tolist() == ["r2"]
    assert (found.report.bots, found.report.dropped_feedback["bot"]) == (1, 6)
    assert found.bots == ("fast",)


def test_the_same_rate_over_two_minutes_is_no_bots() -> None:
    assert cleaned([a_ranking(f"r{i}", answered_ms=NOW_MS + (i // 3) * 60_000) for i in range(6)]).report.bots == 0


def test_queries_without_a_unit_are_no_bot() -> None:
    assert cleaned([a_ranking(f"r{i}", unit="") for i in range(9)]).report.kept_rankings == 9


def test_interleaved_lists_count_where_they_are_asked_for() -> None:
    rules = CleaningRules(clicks_within_ms=WINDOW_MS, arms=("interleaved",))

    found = cleaned([a_ranking("r1", arm="interleaved"), a_ranking("r2")], rules=rules)

    assert found.ranking_ids.tolist() == ["r1"]


def test_explored_lists_stay_marked_with_their_propensities() -> None:
    found = cleaned([a_ranking("r1", explored=True, propensities=floats(0.25, 0.75)), a_ranking("r2")])

    assert found.explored.tolist() == [True, False]
    assert found.propensities.tolist() == [0.25, 0.75, 1.0, 1.0]
    assert found.report.explored == 1


def test_a_click_shows_that_its_item_was_seen_and_silence_shows_nothing() -> None:
    rankings = [a_ranking("told", ("a", "b", "c")), a_ranking("silent", ("a", "b"))]

    found = cleaned(rankings, [an_exposure("x1", "told", "a"), a_click("c1", "told", "b"), a_click("c2", "silent")])

    assert found.seen.tolist() == [True, True, False, True, True]
    assert found.report.clients_reporting == 0.5
    assert (found.report.implied_exposures, found.report.unseen) == (1, 1)


def test_rankings_of_one_query_share_its_pairs_and_those_without_a_query_do_not() -> None:
    named = [a_ranking("r1", ("a", "b")), a_ranking("r2", ("b", "a")), a_ranking("r3", ("a", "b"), query_id="q2")]
    unnamed = [a_ranking("r4", ("a",), query_id=""), a_ranking("r5", ("a",), query_id="")]

    found = cleaned([*named, *unnamed], rules=CleaningRules(clicks_within_ms=WINDOW_MS))

    pairs = found.pairs.tolist()
    assert pairs[:2] == pairs[3:1:-1]
    assert len(set(pairs)) == 6
    assert len(set(found.queries.tolist())) == 4


def test_a_clients_clock_that_is_hours_off_does_not_matter() -> None:
    found = cleaned([a_ranking("r1")], [a_click("c1", clicked_ms=NOW_MS - 7_200_000)])

    assert found.clicks.tolist() == [True, False]


def test_a_click_that_a_gateway_took_after_its_clock_was_set_back_counts() -> None:
    ids, ahead_ms = RankingIds(b"0123456789abcdef", random.Random(3)), NOW_MS + 7_200_000
    ranking = a_ranking(ids.issue(model_tag("codesearch"), ahead_ms), answered_ms=ahead_ms)
    click = {"event_id": "c1", "type": "click", "ranking_id": ranking.ranking_id, "item": "a"}
    body = msgspec.json.encode({"events": [click]})
    gateway = GatewaySettings(journal=Path("j"), plan_copy=Path("p"), workers=())
    taken = read_feedback(body, gateway, ids, {model_tag("codesearch"): "codesearch"}, NOW_MS)

    found = cleaned([ranking], taken, now_ms=ahead_ms + 10 * WINDOW_MS)

    assert found.clicks.tolist() == [True, False]
    assert dropped(found.report.dropped_feedback) == {}


def test_lists_tell_whether_some_feedback_counts_and_is_a_click_models() -> None:
    rankings = [a_ranking("model"), a_ranking("people"), a_ranking("nothing"), a_ranking("late")]
    feedback = [
        a_click("c1", "model", simulated=True),
        an_exposure("x1", "people"),
        a_click("c2", "late", received_ms=NOW_MS + WINDOW_MS + 1),
    ]

    found = cleaned(rankings, feedback)

    assert found.heard.tolist() == [True, True, False, False]
    assert found.simulated.tolist() == [True, False, False, False]
    assert found.take(np.array([2, 0])).ranking_ids.tolist() == ["nothing", "model"]


def test_late_clicks_are_measured_against_those_in_time() -> None:
    late = a_click("c2", "r2", received_ms=NOW_MS + WINDOW_MS + 1)

    assert cleaned([a_ranking("r1"), a_ranking("r2")], [a_click("c1", "r1"), late]).report.late_share == 0.5


def test_much_that_was_dropped_is_a_fault_in_words() -> None:
    orphans = [a_click(f"c{i}", "nobody") for i in range(3)]

    found = cleaned([a_ranking("r1"), a_ranking("r2", arm="outside")], [*orphans, a_click("c9")])

    assert found.report.faults == ("3 of 4 feedback dropped, limit 20%; most of them: without_ranking",)
    assert cleaned([a_ranking("r1")], [a_click("c9")]).report.faults == ()


@pytest.mark.parametrize("feedback", [(), (a_click("c1"),)])
def test_nothing_given_is_no_impression(feedback: tuple[Click, ...]) -> None:
    found = cleaned([], feedback)

    assert len(found) == 0
    assert found.report.dropped_feedback["without_ranking"] == len(feedback)


def test_equal_data_have_one_hash_and_a_click_more_has_another() -> None:
    one, same = (cleaned([a_ranking("r1")], [a_click("c1")]) for _ in range(2))
    other = cleaned([a_ranking("r1")], [a_click("c1"), a_click("c2", item="b")])

    assert one.report.encode() == same.report.encode()
    assert one.report.data != other.report.data


@pytest.mark.parametrize(
    "change", [{"clicks_within_ms": 0}, {"rankings_per_minute": 0}, {"arms": ()}, {"most_dropped": 1.5}]
)
def test_rules_that_cannot_be_are_refused(change: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(change))):
        CleaningRules(**change)  # type: ignore[arg-type]


some_rankings = st.lists(
    st.builds(
        lambda name, unit, items, arm, late: a_ranking(
            f"r{name}", tuple(items), unit=unit, arm=arm, answered_ms=NOW_MS + late
        ),
        st.integers(0, 6),
        st.sampled_from(["u1", "u2", ""]),
        st.lists(st.sampled_from("abc"), max_size=3),
        st.sampled_from(["champion", "challenger", "interleaved", "outside"]),
        st.sampled_from([0, 1000, 9 * WINDOW_MS + 1]),
    ),
    max_size=9,
)
some_feedback = st.lists(
    st.builds(
        lambda kind, name, event, item, position, received: kind(
            f"e{event}", f"r{name}", item, position=position, received_ms=NOW_MS + received
        ),
        st.sampled_from([a_click, an_exposure]),
        st.integers(0, 7),
        st.integers(0, 20),
        st.sampled_from("abcz"),
        st.sampled_from([None, 1, 2]),
        st.sampled_from([-1, 1000, 2000, WINDOW_MS + 500, 11 * WINDOW_MS]),
    ),
    max_size=15,
)


@settings(max_examples=150, deadline=None)
@given(some_rankings, some_feedback)
def test_what_is_given_is_kept_or_dropped_for_one_reason(
    rankings: list[RankingEvent], feedback: list[Click | Exposure]
) -> None:
    report = cleaned(rankings, feedback).report

    assert report.rankings == len(rankings) == report.kept_rankings + sum(report.dropped_rankings.values())
    assert report.feedback == len(feedback) == report.kept_feedback + sum(report.dropped_feedback.values())
    assert report.clicks <= report.kept_feedback


def by_the_event(
    rankings: list[RankingEvent], events: list[Click | Exposure]
) -> tuple[dict[str, set[str]], dict[str, int]]:
    """Clicked items by ranking, and how many events were dropped, by reason: no line shared with `cleaning`."""
    shown = {ranking.ranking_id: ranking for ranking in rankings}
    counted: set[tuple[type, str, str]] = set()
    clicked: dict[str, set[str]] = {name: set() for name in shown}
    why = dict.fromkeys(("without_ranking", "item_not_shown", "impossible_position", "before_ranking"), 0)
    why["repeated_item"] = 0
    for event in sorted(events, key=lambda event: (event.received_ms, event.event_id)):
        ranking, key = shown.get(event.ranking_id), (type(event), event.ranking_id, event.item)
        if ranking is None:
            why["without_ranking"] += 1
        elif event.item not in ranking.items:
            why["item_not_shown"] += 1
        elif event.position is not None and event.position != ranking.items.index(event.item) + 1:
            why["impossible_position"] += 1
        elif event.received_ms < ranking.answered_ms:
            why["before_ranking"] += 1
        elif key in counted:
            why["repeated_item"] += 1
        else:
            counted.add(key)
            if isinstance(event, Click):
                clicked[event.ranking_id].add(event.item)
    return clicked, why


@settings(max_examples=100, deadline=None)
@given(some_rankings, some_feedback)
def test_without_bots_and_late_clicks_it_counts_as_event_by_event(
    rankings: list[RankingEvent], feedback: list[Click | Exposure]
) -> None:
    once = {ranking.ranking_id: ranking for ranking in rankings}
    sound = [r for r in once.values() if r.items and len(set(r.items)) == len(r.items)]
    events = list({event.event_id: event for event in feedback}.values())
    rules = CleaningRules(
        clicks_within_ms=20 * WINDOW_MS,
        rankings_per_minute=99,
        clicks_per_minute=99,
        arms=("champion", "challenger", "interleaved", "outside"),
    )

    found = clean(rankings_table(sound), feedback_table(events), rules, NOW_MS + 40 * WINDOW_MS)

    clicked, why = by_the_event(sound, events)
    assert found.clicks.tolist() == [item in clicked[ranking.ranking_id] for ranking in sound for item in ranking.items]
    assert {reason: found.report.dropped_feedback[reason] for reason in why} == why
