"""Forward passes in a few sizes, each captured once and replayed with a single launch.

A small ranker's kernels take less time than launching them. A captured graph needs fixed sizes, so
a batch is padded to the next bucket: zero rows in a list of their own, whose scores nobody reads.
Whether a model keeps its scores under that padding is tried out at load, not believed.
"""

import logging
from bisect import bisect_left
from dataclasses import dataclass

import torch

from serving import metrics
from serving.device.streams import Lane, Work
from serving.program import TorchProgram
from serving.tally import CounterTally

log = logging.getLogger(__name__)

SMALLEST_BUCKET = 8
LIST_ROWS = 50  # of the lists that a graph is tried with
PADDED_ERROR_STD = {"fp32": 1e-4, "tf32": 1e-2, "bf16": 5e-2, "fp16": 1e-2}
"""Most a score may differ between a padded replay and the plain pass: kernels differ by size, and
round as their precision does. In standard deviations of the scores."""


def row_buckets(largest: int) -> tuple[int, ...]:
    """Powers of two from 8 with one size between, so that at most a third of a larger batch is padding.

    >>> row_buckets(300)
    (8, 16, 32, 64, 96, 128, 192, 256, 300)
    """
    sizes = {largest}
    size = SMALLEST_BUCKET
    while size < largest:
        sizes.add(size)
        if size >= 64 and size * 3 // 2 < largest:
            sizes.add(size * 3 // 2)
        size *= 2
    return tuple(sorted(sizes))


def bucket_of(rows: int, buckets: tuple[int, ...]) -> int | None:
    """The smallest bucket that holds so many rows; None if none does."""
    place = bisect_left(buckets, rows)
    return buckets[place] if place < len(buckets) else None


@dataclass(frozen=True, slots=True)
class Room:
    """Where a batch's rows go and its scores come from, on the device.

    matrix: float32 (rows, columns); query_index: int64 (rows,); scores: float32 (rows,). rows: of
    the pass, the batch's or its bucket's. replay: the pass as a graph, if there is one.
    """

    matrix: torch.Tensor
    query_index: torch.Tensor
    scores: torch.Tensor
    rows: int
    replay: Work | None


class BucketedForward:
    """One version's forward pass over memory that stays where it is.

    largest: rows of the largest graph; batches beyond run as they are, in memory of their own. All
    passes belong on the lane's compute stream, where they use the same memory one after another.
    """

    def __init__(self, program: TorchProgram, lane: Lane, model: str, columns: int, largest: int) -> None:
        self._program, self._lane, self._model, self._columns = program, lane, model, columns
        device = lane.device
        self._matrix = device.empty((largest, columns), torch.float32)
        self._query_index = device.empty((largest,), torch.int64)
        self._scores = device.empty((largest,), torch.float32)
        self._buckets: tuple[int, ...] = ()
        self._replays: dict[int, Work] = {}
        self._replayed = CounterTally(metrics.GRAPH_PASSES.labels(model, "graph"))
        self._plain = CounterTally(metrics.GRAPH_PASSES.labels(model, "eager"))

    @property
    def buckets(self) -> tuple[int, ...]:
        """The row counts that have a graph."""
        return self._buckets

    def capture(self) -> None:
        """Captures every bucket that can be, largest first so that the others reuse its memory.

        What fails is served without a graph: counted and logged. Before the first batch.
        """
        for rows in reversed(row_buckets(len(self._matrix))):
            try:
                replay = self._captured(rows)
                error = self._padded_error_std(rows, replay)
            except RuntimeError as refused:
                self._refuse("capture", rows, str(refused).partition("\n")[0])
                break  # what one size asks of the host all sizes ask
            if not error <= PADDED_ERROR_STD[self._program.precision]:
                self._refuse("padding", rows, f"scores moved by {error:.2g} standard deviations under padding")
                continue
            self._replays[rows] = replay
        self._buckets = tuple(sorted(self._replays))

    def room(self, rows: int) -> Room:
        """For a batch of so many rows. Call it as part of the batch's work on the compute stream."""
        bucket = bucket_of(rows, self._buckets)
        if bucket is not None:
            self._replayed.inc()
            return self._cut(bucket, self._replays[bucket])
        self._plain.inc()
        if rows <= len(self._matrix):
            return self._cut(rows, None)
        device = self._matrix.device
        return Room(
            torch.empty(rows, self._columns, device=device),
            torch.empty(rows, dtype=torch.int64, device=device),
            torch.empty(rows, device=device),
            rows,
            None,
        )

    def compute(self, room: Room) -> None:
        """From the room's matrix and index to its scores. In inference mode."""
        if room.replay is not None:
            room.replay()
        else:
            self._pass(room)

    def _pass(self, room: Room) -> None:
        index = room.query_index if self._program.listwise else None
        room.scores.copy_(self._program.score_on_device(room.matrix, index))

    def _cut(self, rows: int, replay: Work | None) -> Room:
        return Room(self._matrix[:rows], self._query_index[:rows], self._scores[:rows], rows, replay)

    def _captured(self, rows: int) -> Work:
        room = self._cut(rows, None)
        room.matrix.zero_()
        room.query_index.zero_()

        def work() -> None:
            with torch.inference_mode():
                self._pass(room)

        return self._lane.device.captured(work)

    def _padded_error_std(self, rows: int, replay: Work) -> float:
        """How far a replay's scores are from the plain pass of three quarters of its rows."""
        device = self._matrix.device
        real = max(1, rows * 3 // 4)
        sample = torch.randn(real, self._columns, generator=torch.Generator().manual_seed(rows)).to(device)
        index = (torch.arange(rows) // LIST_ROWS).to(device)
        index[real:] = int(index[real - 1]) + 1
        room = self._cut(rows, replay)
        found = torch.empty(2, real, device=device)
        self._lane.device.settle()

        def both() -> None:
            with torch.inference_mode():
                room.matrix[:real].copy_(sample)
                room.matrix[real:].zero_()
                room.query_index.copy_(index)
                room.scores.fill_(float("nan"))
                self.compute(room)
                found[0].copy_(room.scores[:real])
                plain = self._program.score_on_device(sample, index[:real] if self._program.listwise else None)
                found[1].copy_(plain)

        self._lane.compute.run(both)  # where other versions' graphs take turns with the same memory
        self._lane.compute.record().wait()
        padded, plain = found.double().cpu()
        spread = float(plain.std(correction=0)) or 1.0
        return float((padded - plain).abs().max()) / spread

    def _refuse(self, reason: str, rows: int, why: str) -> None:
        metrics.GRAPH_FALLBACKS.labels(self._model, reason).inc()
        log.warning("%s: batches of up to %d rows run without a graph: %s", self._model, rows, why)
