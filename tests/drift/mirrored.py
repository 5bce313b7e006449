"""Mirrored queries with a known difference between the two lists."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from registry.contracts.events import SCHEMA, MirrorEvent
from tests.builders import NOW_MS

CANDIDATES = 40
SHOWN = 10


def mirrors(
    seed: int,
    queries: int,
    noise: float = 0.3,
    start_ms: int = NOW_MS,
    every_ms: int = 0,
    error_share: float = 0.0,
    slower: float = 1.0,
    scale: float = 1.0,
    **changes: Any,
) -> list[MirrorEvent]:
    """The version scores as the champion does, plus noise (in deviations), times a scale.

    error_share: of queries without a list. slower: the mirrored queries' latency is as the answers', times this.
    """
    rng = np.random.default_rng(seed)
    fields: dict[str, Any] = {"model": "codesearch", "plan_revision": 1, "experiment": "test"}
    fields |= {"champion": 1, "version": 2} | changes
    events = []
    for query in range(queries):
        champion = rng.normal(size=CANDIDATES)
        version = (champion + noise * rng.normal(size=CANDIDATES)) * scale
        failed = rng.random() < error_share
        items, scores = _shown(champion)
        mirror_items, mirror_scores = _shown(version)
        latency = rng.lognormal(1.5, 0.4, size=2)
        events.append(
            MirrorEvent(
                schema=SCHEMA,
                event_id=f"m{seed}-{query}",
                ranking_id=f"r{seed}-{query}",
                mirrored_ms=start_ms + query * every_ms,
                candidates=CANDIDATES,
                items=items,
                scores=scores,
                mirror_items=() if failed else mirror_items,
                mirror_scores=b"" if failed else mirror_scores,
                latency_ms=float(latency[0]),
                mirror_latency_ms=float(latency[1]) * slower,
                error="504 the deadline passed" if failed else "",
                **fields,
            )
        )
    return events


def _shown(scores: Sequence[float] | np.ndarray[Any, Any]) -> tuple[tuple[str, ...], bytes]:
    order = np.argsort(-np.asarray(scores), kind="stable")[:SHOWN]
    return tuple(f"i{place}" for place in order.tolist()), np.asarray(scores)[order].astype("<f4").tobytes()
