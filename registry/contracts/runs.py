"""Runs of pipelines: which window of which model is worked on, how far it is, who has it, what came of it."""

import hashlib
from datetime import UTC, datetime
from typing import Any, Literal

import msgspec

from registry.contracts.errors import UNDECODABLE, ContractError
from registry.contracts.ids import model_name

RunKind = Literal["collect", "retrain"]
Trigger = Literal["schedule", "api", "drift", "hand"]
RunState = Literal["queued", "running", "succeeded", "failed", "cancelled", "dead", "void"]
StepState = Literal["waiting", "running", "done", "skipped"]
NoteKind = Literal["asked", "retried", "cancelled", "voided", "failed", "taken_over"]

RUN_STATES: tuple[RunState, ...] = ("queued", "running", "succeeded", "failed", "cancelled", "dead", "void")
OPEN: tuple[RunState, ...] = ("queued", "running")
REDOABLE: tuple[RunState, ...] = ("failed", "cancelled", "dead")
MOST_NOTES = 50


class RunStep(msgspec.Struct, frozen=True):
    """One step of a run.

    progress: in [0, 1], saying: the same in words. reached: the furthest progress of attempts that ended;
    attempts: since a step last got further than that, this one included. output: plain JSON, what the step
    found out. digest: of what it left on disk, see `pipelines.runs.steps`. error: of the last attempt that failed.
    redone: how often it was to be done again although it was done.
    """

    name: str
    state: StepState = "waiting"
    attempts: int = 0
    progress: float = 0.0
    reached: float = 0.0
    saying: str = ""
    started_ms: int = 0
    finished_ms: int = 0
    output: dict[str, Any] = {}
    digest: str = ""
    error: str = ""
    redone: int = 0


class RunNote(msgspec.Struct, frozen=True):
    """One line of a run's history: who did what to it, and why."""

    what: NoteKind
    at_ms: int
    who: str
    why: str


class Run(msgspec.Struct, frozen=True):
    """One run as it stands. Immutable; a change is a new revision.

    since_ms, until_ms: the window, ms since the epoch, UTC; a model has one run of a kind for a window. revision:
    of this record, from 1. state: `failed` could not succeed however often it were tried, `dead` failed or was killed
    too often; `void` was made by a clock that was ahead, and frees its window. outcome: what came of one
    that succeeded, in one line; error: why it failed.
    lease: counts those who took it up; holder: the last of them, until lease_until_ms (0: nobody). retry_at_ms: not
    before. cancelling: whoever holds it is asked to stop. notes: oldest first.
    """

    id: str
    model: str
    kind: RunKind
    trigger: Trigger
    since_ms: int
    until_ms: int
    steps: tuple[RunStep, ...]
    created_ms: int
    changed_ms: int
    revision: int = 1
    state: RunState = "queued"
    started_ms: int = 0
    finished_ms: int = 0
    outcome: str = ""
    error: str = ""
    lease: int = 0
    holder: str = ""
    lease_until_ms: int = 0
    retry_at_ms: int = 0
    cancelling: bool = False
    notes: tuple[RunNote, ...] = ()

    def __post_init__(self) -> None:
        model_name(self.model)
        if self.until_ms <= self.since_ms:
            raise ContractError(f"run {self.id!r}: its window ends before it begins")
        if not self.steps:
            raise ContractError(f"run {self.id!r}: expected a step")

    @property
    def open(self) -> bool:
        """Queued or running."""
        return self.state in OPEN

    @property
    def current(self) -> int | None:
        """Index of the step to do, None if all are done or skipped."""
        return next((i for i, step in enumerate(self.steps) if step.state in ("waiting", "running")), None)

    @property
    def step(self) -> RunStep:
        """The step to do, the last one if none is."""
        return self.steps[-1 if self.current is None else self.current]

    @property
    def progress(self) -> float:
        """In [0, 1], every step counting alike."""
        done = sum(1.0 if one.state in ("done", "skipped") else one.progress for one in self.steps)
        return done / len(self.steps)

    def output_of(self, step: str) -> dict[str, Any]:
        """What the step found out; empty if it is not done."""
        return next((one.output for one in self.steps if one.name == step), {})

    def encode(self) -> bytes:
        """Canonical JSON."""
        return msgspec.json.encode(self, order="deterministic")

    @staticmethod
    def decode(raw: bytes) -> "Run":
        """Raises ContractError naming what does not fit."""
        try:
            return msgspec.json.decode(raw, type=Run)
        except UNDECODABLE as error:
            raise ContractError(f"not a run: {error}") from error


def run_id(model: str, kind: RunKind, since_ms: int, until_ms: int, created_ms: int) -> str:
    """Names the run for people: model, kind, the end of its window, and a digest that makes it the only one.

    >>> run_id("search", "retrain", 0, 1_767_225_600_000, 1)
    'search.retrain-20260101T0000-beb8559a'
    """
    told = msgspec.json.encode([model, kind, since_ms, until_ms, created_ms])
    stamp = datetime.fromtimestamp(until_ms / 1000, UTC).strftime("%Y%m%dT%H%M")
    return f"{model}.{kind}-{stamp}-{hashlib.blake2b(told, digest_size=4).hexdigest()}"
