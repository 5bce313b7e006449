"""A version that a worker holds, ready to be asked."""

from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field

from registry.contracts.manifest import TensorSpec
from serving import metrics
from serving.footprint import NOTHING, Footprint
from serving.frames import LoadedVersion
from serving.program import QUERY_INDEX, Program
from serving.statistics import VersionStatistics
from serving.tally import HistogramTally


@dataclass(slots=True, kw_only=True)
class LoadedProgram:
    """A version that takes tensors. `scoring.LoadedModel` is one that ranks as well.

    inputs, outputs, batchable: as in the manifest. platform: what runs it, in the protocol's words.
    footprint: what it takes of the device's memory. calls: the threads that ask the server which runs
    it; None: it computes here. release: called once it is unloaded. pass_rows: how many rows are best computed
    together, see `passes`; 0: any number.
    """

    model: str
    version: int
    digest: str
    program: Program
    inputs: Sequence[TensorSpec] = ()
    outputs: Sequence[TensorSpec] = ()
    batchable: bool = True
    platform: str = "pytorch_export"
    footprint: Footprint = NOTHING
    calls: Executor | None = None
    release: Callable[[], None] = lambda: None
    pass_rows: int = 0
    statistics: VersionStatistics = field(init=False)
    batch_candidates: HistogramTally = field(init=False)

    def __post_init__(self) -> None:
        self.statistics = VersionStatistics(self.model, self.version)
        self.batch_candidates = HistogramTally(metrics.BATCH_CANDIDATES.labels(self.model))

    @property
    def listwise(self) -> bool:
        """Whether it looks at whole lists: rows of one must stay together."""
        return any(spec.name == QUERY_INDEX for spec in self.inputs)

    def describe(self, slot: int) -> LoadedVersion:
        """What gateways are told."""
        return LoadedVersion(
            slot=slot,
            model=self.model,
            version=self.version,
            digest=self.digest,
            fingerprint="",
            columns=(),
            sources=(),
            inputs=tuple(self.inputs),
            outputs=tuple(self.outputs),
            batchable=self.batchable,
            platform=self.platform,
        )
