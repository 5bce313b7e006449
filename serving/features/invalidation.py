"""Redis tells which rows changed, so that nothing waits for a time to live.

RESP3 client tracking in broadcast mode over the row keys, on a connection of its own. There is
no replay: after a lost connection everything cached is suspect, so the listener says so before it
trusts pushes again.
"""

import logging
import threading
import time
from collections.abc import Callable, Sequence

import redis
from redis.connection import AbstractConnection

from registry.contracts.ids import hash64

log = logging.getLogger(__name__)

ROW_PREFIX = b"sluice:row:"


class InvalidationListener(threading.Thread):
    """Calls `changed(view, hashes)` for pushed keys, and `resync()` whenever pushes may be lost.

    Both are called on this thread: hand over, do not work there. silence_s: an idle connection is
    asked for a sign of life, and lost if there is none for so long: a machine that is switched off
    closes nothing.
    """

    def __init__(
        self,
        connect: Callable[[], AbstractConnection],
        changed: Callable[[str, list[int]], None],
        resync: Callable[[], None],
        retry_s: float = 0.5,
        silence_s: float = 2.0,
    ) -> None:
        super().__init__(name="invalidation", daemon=True)
        self._connect, self._changed, self._resync = connect, changed, resync
        self._retry_s, self._silence_s = retry_s, silence_s
        self._stop_asked = threading.Event()
        self.listening = threading.Event()

    def run(self) -> None:
        """Listens until stopped, reconnecting for ever."""
        while not self._stop_asked.is_set():
            try:
                self._listen(self._connect())
            except (redis.RedisError, OSError) as error:
                if self.listening.is_set():
                    log.warning("lost the invalidation channel: %s", error)
                self.listening.clear()
                self._stop_asked.wait(self._retry_s)

    def stop(self) -> None:
        """Ends the thread within a second."""
        self._stop_asked.set()

    def _listen(self, connection: AbstractConnection) -> None:
        try:
            connection.connect()  # type: ignore[no-untyped-call]
            connection._parser.set_invalidation_push_handler(self._pushed)
            connection.send_command(  # type: ignore[no-untyped-call]
                "CLIENT", "TRACKING", "ON", "BCAST", "PREFIX", ROW_PREFIX
            )
            connection.read_response()
            self._resync()
            self.listening.set()
            log.info("listening for changed rows")
            heard_s = time.monotonic()
            while not self._stop_asked.is_set():
                if connection.can_read(timeout=0.5):
                    connection.read_response(push_request=True)
                    heard_s = time.monotonic()
                elif time.monotonic() - heard_s > self._silence_s:
                    raise redis.TimeoutError(f"no sign of life for {self._silence_s:g} s")
                else:
                    connection.send_command("PING")  # type: ignore[no-untyped-call]
        finally:
            connection.disconnect()  # type: ignore[no-untyped-call]

    def _pushed(self, message: Sequence[object]) -> None:
        keys = message[1] if len(message) > 1 else None
        if keys is None:  # FLUSHALL and friends push a null
            self._resync()
            return
        by_view: dict[str, list[int]] = {}
        for key in keys:  # type: ignore[attr-defined]
            view, _, item = key[len(ROW_PREFIX) :].partition(b":")
            by_view.setdefault(view.decode(errors="replace"), []).append(hash64(item))
        for view, hashes in by_view.items():
            self._changed(view, hashes)
