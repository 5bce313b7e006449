"""A step of a run: what it is given, what it leaves behind, and how that is found again after a kill.

    <runs>/<run>/<step>/            what the step left, and `step.json`: its result, with the digest of each file
    <runs>/<run>/<step>.<lease>/    being written
    <runs>/<run>/scratch/<step>/    for the step's next attempt: checkpoints

A step writes into a folder of its own, which gets its name when everything in it is on the disk: so a folder with
the name is whole, and one whose files are not those of `step.json` was damaged, and is made again. A
step that was done and killed before the tables heard of it is found by its folder and not done again.
"""

import hashlib
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from pipelines.durable import file_digest, replace_file, sync_file, sync_folder
from pipelines.errors import RunCancelled
from registry.contracts.errors import UNDECODABLE
from registry.contracts.runs import Run, RunStep

RESULT_FILE = "step.json"


@dataclass(frozen=True, slots=True)
class StepResult:
    """output: plain JSON, what later steps and people read. outcome: in one line, if the run ends here, and well."""

    output: Mapping[str, Any] = field(default_factory=dict)
    outcome: str = ""


class _Kept(msgspec.Struct, frozen=True):
    output: dict[str, Any]
    outcome: str
    files: dict[str, str]  # SHA-256 by path
    redone: int  # as the run's step had it: what was left before is not what is wanted now


@dataclass(frozen=True, slots=True)
class DoneStep:
    """A step as it lies on the disk. digest: SHA-256 of its `step.json`, 64 digits."""

    folder: Path
    digest: str
    result: StepResult


@dataclass(frozen=True, slots=True)
class StepContext:
    """What a step works with.

    run: as it was when the attempt began; `run.output_of` has what the steps before found out. folder: empty;
    what the step leaves here is kept. scratch: what an attempt leaves here is there for the next. now_ms: the
    clock. report: progress in [0, 1] and in words; to be called often, for it raises RunCancelled when nobody wants
    the run any more, or it is somebody else's.
    """

    run: Run
    folder: Path
    scratch: Path
    now_ms: Callable[[], int]
    report: Callable[[float, str], None]
    _runs: Path

    def left_by(self, step: str) -> Path:
        """The folder that an earlier step left."""
        return self._runs / self.run.id / step


Step = Callable[[StepContext], StepResult]


def find_done(runs: Path, run: Run, step: RunStep) -> DoneStep | None:
    """The step, if it is there and its files are what they were."""
    folder = runs / run.id / step.name
    try:
        raw = (folder / RESULT_FILE).read_bytes()
        kept = msgspec.json.decode(raw, type=_Kept)
        intact = kept.redone == step.redone and kept.files == _digests(folder)
    except (OSError, *UNDECODABLE):
        return None
    if not intact:
        return None
    return DoneStep(folder, hashlib.sha256(raw).hexdigest(), StepResult(kept.output, kept.outcome))


def do_step(
    runs: Path,
    run: Run,
    step: Step,
    now_ms: Callable[[], int],
    report: Callable[[float, str], None],
    still_mine: Callable[[], bool] = lambda: True,
) -> DoneStep:
    """Does the run's current step, unless it finds it done. Raises what the step raises, RunCancelled if the run was
    lost meanwhile."""
    name = run.step.name
    if (done := find_done(runs, run, run.step)) is not None:
        return done
    folder, writing = runs / run.id / name, runs / run.id / f"{name}.{run.lease}"
    scratch = runs / run.id / "scratch" / name
    for left in (runs / run.id).glob(f"{name}.*"):  # by attempts before
        shutil.rmtree(left, ignore_errors=True)
    writing.mkdir(parents=True)
    scratch.mkdir(parents=True, exist_ok=True)
    result = step(StepContext(run, writing, scratch, now_ms, report, runs))
    if not still_mine():
        raise RunCancelled(f"run {run.id!r} was taken up by another worker meanwhile")
    kept = _Kept(dict(result.output), result.outcome, _digests(writing), run.step.redone)
    raw = msgspec.json.encode(kept, order="deterministic")
    for path in _files(writing):
        sync_file(path)
    replace_file(writing / RESULT_FILE, raw)
    shutil.rmtree(folder, ignore_errors=True)  # damaged, or it would have been found
    writing.rename(folder)
    sync_folder(folder.parent)
    shutil.rmtree(scratch, ignore_errors=True)
    return DoneStep(folder, hashlib.sha256(raw).hexdigest(), result)


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and path.name != RESULT_FILE)


def _digests(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): file_digest(path) for path in _files(folder)}
