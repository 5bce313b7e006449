"""A permit before everything else: what cannot be worked on now is refused now."""

from serving import metrics
from serving.errors import Overloaded


class Permits:
    """A bound on queries in flight. A refused client learns when to come back.

    >>> permits = Permits(1)
    >>> with permits.one():
    ...     permits.taken
    1
    >>> permits.taken
    0
    """

    def __init__(self, limit: int, retry_after_s: float = 1.0) -> None:
        self._limit, self._retry_after_s = limit, retry_after_s
        self.taken = 0

    def one(self) -> "Permits":
        """Holds one permit, in a `with`. Raises Overloaded if none is left."""
        return self

    @property
    def free(self) -> bool:
        """Whether one is left."""
        return self.taken < self._limit

    @property
    def half_taken(self) -> bool:
        """Whether over half are out."""
        return 2 * self.taken > self._limit

    def take(self) -> None:
        """Takes one, to be given back. Raises Overloaded if none is left."""
        if self.taken >= self._limit:
            raise Overloaded(f"{self._limit} queries are in flight: slow down", self._retry_after_s)
        self.taken += 1

    def give(self) -> None:
        """Gives one back."""
        self.taken -= 1

    def __enter__(self) -> None:
        self.take()

    def __exit__(self, *_: object) -> None:
        self.give()

    def publish(self) -> None:
        """The gauges; once a second is enough."""
        metrics.IN_FLIGHT.set(self.taken)
        metrics.PERMITS.set(self._limit)
