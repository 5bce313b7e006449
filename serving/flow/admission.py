"""How many queries of a model may be in flight: as many as come back well before their deadline.

More in flight than keeps the device busy only makes everybody wait longer; past the deadline it makes the device
work for nobody. What is watched is the share of its deadline that each query waited for the device; of one that was
not answered, the share that has passed. A query whose deadline is short for what the model takes is not held against
the number in flight: fewer would not make the model faster.

Source: additive increase, multiplicative decrease, D.-M. Chiu and R. Jain, Computer Networks 17(1), 1989; the
decrease goes by how far the aim was missed, as in Netflix' concurrency-limits (gradient).
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class AdmissionRule:
    """aim: share of its deadline that a query may wait; late_share: of queries that may wait longer. If more do, the
    limit falls below what was in flight, in proportion to what they waited, by half at most; else, if it was reached,
    it grows by a tenth. least: it falls no lower. round: outcomes that are looked at together, fewer if fewer are in
    flight.
    on: whether the limit moves at all.
    """

    on: bool = True
    aim: float = 0.35
    late_share: float = 0.1
    least: int = 4
    round: int = 64

    def next_limit(self, limit: float, peak: int, used: float, late: float, reached: bool) -> float:
        """The limit for the next round.

        peak: most that were in flight at a time: a limit far above that bounds nothing. used: share of the deadline
        that was waited, mean of the round's queries; late: share of them that waited more than the aim. reached:
        whether anybody was refused.

        >>> rule = AdmissionRule(aim=0.5)
        >>> rule.next_limit(100, peak=60, used=1.0, late=0.9, reached=False)
        30.0
        >>> rule.next_limit(100, peak=100, used=0.1, late=0.0, reached=True)
        110.0
        """
        if late > self.late_share:
            return max(float(self.least), min(limit, peak) * min(0.95, max(0.5, self.aim / max(used, 1e-9))))
        return limit + max(1.0, 0.1 * limit) if reached else limit


class Admission:
    """The bound of one model. most: the limit that it begins with and never passes."""

    __slots__ = ("_late", "_left", "_most", "_peak", "_reached", "_rule", "_seen", "_skip", "_used", "limit", "taken")

    def __init__(self, rule: AdmissionRule, most: int) -> None:
        self._rule, self._most = rule, most
        self.limit, self.taken, self._peak = float(most), 0, 0
        self._skip = 0  # outcomes of queries that were let in under an earlier limit: they say nothing of this one
        self._begin_round()

    def __repr__(self) -> str:
        return f"<Admission [{self.taken} of {int(self.limit)}]>"

    @property
    def free(self) -> bool:
        """Whether one more may come in; that there was not is remembered."""
        return self.taken < self.limit or self.full()

    def full(self) -> bool:
        """Remembers that somebody found no room. Returns False: there is none."""
        self._reached = True
        return False

    def ended(self, used: float | None) -> None:
        """One that was let in has ended, however. used: the share of its deadline that it waited; None if that is
        not known."""
        if self.taken > self._peak:
            self._peak = self.taken
        self.taken -= 1
        if used is None:
            self._skip = max(0, self._skip - 1)
            return
        if self._skip:
            self._skip -= 1
            return
        self._used += used
        if used > self._rule.aim:
            self._late += 1
        self._left -= 1
        if not self._left:
            self._end_round()

    def _begin_round(self) -> None:
        self._seen = self._left = max(1, min(self._rule.round, int(self.limit)))
        self._used, self._late, self._reached, self._peak = 0.0, 0, False, 0

    def _end_round(self) -> None:
        if self._rule.on:
            used, late = self._used / self._seen, self._late / self._seen
            limit = self._rule.next_limit(self.limit, self._peak, used, late, self._reached)
            if limit < self.limit:
                self._skip = self.taken
            self.limit = min(float(self._most), limit)
        self._begin_round()
