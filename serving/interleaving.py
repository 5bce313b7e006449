"""Team-draft interleaving: two rankings drafted into one list, each shown item credited to who picked it.

In every round a coin says who picks first, then each team takes the best item of its own ranking that
is still free. Clicks are credited to teams; two rankings that are equally good get equal credit,
whatever the position bias. Every list needs coins of its own: a draft used again and again for the
same query turns one lucky coin into evidence.

Source: Radlinski, Kurup & Joachims, "How does clickthrough data reflect retrieval quality?", CIKM 2008.
"""

from collections.abc import Sequence, Set
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

CHAMPION, CHALLENGER = 0, 1
EXACT_POSITIONS = 100


@dataclass(frozen=True, slots=True)
class Draft:
    """A list drafted from two.

    order: items as shown. teams: one byte an item, CHAMPION or CHALLENGER: whose pick it was.
    propensities: float64, (shown,), in (0, 1]: over all coins, the probability that this item stands at
    this position, whoever picked it. Exact for the first EXACT_POSITIONS positions; every block of as many
    after them is given what was shown before it.
    """

    order: list[int]
    teams: bytes
    propensities: NDArray[np.float64]


def team_draft(champion: Sequence[int], challenger: Sequence[int], coins: int) -> Draft:
    """Both rankings in one list of their length.

    champion, challenger: best first, each item once, of equal length n; they may differ in items.
    coins: at least ceil(n / 2) random bits, fresh for this list; bit r is set if the challenger picks
    first in round r. Raises ValueError if the lengths differ.

    >>> draft = team_draft([7, 8, 9], [9, 8, 7], coins=0b01)
    >>> draft.order, list(draft.teams), draft.propensities.tolist()
    ([9, 7, 8], [1, 0, 0], [0.5, 0.5, 1.0])
    """
    if len(champion) != len(challenger):
        raise ValueError(f"rankings of {len(champion)} and {len(challenger)} items: expected as many of each")
    both = _Rankings.of(champion, challenger)
    order: list[int] = []
    teams = bytearray()
    heads = (0, 0)
    for position in range(len(champion)):
        team = (coins >> position // 2 ^ position) & 1  # the other one in the second half of a round
        order.append(both.items[team][heads[team]])
        teams.append(team)
        heads = both.after(heads, team)
    return Draft(order, bytes(teams), _propensities(both, order))


@dataclass(frozen=True, slots=True)
class _Rankings:
    """The champion's and the challenger's items, best first, and where in each an item stands.

    What is taken at any time is a head of the one and a head of the other, so two numbers say it
    all: where the best free item of each stands (the length, if none is left).
    """

    items: tuple[Sequence[int], Sequence[int]]
    place: tuple[dict[int, int], dict[int, int]]

    @staticmethod
    def of(champion: Sequence[int], challenger: Sequence[int]) -> "_Rankings":
        first, second = ({item: i for i, item in enumerate(ranking)} for ranking in (champion, challenger))
        return _Rankings((champion, challenger), (first, second))

    def after(self, heads: tuple[int, int], team: int) -> tuple[int, int]:
        """The best free items once the team has taken its own."""
        left, right = heads
        if team == CHAMPION:
            left += 1
        else:
            right += 1
        left = self._skip(CHAMPION, left, right)
        return left, self._skip(CHALLENGER, right, left)

    def heads(self, taken: Set[int]) -> tuple[int, int]:
        """The best free items if these are taken."""
        left, right = (
            next((i for i, item in enumerate(ranking) if item not in taken), len(ranking)) for ranking in self.items
        )
        return left, right

    def _skip(self, team: int, head: int, other_head: int) -> int:
        """The team's first item from `head` on that the other has not taken."""
        items, elsewhere = self.items[team], self.place[1 - team]
        nowhere = len(items)
        while head < nowhere and elsewhere.get(items[head], nowhere) < other_head:
            head += 1
        return head


def _propensities(both: _Rankings, shown: Sequence[int]) -> NDArray[np.float64]:
    """With which probability, over all coins, each shown item comes to stand where it does, whichever
    team picks it. Shape (shown,).

    A forward pass over the states between rounds, of which there are at most as many as positions
    before. Exact for the first EXACT_POSITIONS positions. Beyond, the list goes on in blocks of as
    many, and the probabilities of a block are those given what was shown before it.
    """
    found = [0.0] * len(shown)
    states: dict[tuple[int, int], float] = {}
    for at in range(0, len(shown), 2):
        if at % EXACT_POSITIONS == 0:
            states = {both.heads(frozenset(shown[:at])): 1.0}
        round_ = range(at, min(at + 2, len(shown)))
        after: dict[tuple[int, int], float] = {}
        for before, probability in states.items():
            half = probability / 2
            for first in (CHAMPION, CHALLENGER):
                heads = before
                for position in round_:
                    team = first ^ position & 1  # rounds begin at even positions
                    if both.items[team][heads[team]] == shown[position]:
                        found[position] += half
                    heads = both.after(heads, team)
                after[heads] = after.get(heads, 0.0) + half
        states = after
    return np.array(found)
