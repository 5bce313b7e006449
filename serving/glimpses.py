"""A few answers a second of each model, for a person who watches: taken on the hot path, shown by a thread.

What a glimpse may hold is `contracts.glimpses`' to say: neither unit nor query. How many there are does not depend
on the traffic, so that watching a busy gateway costs what watching a quiet one costs.
"""

import logging
import threading
from collections import deque

from registry.contracts.glimpses import Glimpse
from registry.errors import RegistryError
from registry.glimpse_board import GlimpseBoard

log = logging.getLogger(__name__)

EVERY_MS = 250  # of each model: four a second
MOST_WAITING = 200


class Glimpses:
    """One thread takes, another drains. every_ms: of a model, at least so long from one to the next."""

    def __init__(self, every_ms: int = EVERY_MS) -> None:
        self._every_ms = every_ms
        self._taken_ms: dict[str, int] = {}
        self._waiting: deque[Glimpse] = deque(maxlen=MOST_WAITING)

    def due(self, model: str, now_ms: int) -> bool:
        """Whether this answer of the model is to be taken; if it is, the next is not for a while. now_ms: of a clock
        that may be set back."""
        taken_ms = self._taken_ms.get(model)
        if taken_ms is not None and 0 <= now_ms - taken_ms < self._every_ms:
            return False
        self._taken_ms[model] = now_ms
        return True

    def take(self, glimpse: Glimpse) -> None:
        """The oldest goes if nobody drains."""
        self._waiting.append(glimpse)

    def drain(self) -> list[Glimpse]:
        """Those taken since the last time, oldest first; for any thread."""
        return [self._waiting.popleft() for _ in range(len(self._waiting))]


class GlimpsePublisher(threading.Thread):
    """Shows what was taken on the board, every period."""

    def __init__(self, glimpses: Glimpses, board: GlimpseBoard, period_s: float = 1.0) -> None:
        super().__init__(name="glimpses", daemon=True)
        self._glimpses, self._board, self._period_s = glimpses, board, period_s
        self._stop_asked = threading.Event()
        self._away = False

    def run(self) -> None:
        """Publishes until stopped."""
        while not self._stop_asked.wait(self._period_s):
            self.publish()

    def stop(self) -> None:
        """Ends the thread; what was not shown yet is not."""
        self._stop_asked.set()
        self.join()

    def publish(self) -> None:
        """While the board does not answer they are dropped: old news is none."""
        if not (found := self._glimpses.drain()):
            return
        try:
            self._board.publish(found)
            self._away = False
        except RegistryError as error:
            if not self._away:
                log.warning("the console sees no queries of this gateway: %s", error)
            self._away = True
