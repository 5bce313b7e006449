"""A Celery app for tests that kill its worker: a run of four small steps that can be held up at any point.

`SLUICE_TEST_RUNS` is a folder with `redis.sock` given as `SLUICE_TEST_REDIS`. A step stands still while there is a
file `hold-<step>` in that folder, and says by `at-<step>` that it does; with a file `deaf` it minds no time limit.
"""

import os
import signal
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path

import msgspec
import numpy as np

from pipelines.archive.files import Archive
from pipelines.runs.runner import Steps
from pipelines.runs.steps import StepContext, StepResult
from pipelines.runs.tasks import RunWiring
from pipelines.runs.tick import Schedule
from pipelines.settings import RunSettings
from pipelines.tasks import PipelineWiring, make_celery
from registry.contracts.runs import RunKind
from registry.contracts.traces import Span
from registry.receipts import Receipt
from registry.runs import RunStore, SqlRuns
from registry.traffic_control import SqlControl

STEPS = ("collect", "train", "register", "rollout")
EPOCHS = 8
HELD_S = 120.0
SOFT_TIME_LIMIT = signal.SIGUSR1  # by it Celery tells a process of its pool

folder = Path(os.environ["SLUICE_TEST_RUNS"])
socket = f"redis+socket://{os.environ['SLUICE_TEST_REDIS']}"
database = f"sqlite:///{folder}/control.db"


def hold(name: str, context: StepContext) -> None:
    """Stands still as long as the test wants it."""
    patience, until_s = threading.Event(), time.monotonic() + HELD_S
    if (folder / "deaf").exists():
        signal.signal(SOFT_TIME_LIMIT, signal.SIG_IGN)
    while (folder / f"hold-{name}").exists() and time.monotonic() < until_s:
        (folder / f"at-{name}").write_text(str(os.getpid()))
        context.report(0.5, "held up by the test")
        patience.wait(0.01)


def note(name: str) -> None:
    """Counts how often the step was begun."""
    with (folder / "begun.log").open("a") as log:
        log.write(f"{name}\n")


def collect(context: StepContext) -> StepResult:
    note("collect")
    numbers = np.random.default_rng(context.run.since_ms).normal(size=1000)
    hold("collect", context)
    (context.folder / "numbers.bin").write_bytes(numbers.tobytes())
    return StepResult({"numbers": len(numbers)})


def train(context: StepContext) -> StepResult:
    """Iterations with a checkpoint after each, as training has."""
    note("train")
    numbers = np.frombuffer((context.left_by("collect") / "numbers.bin").read_bytes())
    checkpoint = context.scratch / "checkpoint.npy"
    state = np.load(checkpoint) if checkpoint.exists() else np.zeros(2)
    while state[0] < EPOCHS:
        state = np.array([state[0] + 1, np.tanh(state[1] + numbers[int(state[0]) :: EPOCHS].sum() / 100)])
        beside = context.scratch / "next.npy"
        np.save(beside, state)
        beside.replace(checkpoint)
        context.report(state[0] / EPOCHS, f"epoch {state[0]:.0f} of {EPOCHS}")
        note(f"epoch {state[0]:.0f}")
        if state[0] == EPOCHS // 2:
            hold("train", context)
    (context.folder / "model.bin").write_bytes(state.tobytes())
    return StepResult({"weight": float(state[1])})


def register(context: StepContext) -> StepResult:
    """A side effect elsewhere, made once: by content, as a registry does."""
    note("register")
    model = (context.left_by("train") / "model.bin").read_bytes()
    versions = folder / "versions"
    versions.mkdir(exist_ok=True)
    (versions / model.hex()).write_bytes(model)
    hold("register", context)
    return StepResult({"version": len(list(versions.iterdir()))})


def rollout(context: StepContext) -> StepResult:
    """A side effect elsewhere, made once: by a receipt under the run's id."""
    note("rollout")
    with closing(SqlControl(database)) as control:
        receipt = Receipt("pipelines", context.run.id, "start_rollout", "0" * 64, 201, "{}", context.now_ms())
        if control.receipt("pipelines", context.run.id) is None:
            control.keep_receipt(receipt)
            with (folder / "rollouts.log").open("a") as log:
                log.write(f"{context.run.id}\n")
    hold("rollout", context)
    return StepResult({"rollout": context.run.id})


def steps() -> Mapping[RunKind, Steps]:
    return {"retrain": {"collect": collect, "train": train, "register": register, "rollout": rollout}}


control = SqlControl(database)
control.engine.dispose()  # made here, used by the children: they open connections of their own


def store() -> RunStore:
    return SqlRuns(control.engine)


def tell(spans: Sequence[Span]) -> None:
    """Spans as lines of JSON."""
    with (folder / "spans.log").open("ab") as log:
        log.write(b"".join(msgspec.json.encode(span) + b"\n" for span in spans))


settings = RunSettings(
    lease_s=1.5,
    beat_s=0.1,
    max_attempts=int(os.environ.get("SLUICE_TEST_ATTEMPTS", "4")),
    backoff_s=0.1,
    most_backoff_s=1.0,
    limits={"collect": float(os.environ.get("SLUICE_TEST_LIMIT_S", "60"))},
    kill_after_s=float(os.environ.get("SLUICE_TEST_KILL_AFTER_S", "60")),
    tick_s=0.3,
)
app = make_celery(
    socket,
    socket,
    PipelineWiring(
        Archive(folder / "archive"),
        folder / "reports",
        list,
        runs=RunWiring(store, steps, folder / "runs", dict, Schedule({}), settings=settings, tell=tell),
    ),
)
