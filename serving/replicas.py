"""The gateway's side of the hop: a query's way to a replica, and back.

A query goes to the replica of the `fleet` that holds the version and has the fewest candidates outstanding,
of those whose health allows it. If that replica dies with it, fails on it or falls silent, the query is
sent to another, or waits for one, inside its deadline and a budget (`flow.retries`). If it is slow
with it, the query is sent to another as well, and the first answer counts (`flow.hedging`).
"""

import asyncio
import functools
import itertools
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from serving import metrics
from serving.breaker import State
from serving.errors import DeadlineExceeded, ReplicaFailed, ReplicaLost
from serving.fleet import Fleet
from serving.flow.hedging import HedgeRule, Latencies
from serving.flow.retries import Attempts, RetryBudget, RetryRule, refusal
from serving.frames import LoadedVersion, PrefetchRequest, RankedReply, ScoreRequest, encode_cancel
from serving.link import Outstanding, Replica, Waiter
from serving.silence import SilenceRule
from serving.tensor_frames import InferredReply, InferRequest, block_bytes
from serving.tls.settings import FleetTls

ARENA_BYTES = 64 << 20
WORTH_A_BLOCK_BYTES = 4096
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


class ReplicaPool:
    """Asks the replicas of a gateway. fleet: which they are, and what they hold.

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
        self._clock = clock
        self.fleet = Fleet(addresses, clock, arena_bytes, tls)
        self._retry, self._hedge_rule = retry or RetryRule(), hedge or HedgeRule()
        self._calm, self._coins = calm, coins or random.Random()
        self._flows: dict[str, _Flow] = {}
        self._silence = SilenceRule()
        self._numbers = itertools.count(1)
        self._flush_armed = False

    async def start(self) -> None:
        """Begins to connect; does not wait for it."""
        self._loop = asyncio.get_running_loop()
        await self.fleet.start()
        self._sweeping = self._loop.create_task(self._sweep())

    async def stop(self) -> None:
        """Closes every connection; queries still outstanding fail."""
        self._sweeping.cancel()
        await asyncio.gather(self._sweeping, return_exceptions=True)
        await self.fleet.stop()

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
        for replica in self.fleet.replicas:
            views = {one.fingerprint: one.slot for one in replica.held.values() if one.model == model and one.ranks}
            if replica.transport is None or not views:
                continue
            told += 1
            for slot in views.values():
                self._post(replica, PrefetchRequest(slot, hashes, ids).encode())
        return told

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
            held = self.fleet.holder(model, version, attempts.lost_by)
            replica, loaded = held or await self.fleet.wait_for_holder(model, version, deadline_s, attempts.lost_by)
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
        elsewhere = isinstance(error, ReplicaFailed) and not self.fleet.held_beyond(model, version, attempts.lost_by)
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
        held = self.fleet.holder(model, version)
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
            if len(self.fleet.replicas) > 1:
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
        held = self.fleet.holder(loaded.model, loaded.version, (slow.process,))
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
        self.fleet.health.given_up(replica.address)
        self._post(replica, encode_cancel(number))

    def _send(self, replica: Replica, request: ScoreRequest | InferRequest, waiting: Outstanding) -> None:
        if isinstance(request, InferRequest) and replica.arena is not None:
            size = block_bytes(request.inputs)
            if size >= WORTH_A_BLOCK_BYTES and (start := replica.arena.take(size)) is not None:
                request.place(replica.arena.memory, start, size)
                waiting.block = (start, size)
        replica.outstanding[request.number] = waiting
        replica.candidates += waiting.candidates
        if len(self.fleet.replicas) > 1:
            self.fleet.health.sent(replica.address, waiting.sent_s)
        self._post(replica, request.encode())

    def _post(self, replica: Replica, frame: bytes | bytearray) -> None:
        """Sends a frame with those of this loop tick."""
        replica.unsent.append(frame)
        if not self._flush_armed:
            self._flush_armed = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        """One write per replica for all frames of this loop tick."""
        self._flush_armed = False
        for replica in (*self.fleet.replicas, *self.fleet.leaving):
            if replica.unsent and replica.transport is not None:
                replica.transport.write(b"".join(replica.unsent))
                replica.unsent.clear()

    async def _sweep(self) -> None:
        """Fails what is past its deadline, sends again what a slow or silent replica holds, leaves those that
        are gone; one timer for all queries costs nothing per query."""
        look_at_s = 0.0
        while True:
            await asyncio.sleep(SWEEP_S)
            now_s = self._clock()
            several = len(self.fleet.replicas) > 1
            if now_s >= look_at_s:
                look_at_s = now_s + LOOK_S
                for model, flow in self._flows.items():
                    metrics.RETRY_BUDGET.labels(model).set(flow.retries.left(now_s))
                    if several:
                        flow.usual_s = flow.latencies.look(now_s)
                states = [self.fleet.breaker(replica) for replica in self.fleet.replicas]
                for state in (State.OPEN, State.HALF_OPEN):
                    metrics.REPLICA_BREAKERS.labels(state.value).set(states.count(state))
            for replica in (*self.fleet.replicas, *self.fleet.leaving):
                for waiting in replica.outstanding.values():
                    if waiting.deadline_s < now_s and not waiting.answer.done():
                        self.fleet.health.failed(replica.address, now_s)
                        metrics.DEADLINES.labels("device").inc()
                        waiting.answer.set_exception(DeadlineExceeded("the deadline passed while the model worked"))
                if several and self._hedge_rule.on:
                    for waiting in list(replica.outstanding.values()):
                        if waiting.hedge is not None and not waiting.answer.done():
                            waiting.hedge(waiting, now_s)
                if several:
                    self._leave_silent(replica, now_s)
            self.fleet.leave_those_done()

    def _leave_silent(self, replica: Replica, now_s: float) -> None:
        """Lets queries that a silent replica holds be sent to another one, once."""
        usual_s = self.fleet.health.usual_s(replica.address)
        for waiting in replica.outstanding.values():
            if waiting.answer.done():
                continue
            when = (waiting.sent_s, replica.heard_s, usual_s)
            if not self._silence.send_again(*when, waiting.deadline_s, now_s, waiting.tries):
                continue
            replica.silent = True
            if waiting.twin is not None:
                continue  # another has it already
            if any(other is not replica and other.held and not other.silent for other in self.fleet.replicas):
                self.fleet.health.failed(replica.address, now_s)
                lost = ReplicaLost(f"replica {replica.address} has fallen silent", replica.process)
                waiting.answer.set_exception(lost)


def _load(request: ScoreRequest | InferRequest, loaded: LoadedVersion) -> int:
    """What a request adds to a replica's load, in candidates."""
    if isinstance(request, ScoreRequest):
        return request.candidates
    shape = request.inputs[0].shape if request.inputs else ()
    return max(1, shape[0]) if loaded.batchable and shape else 1
