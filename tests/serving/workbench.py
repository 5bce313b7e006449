"""What serving's tests work with: a program without torch, queries for it, a real worker in a thread."""

import random
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from registry.contracts.features import FeatureView
from registry.contracts.ids import RankingIds, hash64
from registry.contracts.manifest import TensorSpec
from registry.contracts.traffic import TrafficPlan
from registry.stream import MemoryStream
from serving.batching import BatchWindow
from serving.event_log import EventLog
from serving.features.memory import MemoryTier
from serving.features.tier import RowTier
from serving.features.tiers import Tiers
from serving.frames import ScoreRequest
from serving.journal import Journal
from serving.permits import Permits
from serving.program import Program
from serving.rank import Ranker
from serving.replicas import ReplicaPool
from serving.scoring import LoadedModel
from serving.shelf import Shelf
from serving.tensors import Tensor
from serving.tls.channel import WorkerTls
from serving.tracing.tracer import Tracer
from serving.worker import Worker
from tests.builders import NOW_MS, a_plan, a_view

VIEW = a_view()  # length (row, default 1), match (candidate, default 0.5), query_words (query, default 0)
LENGTH, MATCH, WORDS = 0, 1, 2
LENGTHS = {f"item-{i}": i * 0.25 - 7 for i in range(400)}
POISON = 666.0
PATIENCE_S = 20.0


class SumOfFeatures:
    """The score is the sum of a row. Raises for a batch that holds POISON; notes the batches' sizes."""

    def __init__(self) -> None:
        self.batches: list[int] = []

    def score(
        self, features: NDArray[np.float32], query_index: NDArray[np.int64], timeout_s: float | None = None
    ) -> NDArray[np.float32]:
        """See `serving.program.Program`."""
        self.batches.append(int(query_index[-1]) + 1)
        if (features == POISON).any():
            raise ZeroDivisionError("poison")
        scores: NDArray[np.float32] = features.sum(axis=1)
        return scores

    def run(self, inputs: Sequence[Tensor], timeout_s: float | None = None) -> list[Tensor]:
        """See `serving.program.Program`."""
        features = inputs[0].array()
        return [Tensor.of("scores", "FP32", self.score(features, np.zeros(len(features), dtype=np.int64)))]


class Held:
    """A program that works on its first batch until it is let go."""

    def __init__(self, program: Program) -> None:
        self._program = program
        self.working, self.let_go = threading.Event(), threading.Event()

    def score(
        self, features: NDArray[np.float32], query_index: NDArray[np.int64], timeout_s: float | None = None
    ) -> NDArray[np.float32]:
        """See `serving.program.Program`."""
        self.working.set()
        assert self.let_go.wait(PATIENCE_S)
        return self._program.score(features, query_index, timeout_s)

    def run(self, inputs: Sequence[Tensor], timeout_s: float | None = None) -> list[Tensor]:
        """See `serving.program.Program`."""
        self.working.set()
        assert self.let_go.wait(PATIENCE_S)
        return self._program.run(inputs, timeout_s)


def rows_in_memory(lengths: Mapping[str, float] = LENGTHS, view: FeatureView = VIEW) -> MemoryTier:
    """Rows with one stored column."""
    return MemoryTier(view, {item: np.array([length], np.float32) for item, length in lengths.items()}, NOW_MS)


def a_loaded_model(
    program: Program | None = None,
    tier: RowTier | None = None,
    view: FeatureView = VIEW,
    version: int = 1,
    digest: str = f"{1:064x}",
    model: str = "codesearch",
) -> LoadedModel:
    """A version as the shelf holds it: the sum of features over LENGTHS, unless told otherwise."""
    return LoadedModel(
        model=model,
        version=version,
        digest=digest,
        program=program or SumOfFeatures(),
        inputs=(TensorSpec("features", "FP32", (-1, len(view.columns))),),
        outputs=(TensorSpec("scores", "FP32", (-1,)),),
        view=view,
        tier=tier or rows_in_memory(view=view),
        reference_std=2.0,
    )


