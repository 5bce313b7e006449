"""A run as a trace: one whatever it takes, for its ids follow from the run's.

Who takes a run up after a kill, or another process that does its next step, adds to the same trace without being told.
Of a step the message says more: which one it was, of those that were sent, is its header's (W3C `traceparent`).
"""

import hashlib

from registry.contracts.runs import Run
from registry.contracts.traces import UNTRACED, Span, Trace, Value

SERVICE = "sluice-runs"
QUEUE = "runs"
_MESSAGING: dict[str, Value] = {"messaging.system": "celery", "messaging.destination.name": QUEUE}


def trace_id(run: Run) -> str:
    """32 hex digits."""
    return _digits("trace", run.id)[:32]


def message_span(run: Run, sent_ms: int) -> Span:
    """A message that asks for the run's next step."""
    return Span(
        trace_id(run),
        _digits("message", run.id, run.step.name, str(sent_ms))[:16],
        _digits("run", run.id)[:16],
        f"send {QUEUE}",
        "producer",
        SERVICE,
        sent_ms * 1_000_000,
        sent_ms * 1_000_000,
        {**_MESSAGING, "messaging.operation.type": "send", "sluice.model": run.model, "sluice.run_id": run.id},
    )


def step_span(run: Run, step: str, outcome: str, start_ms: int, end_ms: int, cause: Trace = UNTRACED) -> Span:
    """One attempt at a step. outcome: as `Runner.advance` says it. cause: what the message said of itself; without
    that the step is the run's own."""
    sent = cause.trace_id == trace_id(run)
    found = next(one for one in run.steps if one.name == step)
    return Span(
        trace_id(run),
        _digits("step", run.id, step, str(start_ms))[:16],
        cause.parent_id if sent else _digits("run", run.id)[:16],
        step,
        "consumer",
        SERVICE,
        start_ms * 1_000_000,
        end_ms * 1_000_000,
        {
            **_MESSAGING,
            "messaging.operation.type": "process",
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
