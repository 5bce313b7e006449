"""The gateway's side of the hop: which replicas there are, what they hold, and a query's way there.

A query goes to the replica that holds the version and has the fewest candidates outstanding. If
that replica dies with it, the query is sent to another, or waits for one, inside its deadline.
"""

import asyncio
import functools
import itertools
import logging
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from registry.contracts.manifest import TensorSpec
from registry.contracts.traffic import TrafficPlan
from serving import metrics
from serving.addresses import parse_address
from serving.arena import Arena
from serving.errors import DeadlineExceeded, QueryRefused, RankingError, ReplicaLost, ReplicaUnhealthy
from serving.frames import (
    BrokenFrame,
    FailedReply,
    FrameBuffer,
    Kind,
    LoadedVersion,
    RankedReply,
    ScoreRequest,
    WorkerState,
    decode_state,
    encode_arena,
    encode_cancel,
)
from serving.statistics import VersionStatistics, decode_statistics
from serving.tensor_frames import INLINE, InferredReply, InferRequest, block_bytes

log = logging.getLogger(__name__)

ARENA_BYTES = 64 << 20
WORTH_A_BLOCK_BYTES = 4096
RECONNECT_S = 0.05
SWEEP_S = 0.01
NO_STATE = WorkerState("", 0, False, ())
_NUMBERS = 1 << 32


Request = TypeVar("Request", ScoreRequest, InferRequest)


@dataclass(slots=True)
class _Outstanding:
    """answer: of the kind that the request asks for. block: start and size in the arena, if it has one."""

    answer: "asyncio.Future[Any]"
    candidates: int
    deadline_s: float
    outputs: Sequence[TensorSpec] = ()
    block: tuple[int, int] | None = None


@dataclass(slots=True)
class Replica:
    """One worker as this gateway sees it. held: loaded version by (model, version). arena: None
    for a worker on another machine."""

    address: str
    state: WorkerState = NO_STATE
    held: dict[tuple[str, int], LoadedVersion] = field(default_factory=dict)
    outstanding: dict[int, _Outstanding] = field(default_factory=dict)
    candidates: int = 0
    transport: asyncio.Transport | None = None
    unsent: list[bytes] = field(default_factory=list)
    arena: Arena | None = None
    statistics: list[VersionStatistics] = field(default_factory=list)

    def __repr__(self) -> str:
        condition = "LOST" if self.transport is None else "READY" if self.state.ready else "LOADING"
        return f"<Replica {self.state.replica or self.address} [{condition} | {len(self.outstanding)} in flight]>"


class _Link(asyncio.Protocol):
    """A connection to a replica; frames in, futures resolved."""

    def __init__(self, replica: Replica, changed: Callable[[], None]) -> None:
        self._replica, self._changed = replica, changed
        self._frames = FrameBuffer()
        self.lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._replica.transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        try:
            for kind, body in self._frames.feed(data):
                if kind is Kind.RANKED:
                    ranked = RankedReply.decode(body)
                    if (waiting := self._done(ranked.number)) is not None:
                        waiting.set_result(ranked)
                elif kind is Kind.INFERRED:
                    arena = self._replica.arena
                    inferred = InferredReply.decode(body, self._asked, arena.memory if arena else None)
                    if inferred.start != INLINE:  # the block is given back now
                        for _, tensor in inferred.outputs:
                            tensor.data = bytes(tensor.data)
                    if (waiting := self._done(inferred.number)) is not None:
                        waiting.set_result(inferred)
                elif kind is Kind.FAILED:
                    failed = FailedReply.decode(body)
                    if (waiting := self._done(failed.number)) is not None:
                        waiting.set_exception(_as_error(failed))
                elif kind is Kind.STATISTICS:
                    self._replica.statistics = decode_statistics(body)
                elif kind is Kind.STATE:
                    self._replica.state = state = decode_state(body)
                    self._replica.held = {(loaded.model, loaded.version): loaded for loaded in state.versions}
                    self._changed()
        except BrokenFrame as error:
            log.error("replica %s does not speak our protocol: %s", self._replica.address, error)
            if self._replica.transport is not None:
                self._replica.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        replica = self._replica
        replica.transport, replica.state, replica.held, replica.candidates = None, NO_STATE, {}, 0
        replica.unsent.clear()
        if replica.arena is not None:
            replica.arena.close()
            replica.arena = None
        outstanding, replica.outstanding = replica.outstanding, {}
        for waiting in outstanding.values():
            if not waiting.answer.done():
                waiting.answer.set_exception(ReplicaLost(f"replica {replica.address} was lost"))
        self.lost.set_result(None)
        self._changed()

    def _asked(self, number: int) -> tuple[Sequence[TensorSpec], int]:
        waiting = self._replica.outstanding.get(number)
        if waiting is None:
            raise BrokenFrame(f"an answer to request {number}, which was not asked")
        return waiting.outputs, waiting.block[1] if waiting.block else 0

    def _done(self, number: int) -> "asyncio.Future[Any] | None":
        waiting = self._replica.outstanding.pop(number, None)
        if waiting is None:
            return None
        self._replica.candidates -= waiting.candidates
        if waiting.block is not None and self._replica.arena is not None:
            self._replica.arena.give(*waiting.block)
        return None if waiting.answer.done() else waiting.answer


