"""Which primary of a Redis Cluster keeps which slot, looked up off the query's path."""

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence

import redis
from redis.cluster import ClusterNode
from redis.exceptions import AskError, MovedError, RedisClusterException

log = logging.getLogger(__name__)


class ClusterMap:
    """A cluster's primaries and their slots, as they were last known.

    connect: a client of bytes, with a short `socket_timeout`; called when the map is first needed,
    since a process may start before its cluster. again_after_s: the least time between two looks
    that were asked for by `look_soon`. All methods may be called from any thread.
    """

    def __init__(
        self,
        connect: Callable[[], redis.RedisCluster],
        again_after_s: float = 0.5,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._connect, self._again_after_s, self._clock = connect, again_after_s, clock
        self._client: redis.RedisCluster | None = None
        self._slots: object = None
        self._importing: dict[str, ClusterNode] = {}
        self._looking = threading.Lock()
        self._looked_s = float("-inf")
        self._tried = False

    def client(self) -> redis.RedisCluster:
        """The connected client. Only the first call waits for a connection. Raises RedisError if
        none was made so far; a look that makes it is under way then."""
        if self._client is None:
            if not self._tried:
                self.look()  # or waits for the look that has begun
            else:
                self.look_soon()
        if self._client is None:
            raise redis.ConnectionError("no node of the cluster has answered yet")
        return self._client

    def owners(self) -> Mapping[int, Sequence[ClusterNode]]:
        """By slot its primary, first, and replicas. A slot that nobody keeps may be missing."""
        return self.client().nodes_manager.slots_cache

    def pool(self, node: ClusterNode) -> redis.ConnectionPool:
        """Connections to the node, made for it if it is new."""
        return self.client().get_redis_connection(node).connection_pool

    def moved(self, error: MovedError) -> None:
        """A node said who keeps a slot now."""
        self.client().nodes_manager.move_slot(error)

    def importing(self, error: AskError) -> ClusterNode:
        """The node that a key is on its way to; it may keep no slot yet, and so be on no map."""
        name = f"{error.host}:{error.port}"
        known = self.client().nodes_manager.get_node(node_name=name)
        return known or self._importing.setdefault(
            name,
            ClusterNode(error.host, error.port),  # type: ignore[no-untyped-call]
        )

    def look(self) -> list[ClusterNode]:
        """The primaries, asked for anew. Raises RedisError if no node answers."""
        with self._looking:
            self._looked_s = self._clock()
            try:
                return self._look()
            except RedisClusterException as error:  # which redis-py does not count among its RedisErrors
                raise redis.ConnectionError(str(error)) from error
            finally:
                self._tried = True

    def look_soon(self) -> None:
        """Looks on a thread of its own, unless somebody is looking, or has a moment ago."""
        if not self._looking.locked() and self._clock() - self._looked_s >= self._again_after_s:
            threading.Thread(target=self._try_to_look, name="cluster-map", daemon=True).start()

    def _look(self) -> list[ClusterNode]:
        if self._client is None:
            self._client = self._connect()
        slots = _ask_for_slots(self._client)
        if slots is None or slots != self._slots:  # only then: redis-py takes milliseconds to build its map
            self._client.nodes_manager.initialize(disconnect_startup_nodes_pools=False)
            self._slots = slots
        return list(self._client.get_primaries())  # type: ignore[no-untyped-call]

    def _try_to_look(self) -> None:
        try:
            self.look()
        except redis.RedisError as error:
            log.warning("no node of the cluster that keeps the rows answers: %s", error)


def _ask_for_slots(client: redis.RedisCluster) -> object:
    """One node's table of slots; None if no primary that we know answers."""
    for node in client.get_primaries():  # type: ignore[no-untyped-call]
        try:
            return client.get_redis_connection(node).execute_command("CLUSTER SLOTS")  # type: ignore[no-untyped-call]
        except redis.RedisError:
            continue
    return None
