"""RunStore: runs of pipelines, kept where rollouts are: what Celery forgets or delivers twice changes nothing."""

import threading
from collections.abc import Callable, Sequence
from typing import Protocol

import sqlalchemy as sql
from sqlalchemy.exc import IntegrityError

from registry.contracts.runs import Run, RunKind, RunState
from registry.database import sql_errors
from registry.errors import RegistryError, RunConflict, StaleRun, UnknownRun, WindowTaken
from registry.receipts import Receipt, find_receipt, write_receipt
from registry.tables import runs as runs_table
from registry.traffic_control import MemoryControl

TRIES = 20


class RunStore(Protocol):
    """Every method may raise StoreUnavailable.

    receipt: of the request that asked for the change, kept with it or not at all; raises AnsweredBefore if
    there is one for its key.
    """

    def add(self, run: Run, receipt: Receipt | None = None) -> Run:
        """Keeps a new run. Raises WindowTaken if the model has a run of this kind for the window."""
        ...

    def change(self, run: Run, receipt: Receipt | None = None) -> Run:
        """Keeps the run's next revision. Raises UnknownRun, StaleRun if it is at another revision than the one before,
        RunConflict if another run of the model and kind is running."""
        ...

    def run(self, run_id: str) -> Run:
        """Raises UnknownRun."""
        ...

    def runs(
        self,
        model: str | None = None,
        *,
        kind: RunKind | None = None,
        states: Sequence[RunState] = (),
        newest: int | None = None,
    ) -> list[Run]:
        """The newest first, by window, then by when they were asked for. states: all, if none is named."""
        ...


def edit(
    store: RunStore, run_id: str, move: Callable[[Run], Run], receipt: Callable[[Run], Receipt | None] | None = None
) -> Run:
    """The run after the move, made on what is there, again if somebody was quicker.

    Raises what the move raises, and what `RunStore.change` does but StaleRun.
    """
    for _ in range(TRIES):
        moved = move(store.run(run_id))
        try:
            return store.change(moved, receipt(moved) if receipt else None)
        except StaleRun:
            continue
    raise RunConflict(f"run {run_id!r} changed {TRIES} times meanwhile: look at it, then repeat")


class MemoryRuns:
    """Runs inside one process (`RunStore`); safe for several threads. control: where receipts are."""

    def __init__(self, control: MemoryControl | None = None) -> None:
        self._lock = threading.Lock()
        self._runs: dict[str, Run] = {}
        self._control = control or MemoryControl()

    def add(self, run: Run, receipt: Receipt | None = None) -> Run:
        """See `RunStore`."""
        with self._lock:
            self._check_receipt(receipt)
            if (there := next((one for one in self._runs.values() if _same_window(one, run)), None)) is not None:
                raise window_taken(there)
            return self._keep(run, receipt)

    def change(self, run: Run, receipt: Receipt | None = None) -> Run:
        """See `RunStore`."""
        with self._lock:
            self._check_receipt(receipt)
            if run.id not in self._runs:
                raise unknown_run(run.id)
            if (actual := self._runs[run.id].revision) != run.revision - 1:
                raise StaleRun(run.id, run.revision - 1, actual)
            others = [one for one in self._runs.values() if one.id != run.id]
            running = [one for one in others if (one.model, one.kind, one.state) == (run.model, run.kind, "running")]
            if run.state == "running" and running:
                raise another_runs(run, running[0])
            return self._keep(run, receipt)

    def run(self, run_id: str) -> Run:
        """See `RunStore`."""
        with self._lock:
            if run_id not in self._runs:
                raise unknown_run(run_id)
            return self._runs[run_id]

    def runs(
        self,
        model: str | None = None,
        *,
        kind: RunKind | None = None,
        states: Sequence[RunState] = (),
        newest: int | None = None,
    ) -> list[Run]:
        """See `RunStore`."""
        with self._lock:
            known = sorted(self._runs.values(), key=lambda one: (one.until_ms, one.created_ms, one.id), reverse=True)
        wanted = [
            one
            for one in known
            if model in (None, one.model) and kind in (None, one.kind) and (not states or one.state in states)
        ]
        return wanted[:newest]

    def _check_receipt(self, receipt: Receipt | None) -> None:
        if receipt is not None and self._control.receipt(receipt.caller, receipt.key) is not None:
            raise receipt.answered_before()

    def _keep(self, run: Run, receipt: Receipt | None) -> Run:
        if receipt is not None and self._control.keep_receipt(receipt) != receipt:
            raise receipt.answered_before()
        self._runs[run.id] = run
        return run