class ReplicaPool:
    """All replicas of a gateway.

    addresses: as in `addresses`. Must be started in the loop that uses it. clock: seconds; not the
    loop's, which uvloop reads once a turn and in whole milliseconds. arena_bytes: for tensors on
    their way to one replica; what finds no room goes over the socket.
    """

    def __init__(
        self,
        addresses: tuple[str, ...],
        clock: Callable[[], float] = time.monotonic,
        arena_bytes: int = ARENA_BYTES,
    ) -> None:
        self._clock, self._arena_bytes = clock, arena_bytes
        self.replicas = [Replica(address) for address in addresses]
        self._numbers = itertools.count(1)
        self._tasks: list[asyncio.Task[None]] = []
        self._news: asyncio.Future[None] | None = None
        self._flush_armed = False
        self._watchers: list[Callable[[], None]] = []

    async def start(self) -> None:
        """Begins to connect; does not wait for it."""
        self._loop = asyncio.get_running_loop()
        self._news = self._loop.create_future()
        self._tasks = [self._loop.create_task(self._keep_connected(replica)) for replica in self.replicas]
        self._tasks.append(self._loop.create_task(self._sweep()))

    async def stop(self) -> None:
        """Closes every connection; queries still outstanding fail."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for replica in self.replicas:
            if replica.transport is not None:
                replica.transport.close()

    @property
    def ready(self) -> bool:
        """Whether some replica holds every champion."""
        return any(replica.state.ready for replica in self.replicas)

    def watch(self, changed: Callable[[], None]) -> None:
        """Calls `changed` whenever a replica came, went, or holds something else."""
        self._watchers.append(changed)

    def holds(self, plan: TrafficPlan) -> bool:
        """Whether every version of the plan is loaded somewhere, with the digest decided on."""
        return all(
            any(
                (loaded := replica.held.get((plan.model, version))) is not None and loaded.digest == digest
                for replica in self.replicas
            )
            for version, digest in plan.versions().items()
        )

    def holder(self, model: str, version: int) -> tuple[Replica, LoadedVersion] | None:
        """The least busy replica that holds the version."""
        best: Replica | None = None
        for replica in self.replicas:
            if (model, version) in replica.held and (best is None or replica.candidates < best.candidates):
                best = replica
        return None if best is None else (best, best.held[model, version])

    async def wait_for_holder(self, model: str, version: int, deadline_s: float) -> tuple[Replica, LoadedVersion]:
        """A replica that holds the version, now or as soon as there is one.

        deadline_s: by the pool's clock. Raises ReplicaUnhealthy if there is none by then.
        """
        while (held := self.holder(model, version)) is None:
            remaining_s = deadline_s - self._clock()
            if remaining_s <= 0:
                raise ReplicaUnhealthy(f"no replica holds {model}@{version}: see `sluice status`")
            assert self._news is not None, "the pool was not started"
            await asyncio.wait([self._news], timeout=remaining_s)
        return held

    async def score(
        self, model: str, version: int, deadline_s: float, build: Callable[[LoadedVersion], ScoreRequest]
    ) -> tuple[RankedReply, LoadedVersion]:
        """The worker's answer to one query, and the loaded version that gave it.

        build: makes the request for a loaded version; called again if the query must be sent
        again. Raises RankingError.
        """
        return await self._ask(model, version, deadline_s, build)

    async def infer(
        self, model: str, version: int, deadline_s: float, build: Callable[[LoadedVersion], InferRequest]
    ) -> tuple[InferredReply, LoadedVersion]:
        """The worker's answer to a tensor request; see `score`."""
        return await self._ask(model, version, deadline_s, build)

    def statistics(self) -> list[VersionStatistics]:
        """What the replicas last told."""
        return [one for replica in self.replicas for one in replica.statistics]

    async def _ask(
        self, model: str, version: int, deadline_s: float, build: Callable[[LoadedVersion], Request]
    ) -> tuple[Any, LoadedVersion]:
        while True:
            replica, loaded = self.holder(model, version) or await self.wait_for_holder(model, version, deadline_s)
            request = build(loaded)
            request.slot = loaded.slot
            request.number = next(self._numbers) % _NUMBERS
            request.deadline_us = max(0, min(_NUMBERS - 1, int((deadline_s - self._clock()) * 1e6)))
            try:
                return await self._send(replica, loaded, request, deadline_s), loaded
            except ReplicaLost:
                metrics.RETRIES.inc()
                if self._clock() >= deadline_s:
                    raise
            except asyncio.CancelledError:
                self._post(replica, encode_cancel(request.number))
                raise

    def _send(
        self, replica: Replica, loaded: LoadedVersion, request: ScoreRequest | InferRequest, deadline_s: float
    ) -> "asyncio.Future[Any]":
        answer: asyncio.Future[Any] = self._loop.create_future()
        if isinstance(request, InferRequest):
            waiting = _Outstanding(answer, _load(request, loaded), deadline_s, loaded.outputs)
            size = block_bytes(request.inputs)
            if replica.arena is not None and size >= WORTH_A_BLOCK_BYTES:
                start = replica.arena.take(size)
                if start is not None:
                    request.place(replica.arena.memory, start, size)
                    waiting.block = (start, size)
        else:
            waiting = _Outstanding(answer, request.candidates, deadline_s)
        replica.outstanding[request.number] = waiting
        replica.candidates += waiting.candidates
        self._post(replica, request.encode())
        return answer

    def _post(self, replica: Replica, frame: bytes) -> None:
        """Sends a frame with those of this loop tick."""
        replica.unsent.append(frame)
        if not self._flush_armed:
            self._flush_armed = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        """One write per replica for all frames of this loop tick."""
        self._flush_armed = False
        for replica in self.replicas:
            if replica.unsent and replica.transport is not None:
                replica.transport.write(b"".join(replica.unsent))
                replica.unsent.clear()

    async def _keep_connected(self, replica: Replica) -> None:
        while True:
            try:
                channel = await self._connect(replica)
                link = await self._link(replica, channel)
            except OSError:
                await asyncio.sleep(RECONNECT_S)
                continue
            log.info("connected to replica %s", replica.address)
            await asyncio.shield(link.lost)
            log.warning("lost replica %s", replica.address)

    async def _link(self, replica: Replica, channel: socket.socket) -> _Link:
        make = functools.partial(_Link, replica, self._changed)
        if channel.family == socket.AF_UNIX:
            return (await self._loop.create_unix_connection(make, sock=channel))[1]
        return (await self._loop.create_connection(make, sock=channel))[1]

    async def _connect(self, replica: Replica) -> socket.socket:
        """A connection; on one machine its first frame has brought the arena."""
        address = parse_address(replica.address)
        channel = address.socket()
        try:
            await self._loop.sock_connect(channel, address.target)
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
        """Fails what is past its deadline; one timer for all queries costs nothing per query."""
        while True:
            await asyncio.sleep(SWEEP_S)
            now_s = self._clock()
            for replica in self.replicas:
                for waiting in replica.outstanding.values():
                    if waiting.deadline_s < now_s and not waiting.answer.done():
                        waiting.answer.set_exception(DeadlineExceeded("the deadline passed while the model worked"))

    def _changed(self) -> None:
        metrics.REPLICAS.set(sum(replica.state.ready for replica in self.replicas))
        for watcher in self._watchers:
            watcher()
        if self._news is not None and not self._news.done():
            self._news.set_result(None)
        self._news = self._loop.create_future()


def _load(request: InferRequest, loaded: LoadedVersion) -> int:
    """What a tensor request adds to a replica's load, in candidates."""
    shape = request.inputs[0].shape if request.inputs else ()
    return max(1, shape[0]) if loaded.batchable and shape else 1


def _as_error(failed: FailedReply) -> RankingError:
    kinds: dict[int, type[RankingError]] = {400: QueryRefused, 503: ReplicaLost, 504: DeadlineExceeded}
    return kinds.get(failed.status, RankingError)(failed.message)
