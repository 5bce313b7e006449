"""Traffic plans, rollouts and their histories: the one place where it is decided which version answers whom.

A change is a compare-and-set on the plan's revision, and its record (who, when, why, on what
evidence) is written in the same transaction: no plan without its history, no history of a plan
that never was. The same holds for rollouts, whose changes are in the transaction of their plan's.
"""

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import msgspec
import sqlalchemy as sql
from sqlalchemy.exc import IntegrityError, SQLAlchemyError
from sqlalchemy.schema import CreateTable

from registry.contracts.ids import model_name
from registry.contracts.rollouts import Evidence, Rollout, RolloutChange
from registry.contracts.traffic import TrafficPlan
from registry.decisions import Decision, Move, settle
from registry.errors import RolloutConflict, StaleRevision, StaleRollout, StoreUnavailable, UnknownRollout


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
    """Plans, rollouts and evidence inside one process (`rollouts.RolloutControl`); safe for several threads."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._history: dict[str, list[TrafficChange]] = {}
        self._rollouts: dict[str, list[RolloutChange]] = {}
        self._evidence: dict[str, Evidence] = {}

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
        stored = _next(plan, expected_revision)
        self.decide(Decision(who, why, now_ms, plan=stored, record=evidence))
        return stored

    def history(self, model: str) -> list[TrafficChange]:
        """See `TrafficControl`."""
        with self._lock:
            return list(self._history.get(model, []))

    def decide(self, decision: Decision) -> TrafficPlan | None:
        """See `RolloutControl`."""
        with self._lock:
            self._check(decision)
            moves = [*decision.moves, *self._settled(decision)]
            plan_revision = self._revision(decision.model)
            if decision.plan is not None:
                plan_revision = decision.plan.revision
                record = msgspec.to_builtins(dict(decision.record))
                change = TrafficChange(decision.plan, decision.now_ms, decision.who, decision.why, record)
                self._history.setdefault(decision.plan.model, []).append(change)
            for move in moves:
                changes = self._rollouts.setdefault(move.rollout.id, [])
                changes.append(move.change(decision, plan_revision))
            for evidence in decision.evidence:
                self._evidence.setdefault(evidence.id, evidence)
        return decision.plan

    def rollout(self, rollout_id: str) -> Rollout:
        """See `RolloutControl`."""
        return self.rollout_history(rollout_id)[-1].rollout

    def rollouts(self, model: str | None = None, *, open_only: bool = False) -> list[Rollout]:
        """See `RolloutControl`."""
        with self._lock:
            newest = [changes[-1].rollout for changes in self._rollouts.values()]
        wanted = [one for one in newest if model in (None, one.model) and (one.open or not open_only)]
        return sorted(wanted, key=lambda one: (one.started_ms, one.started_revision, one.id), reverse=True)

    def rollout_history(self, rollout_id: str) -> list[RolloutChange]:
        """See `RolloutControl`."""
        with self._lock:
            if rollout_id not in self._rollouts:
                raise unknown_rollout(rollout_id)
            return list(self._rollouts[rollout_id])

    def add_evidence(self, evidence: Evidence) -> str:
        """See `RolloutControl`."""
        with self._lock:
            self._evidence.setdefault(evidence.id, evidence)
        return evidence.id

    def evidence(self, model: str, *, since_ms: int = 0, challenger_digest: str | None = None) -> list[Evidence]:
        """See `RolloutControl`."""
        with self._lock:
            known = sorted(self._evidence.values(), key=lambda one: (one.made_ms, one.id))
        return [
            one
            for one in known
            if one.model == model and one.made_ms >= since_ms and challenger_digest in (None, one.challenger_digest)
        ]

    def evidence_of(self, ids: Sequence[str]) -> list[Evidence]:
        """See `RolloutControl`."""
        with self._lock:
            return [self._evidence[one] for one in ids if one in self._evidence]

    def _revision(self, model: str | None) -> int:
        return len(self._history.get(model, [])) if model is not None else 0

    def _settled(self, decision: Decision) -> list[Move]:
        if decision.plan is None:
            return []
        moved = {move.rollout.id for move in decision.moves}
        others = [one for one in self.rollouts(decision.plan.model, open_only=True) if one.id not in moved]
        return settle(decision.plan, others, decision.now_ms)

    def _check(self, decision: Decision) -> None:
        if (plan := decision.plan) is not None and self._revision(plan.model) != plan.revision - 1:
            raise StaleRevision(plan.model, plan.revision - 1, self._revision(plan.model))
        for move in decision.moves:
            changes = self._rollouts.get(move.rollout.id, [])
            if len(changes) != move.rollout.revision - 1:
                raise StaleRollout(move.rollout.id, move.rollout.revision - 1, len(changes))
        moved = {move.rollout.id for move in decision.moves}
        for rollout in [move.rollout for move in decision.moves if move.rollout.active]:
            for other in self.rollouts(rollout.model, open_only=True):
                if other.active and other.layer == rollout.layer and other.id not in moved:
                    raise layer_is_taken(rollout, other)


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


def unknown_rollout(rollout_id: str) -> UnknownRollout:
    """The error that every control raises for a rollout that it does not have."""
    return UnknownRollout(f"there is no rollout {rollout_id!r}: `sluice rollout list` shows what there is")


def layer_is_taken(wanted: Rollout, by: Rollout) -> RolloutConflict:
    """The error of every control when a layer would have two active rollouts."""
    return RolloutConflict(
        f"layer {wanted.layer!r} of {wanted.model!r} has rollout {by.id!r}, which is {by.state}: wait for its end, "
        "abort it, or name another layer"
    )


def _next(plan: TrafficPlan, expected_revision: int) -> TrafficPlan:
    return msgspec.structs.replace(plan, model=model_name(plan.model), revision=expected_revision + 1)
