"""A batch through its version: every request gets a reply, and a poisonous one fails alone."""

import logging
import time
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from itertools import compress
from typing import Any, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from serving import metrics
from serving.batch_times import BatchTimes
from serving.batching import Batch, Pending
from serving.errors import DeadlineExceeded, RankingError, ReplicaUnhealthy
from serving.flow.deadlines import patience_s
from serving.frames import REMOTE_AWAY, FailedReply, RankedReply, ScoreRequest
from serving.loaded import LoadedProgram
from serving.scoring import LoadedModel, ScoreRefused, assemble, check, rank, score_batch
from serving.statistics import VersionStatistics
from serving.tensor_batch import run_batch, spoilt
from serving.tensor_frames import INLINE, InferredReply, InferRequest, block_bytes
from serving.tensors import Tensor

log = logging.getLogger(__name__)

Request = ScoreRequest | InferRequest
Reply = RankedReply | InferredReply | FailedReply
Rankings = list[RankedReply | FailedReply]
Call = Future[tuple[Any, float]]
Caller = TypeVar("Caller")
T = TypeVar("T")
Answer = tuple[Pending[Hashable, tuple[Caller, Request]], Reply]
NO_REQUESTS_FAULT = (ReplicaUnhealthy, DeadlineExceeded)
"""What a program raises that asks a server: no request of the batch would do better alone."""
UNLOADED = "the version was unloaded"
WORTH_A_BLOCK_BYTES = 16 << 10
"""Smaller outputs travel in the frame: a copy more is cheaper than a page more."""


@dataclass(frozen=True, slots=True)
class Started:
    """A batch that was given to its version. finish: waits for it and gives the replies, in the order
    of the requests; never raises. under_way: the device still works, so that another batch may be
    started before this one is finished. statistics: of the version; None if nothing was computed."""

    finish: Callable[[], Sequence[Reply]]
    under_way: bool
    statistics: VersionStatistics | None = None


def start_batch(
    loaded: LoadedProgram | None,
    requests: Sequence[Request],
    queue_us: Sequence[float],
    now_ms: int,
    timeout_s: float | None = None,
) -> Started:
    """Starts a batch of requests of one kind, all for this version. Never raises.

    timeout_s: nobody waits longer for any of them.
    """
    if loaded is None:
        return _done([FailedReply(request.number, 503, UNLOADED) for request in requests])
    loaded.statistics.last_ms = now_ms
    if isinstance(requests[0], InferRequest):
        return _done(_infer(loaded, cast(Sequence[InferRequest], requests), queue_us, timeout_s), loaded.statistics)
    rankings = cast(Sequence[ScoreRequest], requests)
    try:
        ranker = _needs_view(loaded)
    except ScoreRefused as error:
        return _done([_failed(loaded, request.number, error) for request in rankings])
    return _Ranking(ranker, rankings, queue_us, now_ms, timeout_s).start()


def _done(replies: Sequence[Reply], statistics: VersionStatistics | None = None) -> Started:
    return Started(lambda: replies, under_way=False, statistics=statistics)


@dataclass(slots=True)
class _Ranking:
    """Queries of one batch; if they fail together each is tried alone."""

    loaded: LoadedModel
    requests: Sequence[ScoreRequest]
    queue_us: Sequence[float]
    now_ms: int
    timeout_s: float | None

    def start(self) -> Started:
        loaded, requests = self.loaded, self.requests
        try:
            for request in requests:
                check(loaded, request)
            if loaded.ranker is None:
                began_s = time.perf_counter()
                replies = score_batch(loaded, requests, self.queue_us, self.now_ms, timeout_s=self.timeout_s)
                self._count(replies, _left_us(replies, (time.perf_counter() - began_s) * 1e6))
                return _done(replies, loaded.statistics)
            submitted = loaded.ranker.submit(requests, self.queue_us, self.now_ms)
        except Exception as error:  # a program may raise anything; the next batch may be fine
            return _done(self._without(error))

        def finish() -> Sequence[Reply]:
            try:
                replies = submitted.replies()
                self._count(replies, submitted.answer_us)
                return replies
            except Exception as error:  # as above
                return self._without(error)

        return Started(finish, under_way=True, statistics=loaded.statistics)

    def _without(self, error: Exception) -> Rankings:
        """What the queries get when the batch failed."""
        if len(self.requests) == 1 or isinstance(error, NO_REQUESTS_FAULT):
            _count_failed(self.loaded, self.requests, 0.0)
            return [_failed(self.loaded, request.number, error) for request in self.requests]
        replies: Rankings = []
        for request, waited_us in zip(self.requests, self.queue_us, strict=True):
            alone = _Ranking(self.loaded, [request], [waited_us], self.now_ms, self.timeout_s)
            replies += cast(Rankings, alone.start().finish())
        return replies

    def _count(self, replies: Rankings, answer_us: float) -> None:
        _count_ranked(self.loaded, self.requests, self.queue_us, replies, answer_us)


