"""Traffic plans and their history: the one place where it is decided which version answers whom.

A change is a compare-and-set on the plan's revision, and its record (who, when, why, on what
evidence) is written in the same transaction: no plan without its history, no history of a plan
that never was.
"""

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import msgspec
import sqlalchemy as sql
from sqlalchemy.exc import IntegrityError, SQLAlchemyError
from sqlalchemy.schema import CreateTable

from registry.contracts.ids import model_name
from registry.contracts.traffic import TrafficPlan
from registry.errors import StaleRevision, StoreUnavailable


@dataclass(frozen=True, slots=True)
class TrafficChange:
    """One line of a model's history. evidence: plain JSON, what the decision was held against."""

    plan: TrafficPlan
    at_ms: int
    who: str
    why: str
    evidence: Mapping[str, Any]

    @property
    def revision(self) -> int:
        """Of the plan that the change made."""
        return self.plan.revision


class TrafficControl(Protocol):
    """Every method may raise StoreUnavailable."""

    def plan(self, model: str) -> TrafficPlan | None:
        """The current plan, None if the model never had one."""
        ...

    def models(self) -> list[str]:
        """All models with a plan, sorted."""
        ...

    def change(
        self,
        plan: TrafficPlan,
        *,
        expected_revision: int,
        who: str,
        why: str,
        evidence: Mapping[str, Any],
        now_ms: int,
    ) -> TrafficPlan:
        """The plan as it is stored: at the revision after the expected one, whatever it had.

        expected_revision: what the decision was made on, 0 if there was no plan.
        Raises StaleRevision if the plan is at another one; then nothing was written.
        """
        ...

    def history(self, model: str) -> list[TrafficChange]:
        """Every change, oldest first."""
        ...


class MemoryControl:
    """Plans inside one process; safe for several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._history: dict[str, list[TrafficChange]] = {}

    def plan(self, model: str) -> TrafficPlan | None:
        """See `TrafficControl`."""
        history = self.history(model)
        return history[-1].plan if history else None

    def models(self) -> list[str]:
        """See `TrafficControl`."""
        with self._lock:
            return sorted(self._history)

    def change(
        self,
        plan: TrafficPlan,
        *,
        expected_revision: int,
        who: str,
        why: str,
        evidence: Mapping[str, Any],
        now_ms: int,
    ) -> TrafficPlan:
        """See `TrafficControl`."""
        stored = msgspec.structs.replace(plan, revision=expected_revision + 1)
        with self._lock:
            actual = len(self._history.get(model_name(plan.model), []))
            if actual != expected_revision:
                raise StaleRevision(plan.model, expected_revision, actual)
            change = TrafficChange(stored, now_ms, who, why, msgspec.to_builtins(dict(evidence)))
            self._history.setdefault(plan.model, []).append(change)
        return stored

    def history(self, model: str) -> list[TrafficChange]:
        """See `TrafficControl`."""
        with self._lock:
            return list(self._history.get(model, []))


_metadata = sql.MetaData()
_plans = sql.Table(
    "traffic_plans",
    _metadata,
    sql.Column("model", sql.String(64), primary_key=True),
    sql.Column("revision", sql.Integer, nullable=False),
    sql.Column("plan", sql.Text, nullable=False),
)
_history = sql.Table(
    "traffic_history",
    _metadata,
    sql.Column("model", sql.String(64), primary_key=True),
    sql.Column("revision", sql.Integer, primary_key=True),
    sql.Column("at_ms", sql.BigInteger, nullable=False),
    sql.Column("who", sql.Text, nullable=False),
    sql.Column("why", sql.Text, nullable=False),
    sql.Column("evidence", sql.Text, nullable=False),
    sql.Column("plan", sql.Text, nullable=False),
)


class SqlControl:
    """Plans in SQL tables, which are made if need be; safe for several processes.

    url: SQLAlchemy's, `sqlite:///path` of a file or `postgresql+driver://…`.
    """

    def __init__(self, url: str) -> None:
        self._engine = sql.create_engine(url)
        if self._engine.dialect.name == "sqlite":
            sql.event.listen(self._engine, "connect", _prepare_sqlite)
        with _sql_errors("open the traffic tables"), self._engine.begin() as connection:
            for table in _metadata.sorted_tables:
                connection.execute(CreateTable(table, if_not_exists=True))

    def close(self) -> None:
        """Closes the connections."""
        self._engine.dispose()

    def plan(self, model: str) -> TrafficPlan | None:
        """See `TrafficControl`."""
        with _sql_errors("read the traffic plan"), self._engine.connect() as connection:
            found = connection.scalar(sql.select(_plans.c.plan).where(_plans.c.model == model))
        return None if found is None else TrafficPlan.decode(found.encode())

    def models(self) -> list[str]:
        """See `TrafficControl`."""
        with _sql_errors("list the traffic plans"), self._engine.connect() as connection:
            return sorted(connection.scalars(sql.select(_plans.c.model)))

    def change(
        self,
        plan: TrafficPlan,
        *,
        expected_revision: int,
        who: str,
        why: str,
        evidence: Mapping[str, Any],
        now_ms: int,
    ) -> TrafficPlan:
        """See `TrafficControl`."""
        stored = msgspec.structs.replace(plan, model=model_name(plan.model), revision=expected_revision + 1)
        row = {"model": stored.model, "revision": stored.revision, "plan": stored.encode().decode()}
        record = {"at_ms": now_ms, "who": who, "why": why, "evidence": msgspec.json.encode(evidence).decode()}
        with _sql_errors("change the traffic plan"):
            if self._compare_and_set(row, record, expected_revision):
                return stored
        current = self.plan(plan.model)
        raise StaleRevision(plan.model, expected_revision, current.revision if current else 0)

    def history(self, model: str) -> list[TrafficChange]:
        """See `TrafficControl`."""
        query = sql.select(_history).where(_history.c.model == model).order_by(_history.c.revision)
        with _sql_errors("read the traffic history"), self._engine.connect() as connection:
            rows = connection.execute(query).all()
        return [
            TrafficChange(
                plan=TrafficPlan.decode(row.plan.encode()),
                at_ms=row.at_ms,
                who=row.who,
                why=row.why,
                evidence=msgspec.json.decode(row.evidence),
            )
            for row in rows
        ]

    def _compare_and_set(self, row: dict[str, Any], record: dict[str, Any], expected_revision: int) -> bool:
        """Whether the row took the place of the expected revision.

        The transaction writes first and never reads, so that it waits for others instead of
        failing when it would have to turn a read lock into a write lock.
        """
        at_expected = (_plans.c.model == row["model"]) & (_plans.c.revision == expected_revision)
        try:
            with self._engine.begin() as connection:
                if expected_revision == 0:
                    connection.execute(sql.insert(_plans).values(row))
                elif connection.execute(sql.update(_plans).where(at_expected).values(row)).rowcount != 1:
                    return False
                connection.execute(sql.insert(_history).values(row | record))
        except IntegrityError:  # there is a plan already
            return False
        return True


def _prepare_sqlite(connection: Any, _record: object) -> None:
    """Readers do not wait for writers, and writers wait for each other for 10 s."""
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA busy_timeout = 10000")


@contextmanager
def _sql_errors(what: str) -> Iterator[None]:
    try:
        yield
    except SQLAlchemyError as error:
        first_line = str(error).partition("\n")[0]
        raise StoreUnavailable(f"the control database could not {what}: {first_line}") from error
