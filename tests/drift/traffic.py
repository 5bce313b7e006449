"""Rankings with a known distribution, and the reference profile that fits them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from registry.contracts.events import SCHEMA, RankingEvent
from registry.contracts.features import Column, FeatureView
from registry.contracts.profile import ReferenceProfile, confidences, describe
from tests.builders import NOW_MS

CANDIDATES = 12
SHOWN = 8
COLUMNS = ("of_item", "of_both", "of_query", "rare_of_query", "often_zero", "often_missing", "constant")
VIEW = FeatureView("traffic", "item", tuple(Column(name) for name in COLUMNS))


@dataclass(frozen=True)
class Traffic:
    """values: float32 (lists, CANDIDATES, columns), best first; scores: float32 (lists, CANDIDATES)."""

    values: NDArray[np.float32]
    scores: NDArray[np.float32]

    @staticmethod
    def of(seed: int, lists: int, moved: dict[str, float] | None = None, score_scale: float = 1.0) -> "Traffic":
        """moved: what to add to a column, by name."""
        rng = np.random.default_rng(seed)
        shape = (lists, CANDIDATES)
        of_query = np.broadcast_to(rng.normal(size=(lists, 1)), shape)
        rare = np.broadcast_to(rng.random((lists, 1)) < 0.01, shape)
        often_zero = np.where(rng.random(shape) < 0.3, 0.0, rng.exponential(size=shape))
        often_missing = np.where(rng.random(shape) < 0.1, np.nan, rng.normal(3.0, 2.0, size=shape))
        item = rng.normal(size=shape)
        both = item * 0.5 + of_query * 0.5 + rng.normal(size=shape)
        columns = [item, both, of_query, rare.astype(float), often_zero, often_missing, np.full(shape, 0.1)]
        values = np.stack(columns, axis=2)
        for name, by in (moved or {}).items():
            values[:, :, COLUMNS.index(name)] += by
        scores = ((values[:, :, 0] + values[:, :, 1]) * score_scale).astype(np.float32)
        order = np.argsort(-scores, axis=1)
        return Traffic(
            np.take_along_axis(values.astype(np.float32), order[:, :, None], axis=1),
            np.take_along_axis(scores, order, axis=1),
        )

    def profile(self) -> ReferenceProfile:
        """Of these lists, features of the shown items."""
        shown = self.values[:, :SHOWN]
        sure = confidences(self.scores, np.full(len(self.scores), CANDIDATES), float(self.scores.std()))
        return ReferenceProfile(
            fingerprint=VIEW.fingerprint,
            population="made-up lists",
            lists=len(self.scores),
            features=tuple(describe(name, shown[:, :, i]) for i, name in enumerate(COLUMNS)),
            scores=describe("scores", self.scores),
            margin=describe("margin", sure.margin),
            entropy=describe("entropy", sure.entropy),
        )

    def rankings(
        self, score_std: float, start_ms: int = NOW_MS, every_ms: int = 0, prefix: str = "r", **changes: Any
    ) -> list[RankingEvent]:
        """One ranking a list. score_std: the profile's. changes: fields of all events."""
        sure = confidences(self.scores, np.full(len(self.scores), CANDIDATES), score_std)
        items = tuple(f"i{place}" for place in range(SHOWN))
        fields: dict[str, Any] = {"model": "codesearch", "version": 1, "arm": "champion"}
        fields["fingerprint"] = VIEW.fingerprint
        return [
            RankingEvent(
                schema=SCHEMA,
                ranking_id=f"{prefix}{i}",
                answered_ms=start_ms + i * every_ms,
                plan_revision=1,
                unit="u1",
                query_id="q1",
                candidates=CANDIDATES,
                items=items,
                scores=scores[:SHOWN].tobytes(),
                propensities=np.ones(SHOWN, dtype="<f4").tobytes(),
                features=self.values[i, :SHOWN].tobytes(),
                score_mean=float(scores.mean(dtype=np.float64)),
                score_std=float(scores.std(dtype=np.float64)),
                margin=float(sure.margin[i]),
                entropy=float(sure.entropy[i]),
                **(fields | changes),
            )
            for i, scores in enumerate(self.scores)
        ]


REFERENCE_TRAFFIC = Traffic.of(seed=1, lists=4000)
PROFILE = REFERENCE_TRAFFIC.profile()


def rankings(
    seed: int,
    lists: int,
    moved: dict[str, float] | None = None,
    start_ms: int = NOW_MS,
    every_ms: int = 0,
    **changes: Any,
) -> list[RankingEvent]:
    """Rankings by the version that `PROFILE` belongs to."""
    traffic = Traffic.of(seed, lists, moved)
    return traffic.rankings(PROFILE.scores.std, start_ms, every_ms, prefix=f"{seed}-", **changes)


def in_parts(events: Sequence[RankingEvent], size: int) -> list[Sequence[RankingEvent]]:
    """As many a part, in order."""
    return [events[start : start + size] for start in range(0, len(events), size)]
