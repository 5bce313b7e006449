"""Whether a store counts as away: it failed, or kept everybody waiting for as long as one failure takes."""

from collections.abc import Callable


class Outage:
    """Of one store. timeout_s: the most that anybody waits for it. retry_after_s: it counts as away for so long.

    Who has less time than timeout_s gives up sooner, which says less: only when such waits add up to it, without an
    answer between them, is the store away. So a store that hangs costs no more, however short the deadlines are.
    """

    def __init__(self, timeout_s: float, retry_after_s: float, clock: Callable[[], float]) -> None:
        self._timeout_s, self._retry_after_s, self._clock = timeout_s, retry_after_s, clock
        self._until_s, self._waited_s = float("-inf"), 0.0

    @property
    def lasts(self) -> bool:
        """Whether the store is not to be asked now."""
        return self._clock() < self._until_s

    def answered(self) -> None:
        """The store has answered."""
        self._waited_s = 0.0

    def gave_up(self, after_s: float) -> None:
        """Somebody waited so long for nothing."""
        self._waited_s += after_s
        if self._waited_s >= 0.999 * self._timeout_s:  # sums of floats
            self.failed()

    def failed(self) -> None:
        """The store is away."""
        self._until_s, self._waited_s = self._clock() + self._retry_after_s, 0.0
