"""D10: a challenger's lift from the champion's explored log, against the truth."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from deploy.simulation.challengers import random_order
from deploy.simulation.characteristic import Figure, Outcome, Stage, column, mean, quantile, share
from deploy.simulation.world import NOBODY, SHOWN, Floats, Ints, Ranking, true_lift
from pipelines.feedback.counterfactual import CounterfactualReport, CounterfactualRules, counterfactual
from pipelines.feedback.explored_lists import ClickLists, shown_chance
from pipelines.feedback.position_bias import counts_of, counts_without_each, harvest_along, ranks_before_exploration
from registry.contracts.traffic import EXPLORE_DEPTH, WEIGHT_STEPS
from serving.exploration import Exploration

LISTS = 100_000
SHARE = 0.05
SESSIONS_A_UNIT = 3
GROUPS = 10  # of units, to know how sure examination is
CASES: tuple[tuple[str, float], ...] = (("better", 0.05), ("worse", -0.05), ("little better", 0.008))


@dataclass(frozen=True)
class ExploredLog:
    """Lists as they were shown, explored by the code that explores.

    positions: from 1, and propensities, of each row. depth: ranks that chance reached, of each list.
    """

    lists: ClickLists
    positions: Ints
    propensities: Floats
    depth: Ints

    @staticmethod
    def of(champion: Ranking, lists: int, share: float, rng: np.random.Generator) -> "ExploredLog":
        """So many of the champion's lists, of units of unequal keenness."""
        world = champion.world
        best = world.best(champion.scores, EXPLORE_DEPTH)
        query = rng.integers(world.queries, size=lists)
        sizes = np.minimum(world.sizes, SHOWN)
        rules = [
            Exploration(round(share * WEIGHT_STEPS), int(shown), int(min(size, EXPLORE_DEPTH)))
            for shown, size in zip(sizes, world.sizes, strict=True)
        ]
        alone = np.zeros((world.queries, SHOWN))
        for row, rule in zip(alone, rules, strict=True):
            row[: rule.shown] = rule.propensities()
        items, propensities = best[query, :SHOWN], alone[query]
        coins = random.Random(int(rng.integers(1 << 62)))
        for one in np.flatnonzero(rng.random(lists) < share):
            rule = rules[query[one]]
            if rule.swaps:
                swap = rule.draw(coins)
                items[one, : rule.shown] = best[query[one], rule.order(swap)]
                propensities[one, : rule.shown] = rule.propensities(swap)
        unit = np.arange(lists) // SESSIONS_A_UNIT
        level = rng.integers(world.levels, size=int(unit[-1]) + 1)[unit]
        labels = np.nan_to_num(world.labels[query[:, None], items])
        chance = world.clicks.examination(SHOWN) * world.clicks.attraction(labels) * world.keenness[level][:, None]
        there = items != NOBODY
        clicks = rng.random(items.shape) < chance
        offsets = np.append(0, np.cumsum(sizes[query]))
        depth = np.minimum(world.sizes, EXPLORE_DEPTH)[query]
        shown = shown_chance(propensities[there], offsets, depth)
        logged = ClickLists(query, unit, items[there], clicks[there], shown, offsets)
        positions = np.broadcast_to(np.arange(1, SHOWN + 1), items.shape)[there]
        return ExploredLog(logged, positions, propensities[there], depth)

    def examination(self) -> tuple[Floats, Floats]:
        """Harvested from the log itself: what a version ranked third stood third or, by chance, elsewhere. Strata are
        ranks in lists of one length. Shape (SHOWN,), and (GROUPS, SHOWN) without each group of units."""
        sizes = np.diff(self.lists.offsets)
        ranks = ranks_before_exploration(self.propensities, self.lists.offsets)
        strata = np.repeat(sizes * self.depth, sizes) * (SHOWN + 1) + ranks
        rows = (strata, self.positions, self.lists.clicks)
        units = np.repeat(self.lists.units, sizes)
        return harvest_along(counts_of(*rows), counts_without_each(*rows, units, GROUPS))

    def report(
        self, champion: Ranking, challenger: Ranking, examination: tuple[Floats, Floats]
    ) -> CounterfactualReport:
        """What the log says of the challenger."""
        ours, theirs = (one.world.best(one.scores, EXPLORE_DEPTH) for one in (champion, challenger))
        whole, without_each = examination
        return counterfactual(self.lists, ours, theirs, whole, CounterfactualRules(), without_each)


@dataclass(frozen=True, slots=True)
class FromTheLog:
    """Each run: one log for three challengers, and one without exploration for a random order."""

    id: str = "D10"
    title: str = "counterfactual, 100,000 lists of which 5 % are explored"
    runs: int = 20
    quick: int = 2
    lists: int = LISTS

    def run(self, stage: Stage, rng: np.random.Generator) -> Outcome:
        champion = stage.champion
        log = ExploredLog.of(champion, self.lists, SHARE, rng)
        examination = log.examination()
        found: dict[str, float] = {}
        for name, lift in CASES:
            challenger = stage.challenger(lift, "noisy" if lift < 0 else "low_noise")
            told = log.report(champion, challenger, examination)
            estimate = told.doubly_robust
            found[f"{name} refused"] = float(estimate is None)
            truth = true_lift(champion, challenger)
            found[name] = float("nan") if estimate is None else estimate.lift - truth
            found[f"{name} covered"] = float(estimate is not None and estimate.low <= truth <= estimate.high)
        unexplored = ExploredLog.of(champion, self.lists // 10, 0.0, rng)
        told = unexplored.report(champion, random_order(stage.world, 1), examination)
        return found | {
            "without support": float(told.support < told.rules.least_support),
            "refused": float(bool(told.refused)),
        }

    def figures(self, outcomes: Sequence[Outcome]) -> tuple[Figure, ...]:
        lines = []
        for name, lift in CASES:
            off = column(outcomes, name)
            bias, error = mean(off)
            title = f"{name} ({lift:+.1%})"
            far = quantile([{"off": float(abs(one))} for one in off], "off", 0.9)
            lines.append(Figure(f"{title}: off, p90", *far, "at most", 0.015, "points", "0.0 to 1.4"))
            lines.append(Figure(f"{title}: bias", bias, error, shown="points"))
            lines.append(Figure(f"{title}: in the interval", *share(outcomes, f"{name} covered")))
        refused, error = share(outcomes, "refused")
        spoken = share([{"spoken": 1 - one["better refused"]} for one in outcomes], "spoken")
        return (
            *lines,
            Figure("spoken of, with support", *spoken),
            Figure("refused, without support", refused, error, "at least", 1.0),
            Figure("without support (a random order)", *share(outcomes, "without support")),
        )
