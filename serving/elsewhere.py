"""Versions that a remote server runs: their requests wait apart, and nothing that computes here waits for them.

A server may be slow, or not answer at all until a batch's deadline. So each such version has a queue
and threads of its own for its calls (`LoadedProgram.calls`); the worker's thread forms its batches,
fetches their rows and makes their replies, and never waits for an answer.
"""

from collections.abc import Callable, Hashable
from concurrent.futures import FIRST_COMPLETED, wait
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import msgspec

from serving.batch_times import BatchTimes
from serving.batching import Batch, BatchWindow, Pending
from serving.execution import Answer, Elsewhere, Request, refused, start_elsewhere
from serving.loaded import LoadedProgram

CALLS = 2  # batches of a version under way at a time: one on its way while the server computes another

Caller = TypeVar("Caller")
Waiting = Pending[Hashable, tuple[Caller, Request]]


@dataclass(slots=True)
class _UnderWay(Generic[Caller]):
    taken: list[Waiting[Caller]]
    batch: Elsewhere
    began_s: float


@dataclass(slots=True)
class _Queue(Generic[Caller]):
    """Of one version."""

    loaded: LoadedProgram
    waiting: list[Waiting[Caller]] = field(default_factory=list)
    under_way: list[_UnderWay[Caller]] = field(default_factory=list)


class RemoteQueues(Generic[Caller]):
    """The requests of a worker's remote versions, by slot. One thread uses it.

    woken: called on another thread when `answers` has something new. wall_ms: see `Worker`.
    """

    def __init__(
        self,
        window: BatchWindow,
        times: BatchTimes,
        clock: Callable[[], float],
        wall_ms: Callable[[], int],
        woken: Callable[[], None],
    ) -> None:
        self._window, self._times, self._clock, self._wall_ms, self._woken = window, times, clock, wall_ms, woken
        self._queues: dict[int, _Queue[Caller]] = {}

    def __bool__(self) -> bool:
        """Whether anything is unanswered."""
        return bool(self._queues)

    @property
    def unanswered(self) -> int:
        """Requests that wait, and batches under way."""
        return sum([len(queue.waiting) + len(queue.under_way) for queue in self._queues.values()])

    def add(self, pending: Waiting[Caller], loaded: LoadedProgram) -> None:
        """One more request for the version in its slot."""
        queue = self._queues.get(pending.slot)
        if queue is None:
            queue = self._queues[pending.slot] = _Queue(loaded)
        queue.waiting.append(pending)

    def cancel(self, caller: Caller, number: int) -> bool:
        """Forgets a request that still waits; False if there is none such."""
        for queue in self._queues.values():
            for pending in queue.waiting:
                if pending.payload[0] is caller and pending.payload[1].number == number:
                    queue.waiting.remove(pending)
                    return True
        return False

    def forget(self, caller: Caller) -> None:
        """Nobody waits for this caller's answers any more."""
        for queue in self._queues.values():
            queue.waiting = [pending for pending in queue.waiting if pending.payload[0] is not caller]

    def answers(self) -> list[Answer[Caller]]:
        """Takes what was answered, sends what may be sent; returns at once."""
        answers: list[Answer[Caller]] = []
        for slot, queue in list(self._queues.items()):
            for under_way in [one for one in queue.under_way if one.batch.future.done()]:
                queue.under_way.remove(under_way)
                answers += self._taken(slot, queue, under_way)
            while queue.waiting and len(queue.under_way) < CALLS:
                sent, refusals = self._send(queue)
                answers += refusals
                if not sent:
                    break
            answers += self._expired(queue)
            if not queue.waiting and not queue.under_way:
                del self._queues[slot]
        return answers

    def wait(self) -> None:
        """Until a call has ended: at the latest with its batch's deadline."""
        futures = [one.batch.future for queue in self._queues.values() for one in queue.under_way]
        wait(futures, return_when=FIRST_COMPLETED)

    def _taken(self, slot: int, queue: _Queue[Caller], under_way: _UnderWay[Caller]) -> list[Answer[Caller]]:
        ended_s = self._clock()
        rows = sum([pending.rows for pending in under_way.taken])
        self._times.of(slot).observe(rows, ended_s - under_way.began_s, ended_s)
        replies = list(zip(under_way.taken, under_way.batch.replies(), strict=True))
        alone = [msgspec.structs.replace(pending, alone=True) for pending, reply in replies if reply is None]
        queue.waiting = [*alone, *queue.waiting]
        return [(pending, reply) for pending, reply in replies if reply is not None]

    def _send(self, queue: _Queue[Caller]) -> tuple[bool, list[Answer[Caller]]]:
        """Starts a batch, if there is one to start; and what those get who cannot be in it."""
        now_s = self._clock()
        batch = self._window.take(queue.waiting, now_s, None, self._times)
        queue.waiting = batch.left
        if batch.taken:
            requests = [pending.payload[1] for pending in batch.taken]
            queue_us = [(now_s - pending.arrived_s) * 1e6 for pending in batch.taken]
            timeout_s = max([pending.deadline_s for pending in batch.taken]) - now_s
            started = start_elsewhere(queue.loaded, requests, queue_us, self._wall_ms(), timeout_s)
            queue.under_way.append(_UnderWay(batch.taken, started, now_s))
            started.future.add_done_callback(lambda _: self._woken())
        return bool(batch.taken), refused(batch, now_s, self._times)

    def _expired(self, queue: _Queue[Caller]) -> list[Answer[Caller]]:
        """Those who waited for a call to end until it was too late."""
        now_s = self._clock()
        late = [pending for pending in queue.waiting if pending.deadline_s <= now_s]
        if not late:
            return []
        queue.waiting = [pending for pending in queue.waiting if pending.deadline_s > now_s]
        return refused(Batch([], late, []), now_s, self._times)