def _infer(
    loaded: LoadedProgram, requests: Sequence[InferRequest], queue_us: Sequence[float], timeout_s: float | None
) -> list[InferredReply | FailedReply]:
    began_s = time.perf_counter()
    try:
        outputs = run_batch(loaded, requests, timeout_s)
    except Exception as error:  # as above
        if len(requests) == 1 or isinstance(error, NO_REQUESTS_FAULT):
            _count_failed(loaded, requests, (time.perf_counter() - began_s) * 1e6)
            return [_failed(loaded, request.number, error) for request in requests]
        return [
            _infer(loaded, [request], [waited_us], timeout_s)[0]
            for request, waited_us in zip(requests, queue_us, strict=True)
        ]
    replies = _inferred(loaded, requests, queue_us, outputs, (time.perf_counter() - began_s) * 1e6)
    return [
        _infer(loaded, [request], [waited_us], timeout_s)[0] if reply is None else reply
        for reply, request, waited_us in zip(replies, requests, queue_us, strict=True)
    ]


def _inferred(
    loaded: LoadedProgram,
    requests: Sequence[InferRequest],
    queue_us: Sequence[float],
    outputs: Sequence[Sequence[Tensor]],
    device_us: float,
) -> list[InferredReply | None]:
    """The replies, None for who is to be tried alone, see `tensor_batch.spoilt`."""
    began_s = time.perf_counter()
    if any(again := spoilt(loaded, outputs)):
        sound = [not one for one in again]
        if not any(sound):
            return [None] * len(requests)
        kept = iter(_inferred(loaded, _of(requests, sound), _of(queue_us, sound), _of(outputs, sound), device_us))
        return [next(kept) if one else None for one in sound]
    rows = sum([tensors[0].shape[0] if tensors and tensors[0].shape else 1 for tensors in outputs])
    replies: list[InferredReply | None] = []
    for request, tensors, waited_us in zip(requests, outputs, queue_us, strict=True):
        wanted = [(place, tensor) for place, tensor in enumerate(tensors) if request.wanted >> place & 1]
        size = block_bytes([tensor for _, tensor in wanted])
        fits = request.start != INLINE and WORTH_A_BLOCK_BYTES <= size <= request.size
        start = request.start if fits else INLINE
        replies.append(InferredReply(request.number, wanted, start, waited_us, 0.0, device_us))
    loaded.batch_candidates.observe(rows)
    answer_us = (time.perf_counter() - began_s) * 1e6
    loaded.statistics.batch(len(requests), 0, rows, sum(queue_us), 0.0, device_us, answer_us)
    return replies


def _count_failed(loaded: LoadedProgram, requests: Sequence[Request], device_us: float) -> None:
    loaded.statistics.batch(len(requests), len(requests), 0, 0.0, 0.0, device_us)


@dataclass(slots=True)
class Elsewhere:
    """A batch that a server computes. future: what the program gave, and the microseconds it took;
    done when that is there. answer: makes replies of it."""

    loaded: LoadedProgram
    requests: Sequence[Request]
    began_s: float
    future: Call
    answer: Callable[[Any, float], Sequence[Reply | None]]

    def replies(self) -> Sequence[Reply | None]:
        """In the order of the requests; None: failed together with others, and is to be tried alone.
        Never raises; waits for the server if it has not answered."""
        try:
            return self.answer(*self.future.result())
        except Exception as error:  # a server, or a program there, may do anything
            if len(self.requests) > 1 and not isinstance(error, NO_REQUESTS_FAULT):
                return [None] * len(self.requests)
            _count_failed(self.loaded, self.requests, (time.perf_counter() - self.began_s) * 1e6)
            return [_failed(self.loaded, request.number, error) for request in self.requests]


