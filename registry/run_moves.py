"""The moves of a run, pure: from a run as it stands to its next revision.

Whoever makes a move true does it by compare-and-set (`RunStore.change`): a move made on a run that has moved on
meanwhile changes nothing. Who works on a run holds a lease, and renews it; whoever takes the run up
after it raises its number, so that the one before, should it still be alive, has lost the run for good.
"""

from collections.abc import Sequence
from typing import Any

from msgspec.structs import replace

from registry.contracts.runs import (
    MOST_NOTES,
    REDOABLE,
    NoteKind,
    Run,
    RunKind,
    RunNote,
    RunState,
    RunStep,
    Trigger,
    run_id,
)
from registry.errors import RunConflict

ERROR_CHARS = 500


def ask(
    model: str,
    kind: RunKind,
    trigger: Trigger,
    since_ms: int,
    until_ms: int,
    steps: Sequence[str],
    *,
    who: str,
    why: str,
    now_ms: int,
) -> Run:
    """A new run of the window, queued. Raises ContractError if the model's name or the window breaks a rule."""
    return Run(
        id=run_id(model, kind, since_ms, until_ms, now_ms),
        model=model,
        kind=kind,
        trigger=trigger,
        since_ms=since_ms,
        until_ms=until_ms,
        steps=tuple(RunStep(name) for name in steps),
        created_ms=now_ms,
        changed_ms=now_ms,
        notes=(RunNote("asked", now_ms, who, why),),
    )


def held(run: Run, now_ms: int, lease_ms: int) -> bool:
    """Whether somebody works on it. A lease further ahead than anybody takes one is of a clock that was
    ahead, and nobody's."""
    return run.state == "running" and now_ms < run.lease_until_ms <= now_ms + 2 * lease_ms


def free(run: Run, now_ms: int, lease_ms: int) -> bool:
    """Whether it may be taken up now."""
    if run.state == "queued":
        return run.retry_at_ms <= now_ms
    return run.state == "running" and not held(run, now_ms, lease_ms)


def claim(run: Run, holder: str, *, now_ms: int, lease_ms: int) -> Run:
    """Taken up by the holder, with its current step begun.

    A step that got further than any attempt before it begins to count its attempts anew. Raises RunConflict
    unless the run is free.
    """
    if not free(run, now_ms, lease_ms):
        raise RunConflict(f"run {run.id!r} is {_state(run)}: nobody else may take it up")
    step, index = run.step, run.current
    if index is None:
        raise RunConflict(f"run {run.id!r} has no step left to do")
    further = step.progress > step.reached
    begun = replace(
        step,
        state="running",
        attempts=1 if further else step.attempts + 1,
        reached=max(step.reached, step.progress),
        progress=0.0,
        saying="",
        started_ms=step.started_ms or now_ms,
    )
    killed = run.state == "running" and bool(run.lease_until_ms)
    moved = replace(
        _with_step(run, index, begun, now_ms),
        state="running",
        started_ms=run.started_ms or now_ms,
        lease=run.lease + 1,
        holder=holder,
        lease_until_ms=now_ms + lease_ms,
        retry_at_ms=0,
        error="",
    )
    return _noted(moved, "taken_over", holder, f"{run.holder} fell silent", now_ms) if killed else moved


def beat(run: Run, progress: float, saying: str, *, now_ms: int, lease_ms: int) -> Run:
    """The lease renewed, the step's progress told."""
    index = run.current
    assert index is not None
    told = replace(run.step, progress=min(1.0, max(0.0, progress)), saying=saying)
    return replace(_with_step(run, index, told, now_ms), lease_until_ms=now_ms + lease_ms)


def step_done(run: Run, output: dict[str, Any], digest: str, *, now_ms: int, outcome: str = "") -> Run:
    """The step is done and the run let go of; with an outcome, or after its last step, it has succeeded."""
    index = run.current
    assert index is not None
    done = replace(
        run.step, state="done", progress=1.0, saying="", finished_ms=now_ms, output=output, digest=digest, error=""
    )
    moved = replace(_with_step(run, index, done, now_ms), lease_until_ms=0, cancelling=False)
    if run.cancelling:  # between two steps is a good moment
        return _ended(moved, "cancelled", now_ms)
    if not outcome and moved.current is not None:
        return moved
    left = tuple(replace(step, state="skipped") if step.state == "waiting" else step for step in moved.steps)
    return replace(_ended(replace(moved, steps=left), "succeeded", now_ms), outcome=outcome)


def step_failed(run: Run, error: str, *, now_ms: int, retry_in_ms: int | None, dead: bool = False) -> Run:
    """The attempt failed and the run is let go of: tried again then, or never (None), for good or as a dead letter."""
    index = run.current
    assert index is not None
    said = error[:ERROR_CHARS]
    failed = replace(run.step, state="waiting", saying="", error=said)
    moved = replace(_with_step(run, index, failed, now_ms), lease_until_ms=0, error=said)
    moved = _noted(moved, "failed", run.holder, f"{run.step.name}, attempt {run.step.attempts}: {said}", now_ms)
    if run.cancelling:
        return _ended(moved, "cancelled", now_ms)
    if retry_in_ms is None:
        return _ended(moved, "dead" if dead else "failed", now_ms)
    return replace(moved, state="queued", retry_at_ms=now_ms + retry_in_ms)


