"""The gateway's side of the hop: which replicas there are, what they hold, and a query's way there.

A query goes to the replica that holds the version and has the fewest candidates outstanding, of
those whose health allows it. If that replica dies with it, fails on it or falls silent, the query is
sent to another, or waits for one, inside its deadline and a budget (`flow.retries`). If it is slow
with it, the query is sent to another as well, and the first answer counts (`flow.hedging`).
"""

import asyncio
import functools
import itertools
import logging
import random
import socket
import ssl
import time
from collections.abc import Callable, Collection, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from serving import metrics
from serving.addresses import check_peer, parse_address
from serving.arena import Arena
from serving.balance import choose
from serving.breaker import State
from serving.errors import DeadlineExceeded, ReplicaFailed, ReplicaLost, ReplicaUnhealthy
from serving.flow.hedging import HedgeRule, Latencies
from serving.flow.retries import Attempts, Process, RetryBudget, RetryRule, refusal
from serving.frames import LoadedVersion, PrefetchRequest, RankedReply, ScoreRequest, encode_arena, encode_cancel
from serving.health import Condition, FleetHealth
from serving.link import Link, Outstanding, Replica, Waiter
from serving.silence import SilenceRule
from serving.statistics import VersionStatistics
from serving.tensor_frames import InferredReply, InferRequest, block_bytes
from serving.tls.channel import SHAKEN_WITHIN_S
from serving.tls.contexts import Certificates
from serving.tls.settings import FleetTls

log = logging.getLogger(__name__)

ARENA_BYTES = 64 << 20
WORTH_A_BLOCK_BYTES = 4096
RECONNECT_S = 0.05
CLOSED_WITHIN_S = 1.0
SHAKEN_AGAIN_S = 1.0  # after a handshake that failed: it costs both sides more than a closed port
HUNG_UP = (
    "hangs up before it says what it holds: is the port another server's, does it expect TLS,"
    " or does it refuse this gateway's certificate? See the worker's log"
)
SWEEP_S = 0.01
LOOK_S = 0.25  # how often it is looked up which latency is usual
_NUMBERS = 1 << 32


Request = TypeVar("Request", ScoreRequest, InferRequest)


@dataclass(slots=True)
class _Flow:
    """What a model's queries may be sent again for. usual_s: see `HedgeRule`, as of the last sweep."""

    retries: RetryBudget
    hedges: RetryBudget
    latencies: Latencies
    usual_s: float | None = None


_BREAKERS = {Condition.IN: State.CLOSED, Condition.EJECTED: State.OPEN, Condition.PROBED: State.HALF_OPEN}


