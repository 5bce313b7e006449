"""`python -m tests.bench.tiers`: what a look-up in warm memory costs, and what filling it costs.

Microseconds of one thread per 100 rows, medians of rounds, for look-ups of one query's 100 rows
and of batches; beside them the floor, the copy of those rows out of the matrix. Hit ratios are
in `tests.bench.tier_policies`.
"""

import argparse
import platform as machine
import statistics
import time
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from registry.contracts.features import Column, FeatureView
from serving.features.host import HostTier
from serving.features.memory import MemoryTier
from serving.features.slab import Slab
from serving.features.tier import RowKeys
from tests.bench.load import hardware

COLUMNS = 136
BATCHES = 200
Keys = NDArray[np.uint64]


def us_a_hundred(work: Callable[[Keys], object], batches: Sequence[Keys], rounds: int) -> float:
    """Median over rounds of the mean CPU time per 100 rows."""
    took = []
    for _ in range(rounds):
        began_s = time.thread_time()
        for batch in batches:
            work(batch)
        took.append((time.thread_time() - began_s) / sum(map(len, batches)) * 1e8)
    return statistics.median(took)


def main() -> None:
    """Runs and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=200_000, help="room")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--seed", type=int, default=7)
    told = parser.parse_args()
    rng = np.random.default_rng(told.seed)
    print(f"{hardware()}; Python {machine.python_version()}, numpy {np.__version__}; seed {told.seed}")
    print(f"room for {told.rows} rows of {COLUMNS} float32; us of CPU per 100 rows\n")
    print("| held | rows a look-up | find | fetch, all hits | floor: the copy |\n|---|---:|---:|---:|---:|")
    view = FeatureView("bench", "item", tuple(Column(f"f{i}") for i in range(COLUMNS)))
    filled_s = 0.0
    for share in (0.5, 1.0):
        slab = Slab(told.rows, COLUMNS)
        hashes = rng.integers(2, 2**63, int(share * told.rows), dtype=np.uint64)
        values = np.zeros((len(hashes), COLUMNS), dtype=np.float32)
        began_s = time.thread_time()
        slab.place(hashes, values, np.ones(len(hashes), dtype=np.uint64))
        filled_s = time.thread_time() - began_s
        held = hashes[slab.look(hashes) >= 0]
        tier = HostTier("bench", MemoryTier(view, {}, 0), told.rows, view.defaults)
        tier._slab = slab
        for size in (100, 400, 3200):
            batches = [rng.choice(held, size) for _ in range(BATCHES)]
            cells = [slab.look(batch).view(np.uint64) for batch in batches]
            columns = (
                us_a_hundred(slab.find, batches, told.rounds),
                us_a_hundred(lambda keys, tier=tier: tier.fetch(RowKeys(keys, b"")), batches, told.rounds),  # type: ignore[misc]
                us_a_hundred(
                    lambda at, slab=slab: slab.values.take(at.view(np.int64), axis=0, mode="clip"),  # type: ignore[misc]
                    cells,
                    told.rounds,
                ),
            )
            print(f"| {len(held)} | {size} | " + " | ".join(f"{us:.1f}" for us in columns) + " |")
    print(f"\nplacing {told.rows} rows at once: {filled_s / told.rows * 1e8:.0f} us per 100")


if __name__ == "__main__":
    main()
