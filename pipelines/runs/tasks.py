"""Celery's part in runs: three thin tasks. The tables decide, Celery only wakes somebody up.

A message that is lost is sent again by the next tick; one that comes twice finds the run held, or further on.
`advance` has a queue of its own, for a worker whose tasks run in processes of their own: a step may take hours, and
only a process can be ended when it is past its time.
"""

import ctypes
import os
import signal
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from celery import Celery, Task
from celery.signals import worker_process_init

from pipelines.runs.runner import Runner, Steps, sweep
from pipelines.runs.spans import QUEUE, message_span
from pipelines.runs.tick import LOOKED_AT, Schedule, tick
from pipelines.settings import RunSettings
from registry.contracts.drift import ShiftRecord
from registry.contracts.runs import REDOABLE, Run, RunKind
from registry.contracts.traces import UNTRACED, Span, parse_traceparent, traceparent
from registry.runs import RunStore

_UNTRACKED = {"acks_late": False, "ignore_result": True}  # the tables know better, and a tick sends it again
_PR_SET_PDEATHSIG = 1
SWEEP_S = 3600


@dataclass(frozen=True, slots=True)
class RunWiring:
    """What runs are kept in and work with.

    store: asked for each time, as the database may be away. steps: asked for when a step is done, in its process: they
    import what is heavy. folder: where runs leave what they make. served: models that learn from clicks, and since when
    each is served. drift: the newest verdicts on a model's champion; may raise StoreUnavailable. tell: see `Runner`.
    """

    store: Callable[[], RunStore]
    steps: Callable[[], Mapping[RunKind, Steps]]
    folder: Path
    served: Callable[[], Mapping[str, int]]
    schedule: Schedule
    drift: Callable[[str], tuple[ShiftRecord, ...]] = lambda model: ()
    settings: RunSettings = field(default_factory=RunSettings)
    tell: Callable[[Sequence[Span]], None] | None = None


def add_run_tasks(app: Celery, wiring: RunWiring, clock: Callable[[], float]) -> None:
    """The tasks and their schedule. clock: seconds since the epoch."""
    mine = wiring.settings
    _bind_children(os.getpid())

    def send(run: Run) -> None:
        told = message_span(run, int(clock() * 1000))
        if wiring.tell is not None:
            wiring.tell([told])
        limit_s = mine.limit_s(run.step.name)
        advance.apply_async(
            (run.id,),
            queue=QUEUE,
            headers={"traceparent": traceparent(told.trace_id, told.span_id, wiring.tell is not None)},
            expires=4 * mine.tick_s,  # by then a later tick has sent another
            soft_time_limit=limit_s,
            time_limit=limit_s + mine.kill_after_s,
        )

    @app.task(name="pipelines.tick", shared=False, **_UNTRACKED)  # type: ignore[untyped-decorator]
    def tick_runs() -> None:
        """Asks for what is due, sends what is to be taken up."""
        now_ms = int(clock() * 1000)
        for run in tick(wiring.store(), wiring.served(), wiring.schedule, mine, wiring.drift, now_ms):
            send(run)

    @app.task(name="pipelines.advance", shared=False, bind=True, **_UNTRACKED)  # type: ignore[untyped-decorator]
    def advance(task: Task, run_id: str) -> None:
        """One step of the run; the next one is sent at once."""
        header = str((task.request.headers or {}).get("traceparent", ""))
        cause = parse_traceparent(header.encode()) or UNTRACED
        store, holder = wiring.store(), f"{socket.gethostname()}:{os.getpid()}"
        runner = Runner(store, wiring.steps(), wiring.folder, mine, clock, holder, wiring.tell)
        if runner.advance(run_id, cause) in ("done", "again"):
            run = store.run(run_id)
            if run.state == "running" and run.current is not None:
                send(run)

    @app.task(name="pipelines.sweep_runs", shared=False, **_UNTRACKED)  # type: ignore[untyped-decorator]
    def sweep_runs() -> None:
        """Deletes what old runs left that nobody will go on with."""
        kept: dict[tuple[str, str], int] = {}
        keep = []
        runs = wiring.store().runs(newest=10 * LOOKED_AT)
        for run in runs:
            kept[run.model, run.kind] = kept.get((run.model, run.kind), 0) + 1
            if kept[run.model, run.kind] <= mine.kept or run.open or run.state in REDOABLE:
                keep.append(run.id)
        sweep(wiring.folder, keep)

    app.conf.beat_schedule |= {
        "tick-runs": {"task": "pipelines.tick", "schedule": mine.tick_s, "options": {"expires": mine.tick_s}},
        "sweep-runs": {"task": "pipelines.sweep_runs", "schedule": float(SWEEP_S), "options": {"expires": SWEEP_S}},
    }


def _bind_children(parent: int) -> None:
    """Processes of a pool end with the worker that made them, however that ends: else a step would go on without
    anybody who could end it, beside the one that is done anew. Linux only; elsewhere the lease must do."""

    def bind(**_: object) -> None:
        if sys.platform != "linux" or os.getpid() == parent:
            return
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:  # it died before the signal was set
            os._exit(1)

    worker_process_init.connect(bind, weak=False)
