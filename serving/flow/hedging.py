"""When a query is sent to a second replica as well: once it takes longer than nearly all of its model's do.

Source: hedged requests, J. Dean and L. A. Barroso, "The Tail at Scale", CACM 56(2), 2013.
"""

from bisect import bisect_left
from dataclasses import dataclass

_BOUNDS_S = [0.0005 * 1.1**step for step in range(122)]  # to 50 s; a bucket is 10 % wide


@dataclass(frozen=True, slots=True)
class HedgeRule:
    """quantile: of the model's recent latency, after which a query is sent again, floor_s at least. least: answers
    without which that is not known, and nothing is hedged. window_s: recent is up to twice that.
    share, floor_per_s, reserve: of queries that may be hedged, see `retries.RetryBudget`. on: whether any are.
    """

    on: bool = True
    quantile: float = 0.95
    floor_s: float = 0.01
    least: int = 100
    window_s: float = 5.0
    share: float = 0.05
    floor_per_s: float = 1.0
    reserve: int = 20

    def is_due(self, waited_s: float, usual_s: float | None, left_s: float) -> bool:
        """Whether a query that has waited so long is sent to another replica too. usual_s: the quantile, None if
        it is not known. left_s: to its deadline; with less than usual_s left the other would be late as well.

        >>> rule = HedgeRule(floor_s=0.01)
        >>> rule.is_due(0.02, 0.015, 1.0), rule.is_due(0.012, 0.015, 1.0), rule.is_due(0.02, 0.015, 0.01)
        (True, False, False)
        """
        return usual_s is not None and waited_s >= max(self.floor_s, usual_s) and left_s > usual_s


class Latencies:
    """How long a model's queries took lately: a histogram of this window and the one before."""

    __slots__ = ("_before", "_began_s", "_now", "_rule")

    def __init__(self, rule: HedgeRule, now_s: float) -> None:
        self._rule, self._began_s = rule, now_s
        self._now, self._before = [0] * (len(_BOUNDS_S) + 1), [0] * (len(_BOUNDS_S) + 1)

    def took(self, seconds: float) -> None:
        """One more answer."""
        self._now[bisect_left(_BOUNDS_S, seconds)] += 1

    def look(self, now_s: float) -> float | None:
        """The quantile that hedges go by, None if it is not known; rounded up to a bucket's end."""
        counts = [new + old for new, old in zip(self._now, self._before, strict=True)]
        answers = sum(counts)
        if now_s - self._began_s >= self._rule.window_s:
            self._before, self._began_s = self._now, now_s
            self._now = [0] * (len(_BOUNDS_S) + 1)
        if answers < self._rule.least:
            return None
        rest = (1.0 - self._rule.quantile) * answers
        for place in range(len(counts) - 1, -1, -1):
            rest -= counts[place]
            if rest < 0:
                return _BOUNDS_S[min(place, len(_BOUNDS_S) - 1)]
        return None