class ReplicaPool:
    """All replicas of a gateway.

    addresses: as in `addresses`. Must be started in the loop that uses it. clock: seconds; not the
    loop's, which uvloop reads once a turn and in whole milliseconds. arena_bytes: for tensors on
    their way to one replica; what finds no room goes over the socket. retry, hedge: the rules of `flow`.
    calm: whether there is room for queries of a model that are sent twice. coins: for pauses.
    """

    def __init__(
        self,
        addresses: tuple[str, ...],
        clock: Callable[[], float] = time.monotonic,
        arena_bytes: int = ARENA_BYTES,
        retry: RetryRule | None = None,
        hedge: HedgeRule | None = None,
        calm: Callable[[str], bool] = lambda model: True,
        coins: random.Random | None = None,
        tls: FleetTls | None = None,
    ) -> None:
        self._clock, self._arena_bytes = clock, arena_bytes
        self._tls = tls
        self._certificates = Certificates(tls.files, server=False) if tls is not None else None
        self._retry, self._hedge_rule = retry or RetryRule(), hedge or HedgeRule()
        self._calm, self._coins = calm, coins or random.Random()
        self._flows: dict[str, _Flow] = {}
        self.replicas = [Replica(address) for address in addresses]
        self._leaving: list[Replica] = []
        self._health, self._silence = FleetHealth(), SilenceRule()
        self._health.follow(addresses)
        self._numbers = itertools.count(1)
        self._turn = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._news: asyncio.Future[None] | None = None
        self._flush_armed = False
        self._watchers: list[Callable[[], None]] = []

    async def start(self) -> None:
        """Begins to connect; does not wait for it."""
        self._loop = asyncio.get_running_loop()
        self._news = self._loop.create_future()
        for replica in self.replicas:
            self._begin(self._keep_connected(replica))
        self._begin(self._sweep())

    def set_addresses(self, addresses: Sequence[str]) -> None:
        """These replicas from now on: new ones are connected to; those gone get no more queries, and
        are left once they have answered what they have. In the pool's loop."""
        known = {replica.address: replica for replica in self.replicas}
        fresh = [Replica(address) for address in addresses if address not in known]
        gone = [replica for address, replica in known.items() if address not in addresses]
        self.replicas = [replica for replica in self.replicas if replica not in gone] + fresh
        self._health.follow(addresses)
        for replica in gone:
            replica.wanted = False
            self._leaving.append(replica)
        for replica in fresh:
            self._begin(self._keep_connected(replica))
        self._changed()

    def connected(self, address: str) -> bool:
        """Whether there is a connection to the replica; for any thread."""
        return any(one.address == address and one.transport is not None for one in self.replicas)

    def ejected(self) -> list[str]:
        """Addresses of replicas that are left out because they do far worse than their peers."""
        return self._health.ejected(self._clock())

    def breaker(self, replica: Replica) -> State:
        """The replica's: open while it is left out, half open while it is tried again."""
        return _BREAKERS[self._health.condition(replica.address, self._clock())]

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
        replicas = (*self.replicas, *self._leaving)
        for replica in replicas:
            if replica.transport is not None:
                replica.transport.close()
        until_s = self._loop.time() + CLOSED_WITHIN_S  # TLS says goodbye first; a loop that ends earlier complains
        while any(replica.transport is not None for replica in replicas) and self._loop.time() < until_s:
            await asyncio.sleep(0.001)

    def watch(self, changed: Callable[[], None]) -> None:
        """Calls `changed` whenever a replica came, went, or holds something else."""
        self._watchers.append(changed)

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
        well = [one for one in able if not one.silent and self._health.may_get(one.address, now_s)] or able
        chosen = well[choose([replica.candidates for replica in well], self._turn)]
        self._turn += 1
        return chosen, chosen.held[key]

    async def wait_for_holder(
        self, model: str, version: int, deadline_s: float, lost_by: Collection[Process] = ()
    ) -> tuple[Replica, LoadedVersion]:
        """A replica that holds the version, now or as soon as there is one.

        deadline_s: by the pool's clock. Raises ReplicaUnhealthy if there is none by then.
        """
        while (held := self.holder(model, version, lost_by)) is None:
            remaining_s = deadline_s - self._clock()
            if remaining_s <= 0:
                metrics.DEADLINES.labels("replica").inc()
                raise ReplicaUnhealthy(f"no replica holds {model}@{version}: see `sluice status`")
            assert self._news is not None, "the pool was not started"
            await asyncio.wait([self._news], timeout=remaining_s)
        return held

    async def score(
        self,
        model: str,
        version: int,
        deadline_s: float,
        build: Callable[[LoadedVersion], ScoreRequest],
        attempts: Attempts | None = None,
    ) -> tuple[RankedReply, LoadedVersion]:
        """The worker's answer to one query, and the loaded version that gave it.

        build: makes the request for a loaded version; called again if the query must be sent
        again. attempts: what it has behind it. Raises RankingError.
        """
        return await self._ask(model, version, deadline_s, build, attempts or Attempts())

    async def infer(
        self,
        model: str,
        version: int,
        deadline_s: float,
        build: Callable[[LoadedVersion], InferRequest],
        attempts: Attempts | None = None,
    ) -> tuple[InferredReply, LoadedVersion]:
        """The worker's answer to a tensor request; see `score`."""
        return await self._ask(model, version, deadline_s, build, attempts or Attempts())

    def prefetch(self, model: str, hashes: NDArray[np.uint64], ids: bytes) -> int:
        """Tells every replica that ranks by the model which rows are about to be wanted, once for each
        feature view that its versions have; returns how many replicas were told. See `PrefetchRequest`."""
        told = 0
        for replica in self.replicas:
            views = {one.fingerprint: one.slot for one in replica.held.values() if one.model == model and one.ranks}
            if replica.transport is None or not views:
                continue
            told += 1
            for slot in views.values():
                self._post(replica, PrefetchRequest(slot, hashes, ids).encode())
        return told

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

    async def _ask(
        self,
        model: str,
        version: int,
        deadline_s: float,
        build: Callable[[LoadedVersion], Request],
        attempts: Attempts,
    ) -> tuple[Any, LoadedVersion]:
        while True:
            if attempts.error is not None:
                await self._pause(model, version, attempts, deadline_s)
            held = self.holder(model, version, attempts.lost_by)
            replica, loaded = held or await self.wait_for_holder(model, version, deadline_s, attempts.lost_by)
            attempts.tries += 1
            answer: asyncio.Future[Any] = self._loop.create_future()
            number = self._dispatch(replica, loaded, build, deadline_s, attempts.tries, answer)
            try:
                return await answer, loaded
            except (ReplicaLost, ReplicaFailed) as error:
                attempts.failed(error)
            except asyncio.CancelledError:
                self._take_back(replica, number)
                raise

    async def _pause(self, model: str, version: int, attempts: Attempts, deadline_s: float) -> None:
        """Waits before a query is sent again. Raises its last error if it may not be."""
        error, now_s = attempts.error, self._clock()
        assert error is not None
        if not isinstance(error, ReplicaLost | ReplicaFailed):
            raise error
        flow = self._flow(model)
        elsewhere = isinstance(error, ReplicaFailed) and not self._held_beyond(model, version, attempts.lost_by)
        pause_s = self._retry.pause_s(attempts.tries, self._coins.random())
        usual_s = flow.usual_s or 0.0
        why = refusal(self._retry, attempts, pause_s, usual_s, deadline_s - now_s, elsewhere)
        if not why and not flow.retries.take(now_s):
            why = "budget"
        if why:
            metrics.RETRIES_REFUSED.labels(why).inc()
            raise error
        metrics.RETRIES.inc()
        await asyncio.sleep(pause_s)

    def _held_beyond(self, model: str, version: int, lost_by: Collection[Process]) -> bool:
        """Whether another process than these holds the version."""
        return any((model, version) in one.held and one.process not in lost_by for one in self.replicas)

    def _flow(self, model: str) -> _Flow:
        return self._flows.get(model) or self._new_flow(model)

    def _new_flow(self, model: str) -> _Flow:
        retry, hedge, now_s = self._retry, self._hedge_rule, self._clock()
        found = self._flows[model] = _Flow(
            RetryBudget(retry.share, retry.floor_per_s, retry.reserve, now_s),
            RetryBudget(hedge.share, hedge.floor_per_s, hedge.reserve, now_s),
            Latencies(hedge, now_s),
        )
        return found

    def begin(
        self,
        model: str,
        version: int,
        deadline_s: float,
        build: Callable[[LoadedVersion], Request],
        answer: Waiter,
        wanted: bool = True,
    ) -> Callable[[], None] | None:
        """Sends a request once, now, for those who do without a coroutine: `answer` is told the reply or why
        there is none, ReplicaLost too. Returns how to take the request back, None if no replica can
        have it now. wanted: whether somebody waits for it: else it earns no retries, and is never hedged.
        Raises what `build` raises.
        """
        held = self.holder(model, version)
        if held is None:
            return None
        number = self._dispatch(*held, build, deadline_s, 1, answer, wanted)
        return functools.partial(self._take_back, held[0], number)

    def _dispatch(
        self,
        replica: Replica,
        loaded: LoadedVersion,
        build: Callable[[LoadedVersion], Request],
        deadline_s: float,
        tries: int,
        answer: Waiter,
        wanted: bool = True,
    ) -> int:
        """The request's number."""
        now_s = self._clock()
        waiting = Outstanding(answer, 0, deadline_s, now_s, now_s, tries, loaded.outputs)
        number = self._post_request(replica, loaded, build, waiting)
        if wanted and tries == 1:
            flow = self._flows.get(loaded.model) or self._new_flow(loaded.model)
            flow.retries.queries += 1
            if len(self.replicas) > 1:
                waiting.took = flow.latencies.took
                if self._hedge_rule.on:
                    flow.hedges.queries += 1
                    waiting.hedge = functools.partial(self._hedge, flow, replica, number, loaded, build)
        return number

    def _hedge(
        self,
        flow: _Flow,
        slow: Replica,
        number: int,
        loaded: LoadedVersion,
        build: Callable[[LoadedVersion], Request],
        waiting: Outstanding,
        now_s: float,
    ) -> None:
        """Sends a query that takes longer than usual to another replica as well, once, if one is well and no busier."""
        left_s = waiting.deadline_s - now_s
        if not self._hedge_rule.is_due(now_s - waiting.sent_s, flow.usual_s, left_s) or not self._calm(loaded.model):
            return
        held = self.holder(loaded.model, loaded.version, (slow.process,))
        if held is None:
            return
        other, theirs = held
        if other is slow or other.silent or other.candidates > slow.candidates or not flow.hedges.take(now_s):
            return
        waiting.hedge = None
        metrics.HEDGES.labels("sent").inc()
        twin = Outstanding(
            waiting.answer, 0, waiting.deadline_s, now_s, waiting.asked_s, 2, theirs.outputs, took=waiting.took
        )
        twin.twin, waiting.twin = waiting, twin
        waiting.take_back = functools.partial(self._drop, slow, number)
        twin.take_back = functools.partial(self._drop, other, self._post_request(other, theirs, build, twin))

    def _post_request(
        self,
        replica: Replica,
        loaded: LoadedVersion,
        build: Callable[[LoadedVersion], Request],
        waiting: Outstanding,
    ) -> int:
        """Builds a request and sends it with what is left of its time; its number."""
        request = build(loaded)
        request.slot = loaded.slot
        request.number = number = next(self._numbers) % _NUMBERS
        request.deadline_us = max(0, min(_NUMBERS - 1, int((waiting.deadline_s - waiting.sent_s) * 1e6)))
        waiting.candidates = _load(request, loaded)
        self._send(replica, request, waiting)
        return number

    def _take_back(self, replica: Replica, number: int) -> None:
        """The caller left."""
        waiting = replica.outstanding.get(number)
        if waiting is not None and (twin := waiting.leave_twin()) is not None and twin.take_back is not None:
            twin.take_back()
        self._drop(replica, number)

    def _drop(self, replica: Replica, number: int) -> None:
        """Nobody waits for this replica's answer any more."""
        self._health.given_up(replica.address)
        self._post(replica, encode_cancel(number))

    def _send(self, replica: Replica, request: ScoreRequest | InferRequest, waiting: Outstanding) -> None:
        if isinstance(request, InferRequest) and replica.arena is not None:
            size = block_bytes(request.inputs)
            if size >= WORTH_A_BLOCK_BYTES and (start := replica.arena.take(size)) is not None:
                request.place(replica.arena.memory, start, size)
                waiting.block = (start, size)
        replica.outstanding[request.number] = waiting
        replica.candidates += waiting.candidates
        if len(self.replicas) > 1:
            self._health.sent(replica.address, waiting.sent_s)
        self._post(replica, request.encode())

    def _post(self, replica: Replica, frame: bytes) -> None:
        """Sends a frame with those of this loop tick."""
        replica.unsent.append(frame)
        if not self._flush_armed:
            self._flush_armed = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        """One write per replica for all frames of this loop tick."""
        self._flush_armed = False
        for replica in (*self.replicas, *self._leaving):
            if replica.unsent and replica.transport is not None:
                replica.transport.write(b"".join(replica.unsent))
                replica.unsent.clear()

    async def _keep_connected(self, replica: Replica) -> None:
        told, pause_s = "", RECONNECT_S
        while replica.wanted:
            try:
                channel = await self._connect(replica)
                link = await self._link(replica, channel)
            except ssl.SSLError as error:
                if str(error) != told:  # once, not every second
                    told = str(error)
                    log.error("replica %s: no TLS connection: %s", replica.address, error)
                await asyncio.sleep(SHAKEN_AGAIN_S)
                continue
            except OSError:
                await asyncio.sleep(RECONNECT_S)
                continue
            if told != HUNG_UP:
                log.info("connected to replica %s", replica.address)
            await asyncio.shield(link.lost)
            if link.told:
                told, pause_s = "", RECONNECT_S
                log.warning("lost replica %s", replica.address)
                continue
            if told != HUNG_UP:
                told = HUNG_UP
                log.error("replica %s %s", replica.address, HUNG_UP)
            pause_s = SHAKEN_AGAIN_S if self._tls is not None else min(SHAKEN_AGAIN_S, 2 * pause_s)
            await asyncio.sleep(pause_s)

    async def _link(self, replica: Replica, channel: socket.socket) -> Link:
        make = functools.partial(Link, replica, self._changed, self._health, self._clock)
        if channel.family == socket.AF_UNIX:
            return (await self._loop.create_unix_connection(make, sock=channel))[1]
        if self._tls is None or self._certificates is None:
            return (await self._loop.create_connection(make, sock=channel))[1]
        return (
            await self._loop.create_connection(
                make,
                sock=channel,
                ssl=self._certificates.fresh(),
                server_hostname=self._tls.worker,
                ssl_handshake_timeout=SHAKEN_WITHIN_S,
            )
        )[1]

    async def _connect(self, replica: Replica) -> socket.socket:
        """A connection; on one machine its first frame has brought the arena."""
        address = parse_address(replica.address)
        channel = address.socket()
        try:
            await self._loop.sock_connect(channel, address.target)
            check_peer(channel)
            if not address.passes_descriptors:
                return channel
            replica.arena = Arena(self._arena_bytes)
            # the first bytes on a fresh socket: they fit
            socket.send_fds(channel, [encode_arena(self._arena_bytes)], [replica.arena.file])
        except OSError:
            channel.close()
            raise
        return channel

    async def _sweep(self) -> None:
        """Fails what is past its deadline, sends again what a slow or silent replica holds, leaves those that
        are gone; one timer for all queries costs nothing per query."""
        look_at_s = 0.0
        while True:
            await asyncio.sleep(SWEEP_S)
            now_s = self._clock()
            several = len(self.replicas) > 1
            if now_s >= look_at_s:
                look_at_s = now_s + LOOK_S
                for model, flow in self._flows.items():
                    metrics.RETRY_BUDGET.labels(model).set(flow.retries.left(now_s))
                    if several:
                        flow.usual_s = flow.latencies.look(now_s)
                states = [self.breaker(replica) for replica in self.replicas]
                for state in (State.OPEN, State.HALF_OPEN):
                    metrics.REPLICA_BREAKERS.labels(state.value).set(states.count(state))
            for replica in (*self.replicas, *self._leaving):
                for waiting in replica.outstanding.values():
                    if waiting.deadline_s < now_s and not waiting.answer.done():
                        self._health.failed(replica.address, now_s)
                        metrics.DEADLINES.labels("device").inc()
                        waiting.answer.set_exception(DeadlineExceeded("the deadline passed while the model worked"))
                if several and self._hedge_rule.on:
                    for waiting in list(replica.outstanding.values()):
                        if waiting.hedge is not None and not waiting.answer.done():
                            waiting.hedge(waiting, now_s)
                if several:
                    self._leave_silent(replica, now_s)
            for replica in [one for one in self._leaving if not one.outstanding]:
                self._leaving.remove(replica)
                if replica.transport is not None:
                    replica.transport.close()

    def _leave_silent(self, replica: Replica, now_s: float) -> None:
        """Lets queries that a silent replica holds be sent to another one, once."""
        usual_s = self._health.usual_s(replica.address)
        for waiting in replica.outstanding.values():
            if waiting.answer.done():
                continue
            when = (waiting.sent_s, replica.heard_s, usual_s)
            if not self._silence.send_again(*when, waiting.deadline_s, now_s, waiting.tries):
                continue
            replica.silent = True
            if waiting.twin is not None:
                continue  # another has it already
            if any(other is not replica and other.held and not other.silent for other in self.replicas):
                self._health.failed(replica.address, now_s)
                lost = ReplicaLost(f"replica {replica.address} has fallen silent", replica.process)
                waiting.answer.set_exception(lost)

    def _changed(self) -> None:
        connected = sum(replica.transport is not None for replica in self.replicas)
        metrics.REPLICAS.labels("connected").set(connected)
        metrics.REPLICAS.labels("ready").set(sum(replica.state.ready for replica in self.replicas))
        for watcher in self._watchers:
            watcher()
        if self._news is not None and not self._news.done():
            self._news.set_result(None)
        self._news = self._loop.create_future()


def _load(request: ScoreRequest | InferRequest, loaded: LoadedVersion) -> int:
    """What a request adds to a replica's load, in candidates."""
    if isinstance(request, ScoreRequest):
        return request.candidates
    shape = request.inputs[0].shape if request.inputs else ()
    return max(1, shape[0]) if loaded.batchable and shape else 1
