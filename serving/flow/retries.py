"""Which queries are sent again after their replica lost them or failed, and when.

Source: exponential backoff with full jitter, M. Brooker, "Exponential Backoff And Jitter", AWS Architecture
Blog, 2015; retry budgets, Google, "Site Reliability Engineering", chapter 21, 2016.
"""

from dataclasses import dataclass, field

from serving.errors import RankingError, ReplicaFailed, ReplicaLost

Process = tuple[str, int]
"""A replica's address and process id: started again it is another."""


@dataclass(frozen=True, slots=True)
class RetryRule:
    """most_tries: of one query, the first included: one that kills whoever takes it must not kill the fleet.
    most_failures: on so many replicas it may fail: what two fail on is the query's fault, or the version's.

    base_s, most_s: the pause before the second try is up to base_s, doubled with every further one, up to most_s.
    share, floor_per_s: retries that a model's queries earn: one for so many queries, and so many a second.
    reserve: that may be saved up; a fresh budget is full. The default is what the permits let a replica hold.
    """

    most_tries: int = 4
    most_failures: int = 2
    base_s: float = 0.01
    most_s: float = 0.2
    share: float = 0.1
    floor_per_s: float = 10.0
    reserve: int = 512

    def pause_s(self, tries: int, coin: float) -> float:
        """How long to wait after so many tries. coin: in [0, 1), fair.

        >>> rule = RetryRule(base_s=0.01, most_s=0.05)
        >>> [rule.pause_s(tries, coin=0.5) for tries in (1, 2, 3, 4)]
        [0.005, 0.01, 0.02, 0.025]
        """
        return coin * min(self.most_s, self.base_s * 2.0 ** (tries - 1))


class RetryBudget:
    """What one model's queries may add to the load by being sent more than once.

    share, floor_per_s, reserve: see `RetryRule`. now_s: of one clock throughout, seconds.
    """

    __slots__ = ("_floor_per_s", "_left", "_seen", "_share", "_since_s", "queries", "reserve")

    def __init__(self, share: float, floor_per_s: float, reserve: float, now_s: float) -> None:
        self._share, self._floor_per_s, self.reserve = share, floor_per_s, reserve
        self._left, self._since_s, self._seen = float(reserve), now_s, 0
        self.queries = 0
        """Sent for the first time; counted by who sends them, so that it costs an addition."""

    def left(self, now_s: float) -> float:
        """Retries that may be made now."""
        earned = self._share * (self.queries - self._seen) + self._floor_per_s * max(0.0, now_s - self._since_s)
        self._seen, self._since_s = self.queries, max(now_s, self._since_s)
        self._left = min(self.reserve, self._left + earned)
        return self._left

    def take(self, now_s: float) -> bool:
        """Takes one, if there is one."""
        if self.left(now_s) < 1.0:
            return False
        self._left -= 1.0
        return True


@dataclass(slots=True)
class Attempts:
    """What a query has behind it. tries: how often it was sent. lost_by: who lost it or failed on it.
    failures: how often a replica failed on it. error: the last failure, which is what the caller is told if it is
    not sent again. began_s: when it came, by the clock of whoever takes it again; None: only now."""

    tries: int = 0
    lost_by: set[Process] = field(default_factory=set)
    failures: int = 0
    began_s: float | None = None
    error: RankingError | None = None

    def since_s(self, now_s: float) -> float:
        """When the query came: what its caller waited for is counted from then."""
        return now_s if self.began_s is None else self.began_s

    def failed(self, error: RankingError) -> "Attempts":
        """One more try came to nothing. Returns itself."""
        self.error = error
        if isinstance(error, ReplicaLost | ReplicaFailed):
            self.lost_by.add(error.process)
            self.failures += isinstance(error, ReplicaFailed)
        return self


def refusal(rule: RetryRule, attempts: Attempts, pause_s: float, usual_s: float, left_s: float, elsewhere: bool) -> str:
    """Why a query is not sent again, apart from the budget; empty if it may be.

    usual_s: how long an answer usually takes; left_s: to the deadline, before the pause. elsewhere: whether it
    needs another replica, and there is none: one that failed on a query would fail again.

    >>> refusal(RetryRule(), Attempts(tries=1), pause_s=0.01, usual_s=0.02, left_s=0.02, elsewhere=False)
    'deadline'
    """
    if attempts.tries >= rule.most_tries:
        return "tries"
    if pause_s + usual_s >= left_s:
        return "deadline"
    if elsewhere:
        return "alone"
    return "tries" if attempts.failures >= rule.most_failures else ""
