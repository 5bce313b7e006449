"""What it costs to be let in: one query's way past the doorkeeper, without and with quotas, beside no doorkeeper.

    python -m tests.bench.doorkeeper

CPU time of this thread; the smallest of several rounds, in turn.
"""

import asyncio
import time
from collections.abc import Callable

from registry.quotas import MemoryLedger
from serving.identity.leases import Leases
from serving.settings import QuotaSettings, Rates
from tests.serving.doors import Keys, a_doorkeeper, a_text, bearer

CALLS = 20_000
ROUNDS = 9


def us_a_call(call: Callable[[], object]) -> float:
    """Of one round."""
    began_ns = time.thread_time_ns()
    for _ in range(CALLS):
        call()
    return (time.thread_time_ns() - began_ns) / 1000 / CALLS


async def main() -> None:
    """Prints the table."""
    keys = Keys()
    keys.make(0)
    keys.make(1, requests_per_s=1e9, candidates_per_s=1e9)
    for number in range(2, 200):
        keys.make(number)
    plenty = QuotaSettings(lines={"m": Rates(1e9, 1e9)}, burst_s=10_000.0)
    leases = Leases(MemoryLedger(), plenty, "g1")
    leases.start()
    closed = a_doorkeeper(keys, leases=leases, quotas=QuotaSettings(burst_s=10_000.0))
    both = a_doorkeeper(keys, leases=leases, quotas=plenty)
    opened = a_doorkeeper(keys, closed=False, leases=leases, quotas=plenty)
    plain, limited, nobody = bearer(a_text(0)), bearer(a_text(1)), {b"host": b"x"}

    def begun() -> bool:
        return True

    for doorkeeper, headers in ((closed, limited), (both, limited), (opened, nobody)):
        visit = doorkeeper.enter(headers, "m")
        for meter, _ in visit._charges:
            meter.left, meter.good_until_s = 10**12, time.monotonic() + 3600
    ways: dict[str, Callable[[], object]] = {
        "nothing": begun,
        "a key": lambda: closed.enter(plain, "m").begin(100, begun),
        "a key and its two quotas": lambda: closed.enter(limited, "m").begin(100, begun),
        "a key, its two quotas and two of a line": lambda: both.enter(limited, "m").begin(100, begun),
        "no key, two quotas of a line": lambda: opened.enter(nobody, "m").begin(100, begun),
    }
    best = {way: min(us_a_call(call) for _ in range(ROUNDS)) for way, call in ways.items()}
    for way, us in best.items():
        print(f"{way:45} {us:6.2f} us")
    leases.stop()


if __name__ == "__main__":
    asyncio.run(main())
