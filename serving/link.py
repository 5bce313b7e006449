"""One connection to a worker: frames in, futures resolved; what is outstanding there and how it lies."""

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import msgspec

from registry.contracts.manifest import TensorSpec
from serving import metrics
from serving.arena import Arena
from serving.errors import DeadlineExceeded, QueryRefused, RankingError, ReplicaFailed, ReplicaLost, ReplicaUnhealthy
from serving.flow.retries import Process
from serving.frames import (
    REMOTE_AWAY,
    BrokenFrame,
    FailedReply,
    FrameBuffer,
    Kind,
    LoadedVersion,
    RankedReply,
    WorkerState,
    decode_state,
)
from serving.statistics import VersionStatistics, decode_statistics
from serving.tensor_frames import INLINE, InferredReply

log = logging.getLogger(__name__)

NO_STATE = WorkerState("", 0, False, ())


class Outcomes(Protocol):
    """Who keeps account of how replicas do, see `health.FleetHealth`."""

    def succeeded(self, address: str, took_s: float, now_s: float) -> None:
        """A query was answered so long after it was sent."""
        ...

    def failed(self, address: str, now_s: float) -> None:
        """A query failed on the replica."""
        ...

    def given_up(self, address: str) -> None:
        """A query ended in a way that says nothing of the replica."""
        ...


class Waiter(Protocol):
    """Who waits for a reply: an `asyncio.Future`, or something cheaper."""

    def done(self) -> bool:
        """Whether it has what it waited for, or waits no more."""
        ...

    def set_result(self, result: Any) -> None:
        """The reply."""
        ...

    def set_exception(self, error: RankingError) -> None:
        """Why there is none."""
        ...


class Outstanding(msgspec.Struct, eq=False):
    """answer: of the kind that the request asks for. sent_s: when, asked_s: when to whomever first;
    tries: how often by now. block: start and size in the arena, if it has one. hedge: sends the request to another
    replica as well, if it is time; None if it may not be. twin: the same query at that replica. took: told how
    long the caller waited. take_back: tells the replica that nobody waits any more."""

    answer: Waiter
    candidates: int
    deadline_s: float
    sent_s: float
    asked_s: float = 0.0
    tries: int = 1
    outputs: Sequence[TensorSpec] = ()
    block: tuple[int, int] | None = None
    hedge: Callable[["Outstanding", float], None] | None = None
    twin: "Outstanding | None" = None
    took: Callable[[float], None] | None = None
    take_back: Callable[[], None] | None = None

    def leave_twin(self) -> "Outstanding | None":
        """The twin, if there was one still; they know each other no more."""
        twin, self.twin = self.twin, None
        if twin is not None:
            twin.twin = None
        return twin


@dataclass(slots=True)
class Replica:
    """One worker as this gateway sees it. held: loaded version by (model, version). arena: None
    for a worker on another machine. heard_s: when anything last came from it. silent: it holds
    queries and has said nothing for suspiciously long. wanted: False once it is to be left."""

    address: str
    state: WorkerState = NO_STATE
    held: dict[tuple[str, int], LoadedVersion] = field(default_factory=dict)
    outstanding: dict[int, Outstanding] = field(default_factory=dict)
    candidates: int = 0
    transport: asyncio.Transport | None = None
    unsent: list[bytes | bytearray] = field(default_factory=list)
    arena: Arena | None = None
    statistics: list[VersionStatistics] = field(default_factory=list)
    heard_s: float = 0.0
    silent: bool = False
    wanted: bool = True

    @property
    def process(self) -> Process:
        """Who it is now; started again it is another."""
        return self.address, self.state.pid

    def __repr__(self) -> str:
        condition = "LOST" if self.transport is None else "READY" if self.state.ready else "LOADING"
        return f"<Replica {self.state.replica or self.address} [{condition} | {len(self.outstanding)} in flight]>"


