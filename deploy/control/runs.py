"""Runs of pipelines: asked for, watched, taken up again, ended."""

from collections.abc import Callable

from deploy.control.asks import Ask, Reply, page_size
from deploy.control.desk import Desk, no_plan
from deploy.control.errors import ControlRefused, NotThere
from pipelines.runs.schedule import STEPS, newest_window
from pipelines.settings import RunSettings
from registry import run_moves
from registry.contracts.runs import RUN_STATES, Run
from registry.runs import edit
from serving.gateway.control.runs import RetrainBody, RetryBody, RunAnswer, RunList, RunsAnswer

RUN_LEASE_MS = int(RunSettings().lease_s * 1000)


def retrain(desk: Desk, ask: Ask) -> Reply:
    """A run of a window, if it has none."""
    body: RetrainBody = ask.body
    plan = desk.control.plan(ask.model)
    if plan is None:
        raise no_plan(ask.model)
    since_ms, until_ms = _window(ask, body, desk.retrain_ms)
    run = run_moves.ask(ask.model, "retrain", "api", since_ms, until_ms, STEPS["retrain"], **ask.words)
    desk.run_store.add(run, ask.receipt(reply := ask.reply(_run_answer(desk, run, plan.revision, ask.now_ms))))
    return reply


def all_runs(desk: Desk, ask: Ask) -> Reply:
    """Of all models."""
    return ask.reply(RunsAnswer(_runs(desk, ask, None)))


def runs(desk: Desk, ask: Ask) -> Reply:
    """Of one model."""
    plan = desk.control.plan(ask.model)
    return ask.reply(RunList(ask.model, plan.revision if plan else 0, _runs(desk, ask, ask.model)))


def run(desk: Desk, ask: Ask) -> Reply:
    """One run with its steps."""
    plan = desk.control.plan(ask.model)
    return ask.reply(_run_answer(desk, _run(desk, ask), plan.revision if plan else 0, ask.now_ms))


def retry_run(desk: Desk, ask: Ask) -> Reply:
    """Of one that failed, was cancelled or is dead."""
    body: RetryBody = ask.body
    return _move_run(desk, ask, lambda run: run_moves.retry(run, **ask.words, from_step=body.from_step))


def cancel_run(desk: Desk, ask: Ask) -> Reply:
    """At once, or as soon as whoever works on it hears of it."""
    return _move_run(desk, ask, lambda run: run_moves.cancel(run, **ask.words, lease_ms=RUN_LEASE_MS))


def _move_run(desk: Desk, ask: Ask, move: Callable[[Run], Run]) -> Reply:
    plan = desk.control.plan(ask.model)
    _run(desk, ask)

    def reply(run: Run) -> Reply:
        return ask.reply(_run_answer(desk, run, plan.revision if plan else 0, ask.now_ms))

    return reply(edit(desk.run_store, ask.id, move, lambda run: ask.receipt(reply(run))))


def _run(desk: Desk, ask: Ask) -> Run:
    run = desk.run_store.run(ask.id)
    if run.model != ask.model:
        raise NotThere(f"run {ask.id!r} is of model {run.model!r}, not {ask.model!r}")
    return run


def _runs(desk: Desk, ask: Ask, model: str | None) -> tuple[RunAnswer, ...]:
    state = ask.query.get("state", "")
    if state and state not in RUN_STATES:
        raise ControlRefused(f"state={state[:32]!r}: expected one of {', '.join(RUN_STATES)}")
    states = [one for one in RUN_STATES if one == state]
    plans = desk.control.revisions()
    found = desk.run_store.runs(model, states=states, newest=page_size(ask))
    return tuple(_run_answer(desk, run, plans.get(run.model, 0), ask.now_ms) for run in found)


def _run_answer(desk: Desk, run: Run, plan_revision: int, now_ms: int) -> RunAnswer:
    return RunAnswer(plan_revision, run.progress, run_moves.held(run, now_ms, RUN_LEASE_MS), run)


def _window(ask: Ask, body: RetrainBody, retrain_ms: int) -> tuple[int, int]:
    """Of a retraining. Raises ControlRefused."""
    if (body.since_ms is None) != (body.until_ms is None):
        raise ControlRefused("since_ms, until_ms: expected both or neither")
    if body.since_ms is None or body.until_ms is None:
        window = newest_window(retrain_ms, ask.now_ms)
        return window.since_ms, window.until_ms
    if not body.since_ms < body.until_ms <= ask.now_ms:
        raise ControlRefused(
            f"since_ms={body.since_ms}, until_ms={body.until_ms}: expected since_ms < until_ms <= now, {ask.now_ms}"
        )
    return body.since_ms, body.until_ms
