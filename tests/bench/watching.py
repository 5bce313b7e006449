"""What the console costs a query: times by stage and glimpses, in CPU of the gateway, beside a loop that does nothing.

`python -m tests.bench.watching`
"""

import argparse
import time
from collections.abc import Callable

from registry.contracts.counters import CounterSnapshot
from serving.glimpses import Glimpses
from serving.stage_times import Seconds, StageTimes
from tests.bench.load import hardware
from tests.builders import NOW_MS, a_glimpse

SECONDS: Seconds = (1e-4, 1e-3, 8e-4, 6e-4, 2.5e-3)
QUERIES_A_FLUSH = 1000  # half a second at 2,000 a second


def cpu_ns(rounds: int, queries: int, work: Callable[[int], None]) -> float:
    """Of one query; the quietest round."""
    found = []
    for _ in range(rounds):
        began_ns = time.process_time_ns()
        work(queries)
        found.append((time.process_time_ns() - began_ns) / queries)
    return min(found)


def main() -> None:
    """Runs and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--queries", type=int, default=200_000)
    told = parser.parse_args()
    times, glimpses, glimpse = StageTimes(), Glimpses(), a_glimpse()

    def nothing(queries: int) -> None:
        for _ in range(queries):
            pass

    def stages(queries: int) -> None:
        for _ in range(queries // QUERIES_A_FLUSH):
            for _ in range(QUERIES_A_FLUSH):
                times.note("codesearch", SECONDS)
            times.flush()

    def sampled(queries: int) -> None:
        """At 2,000 queries a second, by the clock of their answers."""
        for query in range(queries):
            if glimpses.due("codesearch", NOW_MS + query // 2):
                glimpses.take(glimpse)
        glimpses.drain()

    print(f"{hardware()}; {told.rounds} rounds of {told.queries} queries, the quietest of each\n")
    print("| of a query | ns of CPU |\n|---|---:|")
    empty = cpu_ns(told.rounds, told.queries, nothing)
    for name, work in (("times by stage, counted", stages), ("glimpses", sampled)):
        print(f"| {name} | {cpu_ns(told.rounds, told.queries, work) - empty:.0f} |")
    shown = CounterSnapshot("gateway-0:1:1", NOW_MS, (), times.counters()).encode()
    print(f"\nstages of one model on the counter board, once a second: {len(shown)} bytes")


if __name__ == "__main__":
    main()
