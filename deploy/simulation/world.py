"""The world that decisions are tried on: real judged lists, a position-based click model, units of unequal keenness.

Chances are multiples of 2**-16, drawn by 16 random bits each, so that the truth of a ranking is the sum over what
can happen and no estimate.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property

import numpy as np
from numpy.typing import NDArray
from scipy.stats import gamma

from pipelines.dataset import RankingDataset
from pipelines.errors import DataRefused
from pipelines.feedback.click_ndcg import expected_ndcg
from pipelines.feedback.clicks import ClickModel
from pipelines.ndcg import mean_ndcg
from registry.contracts.manifest import CLICK_NDCG, JUDGED_NDCG

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Chances = NDArray[np.uint16]

SHOWN = 10
NOBODY = -1  # no item: a list shorter than others
CHANCES = 1 << 16
"""Steps of a chance."""

_KEEN_LEVELS = 8
_KEEN_SHAPE = 4.0  # of the gamma that keenness is cut from: units differ as much as gives the design effect of `Crowd`


@dataclass(frozen=True)
class World:
    """Judged lists that people ask for, and how they click.

    labels: shape (queries, candidates), NaN beyond a list's end. keenness: (levels,), how much likelier than the
    click model says a unit of each level clicks; all levels are alike in number. Queries are asked for alike.
    name: of the data, as reports call it.
    """

    name: str
    labels: Floats
    keenness: Floats
    clicks: ClickModel

    @staticmethod
    def of(datasets: Sequence[RankingDataset], most_queries: int = 256, seed: int = 0) -> "World":
        """From the lists in which something is relevant, `most_queries` of them at most, drawn by the seed.

        Raises DataRefused if there are fewer than 20 of them.
        """
        lists = [one.labels for dataset in datasets for one in dataset.lists() if one.labels.max() > 0]
        name = datasets[0].name.split("/")[0]
        if len(lists) < 20:
            raise DataRefused(f"{name}: {len(lists)} lists with something relevant: expected 20 at least")
        if len(lists) > most_queries:
            drawn = np.random.default_rng(seed).choice(len(lists), most_queries, replace=False)
            lists = [lists[at] for at in np.sort(drawn)]
        labels = np.full((len(lists), max(map(len, lists))), np.nan)
        for row, of_list in zip(labels, lists, strict=True):
            row[: len(of_list)] = of_list
        edges = (np.arange(_KEEN_LEVELS) + 0.5) / _KEEN_LEVELS
        keenness = gamma.ppf(edges, _KEEN_SHAPE)
        return World(name, labels, keenness / keenness.mean(), ClickModel(max_label=float(np.nanmax(labels))))

    @property
    def queries(self) -> int:
        """How many there are."""
        return len(self.labels)

    @property
    def levels(self) -> int:
        """Of keenness."""
        return len(self.keenness)

    @cached_property
    def sizes(self) -> Ints:
        """Candidates of each query."""
        return np.asarray(np.isfinite(self.labels).sum(axis=1), dtype=np.int64)

    def ranking(self, scores: Floats) -> "Ranking":
        """By scores of shape (queries, candidates), best first; ties keep the candidates' order."""
        return Ranking(self, self.best(scores, SHOWN), scores)

    def best(self, scores: Floats, depth: int) -> Ints:
        """The first so many candidates of every query, NOBODY where there are fewer. Shape (queries, depth)."""
        hidden = np.where(np.isfinite(self.labels), scores, -np.inf)
        order = np.argsort(-hidden, axis=1, kind="stable")[:, :depth]
        if order.shape[1] < depth:
            order = np.pad(order, ((0, 0), (0, depth - order.shape[1])), constant_values=NOBODY)
        return np.where(np.arange(depth) < self.sizes[:, None], order, NOBODY)

    def chances(self, items: Ints) -> Chances:
        """Of a click, in steps of 2**-16, by level. items: (lists, SHOWN), candidates or NOBODY, of the query that the
        first axis counts, again and again if there are more lists than queries. Shape (lists, levels, SHOWN)."""
        query = np.arange(len(items)) % self.queries
        labels = np.where(items >= 0, self.labels[query[:, None], items], np.nan)
        wanted = np.nan_to_num(self.clicks.examination(SHOWN) * self.clicks.attraction(np.nan_to_num(labels)))
        keen = np.where(items >= 0, wanted, 0.0)[:, None, :] * self.keenness[None, :, None]
        return np.asarray(np.minimum(np.round(keen * CHANCES), CHANCES - 1), dtype=np.uint16)


@dataclass(frozen=True)
class Ranking:
    """What a version shows. items: (queries, SHOWN), best first, NOBODY where the list is shorter. scores: (queries,
    candidates)."""

    world: World
    items: Ints
    scores: Floats

    @cached_property
    def chances(self) -> Chances:
        """Of a click on each position. Shape (queries, levels, SHOWN)."""
        return self.world.chances(self.items)

    @cached_property
    def by_query(self) -> Floats:
        """Expected click-NDCG of each query's list, over units of all levels. Shape (queries,)."""
        flat = self.chances.reshape(-1, SHOWN) / CHANCES
        by_level = expected_ndcg(flat, CLICK_NDCG).reshape(self.world.queries, -1)
        return np.asarray(by_level.mean(axis=1), dtype=np.float64)

    @property
    def click_ndcg(self) -> float:
        """Expected, exactly, over queries and units."""
        return float(self.by_query.mean())

    @cached_property
    def judged_by_query(self) -> Floats:
        """NDCG@10 of each query's list by the labels. Shape (queries,)."""
        there = np.isfinite(self.world.labels)
        offsets = np.append(0, np.cumsum(self.world.sizes))
        return mean_ndcg(self.world.labels[there], self.scores[there], offsets, JUDGED_NDCG).per_list

    @property
    def judged_ndcg(self) -> float:
        """Its mean."""
        return float(self.judged_by_query.mean())


def true_lift(champion: Ranking, challenger: Ranking) -> float:
    """Of click-NDCG, relative; exactly 0 for the same lists."""
    return challenger.click_ndcg / champion.click_ndcg - 1


def clicked(chances: Chances, rng: np.random.Generator) -> Ints:
    """One user's clicks on each list as a number whose bit i is position i + 1. chances: (lists, SHOWN)."""
    tossed = np.frombuffer(rng.bytes(chances.size * 2), dtype=np.uint16).reshape(chances.shape)
    packed = np.packbits(tossed < chances, axis=1, bitorder="little")
    return packed[:, 0].astype(np.int64) | packed[:, 1].astype(np.int64) << 8


@cache
def click_ndcg_of_patterns() -> Floats:
    """Click-NDCG of every pattern of clicks, numbered as by `clicked`. Shape (2**SHOWN,)."""
    patterns = np.arange(1 << SHOWN)[:, None] >> np.arange(SHOWN) & 1
    offsets = np.arange(0, patterns.size + 1, SHOWN)
    served = -np.arange(patterns.size, dtype=np.float64)
    return mean_ndcg(patterns.ravel().astype(np.float64), served, offsets, CLICK_NDCG).per_list
