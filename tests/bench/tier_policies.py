"""`python -m tests.bench.tier_policies`: hit ratios of the slab beside LRU, LFU and W-TinyLFU.

The peers are exact simulations, fully associative and with unlimited memory of what was asked
for; the slab is the real one. All see the same accesses in the same order, 100 rows a query, and
none is measured during the first fifth of them.
"""

import argparse
import heapq
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable

import numpy as np
from numpy.typing import NDArray

from serving.features.slab import Slab

ROWS_A_QUERY = 100
WARM_UP = 0.2
Trace = list[NDArray[np.int64]]


class Lru:
    """The least recently used row goes."""

    def __init__(self, room: int) -> None:
        self._room = room
        self._held: OrderedDict[int, None] = OrderedDict()

    def ask(self, item: int) -> bool:
        """Whether it was held; it is now."""
        hit = item in self._held
        self._held[item] = None
        self._held.move_to_end(item)
        if len(self._held) > self._room:
            self._held.popitem(last=False)
        return hit


class Lfu:
    """The least often asked-for row goes, of those the least recent; no count is ever forgotten."""

    def __init__(self, room: int) -> None:
        self._room = room
        self._counts: Counter[int] = Counter()
        self._order: list[tuple[int, int, int]] = []  # count, time, item; outdated ones are skipped
        self._held: dict[int, tuple[int, int]] = {}
        self._now = 0

    def ask(self, item: int) -> bool:
        """Whether it was held; the newcomer stays only if it is asked for at least as often as the victim."""
        self._now += 1
        self._counts[item] += 1
        hit = item in self._held
        self._held[item] = (self._counts[item], self._now)
        heapq.heappush(self._order, (*self._held[item], item))
        while len(self._held) > self._room:
            count, moment, victim = heapq.heappop(self._order)
            if self._held.get(victim) == (count, moment):
                del self._held[victim]
        return hit


