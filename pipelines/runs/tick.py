"""The tick: asks for runs of windows that are due, and finds those that somebody has to take up.

Nothing here remembers anything: what is due follows from the tables and the clock, so it does not matter who
ticks, how many tick at once, or for how long nobody did.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from pipelines import metrics
from pipelines.runs.drift_trigger import DriftRule, drift_reason
from pipelines.runs.schedule import (
    STEPS,
    Period,
    RunWindow,
    before_their_time,
    due_windows,
    missed_windows,
    newest_window,
    startable,
)
from pipelines.settings import RunSettings
from registry import run_moves
from registry.contracts.drift import ShiftRecord
from registry.contracts.runs import RUN_STATES, Run, RunKind, Trigger
from registry.errors import RegistryError, RunConflict, StoreUnavailable, WindowTaken
from registry.runs import RunStore, edit

log = logging.getLogger(__name__)

LOOKED_AT = 400  # runs of a kind and model, the newest: seven years of weeks


@dataclass(frozen=True, slots=True)
class Schedule:
    """periods: of each kind that is run by itself; empty for none. drift: None if no drift asks for a retraining."""

    periods: Mapping[RunKind, Period]
    drift: DriftRule | None = None


def tick(
    store: RunStore,
    served: Mapping[str, int],
    schedule: Schedule,
    settings: RunSettings,
    drift: Callable[[str], Sequence[ShiftRecord]],
    now_ms: int,
) -> list[Run]:
    """The runs to be taken up now. served: models that learn from clicks, and since when each is served.
    drift: the newest verdicts on a model. Raises StoreUnavailable."""
    lease_ms = int(settings.lease_s * 1000)
    for run in before_their_time(store.runs(newest=LOOKED_AT), now_ms):
        log.warning("run %s is void: its window is not over, so a clock was ahead when it was made", run.id)
        _move(store, run, lambda found: run_moves.void(found, now_ms=now_ms))
    for model, born_ms in served.items():
        for kind, period in schedule.periods.items():
            _ask_for_due(store, model, kind, period, born_ms, now_ms)
        if schedule.drift is not None:
            _ask_on_drift(store, model, schedule.drift, drift, now_ms)
    runs = store.runs(states=("queued", "running"))
    for run in runs:
        if run.cancelling and not run_moves.held(run, now_ms, lease_ms):
            _move(store, run, lambda found: run_moves.stopped(found, now_ms=now_ms))
    _show(store, now_ms)
    return startable([run for run in runs if not run.cancelling], now_ms, lease_ms)


def _ask_for_due(store: RunStore, model: str, kind: RunKind, period: Period, born_ms: int, now_ms: int) -> None:
    there = store.runs(model, kind=kind, newest=LOOKED_AT)
    known = {RunWindow(run.since_ms, run.until_ms) for run in there if run.state != "void"}
    for window in due_windows(period, now_ms, known, born_ms):
        missed = missed_windows(period, window, known, born_ms) if period.newest_only else 0
        why = "its window is over" + (f"; {missed} before it had no run: nobody was there" if missed else "")
        _ask(store, model, kind, "schedule", window, why, now_ms)
        known.add(window)


def _ask_on_drift(
    store: RunStore, model: str, rule: DriftRule, drift: Callable[[str], Sequence[ShiftRecord]], now_ms: int
) -> None:
    try:
        verdicts = drift(model)
    except StoreUnavailable as error:
        log.warning("whether %s drifts is not known: %s", model, error)
        return
    if (why := drift_reason(store.runs(model, kind="retrain", newest=LOOKED_AT), verdicts, rule, now_ms)) is not None:
        _ask(store, model, "retrain", "drift", newest_window(rule.window_ms, now_ms), why, now_ms)


def _ask(
    store: RunStore, model: str, kind: RunKind, trigger: Trigger, window: RunWindow, why: str, now_ms: int
) -> None:
    span = (window.since_ms, window.until_ms)
    run = run_moves.ask(model, kind, trigger, *span, STEPS[kind], who=trigger, why=why, now_ms=now_ms)
    try:
        store.add(run)
    except WindowTaken:  # another tick was quicker, or a person
        return
    log.info("run %s: %s", run.id, why)


def _move(store: RunStore, run: Run, move: Callable[[Run], Run]) -> None:
    try:
        edit(store, run.id, move)
    except (RunConflict, RegistryError) as error:
        if isinstance(error, StoreUnavailable):
            raise
        log.info("run %s is left as it is: %s", run.id, error)


def _show(store: RunStore, now_ms: int) -> None:
    counts: dict[tuple[str, str], dict[str, int]] = {}
    newest: dict[tuple[str, str], Run] = {}
    window_ms: dict[tuple[str, str], int] = {}
    looked_at = store.runs(newest=LOOKED_AT)
    old = [run for run in store.runs(states=("dead",)) if run not in looked_at]  # dead letters count, however old
    for run in (*looked_at, *old):
        key = (run.model, str(run.kind))
        states = counts.setdefault(key, dict.fromkeys(RUN_STATES, 0))
        states[run.state] += 1
        newest.setdefault(key, run)
        if run.state == "succeeded":
            window_ms.setdefault(key, run.until_ms)
    for key, states in counts.items():
        for state, count in states.items():
            metrics.RUNS.labels(*key, state).set(count)
        metrics.RUN_PROGRESS.labels(*key).set(newest[key].progress)
        if key in window_ms:
            metrics.RUN_WINDOW.labels(*key).set(window_ms[key] / 1000)
    metrics.RUN_TICK.set(now_ms / 1000)
