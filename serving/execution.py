"""A batch through its version: every request gets a reply, and a poisonous one fails alone."""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

from serving.errors import DeadlineExceeded, RankingError, ReplicaUnhealthy
from serving.frames import REMOTE_AWAY, FailedReply, RankedReply, ScoreRequest
from serving.loaded import LoadedProgram
from serving.scoring import LoadedModel, ScoreRefused, check, score_batch
from serving.tensor_batch import run_batch
from serving.tensor_frames import INLINE, InferredReply, InferRequest, block_bytes

log = logging.getLogger(__name__)

Reply = RankedReply | InferredReply | FailedReply
NO_REQUESTS_FAULT = (ReplicaUnhealthy, DeadlineExceeded)
"""What a program raises that asks a server: no request of the batch would do better alone."""
UNLOADED = "the version was unloaded"
WORTH_A_BLOCK_BYTES = 16 << 10
"""Smaller outputs travel in the frame: a copy more is cheaper than a page more."""


@dataclass(frozen=True, slots=True)
class Started:
    """A batch that was given to its version. finish: waits for it and gives the replies, in the order
    of the requests; never raises. under_way: the device still works, so that another batch may be
    started before this one is finished."""

    finish: Callable[[], Sequence[Reply]]
    under_way: bool


def start_batch(
    loaded: LoadedProgram | None,
    requests: Sequence[ScoreRequest | InferRequest],
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
        return _done(_infer(loaded, cast(Sequence[InferRequest], requests), queue_us, timeout_s))
    rankings = cast(Sequence[ScoreRequest], requests)
    if not isinstance(loaded, LoadedModel):
        message = f"{loaded.model}@{loaded.version} has no feature view: send it tensors"
        return _done([FailedReply(request.number, 400, message) for request in rankings])
    return _Ranking(loaded, rankings, queue_us, now_ms, timeout_s).start()


def _done(replies: Sequence[Reply]) -> Started:
    return Started(lambda: replies, under_way=False)


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
                replies = score_batch(loaded, requests, self.queue_us, self.now_ms, timeout_s=self.timeout_s)
                return _done(self._count(replies))
            submitted = loaded.ranker.submit(requests, self.queue_us, self.now_ms)
        except Exception as error:  # a program may raise anything; the next batch may be fine
            return _done(self._without(error))

        def finish() -> Sequence[Reply]:
            try:
                return self._count(submitted.replies())
            except Exception as error:  # as above
                return self._without(error)

        return Started(finish, under_way=True)

    def _without(self, error: Exception) -> list[RankedReply | FailedReply]:
        """What the queries get when the batch failed."""
        if isinstance(error, NO_REQUESTS_FAULT):
            return [_failed(self.loaded, request.number, error) for request in self.requests]
        if len(self.requests) == 1:
            if isinstance(error, ScoreRefused):
                return [FailedReply(self.requests[0].number, 400, str(error))]
            return [_failed(self.loaded, self.requests[0].number, error)]
        replies: list[RankedReply | FailedReply] = []
        for request, waited_us in zip(self.requests, self.queue_us, strict=True):
            alone = _Ranking(self.loaded, [request], [waited_us], self.now_ms, self.timeout_s)
            replies += cast(list[RankedReply | FailedReply], alone.start().finish())
        return replies

    def _count(self, replies: list[RankedReply | FailedReply]) -> list[RankedReply | FailedReply]:
        rows = sum([request.candidates for request in self.requests])
        self.loaded.batch_candidates.observe(rows)
        ranked = [reply for reply in replies if isinstance(reply, RankedReply)]
        gather_us, device_us = (ranked[0].features_us, ranked[0].device_us) if ranked else (0.0, 0.0)
        failed = len(replies) - len(ranked)
        self.loaded.statistics.batch(len(replies), failed, rows, sum(self.queue_us), gather_us, device_us)
        return replies


def _infer(
    loaded: LoadedProgram, requests: Sequence[InferRequest], queue_us: Sequence[float], timeout_s: float | None
) -> list[InferredReply | FailedReply]:
    began_s = time.perf_counter()
    try:
        outputs = run_batch(loaded, requests, timeout_s)
    except NO_REQUESTS_FAULT as error:
        count, device_us = len(requests), (time.perf_counter() - began_s) * 1e6
        loaded.statistics.batch(count, count, 0, 0.0, 0.0, device_us)
        return [_failed(loaded, request.number, error) for request in requests]
    except Exception as error:  # as above
        if len(requests) == 1:
            loaded.statistics.batch(1, 1, 0, 0.0, 0.0, (time.perf_counter() - began_s) * 1e6)
            return [_failed(loaded, requests[0].number, error)]
        return [
            _infer(loaded, [request], [waited_us], timeout_s)[0]
            for request, waited_us in zip(requests, queue_us, strict=True)
        ]
    device_us = (time.perf_counter() - began_s) * 1e6
    rows = sum([tensors[0].shape[0] if tensors and tensors[0].shape else 1 for tensors in outputs])
    loaded.batch_candidates.observe(rows)
    loaded.statistics.batch(len(requests), 0, rows, sum(queue_us), 0.0, device_us)
    replies: list[InferredReply | FailedReply] = []
    for request, tensors, waited_us in zip(requests, outputs, queue_us, strict=True):
        wanted = [(place, tensor) for place, tensor in enumerate(tensors) if request.wanted >> place & 1]
        size = block_bytes([tensor for _, tensor in wanted])
        fits = request.start != INLINE and WORTH_A_BLOCK_BYTES <= size <= request.size
        start = request.start if fits else INLINE
        replies.append(InferredReply(request.number, wanted, start, waited_us, 0.0, device_us))
    return replies


def _failed(loaded: LoadedProgram, number: int, error: Exception) -> FailedReply:
    if not isinstance(error, RankingError):
        log.exception("a request of %s@%d failed", loaded.model, loaded.version)
    status = error.status if isinstance(error, RankingError) else 500
    if isinstance(error, ReplicaUnhealthy):
        status = REMOTE_AWAY  # a 503 would be sent again, at once and until its deadline
    return FailedReply(number, status, f"{loaded.model}@{loaded.version} failed: {error}")