class Link(asyncio.Protocol):
    """A connection to a replica; frames in, futures resolved."""

    def __init__(
        self,
        replica: Replica,
        changed: Callable[[], None],
        outcomes: Outcomes | None = None,
        clock: Callable[[], float] = lambda: 0.0,
    ) -> None:
        self._replica, self._changed, self._outcomes, self._clock = replica, changed, outcomes, clock
        self._frames = FrameBuffer()
        self.told = False
        """Whether it has said what it holds: until then it may be no worker, or one that refuses this gateway."""
        self.lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._replica.transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        replica = self._replica
        replica.heard_s, replica.silent = self._clock(), False
        try:
            for kind, body in self._frames.feed(data):
                if kind is Kind.RANKED:
                    ranked = RankedReply.decode(body)
                    if (waiting := self._done(ranked.number)) is not None:
                        waiting.set_result(ranked)
                elif kind is Kind.INFERRED:
                    arena = replica.arena
                    inferred = InferredReply.decode(body, self._asked, arena.memory if arena else None)
                    if inferred.start != INLINE:  # the block is given back now
                        for _, tensor in inferred.outputs:
                            tensor.data = bytes(tensor.data)
                    if (waiting := self._done(inferred.number)) is not None:
                        waiting.set_result(inferred)
                elif kind is Kind.FAILED:
                    failed = FailedReply.decode(body)
                    if (waiting := self._done(failed.number, failed.status)) is not None:
                        waiting.set_exception(_as_error(failed, replica.process))
                elif kind is Kind.STATISTICS:
                    replica.statistics = decode_statistics(body)
                elif kind is Kind.STATE:
                    replica.state = state = decode_state(body)
                    self.told = True
                    replica.held = {(loaded.model, loaded.version): loaded for loaded in state.versions}
                    self._changed()
        except BrokenFrame as error:
            log.error("replica %s does not speak our protocol: %s", replica.address, error)
            if replica.transport is not None:
                replica.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        replica = self._replica
        process = replica.process
        replica.transport, replica.state, replica.held, replica.candidates = None, NO_STATE, {}, 0
        replica.unsent.clear()
        if replica.arena is not None:
            replica.arena.close()
            replica.arena = None
        outstanding, replica.outstanding = replica.outstanding, {}
        for waiting in outstanding.values():
            if waiting.leave_twin() is None and not waiting.answer.done():
                waiting.answer.set_exception(ReplicaLost(f"replica {replica.address} was lost", process))
        if self._outcomes is not None and outstanding:
            self._outcomes.failed(replica.address, self._clock())
        replica.silent = False
        self.lost.set_result(None)
        self._changed()

    def _asked(self, number: int) -> tuple[Sequence[TensorSpec], int]:
        waiting = self._replica.outstanding.get(number)
        if waiting is None:
            raise BrokenFrame(f"an answer to request {number}, which was not asked")
        return waiting.outputs, waiting.block[1] if waiting.block else 0

    def _done(self, number: int, status: int = 200) -> Waiter | None:
        replica = self._replica
        waiting = replica.outstanding.pop(number, None)
        if waiting is None:
            return None
        replica.candidates -= waiting.candidates
        if waiting.block is not None and replica.arena is not None:
            replica.arena.give(*waiting.block)
        if self._outcomes is not None:
            if status < 500:
                self._outcomes.succeeded(replica.address, replica.heard_s - waiting.sent_s, replica.heard_s)
            elif status in (
                503,
                REMOTE_AWAY,
            ):  # unloaded meanwhile, or a remote server is away: not the replica's fault
                self._outcomes.given_up(replica.address)
            else:
                self._outcomes.failed(replica.address, replica.heard_s)
        if waiting.twin is not None:
            twin = waiting.leave_twin()
            if status >= 500:
                return None  # the other may still answer
            if twin is not None and twin.take_back is not None:
                metrics.HEDGES.labels("won" if waiting.tries > 1 else "lost").inc()
                twin.take_back()
        if waiting.answer.done():
            return None
        if waiting.took is not None and status < 400:
            waiting.took(replica.heard_s - waiting.asked_s)
        return waiting.answer


def _as_error(failed: FailedReply, process: Process) -> RankingError:
    if failed.status == 503:
        return ReplicaLost(failed.message, process)
    if failed.status == 500:
        return ReplicaFailed(failed.message, process)
    kinds: dict[int, type[RankingError]] = {400: QueryRefused, REMOTE_AWAY: ReplicaUnhealthy, 504: DeadlineExceeded}
    return kinds.get(failed.status, RankingError)(failed.message)