def put_off(run: Run, why: str, *, now_ms: int, until_ms: int) -> Run:
    """The step has to wait for a time, and the run is let go of until then: no failure, no attempt."""
    index = run.current
    assert index is not None
    waits = replace(run.step, state="waiting", saying=why, attempts=max(0, run.step.attempts - 1))
    moved = replace(_with_step(run, index, waits, now_ms), lease_until_ms=0)
    if run.cancelling:
        return _ended(moved, "cancelled", now_ms)
    return replace(moved, state="queued", retry_at_ms=until_ms)


def stopped(run: Run, *, now_ms: int) -> Run:
    """Its holder has heard that it was cancelled, or nobody holds it any more."""
    index = run.current
    moved = run if index is None else _with_step(run, index, replace(run.step, state="waiting"), now_ms)
    return replace(_ended(moved, "cancelled", now_ms), revision=run.revision + 1, lease_until_ms=0)


def cancel(run: Run, *, who: str, why: str, now_ms: int, lease_ms: int) -> Run:
    """Ended, at once if nobody works on it, else as soon as its holder hears of it. What is done stays done.

    Raises RunConflict if it is over.
    """
    if not run.open:
        raise RunConflict(f"run {run.id!r} is {run.state}: only one that is queued or running can be cancelled")
    asked = _noted(replace(run, cancelling=True), "cancelled", who, why, now_ms)
    if held(run, now_ms, lease_ms):
        return replace(asked, revision=run.revision + 1, changed_ms=now_ms)
    return replace(stopped(asked, now_ms=now_ms), revision=run.revision + 1)


def retry(run: Run, *, who: str, why: str, now_ms: int, from_step: str = "") -> Run:
    """Queued again. Steps that are done are not done again, but from from_step on.

    Raises RunConflict unless it failed, was cancelled or is dead (one that succeeded may be done again from a
    step that is named), or if there is no such step.
    """
    allowed = REDOABLE + (("succeeded",) if from_step else ())
    if run.state not in allowed:
        raise RunConflict(f"run {run.id!r} is {run.state}: only one that is {' or '.join(allowed)} can be retried")
    names = [step.name for step in run.steps]
    if from_step and from_step not in names:
        raise RunConflict(f"run {run.id!r} has no step {from_step!r}: expected one of {', '.join(names)}")
    moved = _noted(run, "retried", who, why, now_ms)
    return replace(
        moved,
        steps=_again(run, names.index(from_step) if from_step else len(names)),
        state="queued",
        outcome="",
        finished_ms=0,
        retry_at_ms=0,
        cancelling=False,
        lease_until_ms=0,
        revision=run.revision + 1,
        changed_ms=now_ms,
    )


def damaged(run: Run, index: int, *, now_ms: int) -> Run:
    """What a step that is done left is no longer there: it is to be done again, and all after it. Let go of."""
    moved = _noted(run, "failed", run.holder, f"what {run.steps[index].name} left is damaged or gone", now_ms)
    return replace(moved, steps=_again(run, index), revision=run.revision + 1, changed_ms=now_ms, lease_until_ms=0)


def void(run: Run, *, now_ms: int) -> Run:
    """Its window is not over yet: it was made while the clock was ahead. The window is free again."""
    moved = _noted(run, "voided", "schedule", "its window is not over: the clock was ahead when it was made", now_ms)
    return replace(_ended(moved, "void", now_ms), revision=run.revision + 1)


def _again(run: Run, first: int) -> tuple[RunStep, ...]:
    """The steps, with those from the first on to be done again, and those before that are not done yet anew.

    A step that the tables know as waiting may have been finished on disk, by a worker that was killed before it could
    say so: what it left is not taken for the result of the new turn."""
    return tuple(
        step
        if step.state == "done" and i < first
        else RunStep(step.name, error=step.error, redone=step.redone + (step.state == "done" or i >= first))
        for i, step in enumerate(run.steps)
    )


def _with_step(run: Run, index: int, step: RunStep, now_ms: int) -> Run:
    steps = (*run.steps[:index], step, *run.steps[index + 1 :])
    return replace(run, steps=steps, revision=run.revision + 1, changed_ms=now_ms)


def _ended(run: Run, state: RunState, now_ms: int) -> Run:
    return replace(run, state=state, finished_ms=now_ms, changed_ms=now_ms, lease_until_ms=0, cancelling=False)


def _noted(run: Run, what: NoteKind, who: str, why: str, now_ms: int) -> Run:
    """The first note says who asked for the run: it stays."""
    first, rest = run.notes[:1], (*run.notes[1:], RunNote(what, now_ms, who, why))
    return replace(run, notes=(*first, *rest[-(MOST_NOTES - 1) :]))


def _state(run: Run) -> str:
    return f"held by {run.holder}" if run.state == "running" else run.state
