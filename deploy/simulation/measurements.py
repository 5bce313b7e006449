"""What visits leave behind for the online gate: lists of an A/B split, or drafted lists with credited clicks.

The gate stands on sums by unit and look (`gates.gate_lists.GateSums`), which it makes of lists itself. The simulation
makes them of the same sessions without naming units by text: the same procedure on the same numbers, which a test
holds against `judge` on the lists.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from deploy.simulation.crowd import Mask, People, Visits, unit_names
from deploy.simulation.world import (
    CHANCES,
    NOBODY,
    SHOWN,
    Chances,
    Floats,
    Ints,
    Ranking,
    click_ndcg_of_patterns,
    clicked,
)
from pipelines.gates.clustered import sums_by_look
from pipelines.gates.gate_lists import AbLists, GateSums, InterleavedLists
from pipelines.gates.gate_plan import GatePlan
from pipelines.gates.preference import list_scores
from registry.contracts.manifest import CLICK_NDCG
from serving.interleaving import team_draft

COINS = (SHOWN + 1) // 2
"""Random bits of a draft."""

_HISTORY = 2.0  # weeks before, in lengths of the experiment
_PRIOR = 3.0  # sessions that the mean of all counts as, for a unit or query that was seldom seen
_QUERY_SESSIONS = 40_000


@dataclass(frozen=True, slots=True)
class Known:
    """Of the weeks before, when the champion answered all: means of click-NDCG, shrunk. Shape (queries,), (units,)."""

    by_query: Floats
    by_unit: Floats

    @staticmethod
    def of(champion: Ranking, people: People, rng: np.random.Generator) -> "Known":
        """Measured on sessions of their own."""
        units = np.repeat(np.arange(len(people)), rng.poisson(_HISTORY * people.rate))
        by_unit = _means(champion, units, people.level[units], None, len(people), rng)
        queries = rng.integers(champion.world.queries, size=_QUERY_SESSIONS)
        levels = rng.integers(champion.world.levels, size=_QUERY_SESSIONS)
        return Known(_means(champion, queries, levels, queries, champion.world.queries, rng), by_unit)

    def of_visits(self, visits: Visits) -> Floats:
        """As CUPED wants it: shape (sessions, 2)."""
        return np.column_stack([self.by_query[visits.query], self.by_unit[visits.unit]])


@dataclass(frozen=True, slots=True)
class AbSeen:
    """An A/B split's sessions. in_challenger: which arm. values: click-NDCG. covariates: (sessions, columns)."""

    visits: Visits
    in_challenger: Mask
    values: Floats
    covariates: Floats

    @staticmethod
    def of(
        champion: Ranking, challenger: Ranking, visits: Visits, in_challenger: Mask, rng: np.random.Generator
    ) -> "AbSeen":
        """in_challenger: of each unit, shape (units,)."""
        arm = in_challenger[visits.unit]
        # one stream of chance for all sessions, whatever their arm
        both = np.stack([champion.chances, challenger.chances])
        pattern = clicked(both[arm.astype(np.int64), visits.query, visits.level], rng)
        known = Known.of(champion, visits.people, rng)
        return AbSeen(visits, arm, click_ndcg_of_patterns()[pattern], known.of_visits(visits))

    def sums(self, plan: GatePlan, closed: int) -> GateSums:
        """As the gate sums the lists."""
        arms = []
        for mask in (~self.in_challenger, self.in_challenger):
            seen = self.visits.take(mask)
            arms.append(sums_by_look(seen.look, seen.unit, self.values[mask], self.covariates[mask], plan.looks))
        return GateSums(tuple(arms), closed, plan.metric)

    def lists(self, closed: int) -> AbLists:
        """As the archive gives them to the gate."""
        units = np.array(unit_names(len(self.visits.people)))[self.visits.unit]
        look = self.visits.look
        return AbLists(look, units, self.in_challenger, self.values, closed, CLICK_NDCG.digest, self.covariates)


@dataclass(frozen=True)
class Drafts:
    """All lists that champion and challenger can be drafted into: for each query, one for each fall of the coins.

    chances: of clicks, shape (coins, queries, levels, SHOWN). picked: bit i is set if the challenger picked position
    i + 1, shape (coins, queries).
    """

    chances: Chances
    picked: Ints

    @staticmethod
    def of(champion: Ranking, challenger: Ranking) -> "Drafts":
        """Drafted by the code that serves them."""
        world, falls = champion.world, 1 << COINS
        items, picked = [], []
        for coins in range(falls):
            for ours, theirs in _pairs(champion, challenger):
                draft = team_draft(ours, theirs, coins)
                items.append(draft.order + [NOBODY] * (SHOWN - len(draft.order)))
                picked.append(sum(team << place for place, team in enumerate(draft.teams)))
        chances = world.chances(np.array(items)).reshape(falls, world.queries, world.levels, SHOWN)
        return Drafts(chances, np.array(picked).reshape(falls, world.queries))

    @property
    def score(self) -> float:
        """What a list's score (`clicks`) truly is on average: over all coins, queries and levels."""
        sides = np.where(self.picked[..., None] >> np.arange(SHOWN) & 1, 1.0, -1.0)
        return float((self.chances / CHANCES * sides[:, :, None, :]).sum(axis=-1).mean())

    def seen(self, visits: Visits, rng: np.random.Generator) -> "DraftsSeen":
        """Every session's list is drafted with coins of its own."""
        coins = rng.integers(len(self.chances), size=len(visits))
        pattern = clicked(self.chances[coins, visits.query, visits.level], rng)
        picked = self.picked[coins, visits.query]
        return DraftsSeen(visits, _bits(pattern & picked), _bits(pattern & ~picked))


@dataclass(frozen=True, slots=True)
class DraftsSeen:
    """Drafted sessions. challenger, champion: clicks on the items of each team, shape (sessions,)."""

    visits: Visits
    challenger: Ints
    champion: Ints

    def sums(self, plan: GatePlan, closed: int) -> GateSums:
        """As the gate sums the lists."""
        scores = list_scores(self.challenger, self.champion, plan.scoring)
        return GateSums(
            (sums_by_look(self.visits.look, self.visits.unit, scores, None, plan.looks),), closed, plan.metric
        )

    def lists(self, closed: int) -> InterleavedLists:
        """As the archive gives them to the gate."""
        units = np.array(unit_names(len(self.visits.people)))[self.visits.unit]
        digest = CLICK_NDCG.digest
        return InterleavedLists(self.visits.look, units, self.challenger, self.champion, closed, digest)


def _pairs(champion: Ranking, challenger: Ranking) -> Iterator[tuple[list[int], list[int]]]:
    """Both lists of each query, as long as they are."""
    for query, size in enumerate(champion.world.sizes):
        yield champion.items[query, :size].tolist(), challenger.items[query, :size].tolist()


def _means(
    champion: Ranking, group: Ints, level: Ints, query: Ints | None, groups: int, rng: np.random.Generator
) -> Floats:
    asked = rng.integers(champion.world.queries, size=len(group)) if query is None else query
    seen = click_ndcg_of_patterns()[clicked(champion.chances[asked, level], rng)]
    many = np.bincount(group, minlength=groups)
    total = np.bincount(group, weights=seen, minlength=groups) + _PRIOR * seen.mean()
    return np.asarray(total / (many + _PRIOR), dtype=np.float64)


def _bits(patterns: Ints) -> Ints:
    """How many are set."""
    return np.array([bin(one).count("1") for one in range(1 << SHOWN)])[patterns]
