"""Which replicas a gateway has, what they hold and how they do: whom a query may be sent to."""

import asyncio
from collections.abc import Callable, Collection, Coroutine, Mapping, Sequence
from typing import Any

from serving import metrics
from serving.balance import choose
from serving.breaker import State
from serving.connecting import Connector
from serving.errors import ReplicaUnhealthy
from serving.flow.retries import Process
from serving.frames import LoadedVersion
from serving.health import Condition, FleetHealth
from serving.link import Link, Replica
from serving.statistics import VersionStatistics
from serving.tls.settings import FleetTls

CLOSED_WITHIN_S = 1.0

_BREAKERS = {Condition.IN: State.CLOSED, Condition.EJECTED: State.OPEN, Condition.PROBED: State.HALF_OPEN}


class Fleet:
    """All replicas of a gateway. replicas: those that get queries. leaving: those that answer what they have.
    health: how they do.

    addresses, clock, arena_bytes, tls: see `replicas.ReplicaPool`.
    """

    def __init__(
        self,
        addresses: tuple[str, ...],
        clock: Callable[[], float],
        arena_bytes: int,
        tls: FleetTls | None,
    ) -> None:
        self._clock = clock
        self.replicas = [Replica(address) for address in addresses]
        self.leaving: list[Replica] = []
        self.health = FleetHealth()
        self.health.follow(addresses)
        self._connector = Connector(arena_bytes, tls, lambda replica: Link(replica, self._changed, self.health, clock))
        self._turn = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._news: asyncio.Future[None] | None = None
        self._watchers: list[Callable[[], None]] = []

    async def start(self) -> None:
        """Begins to connect; does not wait for it."""
        self._loop = asyncio.get_running_loop()
        self._news = self._loop.create_future()
        for replica in self.replicas:
            self._begin(self._connector.keep_connected(replica))

    def set_addresses(self, addresses: Sequence[str]) -> None:
        """These replicas from now on: new ones are connected to; those gone get no more queries, and
        are left once they have answered what they have. In the loop of `start`."""
        known = {replica.address: replica for replica in self.replicas}
        fresh = [Replica(address) for address in addresses if address not in known]
        gone = [replica for address, replica in known.items() if address not in addresses]
        self.replicas = [replica for replica in self.replicas if replica not in gone] + fresh
        self.health.follow(addresses)
        for replica in gone:
            replica.wanted = False
            self.leaving.append(replica)
        for replica in fresh:
            self._begin(self._connector.keep_connected(replica))
        self._changed()

    def leave_those_done(self) -> None:
        """Closes the connections to replicas that are gone and have answered."""
        for replica in [one for one in self.leaving if not one.outstanding]:
            self.leaving.remove(replica)
            if replica.transport is not None:
                replica.transport.close()

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def stop(self) -> None:
        """Closes every connection; queries still outstanding fail."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        replicas = (*self.replicas, *self.leaving)
        for replica in replicas:
            if replica.transport is not None:
                replica.transport.close()
        until_s = self._loop.time() + CLOSED_WITHIN_S  # TLS says goodbye first; a loop that ends earlier complains
        while any(replica.transport is not None for replica in replicas) and self._loop.time() < until_s:
            await asyncio.sleep(0.001)

    def watch(self, changed: Callable[[], None]) -> None:
        """Calls `changed` whenever a replica came, went, or holds something else."""
        self._watchers.append(changed)

    def _changed(self) -> None:
        connected = sum(replica.transport is not None for replica in self.replicas)
        metrics.REPLICAS.labels("connected").set(connected)
        metrics.REPLICAS.labels("ready").set(sum(replica.state.ready for replica in self.replicas))
        for watcher in self._watchers:
            watcher()
        if self._news is not None and not self._news.done():
            self._news.set_result(None)
        self._news = self._loop.create_future()

    def connected(self, address: str) -> bool:
        """Whether there is a connection to the replica; for any thread."""
        return any(one.address == address and one.transport is not None for one in self.replicas)

    def ejected(self) -> list[str]:
        """Addresses of replicas that are left out because they do far worse than their peers."""
        return self.health.ejected(self._clock())

    def breaker(self, replica: Replica) -> State:
        """The replica's: open while it is left out, half open while it is tried again."""
        return _BREAKERS[self.health.condition(replica.address, self._clock())]

    def failures(self, model: str, version: int | None = None) -> list[str]:
        """Why replicas do not hold the model's versions, or this one: each reason once."""
        told = [
            failed.reason
            for replica in self.replicas
            for failed in replica.state.failures
            if failed.model == model and version in (None, failed.version)
        ]
        return list(dict.fromkeys(told))

    def statistics(self) -> list[VersionStatistics]:
        """What the replicas last told."""
        return [one for replica in self.replicas for one in replica.statistics]

    def holds(self, model: str, versions: Mapping[int, str]) -> bool:
        """Whether every version is loaded somewhere, with the digest decided on. versions: digest by number."""
        return all(
            any(
                (loaded := replica.held.get((model, version))) is not None and loaded.digest == digest
                for replica in self.replicas
            )
            for version, digest in versions.items()
        )

    def has(self, model: str, version: int) -> bool:
        """Whether some replica holds the version."""
        key = (model, version)
        for replica in self.replicas:  # noqa: SIM110 - asked for every query of an experiment: half of `any`'s time
            if key in replica.held:
                return True
        return False

    def held_beyond(self, model: str, version: int, lost_by: Collection[Process]) -> bool:
        """Whether another process than these holds the version."""
        return any((model, version) in one.held and one.process not in lost_by for one in self.replicas)

    def holder(
        self, model: str, version: int, lost_by: Collection[Process] = ()
    ) -> tuple[Replica, LoadedVersion] | None:
        """The least busy replica that holds the version; a silent or an ejected one, or one that lost the query
        before, only if there is no other."""
        key = (model, version)
        if len(self.replicas) == 1:
            lone = self.replicas[0]
            return (lone, lone.held[key]) if key in lone.held else None
        able = [replica for replica in self.replicas if key in replica.held]
        if not able:
            return None
        if lost_by:
            able = [replica for replica in able if replica.process not in lost_by] or able
        if len(able) == 1:
            return able[0], able[0].held[key]
        now_s = self._clock()
        well = [one for one in able if not one.silent and self.health.may_get(one.address, now_s)] or able
        chosen = well[choose([replica.candidates for replica in well], self._turn)]
        self._turn += 1
        return chosen, chosen.held[key]

    async def wait_for_holder(
        self, model: str, version: int, deadline_s: float, lost_by: Collection[Process] = ()
    ) -> tuple[Replica, LoadedVersion]:
        """A replica that holds the version, now or as soon as there is one.

        deadline_s: by the fleet's clock. Raises ReplicaUnhealthy if there is none by then.
        """
        while (held := self.holder(model, version, lost_by)) is None:
            remaining_s = deadline_s - self._clock()
            if remaining_s <= 0:
                metrics.DEADLINES.labels("replica").inc()
                raise ReplicaUnhealthy(f"no replica holds {model}@{version}: see `sluice status`")
            assert self._news is not None, "the fleet was not started"
            await asyncio.wait([self._news], timeout=remaining_s)
        return held