def a_request(
    items: Sequence[str],
    in_query: Mapping[int, float] | None = None,
    in_candidates: Mapping[int, Sequence[float]] | None = None,
    top_k: int = 1000,
    number: int = 1,
    slot: int = 0,
    deadline_us: int = 60_000_000,
) -> ScoreRequest:
    """A query as it comes off the wire; features by place in the matrix."""
    in_query, in_candidates = in_query or {}, in_candidates or {}
    values = np.array(list(in_candidates.values()), dtype=np.float32).reshape(len(in_candidates), len(items))
    return ScoreRequest(
        number=number,
        slot=slot,
        top_k=top_k,
        deadline_us=deadline_us,
        hashes=np.array([hash64(item) for item in items], dtype=np.uint64),
        ids="\x00".join(items).encode(),
        query_columns=np.array(list(in_query), dtype=np.uint16),
        query_values=np.array(list(in_query.values()), dtype=np.float32),
        candidate_columns=np.array(list(in_candidates), dtype=np.uint16),
        candidate_values=values,
    )


class Replica:
    """A worker that runs in a thread of its own from `start` to `stop`; may be started again.

    load: as the shelf's. The shelf is settled by the test: it has no thread here.
    """

    def __init__(
        self,
        address: str,
        load: Callable[[str, int, str], LoadedModel],
        plan: TrafficPlan,
        window: BatchWindow,
        clock: Callable[[], float],
        tiers: Tiers | None = None,
        tls: WorkerTls | None = None,
    ) -> None:
        self.address, self.tiers, self._tls = address, tiers or Tiers(), tls
        self.shelf = Shelf(load, changed=lambda: self._worker.wake(), unload_after_s=30.0, clock=clock)
        self._window, self._stop = window, threading.Event()
        self.start()
        self.follow(plan)

    def follow(self, *plans: TrafficPlan) -> None:
        """Loads what the plans name."""
        self.shelf.follow({plan.model: plan for plan in plans})
        self.shelf.settle()

    def start(self) -> None:
        """Listens from now on."""
        self._stop.clear()
        self._worker = Worker("worker-0", self.address, self.shelf, self.tiers, self._window, tls=self._tls)
        self._thread = threading.Thread(target=self._worker.run, args=(self._stop,), daemon=True)
        self._thread.start()

    def wake(self) -> None:
        """For other threads, see `Worker`."""
        self._worker.wake()

    def stop(self) -> None:
        """Answers what it has read and ends."""
        self._stop.set()
        self._worker.wake()
        self._thread.join(PATIENCE_S)
        assert not self._thread.is_alive()


@contextmanager
def a_replica(
    program: Program | None = None,
    tier: RowTier | None = None,
    plan: TrafficPlan | None = None,
    window: BatchWindow | None = None,
    clock: Callable[[], float] = lambda: 0.0,
    load: Callable[[str, int, str], LoadedModel] | None = None,
    address: str | None = None,
    tiers: Tiers | None = None,
    tls: WorkerTls | None = None,
) -> Iterator[Replica]:
    """A replica that holds what the plan names, every version with this program and tier unless
    `load` says otherwise."""

    def load_alike(model: str, version: int, digest: str) -> LoadedModel:
        return a_loaded_model(program, tier, version=version, digest=digest, model=model)

    # not tmp_path: the path of a Unix socket may have 107 bytes at most
    with tempfile.TemporaryDirectory(prefix="sluice-", dir="/tmp") as folder:
        address = address or str(Path(folder) / "worker.sock")
        replica = Replica(address, load or load_alike, plan or a_plan(), window or BatchWindow(4096), clock, tiers, tls)
        try:
            yield replica
        finally:
            replica.stop()


@contextmanager
def a_ranker(pool: ReplicaPool, plan: TrafficPlan, tracer: Tracer | None = None) -> Iterator[Ranker]:
    """A ranker that routes by the plan and logs into memory."""
    with tempfile.TemporaryDirectory() as folder, Journal(Path(folder) / "events", 1 << 20) as journal:
        ids = RankingIds(b"a secret of 24 bytes....", random.Random(1))
        ranker = Ranker(pool, EventLog(journal, MemoryStream()), ids, Permits(64), log_every=100, tracer=tracer)
        ranker.follow({plan.model: plan})
        yield ranker
