"""A run as a trace: one whatever it takes, for its ids follow from the run's.

Who takes a run up after a kill, or another process that does its next step, adds to the same trace without being told.
"""

import hashlib

from registry.contracts.runs import Run
from registry.contracts.traces import Span

SERVICE = "sluice-runs"


def trace_id(run: Run) -> str:
    """32 hex digits."""
    return _digits("trace", run.id)[:32]


def step_span(run: Run, step: str, outcome: str, start_ms: int, end_ms: int) -> Span:
    """One attempt at a step. outcome: as `Runner.advance` says it."""
    found = next(one for one in run.steps if one.name == step)
    return Span(
        trace_id(run),
        _digits("step", run.id, step, str(start_ms))[:16],
        _digits("run", run.id)[:16],
        step,
        "consumer",
        SERVICE,
        start_ms * 1_000_000,
        end_ms * 1_000_000,
        {
            "messaging.system": "celery",
            "messaging.destination.name": "runs",
            "sluice.model": run.model,
            "sluice.run_id": run.id,
            "sluice.step.attempt": found.attempts,
            "sluice.step.outcome": outcome,
        },
        found.error if outcome in ("failed", "late", "dead") else "",
    )


def run_span(run: Run) -> Span:
    """The root, of a run that has ended."""
    return Span(
        trace_id(run),
        _digits("run", run.id)[:16],
        "",
        f"{run.kind} run",
        "internal",
        SERVICE,
        run.created_ms * 1_000_000,
        max(run.created_ms, run.finished_ms) * 1_000_000,
        {
            "sluice.model": run.model,
            "sluice.run_id": run.id,
            "sluice.run.trigger": run.trigger,
            "sluice.run.state": run.state,
            "sluice.run.outcome": run.outcome,
        },
        run.error,
    )


def _digits(*of: str) -> str:
    return hashlib.sha256("\n".join(of).encode()).hexdigest()
