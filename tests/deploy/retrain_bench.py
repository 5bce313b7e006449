"""A platform's archive, tables and registry in a folder, and a runner of retrainings over them.

As a program, `python -m tests.deploy.retrain_bench FOLDER RUN STEP`: does steps of the run until it has done STEP,
and dies of SIGKILL there, when the step has done everything but say so; without STEP, until the run has ended.
"""

import os
import signal
import sys
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch

from deploy.training.retraining import start_once
from deploy.training.run_log import MlflowRunLog
from pipelines.archive.files import Archive
from pipelines.feedback.bias_evidence import BiasRules
from pipelines.feedback.cleaning import CleaningRules
from pipelines.feedback.collection import CollectionRules
from pipelines.gates.offline import OfflinePlan
from pipelines.gates.planning import GatePlanner
from pipelines.runs.retraining import Retraining, Started, retraining_steps
from pipelines.runs.runner import Runner
from pipelines.runs.steps import Step, StepContext, StepResult
from pipelines.settings import RunSettings, TrainSettings
from pipelines.training.run_log import MemoryRunLog, RunLog
from registry.artefacts import read, write
from registry.contracts.manifest import ATTRACTION_NDCG, MetricDefinition, ModelPackage
from registry.contracts.rollouts import default_spec
from registry.contracts.runs import Run
from registry.contracts.traffic import TrafficPlan
from registry.mlflow_store import MlflowStore
from registry.runs import SqlRuns
from registry.store import MemoryStore, ModelStore, StoredVersion
from registry.traffic_control import SqlControl
from tests.builders import NOW_MS, a_manifest, a_profile, a_view, exported_program
from tests.pipelines.archived_log import write_log
from tests.pipelines.click_log import click_log

MODEL = "codesearch"
HOUR_MS = 3_600_000
WITHIN_MS = 600_000
UNTIL_MS = NOW_MS + 4 * HOUR_MS
PART_MS = 2 * HOUR_MS
PLAN = OfflinePlan(metric=ATTRACTION_NDCG, resamples=300, champion_anew=True)
SETTINGS = TrainSettings(
    hidden=(8,), max_epochs=16, patience_epochs=16, dropout=0.0, input_dropout=0.0, learning_rate=0.01, lists_per_step=8
)
RULES = CollectionRules(cleaning=CleaningRules(clicks_within_ms=WITHIN_MS), bias=BiasRules(groups=10, most_error=1.0))
MINE = RunSettings(lease_s=60.0, beat_s=0.2, max_attempts=3, backoff_s=0.0)
POOR, GOOD = (0.0, 1.0, 0.0), (1.0, 0.0, 0.0)
"""Weights of champions: one goes by what the log was served by, one by what tells how relevant an item is."""


class Linear(torch.nn.Module):
    """A weighted sum of columns."""

    def __init__(self, weights: tuple[float, ...]) -> None:
        super().__init__()
        self.weights = torch.nn.Parameter(torch.tensor(weights))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return features @ self.weights


def a_champion(weights: tuple[float, ...], metric: MetricDefinition = ATTRACTION_NDCG) -> ModelPackage:
    program = exported_program(Linear(weights), {"features": torch.zeros(4, len(weights))})
    return ModelPackage.of(program, a_manifest(a_view(), metric=metric), a_profile(a_view()))


def log_of_clicks(folder: Path, lists: int = 6000) -> None:
    """Four hours of them, on sixty queries, explored."""
    log = click_log(lists, seed=21, queries=60, noise=1.2, share=0.3)
    write_log(Archive(folder / "archive"), log, lasting_ms=4 * HOUR_MS, served=True)


