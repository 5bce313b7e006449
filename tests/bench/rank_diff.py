"""`python -m tests.bench.rank_diff`: what comparing mirrored lists costs.

Pairs of ranked lists a second and CPU microseconds a pair, of this process alone: each measure over
prepared pairs, a summary over decoded events, and the monitor from a stream's bytes to the snapshot.
Beside them: rank-biased overlap pair by pair in plain Python, and a payload without mirror events,
which the monitor passes over, beside the same payload decoded. Least of several rounds.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from drift.mirrors.monitor import GROUP, MirrorMonitor
from drift.mirrors.rank_summary import Gauge, RankSummary
from drift.rank_agreement import (
    Pairs,
    first_agrees,
    kendall_tau,
    overlap_at,
    rank_biased_overlap,
    top_distance,
)
from drift.settings import RankDiffSettings
from registry.contracts.events import MirrorEvent, decode_events, encode_event, join_events, split_mirrors
from registry.stream import MemoryStream
from tests.bench.load import hardware, versions
from tests.builders import NOW_MS, a_ranking
from tests.drift.mirrored import mirrors

AN_ENTRY = 100
GAUGE = Gauge(50, 10, 0.9, (0.0, 1.0), (0.0, 1.0))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=5000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seed", type=int, default=7)
    asked = parser.parse_args()
    print(hardware())
    print(versions("numpy", "msgspec"), f"seed {asked.seed}, {asked.pairs} pairs, ragged lists of 5 to 10 items")
    events = ragged(asked.seed, asked.pairs)
    lists = [(event.items, event.mirror_items) for event in events]
    pairs = Pairs.of(lists, 50)
    scores = np.tile(np.arange(10, 0, -1.0), (len(events), 1))
    payloads = [
        join_events([encode_event(event) for event in events[start : start + AN_ENTRY]])
        for start in range(0, len(events), AN_ENTRY)
    ]
    parts: dict[str, Callable[[], object]] = {
        "Pairs.of": lambda: Pairs.of(lists, 50),
        "overlap": lambda: overlap_at(pairs, 10),
        "first agrees": lambda: first_agrees(pairs),
        "rank-biased overlap": lambda: rank_biased_overlap(pairs, 0.9),
        "Kendall tau-b": lambda: kendall_tau(pairs, scores, scores),
        "top distance": lambda: top_distance(pairs, 0.5),
        "summary, all measures": lambda: RankSummary.of(events, GAUGE),
        "monitor, bytes to snapshot": lambda: watch(payloads),
        "plain Python: rank-biased overlap": lambda: [plain_rbo(first, second, 0.9) for first, second in lists],
    }
    for name, part in parts.items():
        cpu_us = least_us(part, asked.rounds) / len(events)
        print(f"{name:<34} {cpu_us:8.2f} us a pair {1e6 / cpu_us:12,.0f} pairs/s")
    rankings = join_events([encode_event(a_ranking(f"r{i}", tuple(f"i{j}" for j in range(10)))) for i in range(100)])
    for name, part in (
        ("passing over a ranking", lambda: split_mirrors(rankings)),
        ("decoding it instead", lambda: decode_events(rankings)),
    ):
        print(f"{name:<34} {least_us(part, asked.rounds * 20) / 100:8.3f} us a ranking")


def ragged(seed: int, pairs: int) -> list[MirrorEvent]:
    """Some lists shorter than others, as queries with few candidates have them."""
    rng = np.random.default_rng(seed)
    cut = []
    for event, shown in zip(mirrors(seed, pairs, every_ms=1), rng.integers(5, 11, size=pairs).tolist(), strict=True):
        fields = {name: getattr(event, name) for name in MirrorEvent.__struct_fields__}
        fields |= {"items": event.items[:shown], "scores": event.scores[: 4 * shown]}
        fields |= {"mirror_items": event.mirror_items[:shown], "mirror_scores": event.mirror_scores[: 4 * shown]}
        cut.append(MirrorEvent(**fields))
    return cut


def watch(payloads: list[bytes]) -> None:
    """The monitor over a stream in memory, until it has read and kept everything."""
    stream = MemoryStream()
    stream.append(payloads)
    with tempfile.TemporaryDirectory() as folder:
        monitor = MirrorMonitor(
            stream.reader(GROUP, "bench"),
            lambda model, version: (0.0, 1.0),
            lambda diff: None,
            RankDiffSettings(),
            Path(folder) / "mirrors.windows",
            clock=lambda: NOW_MS / 1000 + 3600,
        )
        while monitor.step(0):
            pass
        monitor.save()


def plain_rbo(first: tuple[str, ...], second: tuple[str, ...], p: float) -> float:
    """Extrapolated, of lists of one length, as one writes it without arrays."""
    seen_first: set[str] = set()
    seen_second: set[str] = set()
    shared, total, depth = 0, 0.0, 0
    for depth, (a, b) in enumerate(zip(first, second, strict=True), start=1):
        seen_first.add(a)
        seen_second.add(b)
        shared += (b in seen_first) + (a in seen_second) - (a == b)
        total += shared / depth * p**depth
    return (1 - p) / p * total + shared / depth * p**depth


def least_us(part: Callable[[], object], rounds: int) -> float:
    spent = []
    for _ in range(rounds):
        started_s = time.process_time()
        part()
        spent.append(time.process_time() - started_s)
    return min(spent) * 1e6


if __name__ == "__main__":
    main()
