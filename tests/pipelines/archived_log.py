"""A simulated log as the archive has it: rankings with features and feedback, spread over some hours."""

import numpy as np
from numpy.typing import NDArray

from pipelines.archive.files import Archive
from registry.contracts.events import Event, encode_event, join_events
from registry.contracts.features import FeatureView
from registry.stream import StreamEntry
from tests.builders import NOW_MS, a_click, a_ranking, a_view
from tests.pipelines.click_log import ClickLog

HOUR_MS = 3_600_000
MINUTE_MS = 60_000


def features_of(log: ClickLog, noise: float = 0.5, seed: int = 0, served: bool = False) -> NDArray[np.float32]:
    """What each candidate of each query looks like: the label with noise, noise, and a number of the query.
    Shape (queries, candidates, 3). served: instead of noise, what the logging ranker goes by."""
    rng = np.random.default_rng(seed)
    queries = np.broadcast_to(np.arange(len(log.labels))[:, None] % 7, log.labels.shape)
    telling = log.labels + rng.normal(0, noise, log.labels.shape)
    other = -np.log1p(np.argsort(log.base, axis=1)) if served else rng.normal(size=log.labels.shape)
    return np.stack([telling, other, queries], axis=2).astype(np.float32)


def write_log(
    archive: Archive,
    log: ClickLog,
    *,
    since_ms: int = NOW_MS,
    lasting_ms: int = 3 * HOUR_MS,
    name: str = "r",
    version: int = 1,
    view: FeatureView | None = None,
    simulated: bool = False,
    sessions_a_unit: int = 3,
    served: bool = False,
    model: str = "codesearch",
    scores: NDArray[np.float32] | None = None,
) -> None:
    """Writes the log's lists as answered one after the other, each click within five minutes.

    scores: of each query's candidates, (queries, candidates); falling by rank if None.
    """
    rng = np.random.default_rng(99)
    features, lists = features_of(log, served=served), len(log.query_of)
    times = since_ms + np.arange(lists) * lasting_ms // max(1, lists)
    fingerprint = (view or a_view()).fingerprint
    events: list[Event] = []
    for i in range(lists):
        query, shown = int(log.query_of[i]), log.shown[i]
        events.append(
            a_ranking(
                f"{name}{i}",
                tuple(f"q{query}-{item}" for item in shown),
                **({} if scores is None else {"scores": scores[query, shown].astype("<f4").tobytes()}),
                model=model,
                answered_ms=int(times[i]),
                version=version,
                unit=f"u{i // sessions_a_unit}",
                query_id=f"q{query}",
                candidates=log.labels.shape[1],
                propensities=log.propensities[i].astype("<f4").tobytes(),
                features=features[query, shown].tobytes(),
                fingerprint=fingerprint,
                explored=bool(log.explored[i]),
            )
        )
        for place in np.flatnonzero(log.clicks[i]):
            received_ms = int(times[i] + rng.integers(1000, 5 * MINUTE_MS))
            events.append(
                a_click(
                    f"{name}{i}-{place}",
                    f"{name}{i}",
                    f"q{query}-{shown[place]}",
                    model=model,
                    position=int(place) + 1,
                    clicked_ms=received_ms,
                    received_ms=received_ms,
                    simulated=simulated,
                )
            )
    write_events(archive, events)


def write_events(archive: Archive, events: list[Event]) -> None:
    """In entries of 500 events."""
    parts = [events[start : start + 500] for start in range(0, len(events), 500)]
    archive.write(
        [StreamEntry(f"{NOW_MS}-{i}", join_events([*map(encode_event, part)])) for i, part in enumerate(parts)]
    )