@dataclass
class RetrainBench:
    """control: SQLite in the folder, with the champion as version 1. versions: in memory, or MLflow's. archived_ms:
    until when its archiver says that the archive is complete."""

    folder: Path
    control: SqlControl
    versions: Callable[[], ModelStore]
    now_ms: int = UNTIL_MS + WITHIN_MS
    archived_ms: int | None = UNTIL_MS + WITHIN_MS
    underpowered: bool = False
    settings: TrainSettings = SETTINGS
    plan: OfflinePlan = PLAN
    run_logs: dict[str, MemoryRunLog] = field(default_factory=dict)
    log_of: Callable[[Run], RunLog] | None = None

    @staticmethod
    def make(folder: Path, weights: tuple[float, ...] = POOR) -> "RetrainBench":
        """With versions in memory."""
        store = MemoryStore()
        bench = RetrainBench(folder, SqlControl(f"sqlite:///{folder}/control.db"), lambda: store)
        bench.crown(a_champion(weights), store.register(MODEL, a_champion(weights)), 0)
        return bench

    def crown(self, package: ModelPackage, version: int, revision: int) -> None:
        """Makes the version champion."""
        write(package, self.folder / "versions" / str(version))
        plan = TrafficPlan(MODEL, revision + 1, champion=version, champion_digest=package.digest)
        self.control.change(plan, expected_revision=revision, who="t", why="t", evidence={}, now_ms=NOW_MS)

    @property
    def store(self) -> SqlRuns:
        return SqlRuns(self.control.engine)

    def champion(self, model: str) -> tuple[StoredVersion, ModelPackage]:
        plan = self.control.plan(model)
        assert plan is not None
        package = read(self.folder / "versions" / str(plan.champion))
        return StoredVersion(model, plan.champion, plan.champion_digest, package.manifest, NOW_MS), package

    def rollout(self, run: Run, version: int, champion: StoredVersion) -> Started:
        planner = GatePlanner(Archive(self.folder / "archive"))
        challenger = self.versions().get(run.model, version)
        words = (run, challenger, champion, default_spec(), self.underpowered, lambda: self.now_ms)
        return start_once(self.control, planner, *words)

    def run_log(self, run: Run) -> RunLog:
        if self.log_of is not None:
            return self.log_of(run)
        return self.run_logs.setdefault(run.id, MemoryRunLog(f"log-{run.id[-8:]}"))

    def parts(self) -> Retraining:
        return Retraining(
            archive=Archive(self.folder / "archive"),
            collected=self.folder / "collected",
            rules=RULES,
            champion=self.champion,
            register=lambda model, package: self.versions().register(model, package),
            evidence=self.control.add_evidence,
            rollout=self.rollout,
            run_log=self.run_log,
            part_ms=PART_MS,
            archived_until=lambda: self.archived_ms,
            settings=self.settings,
            plan=self.plan,
        )

    def runner(self, wrap: Callable[[str, Step], Step] = lambda name, step: step) -> Runner:
        steps = {
            kind: {name: wrap(name, step) for name, step in own.items()}
            for kind, own in retraining_steps(self.parts()).items()
        }
        return Runner(self.store, steps, self.folder / "runs", MINE, lambda: self.now_ms / 1000, f"pid {os.getpid()}")

    def finish(self, run: Run) -> Run:
        """All steps, one after the other."""
        runner = self.runner()
        while self.store.run(run.id).open:
            what = runner.advance(run.id)
            assert what in ("done", "failed", "waiting"), what
            if what == "waiting":
                break
        return self.store.run(run.id)


def main(folder: Path, run_id: str, killed_in: str) -> None:
    """See the module."""

    def killed(step: Step, context: StepContext) -> StepResult:
        step(context)
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError("nobody lives to say this")

    def wrap(name: str, step: Step) -> Step:
        return partial(killed, step) if name == killed_in else step

    versions: dict[str, MlflowStore] = {}

    def mlflow() -> MlflowStore:
        return versions.setdefault("", MlflowStore(f"sqlite:///{folder}/mlflow.db", folder / "artefacts"))

    with closing(SqlControl(f"sqlite:///{folder}/control.db")) as control:
        bench = RetrainBench(folder, control, mlflow)
        bench.log_of = lambda run: MlflowRunLog(mlflow(), run.model, run.id, run.id)
        bench.now_ms += 61_000 * control_attempts(bench, run_id)  # past the lease of the one before
        runner = bench.runner(wrap)
        while bench.store.run(run_id).open:
            assert runner.advance(run_id) == "done"


def control_attempts(bench: RetrainBench, run_id: str) -> int:
    """How often the run was taken up so far."""
    return bench.store.run(run_id).lease


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3] if len(sys.argv) > 3 else "")
