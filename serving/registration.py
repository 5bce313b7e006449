"""A worker's heartbeat on the replica board."""

import logging
import threading

import msgspec

from registry.contracts.replicas import ReplicaRecord
from registry.errors import RegistryError
from registry.replica_board import ReplicaBoard

log = logging.getLogger(__name__)


class Registration(threading.Thread):
    """Announces a replica every `every_s` until it ends; a record outlives `ttl_s` without news.

    Redis away costs nothing but the news: gateways keep the replicas that they know.
    """

    def __init__(self, board: ReplicaBoard, record: ReplicaRecord, every_s: float = 1.0, ttl_s: float = 5.0) -> None:
        super().__init__(name="registration", daemon=True)
        self._board, self._record, self._every_s, self._ttl_s = board, record, every_s, ttl_s
        self._news, self._stop_asked, self._away = threading.Event(), False, False

    def run(self) -> None:
        """Announces until stopped."""
        while not self._stop_asked:
            self.beat()
            self._news.wait(self._every_s)
            self._news.clear()

    def beat(self) -> None:
        """Announces the replica once."""
        try:
            self._board.announce(self._record, self._ttl_s)
        except RegistryError as error:
            if not self._away:
                log.warning("could not announce this replica, gateways keep what they know: %s", error)
            self._away = True
            return
        self._away = False

    def drain(self) -> None:
        """Says from now on that this replica wants no more queries; at once, from another thread's
        point of view within a round trip to Redis."""
        self._record = msgspec.structs.replace(self._record, draining=True)
        self._news.set()

    def stop(self) -> None:
        """Ends the thread; what it announced last stays until its time is over."""
        self._stop_asked = True
        self._news.set()
