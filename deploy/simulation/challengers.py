"""Challengers whose true lift is what was asked for, made from a champion by mixing its scores.

A low-noise challenger moves towards the labels (or away from them) and little else: most of its lists are the
champion's. A noisy one is the champion with another order mixed in, and changes many lists in both directions. An
independent one saw the labels through noise of its own, as a model of another kind does.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from deploy.errors import SluiceError
from deploy.simulation.world import Floats, Ranking, World

Kind = Literal["low_noise", "noisy", "independent"]
Metric = Literal["clicks", "judged"]

WITHIN = 2e-5
"""How far a lift may be from the one asked for."""

_CHOICES = 500
_HALVINGS = 25


def oracle_champion(world: World, noise: float = 2.25, seed: int = 0) -> Ranking:
    """A ranker that sees the labels through noise, in standard deviations of the labels.

    The default ranks the judged lists of `DECISIONS.md` as trained rankers do there, NDCG@10 of about .74.
    """
    rng = np.random.default_rng(seed)
    spread = float(np.nanstd(world.labels))
    seen = np.nan_to_num(world.labels) + rng.normal(0.0, noise * spread, world.labels.shape)
    return world.ranking(seen)


def random_order(world: World, seed: int) -> Ranking:
    """Every list in an order of its own by chance."""
    return world.ranking(np.random.default_rng(seed).random(world.labels.shape))


def with_lift(champion: Ranking, lift: float, kind: Kind, seed: int, metric: Metric = "clicks") -> Ranking:
    """A challenger of this true lift, relative, in click-NDCG or NDCG by the labels; the champion's very lists for 0.

    Two shares of another order are mixed in, for four fifths of the lift and for six. Of each query the list of the
    one or the other is taken, by chance, so that together they meet it.
    Raises SluiceError if no mixture reaches it.
    """
    if lift == 0:
        return champion
    mix = _Mix.of(champion, lift, kind, seed, metric)
    if not mix.reaches(1.0, lift):
        most = f"{mix.lift(mix.at(1.0)):+.2%} is what there is"
        raise SluiceError(f"no {kind} challenger of lift {lift:+.2%}: {most}", "a lift nearer to 0")
    near = _between(mix, mix.at(mix.share(0.8 * lift)), mix.at(mix.share(1.2 * lift)), lift, seed)
    # where few lists differ between the two, more do between the champion and a much larger lift
    found = near if mix.meets(near, lift) else _between(mix, champion, mix.at(mix.share(2 * lift)), lift, seed)
    if not mix.meets(found, lift):
        raise SluiceError(f"lift {lift:+.2%} was met by {mix.lift(found):+.3%} only: too few lists", "more lists")
    return found


@dataclass(frozen=True, slots=True)
class _Mix:
    """Rankings that go, with the share mixed in, from one that lacks the lift to one that has it."""

    champion: Ranking
    metric: Metric
    scores: Callable[[float], Floats]

    @staticmethod
    def of(champion: Ranking, lift: float, kind: Kind, seed: int, metric: Metric) -> "_Mix":
        world, rng = champion.world, np.random.default_rng(seed)
        spread = float(np.nanstd(world.labels))
        labels, chance = np.nan_to_num(world.labels), spread * rng.normal(size=world.labels.shape)
        if kind == "independent":
            return _Mix(champion, metric, lambda share: labels + 10 ** (np.sign(lift) * (1 - 2 * share)) * chance)
        if kind == "low_noise":
            other = np.sign(lift) * labels + 0.05 * chance
        else:
            other = (1.0 if lift > 0 else -0.2) * labels + 1.2 * chance
        return _Mix(champion, metric, lambda share: (1 - share) * champion.scores + share * other)

    def by_query(self, ranking: Ranking) -> Floats:
        return ranking.by_query if self.metric == "clicks" else ranking.judged_by_query

    def lift(self, challenger: Ranking) -> float:
        base, other = (float(self.by_query(ranking).mean()) for ranking in (self.champion, challenger))
        return other / base - 1

    def at(self, share: float) -> Ranking:
        return self.champion.world.ranking(self.scores(share))

    def share(self, lift: float) -> float:
        """The smallest share found that reaches the lift; all of it if none does."""
        low, high = 0.0, 1.0
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            low, high = (low, middle) if self.reaches(middle, lift) else (middle, high)
        return high

    def meets(self, challenger: Ranking, lift: float) -> bool:
        return abs(self.lift(challenger) - lift) <= WITHIN

    def reaches(self, share: float, lift: float) -> bool:
        return self.lift(self.at(share)) / lift >= 1


def _between(mix: _Mix, under: Ranking, over: Ranking, lift: float, seed: int) -> Ranking:
    """As many queries' lists of the one as bring the lift, the rest of the other; of many choices the closest."""
    below, gained = mix.by_query(under), mix.by_query(over) - mix.by_query(under)
    wanted = (1 + lift) * float(mix.by_query(mix.champion).sum())
    rng = np.random.default_rng(seed)
    orders = rng.permuted(np.tile(np.arange(len(gained)), (_CHOICES, 1)), axis=1)
    reached = np.cumsum(np.column_stack([np.full(_CHOICES, below.sum()), gained[orders]]), axis=1)
    choice, many = np.unravel_index(np.argmin(np.abs(reached - wanted)), reached.shape)
    taken = orders[choice, :many]
    scores = under.scores.copy()
    scores[taken] = over.scores[taken]
    return mix.champion.world.ranking(scores)
