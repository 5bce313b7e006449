"""Team-draft interleaving: the list is the one that Radlinski et al. describe, its propensities are what all
coins together give, and equal rankings get equal credit."""

import random
from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.interleaving import EXACT_POSITIONS, team_draft


def drafted_as_published(champion: Sequence[int], challenger: Sequence[int], coins: int) -> tuple[list[int], list[int]]:
    """Algorithm 2 of the paper, word for word: order and teams. Its own count of picks says who is next."""
    shown: list[int] = []
    teams: list[int] = []
    tosses = 0
    while len(shown) < len(champion):
        picks = Counter(teams)
        if picks[0] == picks[1]:
            team = coins >> tosses & 1
            tosses += 1
        else:
            team = 0 if picks[0] < picks[1] else 1
        shown.append(next(item for item in (champion, challenger)[team] if item not in shown))
        teams.append(team)
    return shown, teams


def all_coins(length: int) -> range:
    return range(2 ** ((length + 1) // 2))


@st.composite
def two_rankings(draw: st.DrawFn, longest: int = 9) -> tuple[list[int], list[int]]:
    """Two heads of rankings of the same items, often nearly alike."""
    items = list(range(draw(st.integers(1, longest))))
    champion, challenger = draw(st.permutations(items)), list(draw(st.permutations(items)))
    if draw(st.booleans()):
        challenger = list(champion)
        swap = draw(st.integers(0, len(items) - 1))
        challenger[swap], challenger[0] = challenger[0], challenger[swap]
    shown = draw(st.integers(1, len(items)))
    return list(champion)[:shown], challenger[:shown]


@given(two_rankings())
def test_a_draft_is_the_published_one_for_every_coin(rankings: tuple[list[int], list[int]]) -> None:
    champion, challenger = rankings
    for coins in all_coins(len(champion)):
        draft = team_draft(champion, challenger, coins)

        assert (draft.order, list(draft.teams)) == drafted_as_published(champion, challenger, coins)
        assert abs(draft.teams.count(0) - draft.teams.count(1)) <= 1
        assert len(set(draft.order)) == len(champion)


@given(two_rankings())
def test_a_propensity_is_the_share_of_all_coins_that_put_the_item_there(
    rankings: tuple[list[int], list[int]],
) -> None:
    champion, challenger = rankings
    drafts = [team_draft(champion, challenger, coins) for coins in all_coins(len(champion))]
    seen = Counter((position, item) for draft in drafts for position, item in enumerate(draft.order))

    for draft in drafts:
        shares = [seen[position, item] / len(drafts) for position, item in enumerate(draft.order)]
        assert draft.propensities == pytest.approx(shares, abs=1e-12)


@given(st.lists(st.booleans(), min_size=1, max_size=9))
def test_equal_rankings_get_equal_credit_whatever_is_clicked(clicked: list[bool]) -> None:
    ranking = list(range(len(clicked)))
    preference = 0
    for coins in all_coins(len(ranking)):
        draft = team_draft(ranking, ranking, coins)
        assert draft.order == ranking
        assert draft.propensities.tolist() == [1.0] * len(ranking)
        preference += sum(
            (1 if team else -1) for team, item in zip(draft.teams, draft.order, strict=True) if clicked[item]
        )

    # an odd list's last pick has a coin of its own: summed over both of its sides it is nobody's
    assert preference == 0


def test_clicks_that_know_nothing_of_the_rankings_prefer_neither() -> None:
    source = random.Random(5)
    preferences = []
    for _ in range(4000):
        items = list(range(20))
        champion, challenger = source.sample(items, 10), source.sample(items, 10)
        draft = team_draft(champion, challenger, source.getrandbits(5))
        clicks = [source.random() < 0.5 / (1 + position) for position in range(10)]  # position bias
        preferences.append(sum((1 if t else -1) * c for t, c in zip(draft.teams, clicks, strict=True)))

    assert abs(np.mean(preferences)) < 3.5 * np.std(preferences) / np.sqrt(len(preferences))


def test_clicks_on_what_the_challenger_ranks_higher_prefer_it() -> None:
    best = 7
    preferences = []
    for coins in all_coins(10):
        draft = team_draft(list(range(10)), [best, *(item for item in range(10) if item != best)], coins)
        preferences.append(1 if draft.teams[draft.order.index(best)] else -1)

    assert sum(preferences) == len(preferences)


def test_two_drafts_of_one_query_differ_in_their_coins_alone() -> None:
    first, second = (team_draft([1, 2, 3, 4], [4, 3, 2, 1], coins) for coins in (0b00, 0b01))

    assert (first.order, second.order) == ([1, 4, 2, 3], [4, 1, 2, 3])
    assert first.propensities.tolist() == second.propensities.tolist() == [0.5, 0.5, 0.5, 0.5]


def test_a_long_list_is_exact_at_its_head_and_conditional_beyond() -> None:
    source = random.Random(6)
    champion = list(range(EXACT_POSITIONS + 6))
    challenger = [item ^ 1 for item in champion]  # every pair the other way round: many states
    coins = source.getrandbits(len(champion))

    long = team_draft(champion, challenger, coins)

    head = team_draft(champion[:EXACT_POSITIONS], challenger[:EXACT_POSITIONS], coins)
    assert long.order[:EXACT_POSITIONS] == head.order
    assert long.propensities[:EXACT_POSITIONS].tolist() == head.propensities.tolist()
    left = [[item for item in ranking if item not in head.order] for ranking in (champion, challenger)]
    tails = [team_draft(*left, tail_coins) for tail_coins in all_coins(6)]
    seen = Counter((position, item) for tail in tails for position, item in enumerate(tail.order))
    shares = [seen[position, item] / len(tails) for position, item in enumerate(long.order[EXACT_POSITIONS:])]
    assert long.propensities[EXACT_POSITIONS:] == pytest.approx(shares, abs=1e-12)


def test_rankings_of_different_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="2 and 1 items"):
        team_draft([1, 2], [1], 0)
