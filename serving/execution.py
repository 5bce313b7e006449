"""A batch through its version: every request gets a reply, and a poisonous one fails alone."""

import logging
import time
from collections.abc import Sequence
from typing import cast

from serving.errors import RankingError
from serving.frames import FailedReply, RankedReply, ScoreRequest
from serving.loaded import LoadedProgram
from serving.scoring import LoadedModel, ScoreRefused, check, score_batch
from serving.tensor_batch import run_batch
from serving.tensor_frames import INLINE, InferredReply, InferRequest, block_bytes

log = logging.getLogger(__name__)

Reply = RankedReply | InferredReply | FailedReply
UNLOADED = "the version was unloaded"
WORTH_A_BLOCK_BYTES = 16 << 10
"""Smaller outputs travel in the frame: a copy more is cheaper than a page more."""


def answer_batch(
    loaded: LoadedProgram | None,
    requests: Sequence[ScoreRequest | InferRequest],
    queue_us: Sequence[float],
    now_ms: int,
) -> Sequence[Reply]:
    """Replies in the order of the requests, which are of one kind and for this version. Never raises."""
    if loaded is None:
        return [FailedReply(request.number, 503, UNLOADED) for request in requests]
    loaded.statistics.last_ms = now_ms
    if isinstance(requests[0], InferRequest):
        return _infer(loaded, cast(Sequence[InferRequest], requests), queue_us)
    rankings = cast(Sequence[ScoreRequest], requests)
    if not isinstance(loaded, LoadedModel):
        message = f"{loaded.model}@{loaded.version} has no feature view: send it tensors"
        return [FailedReply(request.number, 400, message) for request in rankings]
    return _rank(loaded, rankings, queue_us, now_ms)


def _rank(
    loaded: LoadedModel, requests: Sequence[ScoreRequest], queue_us: Sequence[float], now_ms: int
) -> list[RankedReply | FailedReply]:
    try:
        for request in requests:
            check(loaded, request)
        rows = sum(request.candidates for request in requests)
        replies = score_batch(loaded, requests, queue_us, now_ms)
    except ScoreRefused as refused:
        if len(requests) == 1:
            return [FailedReply(requests[0].number, 400, str(refused))]
        return _one_by_one(loaded, requests, queue_us, now_ms)
    except Exception as error:  # a program may raise anything; the next batch may be fine
        if len(requests) == 1:
            return [_failed(loaded, requests[0].number, error)]
        return _one_by_one(loaded, requests, queue_us, now_ms)
    loaded.batch_candidates.observe(rows)
    ranked = [reply for reply in replies if isinstance(reply, RankedReply)]
    gather_us, device_us = (ranked[0].features_us, ranked[0].device_us) if ranked else (0.0, 0.0)
    loaded.statistics.batch(len(requests), len(replies) - len(ranked), rows, sum(queue_us), gather_us, device_us)
    return replies


def _one_by_one(
    loaded: LoadedModel, requests: Sequence[ScoreRequest], queue_us: Sequence[float], now_ms: int
) -> list[RankedReply | FailedReply]:
    return [
        _rank(loaded, [request], [waited_us], now_ms)[0] for request, waited_us in zip(requests, queue_us, strict=True)
    ]


def _infer(
    loaded: LoadedProgram, requests: Sequence[InferRequest], queue_us: Sequence[float]
) -> list[InferredReply | FailedReply]:
    began_s = time.perf_counter()
    try:
        outputs = run_batch(loaded, requests)
    except Exception as error:  # as above
        if len(requests) == 1:
            loaded.statistics.batch(1, 1, 0, 0.0, 0.0, (time.perf_counter() - began_s) * 1e6)
            return [_failed(loaded, requests[0].number, error)]
        return [
            _infer(loaded, [request], [waited_us])[0] for request, waited_us in zip(requests, queue_us, strict=True)
        ]
    device_us = (time.perf_counter() - began_s) * 1e6
    rows = sum(tensors[0].shape[0] if tensors and tensors[0].shape else 1 for tensors in outputs)
    loaded.batch_candidates.observe(rows)
    loaded.statistics.batch(len(requests), 0, rows, sum(queue_us), 0.0, device_us)
    replies: list[InferredReply | FailedReply] = []
    for request, tensors, waited_us in zip(requests, outputs, queue_us, strict=True):
        wanted = [(place, tensor) for place, tensor in enumerate(tensors) if request.wanted >> place & 1]
        size = block_bytes(tensor for _, tensor in wanted)
        fits = request.start != INLINE and WORTH_A_BLOCK_BYTES <= size <= request.size
        start = request.start if fits else INLINE
        replies.append(InferredReply(request.number, wanted, start, waited_us, 0.0, device_us))
    return replies


def _failed(loaded: LoadedProgram, number: int, error: Exception) -> FailedReply:
    if not isinstance(error, RankingError):
        log.exception("a request of %s@%d failed", loaded.model, loaded.version)
    status = error.status if isinstance(error, RankingError) else 500
    return FailedReply(number, status, f"{loaded.model}@{loaded.version} failed: {error}")
