"""A cluster tells which rows changed: each primary of its own keys, so each is listened to."""

import functools
import logging
import threading
from collections.abc import Callable

import redis
from redis.connection import AbstractConnection

from serving.features.invalidation import InvalidationListener
from serving.features.topology import ClusterMap

log = logging.getLogger(__name__)


class ClusterInvalidation(threading.Thread):
    """One InvalidationListener per primary, with the primaries looked up every `look_s`.

    connect: a RESP3 connection to host and port. A row's slot cannot be told from its hash, so
    whatever may have been missed is a `resync()` of everything: a connection lost, a primary that
    was not listened to before. Writes that a new primary took before it was found are covered by
    that. Callbacks come on the listeners' threads.
    """

    def __init__(
        self,
        cluster: ClusterMap,
        connect: Callable[[str, int], AbstractConnection],
        changed: Callable[[str, list[int]], None],
        resync: Callable[[], None],
        look_s: float = 1.0,
        retry_s: float = 0.5,
    ) -> None:
        super().__init__(name="cluster-invalidation", daemon=True)
        self._cluster, self._connect = cluster, connect
        self._changed, self._resync = changed, resync
        self._look_s, self._retry_s = look_s, retry_s
        self._listeners: dict[str, InvalidationListener] = {}
        self._stop_asked = threading.Event()

    @property
    def heard(self) -> frozenset[str]:
        """The primaries, `host:port`, that are listened to at this moment."""
        return frozenset(name for name, listener in self._listeners.copy().items() if listener.listening.is_set())

    def run(self) -> None:
        """Follows the cluster until stopped. While no node answers, the last known primaries count."""
        while not self._stop_asked.is_set():
            try:
                self._follow({node.name: (node.host, node.port) for node in self._cluster.look()})
            except redis.RedisError as error:
                log.warning("no node of the cluster that keeps the rows answers: %s", error)
            self._stop_asked.wait(self._look_s)
        self._follow({})

    def stop(self) -> None:
        """Ends the thread and its listeners within a second."""
        self._stop_asked.set()

    def _follow(self, primaries: dict[str, tuple[str, int]]) -> None:
        for name in self._listeners.keys() - primaries.keys():
            self._listeners.pop(name).stop()
            log.info("no longer listening to %s", name)
        for name in primaries.keys() - self._listeners.keys():
            connect = functools.partial(self._connect, *primaries[name])
            self._listeners[name] = InvalidationListener(connect, self._changed, self._resync, self._retry_s)
            self._listeners[name].start()
