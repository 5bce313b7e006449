"""Ranks batches on a device: ids in, what is shown out, the next batch prepared meanwhile.

One copy takes a batch's cells and inline features there, the compute stream gathers resident rows,
scores and ranks them, one copy brings back what is shown. Nothing on the host waits until
`replies` is called, so that with two batches under way neither host nor device is idle.
"""

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from serving import metrics
from serving.batch_ranker import Replies
from serving.device.batch import BatchPreparer, PreparedBatch
from serving.device.graphs import BucketedForward, Room
from serving.device.lists import BROKEN, ENTROPY, MARGIN, MEAN, STD, rank_lists
from serving.device.staging import Layout, Slot, StagingRing
from serving.device.streams import Event, Lane
from serving.features.device import DeviceTier
from serving.features.tier import NOTHING_FETCHED
from serving.frames import FailedReply, RankedReply, ScoreRequest
from serving.program import TorchProgram
from serving.scoring import LoadedModel

DEPTH = 2  # one batch computes while the next is prepared


class DeviceRanker:
    """One version on one device; a `serving.batch_ranker.BatchRanker`.

    tier: the version's resident rows, on the lane's device. largest: rows up to which forward passes
    are captured as graphs, and that memory is kept for. graphs: capture them (now: it takes a while).
    """

    def __init__(
        self,
        loaded: LoadedModel,
        program: TorchProgram,
        tier: DeviceTier,
        lane: Lane,
        largest: int,
        graphs: bool,
        depth: int = DEPTH,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._loaded, self._tier, self._lane, self.clock = loaded, tier, lane, clock
        self._columns = len(loaded.view.columns)
        self._listwise = program.listwise
        self._preparer = BatchPreparer(loaded, tier)
        self._ring = StagingRing(lane.device, depth)
        device = lane.device.torch_device
        self._row_columns = torch.from_numpy(loaded.row_columns.astype(np.int64)).to(device)
        self._sent_columns = torch.from_numpy(self._preparer.sent_columns).to(device)
        self.forward = BucketedForward(program, lane, loaded.model, self._columns, largest)
        lane.device.settle()  # weights and columns were copied outside of the lane
        if graphs:
            self.forward.capture()

    def submit(self, requests: Sequence[ScoreRequest], queue_us: Sequence[float], now_ms: int) -> "DeviceBatch":
        """See `BatchRanker`."""
        began_s = self.clock()
        slot = self._ring.take()
        prepared = self._preparer.prepare(requests, queue_us, now_ms)
        batch = DeviceBatch(self, slot, requests, queue_us, now_ms, prepared)
        try:
            batch.enqueue(self._lane)
        except BaseException:
            # copies that were enqueued may still read the slot, and the next batch would write there
            self._lane.compute.record().wait()
            self._lane.copy_in.record().wait()
            if prepared.located is not None:
                self._tier.forget(prepared.located)
            raise
        slot.holder = batch
        batch.features_us = (self.clock() - began_s) * 1e6
        return batch

    def assemble(self, staged: dict[str, torch.Tensor], room: Room, rows: int) -> None:
        """The model's input: resident rows, missed ones, what was sent; then rows become resident."""
        matrix = room.matrix[:rows]
        if len(self._row_columns):
            values, cells = self._tier.values, staged["cells"]
            if len(self._sent_columns):
                stored = values.index_select(0, cells)
            else:
                stored = torch.index_select(values, 0, cells, out=matrix)
            if "missed" in staged:
                stored.index_copy_(0, staged["missed"], staged["missed_rows"])
                placed = staged["missed_rows"].index_select(0, staged["placed_from"])
                values.index_copy_(0, staged["placed_cells"], placed)
            if len(self._sent_columns):
                matrix.index_copy_(1, self._row_columns, stored)
        if len(self._sent_columns):
            matrix.index_copy_(1, self._sent_columns, staged["sent"])
        if "overridden" in staged:
            matrix.view(-1).index_copy_(0, staged["overridden"], staged["overriding"])
        if room.rows > rows:
            room.matrix[rows:].zero_()
        if self._listwise:  # padding is a list of its own, past the last
            place = torch.arange(room.rows, device=matrix.device)
            torch.searchsorted(staged["ends"], place, right=True, out=room.query_index)

    def rank(self, staged: dict[str, torch.Tensor], room: Room, shown: dict[str, torch.Tensor], width: int) -> None:
        """From scores to what goes back."""
        top = shown["order"].shape[1]
        ranked = rank_lists(room.scores, staged["ends"], width, top, self._loaded.reference_std)
        shown["order"].copy_(ranked.order)
        shown["scores"].copy_(ranked.scores)
        shown["statistics"].copy_(ranked.statistics)
        features = room.matrix.index_select(0, ranked.rows.reshape(-1))
        shown["features"].copy_(features.view(*shown["features"].shape))

    def answer(self, batch: "DeviceBatch", shown: dict[str, NDArray[Any]], device_us: float) -> Replies:
        """What came back, as replies; nothing in them shares the slot's memory."""
        loaded, prepared = self._loaded, batch.prepared
        for counted, metric in ((prepared.missing, metrics.MISSING_ROWS), (prepared.stale, metrics.STALE_ROWS)):
            if counted.any():
                metric.labels(loaded.model).inc(int(counted.sum()))
        statistics = shown["statistics"].tolist()
        tops = np.minimum([request.top_k for request in batch.requests], prepared.counts).tolist()
        replies: Replies = []
        for i, (request, top, sure) in enumerate(zip(batch.requests, tops, statistics, strict=True)):
            if sure[BROKEN]:
                message = (
                    f"{loaded.model}@{loaded.version} gave {int(sure[BROKEN])} scores that are not finite "
                    "for these features"
                )
                replies.append(FailedReply(request.number, 500, message))
                continue
            replies.append(
                RankedReply(
                    number=request.number,
                    order=shown["order"][i, :top].astype(np.uint32),
                    scores=shown["scores"][i, :top].copy(),
                    features=shown["features"][i, :top].tobytes(),
                    missing_rows=int(prepared.missing[i]),
                    stale_rows=int(prepared.stale[i]),
                    tier_away=prepared.away,
                    queue_us=batch.queue_us[i],
                    features_us=batch.features_us,
                    device_us=device_us,
                    score_mean=sure[MEAN],
                    score_std=sure[STD],
                    margin=sure[MARGIN],
                    entropy=sure[ENTROPY],
                    row_age_s=float(prepared.age_s[i]),
                    fetched=prepared.located.fetched if prepared.located is not None else NOTHING_FETCHED,
                )
            )
        return replies

    def alone(self, batch: "DeviceBatch", replies: Replies) -> Replies:
        """Lists that failed in company are ranked once more by themselves: a listwise model may have
        carried one list's infinities into another's scores."""
        if not self._listwise or len(replies) == 1:
            return replies
        return [
            self.submit([request], [waited_us], batch.now_ms).replies()[0] if isinstance(reply, FailedReply) else reply
            for reply, request, waited_us in zip(replies, batch.requests, batch.queue_us, strict=True)
        ]


class DeviceBatch:
    """A batch under way; a `serving.batch_ranker.Submitted`."""

    def __init__(
        self,
        ranker: DeviceRanker,
        slot: Slot,
        requests: Sequence[ScoreRequest],
        queue_us: Sequence[float],
        now_ms: int,
        prepared: PreparedBatch,
    ) -> None:
        self._ranker, self._slot = ranker, slot
        self.requests, self.queue_us, self.now_ms, self.prepared = requests, queue_us, now_ms, prepared
        self.features_us = self.answer_us = 0.0
        lists, rows = len(requests), int(prepared.counts.sum())
        width = int(prepared.counts.max())
        top = min(width, max(request.top_k for request in requests))
        self._rows, self._width = rows, width
        self._in = Layout.of({name: (array.dtype.name, array.shape) for name, array in prepared.staged.items()})
        self._out = Layout.of(
            {
                "order": ("int32", (lists, top)),
                "scores": ("float32", (lists, top)),
                "features": ("float32", (lists, top, ranker._columns)),
                "statistics": ("float64", (lists, 5)),
            }
        )
        self._started: Event | None = None
        self._computed: Event | None = None
        self._done: Event | None = None
        self._outcome: Replies | BaseException | None = None

    def enqueue(self, lane: Lane) -> None:
        """Gives the streams their work; returns before it is done."""
        slot, into, out = self._slot, self._in, self._out
        slot.grow(into.size_bytes, out.size_bytes)
        host_in, device_in = slot.host_in[: into.size_bytes], slot.device_in[: into.size_bytes]
        host_out, device_out = slot.host_out[: out.size_bytes], slot.device_out[: out.size_bytes]
        for name, array in into.on_host(host_in).items():
            array[...] = self.prepared.staged[name]

        def copy_in() -> None:
            device_in.copy_(host_in, non_blocking=True)

        def compute() -> None:
            ranker = self._ranker
            with torch.inference_mode():
                staged = into.on_device(device_in)
                room = ranker.forward.room(self._rows)
                ranker.assemble(staged, room, self._rows)
                ranker.forward.compute(room)
                ranker.rank(staged, room, out.on_device(device_out), self._width)

        def copy_out() -> None:
            host_out.copy_(device_out, non_blocking=True)

        lane.copy_in.run(copy_in)
        lane.compute.after(lane.copy_in.record())
        self._started = lane.compute.record()
        lane.compute.run(compute)
        self._computed = lane.compute.record()
        lane.copy_out.after(self._computed)
        lane.copy_out.run(copy_out)
        self._done = lane.copy_out.record()

    def finish(self) -> None:
        """Waits for the device and takes the replies out of the slot, once."""
        if self._outcome is not None:
            return
        assert self._started is not None and self._computed is not None and self._done is not None
        try:
            self._done.wait()
            shown = self._out.on_host(self._slot.host_out[: self._out.size_bytes])
            began_s = self._ranker.clock()
            self._outcome = self._ranker.answer(self, shown, self._computed.us_since(self._started))
            self.answer_us = (self._ranker.clock() - began_s) * 1e6
        except BaseException as error:
            self._outcome = error
        finally:
            self._slot.holder = None

    def replies(self) -> Replies:
        """See `Submitted`."""
        self.finish()
        if isinstance(self._outcome, BaseException):
            raise self._outcome
        assert self._outcome is not None
        self._outcome = self._ranker.alone(self, self._outcome)
        return self._outcome
