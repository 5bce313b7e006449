"""Which of two versions people prefer, from interleaved lists: clicks are credited to the team that picked the item.

Both versions stand in every list, so what differs between people and queries cancels: some 70 times fewer
sessions than A/B. Every list needs coins of its own (`serving.interleaving`): with them the score of a list is
as likely x as -x where nobody prefers anything, and lists are fair tosses.
"""

from dataclasses import dataclass
from math import sqrt
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from pipelines.gates.clustered import ArmSums, ArmUnits, Estimate, Floats

Scoring = Literal["clicks", "wins"]
"""clicks: challenger's clicks minus champion's. wins: only who has more: 1, 0 or -1."""


@dataclass(frozen=True, slots=True)
class Preference:
    """How much the challenger is preferred.

    score: mean of all lists, without a click too: > 0 for the challenger, in [-1, 1] for wins.
    standard_error: clustered by unit, taken about 0, so that a few units of one mind do not make it vanish.
    wins, losses, ties: lists with more clicks for the challenger, for the champion, or as many.
    """

    score: float
    standard_error: float
    lists: int
    units: int
    wins: int
    losses: int
    ties: int

    @property
    def information(self) -> float:
        """1 / variance of the score; 0 as long as no list was decided."""
        return self.standard_error**-2 if self.standard_error > 0 else 0.0

    @property
    def z(self) -> float:
        """Score in standard errors; 0 as long as no list was decided."""
        return self.score / self.standard_error if self.standard_error > 0 else 0.0

    @property
    def share(self) -> float:
        """Chance that a list is won by the challenger, ties shared: 0.5 is no preference.

        Source: Chapelle, Joachims, Radlinski & Yue, ACM TOIS 30(1), 2012.
        """
        return 0.5 if not self.lists else 0.5 + (self.wins - self.losses) / (2 * self.lists)


def preference(challenger: ArrayLike, champion: ArrayLike, units: ArrayLike, scoring: Scoring = "clicks") -> Preference:
    """The preference in interleaved lists.

    challenger, champion: clicks credited to each team, shape (lists,), >= 0; a list without a click is in it.
    units: shape (lists,), ids of any kind: who saw the list. Units are independent, lists of one are not.
    Raises ValueError if shapes differ or a credit is negative.

    z is the self-normalised sum of the units' scores, which with fair coins has lighter tails than a normal
    at any number of units.

    Source: Radlinski, Kurup & Joachims, CIKM 2008; the sum's tails: Efron, JASA 64(328), 1969.

    >>> found = preference([2, 0, 1], [0, 0, 1], ["ann", "ann", "bob"])
    >>> round(found.score, 3), found.wins, found.losses, found.ties, found.units
    (0.667, 1, 0, 2, 2)
    """
    ours, theirs = np.asarray(challenger, dtype=np.float64), np.asarray(champion, dtype=np.float64)
    whose = np.asarray(units)
    if ours.ndim != 1 or not ours.shape == theirs.shape == whose.shape:
        raise ValueError(f"credits {ours.shape}, {theirs.shape}, units {whose.shape}: expected the same (lists,)")
    if not ((ours >= 0).all() and (theirs >= 0).all()):
        raise ValueError("credits must be >= 0")
    ahead = np.sign(ours - theirs)
    mean = mean_score(ArmSums.of(ArmUnits.of(list_scores(ours, theirs, scoring), whose)))
    return Preference(
        score=mean.mean,
        standard_error=mean.standard_error,
        lists=len(ahead),
        units=len(np.unique(whose)),
        wins=int((ahead > 0).sum()),
        losses=int((ahead < 0).sum()),
        ties=int((ahead == 0).sum()),
    )


def list_scores(challenger: ArrayLike, champion: ArrayLike, scoring: Scoring) -> Floats:
    """How far the challenger is ahead in each list. challenger, champion: clicks credited, shape (lists,)."""
    ahead = np.asarray(challenger, dtype=np.float64) - np.asarray(champion, dtype=np.float64)
    return np.sign(ahead) if scoring == "wins" else ahead


def mean_score(drafted: ArmSums) -> Estimate:
    """Of lists summed by unit, whose values are `list_scores`; 0 without lists. Its error is taken about 0."""
    lists = drafted.lists
    if not lists:
        return Estimate(0.0, 0.0)
    return Estimate(drafted.values / lists, sqrt(float(drafted.products[2, 2])) / lists)
