"""What is left of a query's time, and what of it each stage may use.

Between processes the time that is left travels, in whole microseconds, and each stage counts it down by its own
clock: what the way between them takes is all that is lost.
"""

from collections.abc import Sequence

from serving.errors import DeadlineExceeded, QueryRefused

DEADLINE_HEADER = "x-sluice-deadline-ms"
LEAST_PATIENCE_S = 0.01  # a store that takes longer is slow for anybody
ROWS_SHARE = 0.5  # of what is left: the device and the way back need the rest
_MAX_DIGITS = 9


def patience_s(deadlines_us: Sequence[int], queue_us: Sequence[float]) -> float:
    """How long a batch may wait for rows: so that who has least time left gets an answer, if with less.

    deadlines_us: what was left of each query's time when it came; queue_us: what it has waited since.

    >>> patience_s([1_000_000, 400_000], [0.0, 100_000.0])
    0.15
    """
    left_us = min([left - waited for left, waited in zip(deadlines_us, queue_us, strict=True)])
    return max(LEAST_PATIENCE_S, ROWS_SHARE * left_us / 1e6)


def within(header: bytes | None, deadline_ms: int) -> int:
    """A request's deadline_ms, or what the header `x-sluice-deadline-ms` leaves of it. None: no such header.

    Raises QueryRefused if it is no number, DeadlineExceeded if it leaves nothing.

    >>> within(b"150", 1000), within(b"5000", 1000), within(None, 1000)
    (150, 1000, 1000)
    """
    if header is None:
        return deadline_ms
    if not header.removeprefix(b"-").isdigit() or len(header) > _MAX_DIGITS:
        shown = header.decode(errors="replace")[:32]
        raise QueryRefused(f"{DEADLINE_HEADER}={shown}: expected the milliseconds that are left, a whole number")
    left_ms = int(header)
    if left_ms < 1:
        raise DeadlineExceeded(f"{DEADLINE_HEADER}={left_ms}: the deadline passed before the request came")
    return min(left_ms, deadline_ms)
