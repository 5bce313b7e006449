"""Traffic plans, rollouts and their histories: the one place where it is decided which version answers whom.

A change is a compare-and-set on the plan's revision, and its record (who, when, why, on what
evidence) is written in the same transaction: no plan without its history, no history of a plan
that never was. The same holds for rollouts, whose changes are in the transaction of their plan's.
"""

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import msgspec
import sqlalchemy as sql
from sqlalchemy.exc import IntegrityError

from registry.contracts.ids import model_name
from registry.contracts.rollouts import Evidence, Rollout, RolloutChange
from registry.contracts.traffic import TrafficPlan
from registry.database import open_database, sql_errors
from registry.decision_writer import IS_OPEN, explain, keep_evidence, write
from registry.decisions import Decision, Move, layer_is_taken, settle, unknown_rollout
from registry.errors import StaleRevision, StaleRollout
from registry.tables import evidence as evidence_table
from registry.tables import rollout_history, rollouts, traffic_history, traffic_plans


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

    def revisions(self) -> dict[str, int]:
        """See `RolloutControl`."""
        with self._lock:
            return {model: len(history) for model, history in self._history.items()}

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


class SqlControl:
    """Plans, rollouts and evidence in SQL tables (`rollouts.RolloutControl`), which are made or migrated if
    need be; safe for several processes.

    url: SQLAlchemy's, `sqlite:///path` of a file or `postgresql+driver://…`.
    engine: for what lies in tables beside these.
    """

    def __init__(self, url: str) -> None:
        self.engine = open_database(url)

    def close(self) -> None:
        """Closes the connections."""
        self.engine.dispose()

    def plan(self, model: str) -> TrafficPlan | None:
        """See `TrafficControl`."""
        with sql_errors("read the traffic plan"), self.engine.connect() as connection:
            found = connection.scalar(sql.select(traffic_plans.c.plan).where(traffic_plans.c.model == model))
        return None if found is None else TrafficPlan.decode(found.encode())

    def models(self) -> list[str]:
        """See `TrafficControl`."""
        with sql_errors("list the traffic plans"), self.engine.connect() as connection:
            return sorted(connection.scalars(sql.select(traffic_plans.c.model)))

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
        query = sql.select(traffic_history).where(traffic_history.c.model == model).order_by(traffic_history.c.revision)
        with sql_errors("read the traffic history"), self.engine.connect() as connection:
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

    def decide(self, decision: Decision) -> TrafficPlan | None:
        """See `RolloutControl`."""
        with sql_errors("change the traffic plan"):
            try:
                with self.engine.begin() as connection:
                    write(connection, decision)
            except IntegrityError:
                with self.engine.connect() as connection:
                    explain(connection, decision)
                raise
        return decision.plan

    def revisions(self) -> dict[str, int]:
        """See `RolloutControl`."""
        query = sql.select(traffic_plans.c.model, traffic_plans.c.revision)
        with sql_errors("list the traffic plans"), self.engine.connect() as connection:
            return {row.model: row.revision for row in connection.execute(query)}

    def rollout(self, rollout_id: str) -> Rollout:
        """See `RolloutControl`."""
        with sql_errors("read the rollout"), self.engine.connect() as connection:
            found = connection.scalar(sql.select(rollouts.c.rollout).where(rollouts.c.id == rollout_id))
        if found is None:
            raise unknown_rollout(rollout_id)
        return Rollout.decode(found.encode())

    def rollouts(self, model: str | None = None, *, open_only: bool = False) -> list[Rollout]:
        """See `RolloutControl`."""
        newest_first = (rollouts.c.started_ms.desc(), rollouts.c.started_revision.desc(), rollouts.c.id.desc())
        query = sql.select(rollouts.c.rollout).order_by(*newest_first)
        if model is not None:
            query = query.where(rollouts.c.model == model)
        if open_only:
            query = query.where(IS_OPEN)
        with sql_errors("list the rollouts"), self.engine.connect() as connection:
            return [Rollout.decode(found.encode()) for found in connection.scalars(query)]

    def rollout_history(self, rollout_id: str) -> list[RolloutChange]:
        """See `RolloutControl`."""
        query = (
            sql.select(rollout_history.c.change)
            .where(rollout_history.c.rollout_id == rollout_id)
            .order_by(rollout_history.c.revision)
        )
        with sql_errors("read the rollout's history"), self.engine.connect() as connection:
            found = [RolloutChange.decode(change.encode()) for change in connection.scalars(query)]
        if not found:
            raise unknown_rollout(rollout_id)
        return found

    def add_evidence(self, evidence: Evidence) -> str:
        """See `RolloutControl`."""
        with sql_errors("keep evidence"), self.engine.begin() as connection:
            keep_evidence(connection, [evidence])
        return evidence.id

    def evidence(self, model: str, *, since_ms: int = 0, challenger_digest: str | None = None) -> list[Evidence]:
        """See `RolloutControl`."""
        query = (
            sql.select(evidence_table.c.record)
            .where(evidence_table.c.model == model, evidence_table.c.made_ms >= since_ms)
            .order_by(evidence_table.c.made_ms, evidence_table.c.id)
        )
        if challenger_digest is not None:
            query = query.where(evidence_table.c.challenger_digest == challenger_digest)
        with sql_errors("read evidence"), self.engine.connect() as connection:
            return [Evidence.decode(record.encode()) for record in connection.scalars(query)]

    def evidence_of(self, ids: Sequence[str]) -> list[Evidence]:
        """See `RolloutControl`."""
        query = sql.select(evidence_table.c.id, evidence_table.c.record).where(evidence_table.c.id.in_(ids))
        with sql_errors("read evidence"), self.engine.connect() as connection:
            found = {row.id: Evidence.decode(row.record.encode()) for row in connection.execute(query)}
        return [found[one] for one in ids if one in found]


def _next(plan: TrafficPlan, expected_revision: int) -> TrafficPlan:
    return msgspec.structs.replace(plan, model=model_name(plan.model), revision=expected_revision + 1)
