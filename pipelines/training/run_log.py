"""Where a run tells what it was given, how it went and what came of it: MLflow, handed over by `deploy`.

Telling twice is telling once: a run that was killed and goes on tells its last step again.
"""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Protocol

from registry.contracts.manifest import MetricDefinition

if TYPE_CHECKING:  # with it comes torch, which who only starts runs does not need
    from pipelines.training.fit import EpochReport


class RunLog(Protocol):
    """One run, found again by its key when it goes on after a kill."""

    @property
    def run_id(self) -> str:
        """For the version's lineage, so that the version joins this run."""
        ...

    def params(self, values: Mapping[str, object]) -> None:
        """What the run was given; what was told before stays."""
        ...

    def figures(self, step: int, values: Mapping[str, float]) -> None:
        """A point of each of these curves; one that has that step keeps it."""
        ...

    def artefact(self, name: str, content: bytes) -> None:
        """A file of the run, in place of one of that name. name: may have folders, `reports/quality.json`."""
        ...

    def tags(self, values: Mapping[str, str]) -> None:
        """By what people find the run; the last word counts."""
        ...

    def end(self, succeeded: bool) -> None:
        """It is over; opened again, it runs again."""
        ...


class MemoryRunLog:
    """A RunLog that is gone with the process.

    >>> log = MemoryRunLog("run-1")
    >>> log.figures(1, {"loss": 2.5}), log.figures(1, {"loss": 9.9}), log.figures(2, {"loss": 1.5})
    (None, None, None)
    >>> log.curves
    {'loss': {1: 2.5, 2: 1.5}}
    """

    def __init__(self, run_id: str) -> None:
        self.run_id = run_id
        self.told: dict[str, str] = {}
        self.curves: dict[str, dict[int, float]] = {}
        self.files: dict[str, bytes] = {}
        self.marks: dict[str, str] = {}
        self.state = "running"

    def params(self, values: Mapping[str, object]) -> None:
        """See `RunLog`."""
        self.told = {name: str(value) for name, value in values.items()} | self.told

    def figures(self, step: int, values: Mapping[str, float]) -> None:
        """See `RunLog`."""
        for name, value in values.items():
            self.curves.setdefault(name, {}).setdefault(step, value)

    def artefact(self, name: str, content: bytes) -> None:
        """See `RunLog`."""
        self.files[name] = content

    def tags(self, values: Mapping[str, str]) -> None:
        """See `RunLog`."""
        self.marks |= values

    def end(self, succeeded: bool) -> None:
        """See `RunLog`."""
        self.state = "finished" if succeeded else "failed"


def epochs_to(log: RunLog, metric: MetricDefinition) -> Callable[["EpochReport"], None]:
    """For `train`'s on_epoch: loss, validation NDCG and seconds as curves over epochs."""

    def tell(report: "EpochReport") -> None:
        values = {"loss": report.loss, f"validation_ndcg@{metric.k}": report.validation_ndcg}
        log.figures(report.epoch, values | {"epoch_seconds": report.seconds})

    return tell
