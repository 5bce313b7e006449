"""What every RunLog keeps to."""

from abc import abstractmethod
from dataclasses import dataclass

import pytest

from pipelines.training.fit import EpochReport
from pipelines.training.run_log import RunLog, epochs_to
from registry.contracts.manifest import JUDGED_NDCG


@dataclass(frozen=True)
class Seen:
    """What a run's readers see."""

    params: dict[str, str]
    curves: dict[str, dict[int, float]]
    files: dict[str, bytes]
    tags: dict[str, str]
    state: str


class RunLogSuite:
    """A subclass opens logs by key and reads them."""

    @abstractmethod
    def open(self, key: str) -> RunLog:
        """The log of this key's run."""

    @abstractmethod
    def seen(self, key: str) -> Seen:
        """What is in it."""

    def test_what_is_told_is_there(self) -> None:
        log = self.open("told")
        log.params({"hidden": (64, 32), "seed": 3})
        log.figures(1, {"loss": 2.5, "validation_ndcg@10": 0.25})
        log.figures(2, {"loss": 1.5, "validation_ndcg@10": 0.5})
        log.artefact("quality.json", b"{}")
        log.artefact("profiles/profile.json", b"[1]")
        log.tags({"sluice.window": "2026-01-01", "sluice.parent": "3"})

        seen = self.seen("told")
        assert seen.params == {"hidden": "(64, 32)", "seed": "3"}
        assert seen.curves == {"loss": {1: 2.5, 2: 1.5}, "validation_ndcg@10": {1: 0.25, 2: 0.5}}
        assert seen.files == {"quality.json": b"{}", "profiles/profile.json": b"[1]"}
        assert {"sluice.window": "2026-01-01", "sluice.parent": "3"}.items() <= seen.tags.items()
        assert seen.state == "running"

    def test_a_run_that_goes_on_is_the_same_run_and_tells_nothing_twice(self) -> None:
        first = self.open("resumed")
        first.params({"seed": 3})
        first.figures(1, {"loss": 2.5})
        first.artefact("report.json", b"old")
        first.end(succeeded=False)

        second = self.open("resumed")
        second.params({"seed": 4, "epochs": 9})
        second.figures(1, {"loss": 7.5, "seconds": 0.5})
        second.figures(2, {"loss": 1.5})
        second.artefact("report.json", b"new")

        seen = self.seen("resumed")
        assert second.run_id == first.run_id
        assert seen.params == {"seed": "3", "epochs": "9"}
        assert seen.curves == {"loss": {1: 2.5, 2: 1.5}, "seconds": {1: 0.5}}
        assert seen.files == {"report.json": b"new"}
        assert seen.state == "running"

    @pytest.mark.parametrize(("succeeded", "state"), [(True, "finished"), (False, "failed")])
    def test_a_run_ends_one_way_or_the_other(self, succeeded: bool, state: str) -> None:
        self.open(f"ends-{state}").end(succeeded)

        assert self.seen(f"ends-{state}").state == state

    def test_runs_of_other_keys_are_other_runs(self) -> None:
        assert self.open("one").run_id != self.open("two").run_id

    def test_epochs_are_curves(self) -> None:
        tell = epochs_to(self.open("epochs"), JUDGED_NDCG)
        for report in (EpochReport(1, 3.0, 0.25, True, 0.5), EpochReport(2, 2.0, 0.125, False, 0.25)):
            tell(report)

        assert self.seen("epochs").curves == {
            "loss": {1: 3.0, 2: 2.0},
            "validation_ndcg@10": {1: 0.25, 2: 0.125},
            "epoch_seconds": {1: 0.5, 2: 0.25},
        }
