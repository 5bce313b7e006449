"""One batch: rows into a matrix, the matrix through the program, scores into rankings.

Queries never mix: a query's ranking and its confidence are computed over its own rows only, and
ties keep the order in which the candidates were given.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import msgspec
import numpy as np
from numpy.typing import NDArray
from prometheus_client import Counter

from registry.contracts.features import FeatureView
from registry.contracts.profile import confidences
from serving import metrics
from serving.features.tier import NOTHING_FETCHED, Fetched, RowKeys, Rows, RowTier
from serving.flow.deadlines import patience_s
from serving.frames import FailedReply, LoadedVersion, RankedReply, ScoreRequest
from serving.loaded import LoadedProgram
from serving.passes import row_passes

if TYPE_CHECKING:
    from serving.batch_ranker import BatchRanker

_U32: np.dtype[np.uint32] = np.dtype("<u4")
_I32: np.dtype[np.int32] = np.dtype("<i4")
_I64: np.dtype[np.int64] = np.dtype("<i8")
NEVER_STALE_MS = np.iinfo(np.uint64).max  # when a row that came with its query was updated


@dataclass(slots=True, kw_only=True)
class LoadedModel(LoadedProgram):
    """A version that is ready to rank. reference_std: of its scores when it was made. ranker: ranks its
    batches on a device; None: `score_batch` does, on the host."""

    view: FeatureView
    tier: RowTier
    reference_std: float
    ranker: "BatchRanker | None" = None
    row_columns: NDArray[np.intp] = field(init=False)
    freshness_ms: float | None = field(init=False)

    def __post_init__(self) -> None:
        LoadedProgram.__post_init__(self)
        self.row_columns = self.view.positions("row")
        limits = [column.freshness_s for column in self.view.of_source("row")]
        bounded = [limit for limit in limits if limit is not None]
        self.freshness_ms = min(bounded) * 1000 if bounded else None

    def describe(self, slot: int) -> LoadedVersion:
        """What gateways are told."""
        return msgspec.structs.replace(
            LoadedProgram.describe(self, slot),
            fingerprint=self.view.fingerprint,
            columns=tuple(column.name for column in self.view.columns),
            sources=tuple(column.source for column in self.view.columns),
        )


class ScoreRefused(Exception):
    """A query of the batch does not fit the version; the message names field and rule."""


class Assembled(msgspec.Struct):
    """matrix: float32 (rows, columns). missing, stale: bool (rows,). age_s: float64 (lists,), see `mean_age_s`.
    fetched: what a store was asked for."""

    matrix: NDArray[np.float32]
    missing: NDArray[np.bool_]
    stale: NDArray[np.bool_]
    age_s: NDArray[np.float64]
    away: bool
    fetched: Fetched = NOTHING_FETCHED


def check(loaded: LoadedModel, request: ScoreRequest) -> None:
    """Raises ScoreRefused if the request names columns that the view does not have."""
    columns = len(loaded.view.columns)
    for positions in (request.query_columns, request.candidate_columns):
        if len(positions) and int(positions.max()) >= columns:
            raise ScoreRefused(f"column {int(positions.max())}: model {loaded.model!r} has {columns} columns")


def score_batch(
    loaded: LoadedModel,
    requests: Sequence[ScoreRequest],
    queue_us: Sequence[float],
    now_ms: int,
    clock: Callable[[], float] = time.perf_counter,
    timeout_s: float | None = None,
) -> list[RankedReply | FailedReply]:
    """Ranks every query of a batch. requests: checked, all for this version. timeout_s: see `Program.score`.

    Returns replies in the order of the requests. A query whose scores are not finite is ranked once
    more by itself, and fails alone. Who is past the deadline once the rows are there is not ranked.
    """
    began = clock()
    counts = np.array([request.candidates for request in requests])
    patient_s = patience_s([request.deadline_us for request in requests], queue_us)
    assembled = assemble(loaded, requests, counts, now_ms, patient_s)
    gathered = clock()
    if gathered - began > patient_s and len(in_time := _in_time(requests, queue_us, gathered - began)) < len(requests):
        return _without_the_late(loaded, requests, queue_us, now_ms, clock, timeout_s, in_time)
    scores = _scores(loaded, assembled.matrix, counts, timeout_s)
    computed = clock()
    features_us, device_us = (gathered - began) * 1e6, (computed - gathered) * 1e6
    replies = rank(loaded, requests, queue_us, counts, scores, assembled, features_us, device_us)
    if len(requests) == 1 or not any(isinstance(reply, FailedReply) for reply in replies):
        return replies
    return [  # a listwise model may have carried one list's infinities into another's scores
        score_batch(loaded, [request], [waited_us], now_ms, clock, timeout_s)[0]
        if isinstance(reply, FailedReply)
        else reply
        for reply, request, waited_us in zip(replies, requests, queue_us, strict=True)
    ]


def _scores(
    loaded: LoadedModel, matrix: NDArray[np.float32], counts: NDArray[np.int64], timeout_s: float | None
) -> NDArray[np.float32]:
    """Of all rows of the batch, in passes of at most `pass_rows`."""
    query_index, most = np.repeat(np.arange(len(counts)), counts), loaded.pass_rows
    if not most or len(matrix) <= most:
        return loaded.program.score(matrix, query_index, timeout_s)
    passes = row_passes(counts.tolist(), most, loaded.listwise)
    return np.concatenate(
        [loaded.program.score(matrix[rows], query_index[rows] - query_index[rows.start], timeout_s) for rows in passes]
    )


def _in_time(requests: Sequence[ScoreRequest], queue_us: Sequence[float], took_s: float) -> list[int]:
    """The places of the requests whose deadline has not passed, so long after their batch was begun."""
    return [
        place
        for place, (request, waited_us) in enumerate(zip(requests, queue_us, strict=True))
        if request.deadline_us - waited_us > took_s * 1e6
    ]


def _without_the_late(
    loaded: LoadedModel,
    requests: Sequence[ScoreRequest],
    queue_us: Sequence[float],
    now_ms: int,
    clock: Callable[[], float],
    timeout_s: float | None,
    in_time: Sequence[int],
) -> list[RankedReply | FailedReply]:
    """The replies if only the requests in these places are ranked: their rows are in memory now."""
    late = "the deadline passed while the features were fetched"
    replies: list[RankedReply | FailedReply] = [FailedReply(request.number, 504, late) for request in requests]
    metrics.DEADLINES.labels("features").inc(len(requests) - len(in_time))
    if in_time:
        ranked = score_batch(
            loaded,
            [requests[place] for place in in_time],
            [queue_us[place] for place in in_time],
            now_ms,
            clock,
            timeout_s,
        )
        for place, reply in zip(in_time, ranked, strict=True):
            replies[place] = reply
    return replies


def assemble(
    loaded: LoadedModel,
    requests: Sequence[ScoreRequest],
    counts: NDArray[np.int64],
    now_ms: int,
    patient_s: float = float("inf"),
) -> Assembled:
    """The model's input for a batch: stored rows, then what came with each query over them. patient_s: how long
    they are waited for."""
    total = int(counts.sum())
    rows = _stored(loaded, requests, total, patient_s)
    if len(loaded.row_columns) == len(loaded.view.columns):
        matrix = rows.values
    else:
        matrix = np.empty((total, len(loaded.view.columns)), dtype=np.float32)
        matrix[:] = loaded.view.defaults
        matrix[:, loaded.row_columns] = rows.values
    start = 0
    for request in requests:
        part = matrix[start : start + request.candidates]
        if len(request.query_columns):
            part[:, request.query_columns] = request.query_values
        if len(request.candidate_columns):
            part[:, request.candidate_columns] = request.candidate_values.T
        start += request.candidates
    missing = rows.updated_ms == 0
    stale = np.zeros(total, dtype=bool)
    if loaded.freshness_ms is not None:
        stale = ~missing & (rows.updated_ms.astype(np.float64) < now_ms - loaded.freshness_ms)
    if rows.unchecked is not None:  # changes of theirs may have been missed
        stale |= rows.unchecked
    return Assembled(matrix, missing, stale, mean_age_s(rows.updated_ms, counts, now_ms), rows.away, rows.fetched)


def mean_age_s(updated_ms: NDArray[np.uint64], counts: NDArray[np.int64], now_ms: int) -> NDArray[np.float64]:
    """How long ago each list's stored rows were written, on average, (lists,); nan where it has none.

    updated_ms: uint64 (rows,), 0 where there is no row, NEVER_STALE_MS where it came with the query. counts: rows by
    list. Rows that are dated ahead of the clock are as good as new.
    """
    starts = np.cumsum(counts) - counts
    if updated_ms.min() > 0 and updated_ms.max() <= now_ms:  # mostly: each has a row of its own, from the past
        of_stored: NDArray[np.float64] = (now_ms - np.add.reduceat(updated_ms, starts) / counts) / 1000.0
        return of_stored
    stored = (updated_ms != 0) & (updated_ms != NEVER_STALE_MS)
    ages_ms = np.where(stored, np.maximum(now_ms - updated_ms.astype(np.float64), 0.0), 0.0)
    rows = np.add.reduceat(stored, starts, dtype=np.int64)
    total_ms = np.add.reduceat(ages_ms, starts)
    mean: NDArray[np.float64] = np.where(rows > 0, total_ms / np.maximum(rows, 1) / 1000.0, np.nan)
    return mean


def _stored(loaded: LoadedModel, requests: Sequence[ScoreRequest], total: int, patient_s: float) -> Rows:
    """The batch's stored rows, the caller's to write on; none are fetched for a query that brought
    all their columns."""
    width = len(loaded.row_columns)
    if not width:
        return Rows(np.empty((total, 0), dtype=np.float32), np.full(total, NEVER_STALE_MS))
    self_contained = [
        len(request.candidate_columns) >= width and bool(np.isin(loaded.row_columns, request.candidate_columns).all())
        for request in requests
    ]
    if not any(self_contained):
        keys = RowKeys.join([RowKeys(request.hashes, request.ids) for request in requests])
        keys.patience_s = patient_s
        return loaded.tier.fetch(keys)
    values = np.zeros((total, width), dtype=np.float32)
    rows = Rows(values, np.full(total, NEVER_STALE_MS))
    start = 0
    for request, complete in zip(requests, self_contained, strict=True):
        stop = start + request.candidates
        if not complete:
            fetched = loaded.tier.fetch(RowKeys(request.hashes, request.ids, None, patient_s))
            rows.values[start:stop], rows.updated_ms[start:stop] = fetched.values, fetched.updated_ms
            rows.away |= fetched.away
            asked, us = fetched.fetched
            rows.fetched = Fetched(rows.fetched.rows + asked, rows.fetched.us + us)
            if fetched.unchecked is not None:
                if rows.unchecked is None:
                    rows.unchecked = np.zeros(total, dtype=bool)
                rows.unchecked[start:stop] = fetched.unchecked
        start = stop
    return rows


def top_of_lists(
    scores: NDArray[np.float32], counts: NDArray[np.int64], most: int
) -> tuple[NDArray[np.uint32], NDArray[np.float32]]:
    """Each list's best places, and the scores as a matrix padded with -inf.

    scores: (rows,), list after list, finite; counts: (lists,). most: how many places are wanted. Ties keep the given
    order. The places have shape (lists, most, or the longest list if that is shorter); past a list's end they mean
    nothing. The scores have shape (lists, longest list).
    """
    padded = _padded(scores, counts)
    return _best_places(padded, min(most, padded.shape[1])), padded


def _padded(scores: NDArray[np.float32], counts: NDArray[np.int64]) -> NDArray[np.float32]:
    width = int(counts.max())
    if len(counts) * width == len(scores):
        return scores.reshape(len(counts), width)
    padded = np.full((len(counts), width), -np.inf, dtype=np.float32)
    padded[np.arange(width) < counts[:, None]] = scores
    return padded


def _best_places(padded: NDArray[np.float32], most: int) -> NDArray[np.uint32]:
    """The best places of every list, best first, ties in the given order. Shape (lists, most).

    A candidate becomes a whole number: its score's bits, so turned that a better one is smaller, and
    below them its place. The few smallest are found much sooner than all are sorted, and no two are equal.
    """
    lists, width = padded.shape
    bits = (np.float32(0.0) - padded).view(np.int32)  # from zero, so that -0.0 ties with 0.0
    keys = np.empty((lists, width, 2), dtype=_I32)
    keys[:, :, 0] = np.arange(width)
    np.bitwise_xor(bits, (bits >> 31) & 0x7FFF_FFFF, out=keys[:, :, 1])
    best = keys.view(_I64).reshape(lists, width)
    if most < width:
        best = np.partition(best, most - 1, axis=1)[:, :most]
    return np.sort(best, axis=1).view(_U32)[:, ::2]


def rank(
    loaded: LoadedModel,
    requests: Sequence[ScoreRequest],
    queue_us: Sequence[float],
    counts: NDArray[np.int64],
    scores: NDArray[np.float32],
    assembled: Assembled,
    features_us: float,
    device_us: float,
) -> list[RankedReply | FailedReply]:
    """From a batch's scores, float32 (rows,), to its replies: a query whose scores are not finite fails alone.

    counts: rows by query. features_us, device_us: what the batch took.
    """
    starts = np.cumsum(counts) - counts
    finite = np.isfinite(scores)
    broken = [0] * len(requests)
    if not finite.all():
        broken = np.add.reduceat(~finite, starts, dtype=np.int64).tolist()
        scores = np.nan_to_num(scores, nan=0.0, posinf=0.0, neginf=0.0)
    places, padded = top_of_lists(scores, counts, max([request.top_k for request in requests]))
    rows = places + starts[:, None]  # past a list's end they mean nothing
    shown_scores = scores.take(rows, mode="clip")
    shown_rows = assembled.matrix.take(rows, axis=0, mode="clip")
    sure = confidences(padded, counts, loaded.reference_std)
    exact = scores.astype(np.float64)
    means = np.add.reduceat(exact, starts) / counts
    stds = np.sqrt(np.maximum(np.add.reduceat(exact * exact, starts) / counts - means * means, 0.0))
    of_each = zip(
        requests,
        queue_us,
        broken,
        _marked(assembled.missing, starts, metrics.MISSING_ROWS, loaded.model),
        _marked(assembled.stale, starts, metrics.STALE_ROWS, loaded.model),
        *(column.tolist() for column in (means, stds, sure.margin, sure.entropy, assembled.age_s)),
        strict=True,
    )
    replies: list[RankedReply | FailedReply] = []
    for i, (request, waited_us, wrong, missing, stale, mean, std, margin, entropy, age_s) in enumerate(of_each):
        shown = min(request.top_k, request.candidates)
        if wrong:
            message = f"{loaded.model}@{loaded.version} gave {wrong} scores that are not finite for these features"
            replies.append(FailedReply(request.number, 500, message))
        else:
            replies.append(
                RankedReply(
                    number=request.number,
                    order=places[i, :shown],
                    scores=shown_scores[i, :shown],
                    features=shown_rows[i, :shown].tobytes(),
                    missing_rows=missing,
                    stale_rows=stale,
                    tier_away=assembled.away,
                    queue_us=waited_us,
                    features_us=features_us,
                    device_us=device_us,
                    score_mean=mean,
                    score_std=std,
                    margin=margin,
                    entropy=entropy,
                    row_age_s=age_s,
                    fetched=assembled.fetched,
                )
            )
    return replies


def _marked(rows: NDArray[np.bool_], starts: NDArray[np.int64], counter: Counter, model: str) -> list[int]:
    """How many rows of each list are marked; all of them are counted."""
    if not rows.any():
        return [0] * len(starts)
    marked = np.add.reduceat(rows, starts, dtype=np.int64)
    counter.labels(model).inc(int(marked.sum()))
    found: list[int] = marked.tolist()
    return found