def start_elsewhere(
    loaded: LoadedProgram,
    requests: Sequence[Request],
    queue_us: Sequence[float],
    now_ms: int,
    timeout_s: float,
) -> Elsewhere:
    """As `start_batch`, for a version that has threads for its calls: rows are fetched here, the server
    is asked there. Never raises."""
    assert loaded.calls is not None
    loaded.statistics.last_ms = now_ms
    began_s = time.perf_counter()
    if isinstance(requests[0], InferRequest):
        tensors = cast(Sequence[InferRequest], requests)
        future = _submitted(loaded.calls, lambda: run_batch(loaded, tensors, timeout_s))
        return Elsewhere(
            loaded, requests, began_s, future, lambda outputs, us: _inferred(loaded, tensors, queue_us, outputs, us)
        )
    rankings = cast(Sequence[ScoreRequest], requests)
    try:
        ranker = _needs_view(loaded)
        for request in rankings:
            check(ranker, request)
        counts = np.array([request.candidates for request in rankings])
        patient_s = patience_s([request.deadline_us for request in rankings], queue_us)
        assembled = assemble(ranker, rankings, counts, now_ms, patient_s)
    except Exception as error:  # as in `start_batch`
        return Elsewhere(loaded, requests, began_s, _failed_call(error), lambda *_: [])
    features_us = (time.perf_counter() - began_s) * 1e6
    query_index = np.repeat(np.arange(len(rankings)), counts)
    future = _submitted(loaded.calls, lambda: loaded.program.score(assembled.matrix, query_index, timeout_s))

    def answer(scores: NDArray[np.float32], device_us: float) -> Sequence[Reply | None]:
        ranking_s = time.perf_counter()
        replies = rank(ranker, rankings, queue_us, counts, scores, assembled, features_us, device_us)
        if len(replies) == 1 or not any(isinstance(reply, FailedReply) for reply in replies):
            _count_ranked(ranker, rankings, queue_us, replies, (time.perf_counter() - ranking_s) * 1e6)
            return replies
        sound = [isinstance(reply, RankedReply) for reply in replies]
        if any(sound):
            _count_ranked(ranker, _of(rankings, sound), _of(queue_us, sound), _of(replies, sound))
        return [reply if isinstance(reply, RankedReply) else None for reply in replies]

    return Elsewhere(loaded, requests, began_s, future, answer)


def _submitted(calls: Executor, call: Callable[[], Any]) -> Call:
    try:
        return calls.submit(_timed, call)
    except RuntimeError:  # closed: the version has left while its request waited
        return _failed_call(ReplicaUnhealthy(UNLOADED))


def _failed_call(error: Exception) -> Call:
    future: Call = Future()
    future.set_exception(error)
    return future


def _timed(call: Callable[[], Any]) -> tuple[Any, float]:
    began_s = time.perf_counter()
    return call(), (time.perf_counter() - began_s) * 1e6


def _needs_view(loaded: LoadedProgram) -> LoadedModel:
    """Raises ScoreRefused if the version takes tensors only."""
    if not isinstance(loaded, LoadedModel):
        raise ScoreRefused(f"{loaded.model}@{loaded.version} has no feature view: send it tensors")
    return loaded


def _of(all_: Sequence[T], chosen: Sequence[bool]) -> list[T]:
    return list(compress(all_, chosen))


def _count_ranked(
    loaded: LoadedModel,
    requests: Sequence[ScoreRequest],
    queue_us: Sequence[float],
    replies: Rankings,
    answer_us: float = 0.0,
) -> None:
    rows = sum([request.candidates for request in requests])
    loaded.batch_candidates.observe(rows)
    ranked = [reply for reply in replies if isinstance(reply, RankedReply)]
    gather_us, device_us = (ranked[0].features_us, ranked[0].device_us) if ranked else (0.0, 0.0)
    failed = len(replies) - len(ranked)
    loaded.statistics.batch(len(replies), failed, rows, sum(queue_us), gather_us, device_us, answer_us)


def _left_us(replies: Rankings, total_us: float) -> float:
    """What of the time of `score_batch` went into the replies; 0 if some were computed twice."""
    first = replies[0]
    if not isinstance(first, RankedReply) or any(isinstance(reply, FailedReply) for reply in replies):
        return 0.0
    return max(0.0, total_us - first.features_us - first.device_us)


def refused(batch: Batch[Any, tuple[Caller, Request]], now_s: float, times: BatchTimes) -> list[Answer[Caller]]:
    """What those get whom a batch left out because they cannot be in time."""
    if missed := len(batch.expired) + len(batch.hopeless):
        metrics.DEADLINES.labels("queue").inc(missed)
    late = "the deadline passed in the worker's queue"
    return [
        *((one, FailedReply(one.payload[1].number, 504, late)) for one in batch.expired),
        *((one, FailedReply(one.payload[1].number, 504, _too_late(one, now_s, times))) for one in batch.hopeless),
    ]


def _too_late(pending: Pending[Any, Any], now_s: float, times: BatchTimes) -> str:
    expected_ms = times.of(pending.slot).expected_s(pending.rows, now_s) * 1000
    return (
        f"deadline_ms: {(pending.deadline_s - now_s) * 1000:.1f} ms were left in the worker's queue, "
        f"{pending.rows} rows take {expected_ms:.1f} ms"
    )


def _failed(loaded: LoadedProgram, number: int, error: Exception) -> FailedReply:
    if isinstance(error, ScoreRefused):
        return FailedReply(number, 400, str(error))
    if not isinstance(error, RankingError):
        log.exception("a request of %s@%d failed", loaded.model, loaded.version)
    status = error.status if isinstance(error, RankingError) else 500
    if isinstance(error, ReplicaUnhealthy):
        status = REMOTE_AWAY  # a 503 would be sent again, at once and until its deadline
    return FailedReply(number, status, f"{loaded.model}@{loaded.version} failed: {error}")