class SqlRuns:
    """Runs in SQL (`RunStore`); safe for several processes. engine: see `database.open_database`."""

    def __init__(self, engine: sql.Engine) -> None:
        self._engine = engine

    def add(self, run: Run, receipt: Receipt | None = None) -> Run:
        """See `RunStore`."""
        with sql_errors("add a run"):
            try:
                with self._engine.begin() as connection:
                    connection.execute(sql.insert(runs_table).values(_row(run)))
                    if receipt is not None:
                        write_receipt(connection, receipt)
            except IntegrityError:
                self._explain(run, receipt)
                raise
        return run

    def change(self, run: Run, receipt: Receipt | None = None) -> Run:
        """See `RunStore`."""
        at_expected = (runs_table.c.id == run.id) & (runs_table.c.revision == run.revision - 1)
        with sql_errors("change a run"):
            try:
                with self._engine.begin() as connection:
                    changed = connection.execute(sql.update(runs_table).where(at_expected).values(_row(run))).rowcount
                    if changed and receipt is not None:
                        write_receipt(connection, receipt)
            except IntegrityError:
                self._explain(run, receipt)
                raise
        if not changed:
            raise StaleRun(run.id, run.revision - 1, self.run(run.id).revision)
        return run

    def run(self, run_id: str) -> Run:
        """See `RunStore`."""
        with sql_errors("read a run"), self._engine.connect() as connection:
            found = connection.scalar(sql.select(runs_table.c.run).where(runs_table.c.id == run_id))
        if found is None:
            raise unknown_run(run_id)
        return Run.decode(found.encode())

    def runs(
        self,
        model: str | None = None,
        *,
        kind: RunKind | None = None,
        states: Sequence[RunState] = (),
        newest: int | None = None,
    ) -> list[Run]:
        """See `RunStore`."""
        newest_first = (runs_table.c.until_ms.desc(), runs_table.c.created_ms.desc(), runs_table.c.id.desc())
        query = sql.select(runs_table.c.run).order_by(*newest_first).limit(newest)
        if model is not None:
            query = query.where(runs_table.c.model == model)
        if kind is not None:
            query = query.where(runs_table.c.kind == kind)
        if states:
            query = query.where(runs_table.c.state.in_(states))
        with sql_errors("list the runs"), self._engine.connect() as connection:
            return [Run.decode(found.encode()) for found in connection.scalars(query)]

    def _explain(self, run: Run, receipt: Receipt | None) -> None:
        """Raises what somebody quicker did, if that is how a rule of the tables was broken."""
        same = (runs_table.c.model == run.model) & (runs_table.c.kind == run.kind) & (runs_table.c.id != run.id)
        with self._engine.connect() as connection:
            if receipt is not None and find_receipt(connection, receipt.caller, receipt.key):
                raise receipt.answered_before()
            others = [
                Run.decode(found.encode()) for found in connection.scalars(sql.select(runs_table.c.run).where(same))
            ]
        for other in others:
            if _same_window(other, run):
                raise window_taken(other)
            if run.state == other.state == "running":
                raise another_runs(run, other)


def unknown_run(run_id: str) -> UnknownRun:
    """The error that every store raises for a run that it does not have."""
    return UnknownRun(f"there is no run {run_id!r}: `sluice runs list` shows what there is")


def window_taken(by: Run) -> WindowTaken:
    """The error of every store when a window would have two runs."""
    return WindowTaken(
        f"this window of {by.model!r} has run {by.id!r} already, which is {by.state}: `sluice runs retry {by.id}` does "
        "it again, or name another window",
        by.id,
    )


def another_runs(run: Run, other: Run) -> RegistryError:
    """The error of every store when a model would have two runs of a kind at work at once."""
    return RunConflict(f"run {run.id!r} waits: {other.id!r} of the same model is running")


def _same_window(one: Run, other: Run) -> bool:
    if "void" in (one.state, other.state):
        return False
    return (one.model, one.kind, one.since_ms, one.until_ms) == (
        *(other.model, other.kind, other.since_ms, other.until_ms),
    )


def _row(run: Run) -> dict[str, str | int]:
    return {
        "id": run.id,
        "model": run.model,
        "kind": run.kind,
        "since_ms": run.since_ms,
        "until_ms": run.until_ms,
        "state": run.state,
        "revision": run.revision,
        "created_ms": run.created_ms,
        "run": run.encode().decode(),
    }