class WTinyLfu:
    """A window of 1 % before a segmented LRU (20 % on probation), admission by counts that are
    halved every 10 x room accesses; counts are exact instead of sketched."""

    def __init__(self, room: int) -> None:
        window = max(1, room // 100)
        self._window, self._window_room = OrderedDict[int, None](), window
        self._probation, self._protected = OrderedDict[int, None](), OrderedDict[int, None]()
        self._main_room, self._protected_room = room - window, (room - window) * 8 // 10
        self._counts: Counter[int] = Counter()
        self._left = self._sample = 10 * room

    def ask(self, item: int) -> bool:
        """Whether it was held."""
        self._count(item)
        if item in self._window:
            self._window.move_to_end(item)
        elif item in self._protected:
            self._protected.move_to_end(item)
        elif item in self._probation:
            del self._probation[item]
            self._protected[item] = None
            if len(self._protected) > self._protected_room:
                self._probation[self._protected.popitem(last=False)[0]] = None
        else:
            self._window[item] = None
            if len(self._window) > self._window_room:
                self._admit(self._window.popitem(last=False)[0])
            return False
        return True

    def _admit(self, candidate: int) -> None:
        if len(self._probation) + len(self._protected) >= self._main_room:
            victim = next(iter(self._probation or self._protected))
            if self._counts[candidate] <= self._counts[victim]:
                return
            (self._probation if victim in self._probation else self._protected).pop(victim)
        self._probation[candidate] = None

    def _count(self, item: int) -> None:
        self._counts[item] = min(15, self._counts[item] + 1)
        self._left -= 1
        if not self._left:
            self._counts = Counter({known: count // 2 for known, count in self._counts.items() if count > 1})
            self._left = self._sample // 2


def zipf(items: int, queries: int, rng: np.random.Generator) -> Trace:
    """Zipf(1.0) popularity, no row twice in a query."""
    weights = 1 / np.arange(1, items + 1)
    bounds = np.cumsum(weights / weights.sum())
    names = rng.permutation(items)
    drawn = np.searchsorted(bounds, rng.random((queries, ROWS_A_QUERY)))
    return [names[rng.permutation(np.unique(query))] for query in np.minimum(drawn, items - 1)]


def drifting(items: int, queries: int, rng: np.random.Generator) -> Trace:
    """Zipf(1.0) whose popular rows give way: every hundredth of the trace 2 % of all ranks are dealt anew."""
    trace, names = zipf(items, queries, rng), np.arange(items)
    for number, query in enumerate(trace):
        if number % max(1, queries // 100) == 0:
            moved = rng.choice(items, items // 50, replace=False)
            names[moved] = names[rng.permutation(moved)]
            hot = rng.choice(items // 50, items // 1000, replace=False)  # of the ranks that matter too
            names[hot] = names[rng.permutation(hot)]
        trace[number] = names[query]
    return trace


def scanned(items: int, queries: int, rng: np.random.Generator) -> Trace:
    """Zipf(1.0); a third of the queries belong to scans over rows that nobody asks for again."""
    trace = zipf(items, queries, rng)
    next_item = items
    for number in range(queries):
        if number % 60 < 20:
            trace[number] = np.arange(next_item, next_item + ROWS_A_QUERY)
            next_item += ROWS_A_QUERY
    return trace


TRACES: dict[str, Callable[[int, int, np.random.Generator], Trace]] = {
    "Zipf(1.0)": zipf,
    "Zipf(1.0), popular rows drift": drifting,
    "Zipf(1.0), a third are scans": scanned,
}


def simulated(policy: Lru | Lfu | WTinyLfu, trace: Trace) -> float:
    """Hit ratio of an exact policy."""
    warm = int(len(trace) * WARM_UP)
    hits = [[policy.ask(item) for item in query.tolist()] for query in trace]
    return _ratio(hits[warm:])


def measured(slab: Slab, trace: Trace) -> float:
    """Hit ratio of the slab: a query is looked up, what is missing is placed."""
    warm = int(len(trace) * WARM_UP)
    hits = []
    for query in trace:
        hashes = hashes_of(query)
        found = slab.find(hashes) >= 0
        missed = hashes[~found]
        slab.place(missed, np.zeros((len(missed), slab.values.shape[1]), np.float32), np.ones(len(missed), np.uint64))
        hits.append(found.tolist())
    return _ratio(hits[warm:])


def hashes_of(items: NDArray[np.int64]) -> NDArray[np.uint64]:
    """Distinct, well mixed hashes (splitmix64)."""
    mixed = (items.astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))


def hit_ratios(trace: Trace, room: int) -> dict[str, float]:
    """By policy; the slab last."""
    return {
        "LRU": simulated(Lru(room), trace),
        "LFU": simulated(Lfu(room), trace),
        "W-TinyLFU": simulated(WTinyLfu(room), trace),
        "slab": measured(Slab(room, columns=1), trace),
    }


def _ratio(hits: Iterable[list[bool]]) -> float:
    flat = [hit for query in hits for hit in query]
    return sum(flat) / len(flat)


def main() -> None:
    """Runs and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--room", type=int, default=4096, help="rows held: a power of two")
    parser.add_argument("--queries", type=int, default=6000)
    parser.add_argument("--seed", type=int, default=7)
    told = parser.parse_args()
    print(f"room for {told.room} of {10 * told.room} rows, {told.queries} queries of 100, seed {told.seed}\n")
    print("| trace | LRU | LFU | W-TinyLFU | slab | slab - best |\n|---|---:|---:|---:|---:|---:|")
    for name, make in TRACES.items():
        ratios = hit_ratios(make(10 * told.room, told.queries, np.random.default_rng(told.seed)), told.room)
        behind = ratios["slab"] - max(list(ratios.values())[:-1])
        print(
            f"| {name} | " + " | ".join(f"{100 * ratio:.2f}" for ratio in ratios.values()) + f" | {100 * behind:+.2f} |"
        )


if __name__ == "__main__":
    main()
